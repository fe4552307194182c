# SPDX-License-Identifier: Apache-2.0
"""Watching the float model on pictures, as far as `quantise` needs to know it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..config import ModelConfig
from ..errors import EdgemoeError, notice
from ..graph import graph
from ..keys import Key, Role
from ..operations.operation import Observer, Operation
from .calibrated import LARGEST, digest
from .calibration import Calibration, Rounding, Tail
from .error_aware import Moments
from .formats import BYTE_BITS, WeightFormat
from .forward import forward
from .rotation import rotatable, rotated
from .smoothing import smoothed_norm, smoothing

TAIL_POWERS = range(-8, 23)  # what a limit of 2^k would cost the residual is known for these k
IMAGES = 24  # of a calibration that is kept: with 8, 8-bit weights lose 1.5 dB on other pictures
CALIBRATION_SCENES = 1_000_003  # their seeds begin here; training's are smaller (`train.HELD_OUT`)
UNSEEN_SCENES = (
    2_000_000  # seeds from here on are neither for training nor for calibration: everything is measured on these
)


def takes_scenes(config: ModelConfig) -> bool:
    """Whether a model's pictures have a size of the generated scenes."""
    from ..scenes import WINDOWS

    return config.image_channels == 3 and (config.image_height, config.image_width) in WINDOWS


