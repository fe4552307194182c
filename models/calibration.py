# SPDX-License-Identifier: Apache-2.0
"""What the float model does on calibration images, as far as `quantise` needs to know it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibrated import LARGEST, digest
from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import EdgemoeError, notice
from .folding import fold
from .forward import forward
from .rounding import Moments

IMAGES = 24  # of a calibration that is kept: with 8, 8-bit weights lose 1.5 dB on other pictures
CALIBRATION_SCENES = 1_000_003  # their seeds begin here; training's are smaller (`train.HELD_OUT`)
UNSEEN_SCENES = 2_000_000  # seeds from here on are neither for training nor for calibration: everything is measured on these


def _images(config: ModelConfig, count: int, first_scene: int) -> NDArray[np.uint8]:
    from .scenes import WINDOWS, cut, scene

    size = (config.image_height, config.image_width)
    if config.image_channels == 3 and size in WINDOWS:
        return np.stack([cut(scene(first_scene + i), *size).image for i in range(count)])
    rng = np.random.default_rng(first_scene - CALIBRATION_SCENES)
    coarse = rng.random((count, config.image_channels, -(-config.image_height // 4), -(-config.image_width // 4)))
    image = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, : config.image_height, : config.image_width]
    return np.clip((0.8 * image + 0.2 * rng.random(image.shape)) * 256, 0, 255).astype(np.uint8)


def default_images(config: ModelConfig, count: int = IMAGES) -> NDArray[np.uint8]:
    """What a model is calibrated on, [count, C, H, W]: street scenes where its images have a size of theirs, else noise with soft edges."""
    return _images(config, count, CALIBRATION_SCENES)


def unseen_images(config: ModelConfig, count: int = 1) -> NDArray[np.uint8]:
    """Others of the same kind, which neither training nor calibration sees, [count, C, H, W]."""
    return _images(config, count, UNSEEN_SCENES)


FAR = 1000  # times what such tensors usually hold: 16 bits are then spent on one value


def outlier(checkpoint: Checkpoint, least: float = 0.0) -> str:
    """The tensor that stands out most from others of its kind (the same one of other layers), in words; empty if by less than `least`."""
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


def calibrate(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | None = None,
    *,
    error_aware: Iterable[str] = ("mixed", "8"),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run the float model with every task on the images and keep what `quantise` needs, as JSON can hold it.

    images    how many; pictures: the digest of each (`calibrated.digest`), so that what is measured on one of them can be told
    ranges    tensor -> largest magnitude
    smallest  LayerNorm -> smallest sigma
    clipped   residual tensor -> number of values, and k -> sum of squares of what lies beyond 2^k
    channels  layer -> per channel: largest magnitude of queries, centred keys and centred values; means of keys and values
    rounding  weight format -> tensor -> how the error-aware rounding differs from plain rounding (zlib, base64). It is stored, as the
              second moments that it needs are far larger, and as compiling then needs neither images nor the float model.
    """
    config = checkpoint.config
    batch = default_images(config) if images is None else np.stack([np.asarray(i) for i in images])
    expected = (config.image_channels, config.image_height, config.image_width)
    if batch.dtype != np.uint8 or batch.shape[1:] != expected:
        raise EdgemoeError(f"calibration images are {batch.dtype} {list(batch.shape[1:])}, expected uint8 {list(expected)}; resize them")
    ranges: dict[str, float] = {}
    smallest: dict[str, float] = {}
    clipped: dict[str, dict[str, float]] = {}
    samples: dict[str, list[NDArray]] = {}
    formats = tuple(error_aware)
    moments = Moments(config, "8" in formats) if formats else None

    def bounded(name: str, reach: float) -> float:
        if not reach <= LARGEST:  # NaN is not, either
            raise EdgemoeError(
                f"model {config.name} cannot be calibrated: {name} reaches {reach:.3g}, 16 bits hold up to {LARGEST:.3g}. "
                f"Among the weights, {outlier(checkpoint)}; mend that tensor"
            )
        return reach

    def record(name: str, value: NDArray) -> None:
        if name.endswith(".sigma"):
            smallest[name] = min(smallest.get(name, math.inf), float(value.min()))
        elif name.endswith((".query", ".key", ".value", ".attention")) and ".residual." not in name:
            samples.setdefault(name, []).append(value)
        elif name.endswith((".scaled", ".rows", ".input")) or ".hidden." in name or ".routed." in name:
            if moments is not None:
                moments.note(name, value)
        else:
            if ".logits." in name:  # the hardware's are in base 2, and free of what all experts share
                value = (value - value.mean(axis=-1, keepdims=True)) * math.log2(math.e)
            if "residual." in name:
                magnitude, tail = np.abs(value), clipped.setdefault(name, {"count": 0.0})
                tail["count"] += value.size
                for k in range(-8, 23):  # what a limit of 2^k would cost
                    if (over := magnitude[magnitude > 2.0**k]).size:
                        tail[str(k)] = tail.get(str(k), 0.0) + float(np.square(over.astype(np.float64) - 2.0**k).sum())
            ranges[name] = max(ranges.get(name, 0.0), bounded(name, float(np.abs(value).max())))

    for task in range(len(config.tasks)):
        if progress:
            progress(f"float model, task {config.tasks[task].name}")
        for image in batch:
            with np.errstate(over="ignore", invalid="ignore"):
                forward(checkpoint, image, task, record=record, dtype=np.float32)
    if standing_out := outlier(checkpoint, FAR):
        notice(f"model {config.name}: {standing_out}; whatever it leads to is rounded coarsely")
    channels: dict[str, dict[str, list[float]]] = {}
    log2e = math.log2(math.e) / math.sqrt(config.head_width)
    for layer in range(config.layers):
        b = f"blocks.{layer}"
        query, key, value, attention = (np.concatenate(samples.pop(f"{b}.{n}")) for n in ("query", "key", "value", "attention"))
        mean_key, mean_value = key.mean(axis=(0, 2), keepdims=True), value.mean(axis=(0, 2), keepdims=True)
        key, value, attention = key - mean_key, value - mean_value, attention - mean_value
        scores = max(float(np.abs(q @ k.transpose(0, 2, 1)).max()) for q, k in zip(query, key, strict=True))
        ranges[f"{b}.scores"] = bounded(f"{b}.scores", scores * log2e)

        def reach(x: NDArray) -> list[float]:
            return np.abs(x).max(axis=(0, 2)).ravel().tolist()

        channels[b] = {
            "query": (np.abs(query).max(axis=(0, 2)).ravel() * log2e).tolist(),
            "key": reach(key),
            "value": reach(value),
            "attention": reach(attention),
            "mean_key": mean_key.ravel().tolist(),
            "mean_value": mean_value.ravel().tolist(),
        }
    calibration: dict[str, Any] = {
        "images": len(batch),
        "pictures": [digest(image) for image in batch],
        "ranges": ranges,
        "smallest": smallest,
        "clipped": clipped,
        "channels": channels,
        "rounding": {},
    }
    if moments is not None:
        folded = fold(checkpoint, calibration)
        done: dict[str, dict[str, str]] = {}
        for name, matrix in folded.items():
            if "8" in formats or moments.experts(name):
                if progress:
                    progress(f"rounding {name}")
                done[name] = moments.round(name, matrix, checkpoint, calibration)
        for weight_bits in formats:
            calibration["rounding"][weight_bits] = {n: d for n, d in done.items() if weight_bits == "8" or moments.experts(n)}
    return calibration
