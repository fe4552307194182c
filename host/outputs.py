# SPDX-License-Identifier: Apache-2.0
"""What the commands leave on disk: maps, raw predictions, the demo's sheet, the hardware as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from edgemoe.host.images import depth_png, npy, png
from edgemoe.host.inference import colourised
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.folders import OutputFolder
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


def map_files(config: ModelConfig, task: int) -> dict[str, Callable[[NDArray[Any]], bytes]]:
    """What is written of a task's prediction: end of the file's name -> the file. A task without a head has none.

    The coloured PNG, the raw prediction (values of a map as they are) as .npy, and depth as a 16-bit PNG (metres x 256)
    too; of a classifier the probabilities as .npy alone.
    """
    name, kind = config.tasks[task].name, config.tasks[task].kind
    if kind == "tokens":
        return {}
    if kind == "classification":
        return {f"-{name}.npy": npy}
    files: dict[str, Callable[[NDArray[Any]], bytes]] = {
        f"-{name}.png": lambda prediction: png(colourised(config, task, prediction)),
        f"-{name}.npy": npy,
    }
    return files | ({f"-{name}-metres256.png": depth_png} if kind == "depth" else {})


def map_names(base: str, config: ModelConfig, tasks: Iterable[int]) -> list[str]:
    """Names of all files of a picture."""
    return [base + end for task in tasks for end in map_files(config, task)]


def save_maps(
    folder: OutputFolder, base: str, config: ModelConfig, task: int, values: NDArray[Any] | None
) -> list[str]:
    """Write what is written of a task's prediction; returns the paths."""
    if values is None:
        return []
    return [str(folder.write(base + end, encode(values))) for end, encode in map_files(config, task).items()]


def sheet(rows: list[list[tuple[str, NDArray[np.uint8]]]], zoom: int = 2) -> NDArray[np.uint8]:
    """Pictures (uint8 [H, W, 3]), each pixel `zoom` pixels wide, with a caption above each, one row below the other."""
    caption, gap = 30, 10
    rows = [[(text, pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)) for text, pixels in row] for row in rows]
    height, width = rows[0][0][1].shape[:2]
    columns = max(len(row) for row in rows)
    canvas = Image.new("RGB", (gap + columns * (width + gap), gap + len(rows) * (height + caption + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=20)
    for r, row in enumerate(rows):
        for c, (text, pixels) in enumerate(row):
            x, y = gap + c * (width + gap), gap + r * (height + caption + gap)
            draw.text((x, y), text, fill="black", font=font)
            canvas.paste(Image.fromarray(pixels), (x, y + caption))
    return np.asarray(canvas)


def table(title: str, rows: list[tuple[str, Any]]) -> None:
    """A two-column table on standard output."""
    show_table(title, [(name, str(value)) for name, value in rows])