def _images(config: ModelConfig, count: int, first_scene: int) -> NDArray[np.uint8]:
    from ..scenes import cut, scene

    if takes_scenes(config):
        size = (config.image_height, config.image_width)
        return np.stack([cut(scene(first_scene + i), *size).image for i in range(count)])
    rng = np.random.default_rng(first_scene - CALIBRATION_SCENES)
    coarse = rng.random((count, config.image_channels, -(-config.image_height // 4), -(-config.image_width // 4)))
    image = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, : config.image_height, : config.image_width]
    return np.clip((0.8 * image + 0.2 * rng.random(image.shape)) * 256, 0, 255).astype(np.uint8)


def default_images(config: ModelConfig, count: int = IMAGES) -> NDArray[np.uint8]:
    """What a model is calibrated on, [count, C, H, W]: street scenes where its images have a size of theirs, else noise
    with soft edges.
    """
    return _images(config, count, CALIBRATION_SCENES)


def unseen_images(config: ModelConfig, count: int = 1) -> NDArray[np.uint8]:
    """Others of the same kind, which neither training nor calibration sees, [count, C, H, W]."""
    return _images(config, count, UNSEEN_SCENES)


FAR = 1000  # times what such tensors usually hold: 16 bits are then spent on one value


def outlier(checkpoint: Checkpoint, least: float = 0.0) -> str:
    """The tensor that stands out most from others of its kind (the same one of other layers), in words;
    empty if by less than `least`.
    """
    typical: dict[str, float] = {}
    kinds = {name: re.sub(r"\.\d+\.", ".", name) for name in checkpoint.tensors}
    for name, tensor in checkpoint.tensors.items():
        magnitude = np.abs(tensor.astype(np.float64))
        usual = float(np.quantile(magnitude, 0.99)) or float(np.sqrt(np.square(magnitude).mean()))
        if usual:
            typical[kinds[name]] = min(usual, typical.get(kinds[name], math.inf))
    reach = {name: float(np.abs(tensor).max()) for name, tensor in checkpoint.tensors.items()}
    name = max(reach, key=lambda n: reach[n] / typical.get(kinds[n], math.inf))
    if reach[name] < least * typical.get(kinds[name], math.inf):
        return ""
    return f"{name} reaches {reach[name]:.3g}, where such tensors usually hold {typical.get(kinds[name], 0):.2g}"


def bounded(checkpoint: Checkpoint, key: Key, reach: float) -> float:
    """What a tensor reaches; EdgemoeError if 16 bits do not."""
    if not reach <= LARGEST:  # NaN is not, either
        raise EdgemoeError(
            f"model {checkpoint.config.name} cannot be calibrated: {key} reaches {reach:.3g}, 16 bits hold up to "
            f"{LARGEST:.3g}. "
            f"Among the weights, {outlier(checkpoint)}; mend that tensor"
        )
    return reach


class Watcher(Observer):
    """Notes what a calibration holds, and passes on to `moments` what error-aware rounding needs."""

    active = True

    def __init__(self, checkpoint: Checkpoint, calibration: Calibration, moments: Moments, channels: bool) -> None:
        self.checkpoint, self.calibration, self.moments = checkpoint, calibration, moments
        self.channels = channels  # whether those that norms read are looked at one by one
        self.samples: dict[Key, list[NDArray]] = {}

    def reach(self, key: Key, value: NDArray) -> None:
        ranges = self.calibration.ranges
        ranges[key] = max(ranges.get(key, 0.0), bounded(self.checkpoint, key, float(np.abs(value).max())))

    def residual(self, key: Key, value: NDArray) -> None:
        magnitude, tail = np.abs(value), self.calibration.clipped.setdefault(key, Tail())
        tail.count += value.size
        for k in TAIL_POWERS:
            if (over := magnitude[magnitude > 2.0**k]).size:
                tail.beyond[k] = tail.beyond.get(k, 0.0) + float(np.square(over.astype(np.float64) - 2.0**k).sum())
        self.reach(key, value)

    def sigma(self, key: Key, value: NDArray) -> None:
        smallest = self.calibration.smallest
        smallest[key] = min(smallest.get(key, math.inf), float(value.min()))

    def sample(self, key: Key, value: NDArray) -> None:
        self.samples.setdefault(key, []).append(value)

    def rows(self, key: Key, x: NDArray, weight: NDArray | None = None) -> None:
        self.moments.add(key, x, weight)
        if self.channels and key.role in (Role.NORM_1, Role.NORM_2) and key.expert is None:
            reach = np.abs(x).reshape(-1, x.shape[-1]).max(axis=0).astype(np.float64)
            self.calibration.reaches[key] = np.maximum(self.calibration.reaches.get(key, reach), reach)

    def tokens(self, key: Key, x: NDArray) -> None:
        self.moments.keep(key, x)

    def sampled(self, key: Key) -> NDArray:
        """A tensor of all images; it is forgotten."""
        return np.concatenate(self.samples.pop(key))


def calibrate(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | None = None,
    *,
    error_aware: Iterable[str] = ("mixed", "8", "fast"),
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Run the float model with every task on the images and keep what `quantise` needs, for formats whose products are
    packed of the rotated model (`rotation`).

    error_aware: the formats for which weights of 8 bits are rounded so that errors cancel.
    """
    config = checkpoint.config
    formats = {WeightFormat.of(name) for name in error_aware}
    batch = default_images(config) if images is None else np.stack([np.asarray(i) for i in images])
    expected = (config.image_channels, config.image_height, config.image_width)
    if batch.dtype != np.uint8 or batch.shape[1:] != expected:
        raise EdgemoeError(
            f"calibration images are {batch.dtype} {list(batch.shape[1:])}, expected uint8 {list(expected)}; resize "
            f"them"
        )
    fast = {f for f in formats if f.fast}
    if not rotatable(config) or formats and not fast:
        return _calibrate(checkpoint, batch, formats, bool(fast), progress)
    if WeightFormat.FAST in fast:
        fast.add(WeightFormat.FAST_TRUNK)
    calibration = _calibrate(checkpoint, batch, formats - fast, False, progress)
    calibration.rotated = _calibrate(rotated(checkpoint), batch, fast, False, progress)
    result, tokens = graph(config).result, Key(Role.TOKENS)
    calibration.rotated.ranges[tokens] = calibration.ranges[result]
    calibration.rotated.clipped[tokens] = calibration.clipped[result]
    return calibration


def _calibrate(
    checkpoint: Checkpoint,
    batch: NDArray[np.uint8],
    formats: Collection[WeightFormat],
    channels: bool,
    progress: Callable[[str], None] | None,
) -> Calibration:
    """The same of the model as it is. channels: those that norms read are looked at one by one, for smoothing."""
    config = checkpoint.config
    model = graph(config)
    calibration = Calibration(len(batch), [digest(image) for image in batch])
    narrow = {m for _, m in model.matrices() if any(f.bits(m.expert, m.unpacked) == BYTE_BITS for f in formats)}
    moments = Moments({matrix.sees for matrix in narrow})
    watcher = Watcher(checkpoint, calibration, moments, channels)
    for task in range(len(config.tasks)):
        if progress:
            progress(f"float model, task {config.tasks[task].name}")
        for image in batch:
            with np.errstate(over="ignore", invalid="ignore"):
                forward(checkpoint, image, task, observer=watcher, dtype=np.float32)
    if standing_out := outlier(checkpoint, FAR):
        notice(f"model {config.name}: {standing_out}; whatever it leads to is rounded coarsely")
    for operation in model.trunk:
        operation.settle(watcher.sampled, calibration)
    for key, reach in calibration.ranges.items():
        bounded(checkpoint, key, reach)
    calibration.rounding = {f: {} for f in sorted(formats)}
    tensors = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}
    before: Operation | None = None
    for operation in model.operations:
        folded = operation.fold(tensors, calibration) if formats else {}
        halved = smoothing(operation, before, folded, calibration) if operation in model.trunk else None
        smooth = folded if halved is None else folded | smoothed_norm(operation, folded, halved)
        before = operation
        for matrix in operation.matrices():
            wanted = [f for f in formats if f.bits(matrix.expert, matrix.unpacked) == BYTE_BITS]
            if WeightFormat.FAST in wanted and not (matrix.expert and matrix.sees.role is Role.HIDDEN):
                # only what one packs and halves, and the other does not, differs
                wanted = [f for f in wanted if f is not WeightFormat.FAST_TRUNK]
            if wanted and progress:
                progress(f"rounding {matrix.key}")
            found: dict[tuple[int, bool], Rounding] = {}
            for weight_format in wanted:
                weights = (smooth if weight_format.fast else folded)[matrix.key]
                packed = weight_format.packed(matrix.expert)
                if (id(weights), packed) not in found:
                    rounding = moments.round(operation, matrix, weights, checkpoint.tensors, packed)
                    found[id(weights), packed] = rounding
                calibration.rounding[weight_format][matrix.key] = found[id(weights), packed]
    return calibration
