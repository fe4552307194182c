# SPDX-License-Identifier: Apache-2.0
"""What the commands leave on disk: maps, raw predictions, the demo's sheet, the hardware as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host.images import save_depth_png, save_png, writable_folder
from edgemoe.host.inference import Inference, colourised
from edgemoe.hw import isa, registers
from edgemoe.hw.config import HardwareConfig
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


def save_maps(result: Inference, names: list[str], folder: Path) -> list[str]:
    """For each stream with a head: coloured PNG, raw prediction as .npy, depth as 16-bit PNG (metres x 256) too. Returns the paths."""
    config = result.checkpoint.config
    written: list[Path] = []
    for stream, (image, task) in enumerate(result.streams):
        prediction = result.map(stream)
        if prediction is None:
            continue
        base = f"{names[image]}-{config.tasks[task].name}"
        written.append(save_png(folder / f"{base}.png", colourised(config, task, prediction)))
        np.save(folder / f"{base}.npy", prediction)
        written.append(folder / f"{base}.npy")
        if config.tasks[task].kind == "depth":
            written.append(save_depth_png(folder / f"{base}-metres256.png", prediction))
    return [str(path) for path in written]


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


def save_hardware(config: HardwareConfig, verilog: str, folder: Path) -> list[str]:
    """The Verilog, and register map and instruction set for people and for other languages."""
    writable_folder(folder)
    files: dict[str, str] = {
        "edgemoe.v": verilog,
        "registers.md": registers.to_markdown(),
        "registers.json": registers.to_json(),
        "edgemoe.h": registers.to_c_header(),
        "instructions.md": isa.to_markdown(),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in files]


def table(title: str, rows: list[tuple[str, Any]]) -> None:
    """A two-column table on standard output."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, show_header=False)
    for name, value in rows:
        shown.add_row(name, str(value))
    Console().print(shown)
