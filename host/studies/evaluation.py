# SPDX-License-Identifier: Apache-2.0
"""How good the maps are that the hardware computes, on scenes that neither training nor calibration has seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from edgemoe.host.inference import prediction, stream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models import metrics, scenes
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.calibrate import UNSEEN_SCENES, takes_scenes
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.scenes import Scene
from numpy.typing import NDArray

STREET = "street"


@dataclass(frozen=True)
class Quality:
    """How good the maps of so many pictures are.

    metrics: by the name of the task, mean_iou over all pixels, or rmse_m of depth. seeds: of the first scene and the
    last.
    """

    checkpoint: str
    data: str
    pictures: int
    seeds: tuple[int, int]
    device: str
    hardware: str
    weight_bits: WeightFormat
    metrics: dict[str, dict[str, float]]
    cycles: int

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        return asdict(self)


def pictures_of(data: str) -> int:
    """How many scenes "street:N" asks for."""
    name, _, count = data.partition(":")
    if name != STREET or not count.isascii() or not count.isdigit() or not 1 <= int(count) <= 1_000_000:
        raise EdgemoeError(f"data is {data!r}, expected {STREET}:N, N generated scenes (1 to 1000000)")
    return int(count)


def evaluate(
    checkpoint: Checkpoint, count: int, *, hardware: HardwareConfig, weight_bits: str, device: str = "emulator"
) -> Quality:
    """Metrics over the scenes of seeds UNSEEN_SCENES, + 1, ...: per task mean IoU over all pixels, or RMSE of depth in
    metres.

    All tasks of a picture run in one pass where the hardware has room. Emulator and RTL give the same bits, hence the
    same figures.
    """
    config = checkpoint.config
    scored = [
        task
        for task in config.tasks
        if task.kind == "depth" or (task.kind == "segmentation" and task.channels == len(scenes.CLASSES))
    ]
    if not scored:
        raise EdgemoeError(
            f"model {config.name} has no head for the scenes' {len(scenes.CLASSES)} classes or depth: nothing to "
            f"evaluate"
        )
    size = (config.image_height, config.image_width)
    if not takes_scenes(config):
        given = f"{config.image_channels} x {size[0]} x {size[1]}"
        raise EdgemoeError(
            f"model {config.name} takes pictures of {given}, the scenes are 3 x {scenes.HEIGHT} x {scenes.WIDTH}"
        )
    tasks = [config.task_index(task.name) for task in scored]
    model = quantise(checkpoint, weight_bits)
    matrices = {
        task.name: np.zeros((task.channels, task.channels), np.int64) for task in scored if task.kind == "segmentation"
    }
    squares = {task.name: 0.0 for task in scored if task.kind == "depth"}
    cycles = 0
    street: dict[int, Scene] = {}  # those of the passes under way

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for index in range(count):
            street[index] = scenes.cut(scenes.scene(UNSEEN_SCENES + index), *size)
            yield street[index].image

    options: dict[str, Any] = dict(
        tasks=tasks, device=device, hardware=hardware, weight_bits=weight_bits, model=model, count=count
    )
    with closing(stream(checkpoint, pictures(), **options)) as parts:
        for part in parts:
            cycles += part.run.cycles
            for number in [number for number in street if number < part.streams[0][0]]:
                del street[number]
            for (image, index), head, tokens in zip(part.streams, part.run.heads, part.run.tokens, strict=True):
                task, found = config.tasks[index], prediction(checkpoint, index, street[image].image, head, tokens)
                assert found is not None
                if task.kind == "segmentation":
                    matrices[task.name] += metrics.confusion(found, street[image].labels, task.channels)
                else:
                    squares[task.name] += metrics.depth_rmse(found, street[image].depth) ** 2
    figures: dict[str, dict[str, float]] = {}
    for task in scored:
        if task.kind == "segmentation":
            figures[task.name] = {"mean_iou": float(np.nanmean(metrics.class_iou(matrices[task.name])))}
        else:
            figures[task.name] = {"rmse_m": float(np.sqrt(squares[task.name] / count))}
    return Quality(
        checkpoint=config.name,
        data=f"{STREET}:{count}",
        pictures=count,
        seeds=(UNSEEN_SCENES, UNSEEN_SCENES + count - 1),
        device=device,
        hardware=hardware.name,
        weight_bits=model.weight_bits,
        metrics=figures,
        cycles=cycles,
    )
