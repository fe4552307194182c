# SPDX-License-Identifier: Apache-2.0
"""The demo as a picture: input, maps and ground truth, and which expert each patch went to."""

from __future__ import annotations

from typing import Any

import numpy as np
from edgemoe.host.inference import CLOCK_MHZ
from edgemoe.host.studies.demo import Demo
from edgemoe.host.studies.drawing import COLOURS, encoded, pyplot
from edgemoe.models import heads, scenes
from numpy.typing import NDArray

NEAR, FAR = 2, 100  # metres, the ends of the depth bar, as `heads.colourise_depth` has them
INK, QUIET = "#1b1f24", "#57606a"


def rgb(colour: str) -> NDArray[np.float64]:
    """ "#rrggbb" as three numbers 0..255."""
    return np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)], np.float64)


def tinted(picture: NDArray[np.uint8], colours: NDArray[np.floating], share: float) -> NDArray[np.uint8]:
    """Grey of a picture [H, W, 3] under colours [H, W, 3] that cover so much of it."""
    grey = picture @ np.array([0.299, 0.587, 0.114])
    return ((1 - share) * grey[..., None] + share * colours).astype(np.uint8)


def experts_picture(picture: NDArray[np.uint8], chosen: NDArray[np.int64], patch: int) -> NDArray[np.uint8]:
    """The picture, each patch in its expert's colour; chosen: [rows, columns] of experts."""
    palette = np.array([rgb(colour) for colour in COLOURS])
    tint = palette[chosen % len(COLOURS)].repeat(patch, 0).repeat(patch, 1)
    return tinted(picture, tint, 0.62)


def picture(demo: Demo) -> bytes:
    """The whole of it, PNG."""
    plt = pyplot("the demo's picture")
    street = demo.scene.image.transpose(1, 2, 0)
    found, truth = (heads.colourise_segmentation(x) for x in (demo.classes, demo.scene.labels))
    overlay = (0.45 * street + 0.55 * found).astype(np.uint8)
    figure = plt.figure(figsize=(12.8, 8.05), facecolor="white")
    left, width, gap = 0.012, 0.317, 0.0125
    height = width / 2 * 12.8 / 8.05

    def panel(row: float, column: int, title: str, pixels: NDArray[np.uint8]) -> Any:
        axes = figure.add_axes((left + column * (width + gap), row, width, height))
        axes.imshow(pixels, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize=11.5, color=INK, pad=5)
        return axes

    top, middle, bottom = 0.712, 0.410, 0.047
    panel(top, 0, "Input, 256 x 128 pixels", street)
    panel(top, 1, "Segmentation, computed by the RTL", found)
    panel(top, 2, "Depth, computed by the RTL", heads.colourise_depth(demo.depth))
    panel(middle, 0, "Segmentation laid over the input", overlay)
    panel(middle, 1, "Segmentation, ground truth", truth)
    panel(middle, 2, "Depth, ground truth", heads.colourise_depth(demo.scene.depth))
    _classes(figure, left + width + gap, middle - 0.035)
    _depth_bar(figure, (left + 2 * (width + gap), middle - 0.022, width, 0.014))
    layer = demo.config.moe_layers[-1]
    shape = demo.config.patches_per_column, demo.config.patches_per_row
    for column, task in enumerate(demo.config.tasks):
        chosen = demo.routes[layer, demo.config.task_index(task.name)][:, 0].reshape(shape)
        title = f"Expert chosen for each patch: {task.name}"
        axes = panel(bottom, column, title, experts_picture(street, chosen, demo.config.patch))
        _numbers(axes, chosen, demo.config.patch)
    _experts(figure, left, bottom - 0.034, demo.config.experts, f"first of {demo.config.top_k} choices, layer {layer}")
    _facts(figure, demo, left + 2 * (width + gap), bottom + height)
    return encoded(figure, dpi=140)


def _classes(figure: Any, x: float, y: float) -> None:
    """The legend of the classes, in a row."""
    place = x
    for name, colour in zip(scenes.CLASSES, heads.SEGMENTATION_COLOURS, strict=True):
        figure.patches.append(_box(figure, place, y + 0.012, colour / 255))
        figure.text(place + 0.0105, y + 0.0185, name, fontsize=8.6, color=INK, va="center")
        place += 0.0160 + 0.0055 * len(name)


def _experts(figure: Any, x: float, y: float, count: int, remark: str) -> None:
    """The legend of the experts, in a row."""
    figure.text(x, y + 0.0095, "expert", fontsize=9, color=INK, va="center")
    for expert in range(count):
        place = x + 0.045 + 0.028 * expert
        figure.patches.append(_box(figure, place, y + 0.003, rgb(COLOURS[expert % len(COLOURS)]) / 255))
        figure.text(place + 0.0105, y + 0.0095, str(expert), fontsize=9, color=INK, va="center")
    figure.text(x + 0.285, y + 0.0095, remark, fontsize=9, color=QUIET, va="center")


def _box(figure: Any, x: float, y: float, colour: NDArray[np.floating]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 0.009, 0.013, transform=figure.transFigure, facecolor=tuple(colour), edgecolor="none")


def _depth_bar(figure: Any, place: tuple[float, float, float, float]) -> None:
    """Metres, logarithmic as the map is."""
    axes = figure.add_axes(place)
    metres = np.geomspace(NEAR, FAR, 512, dtype=np.float32)[None]
    axes.imshow(heads.colourise_depth(metres, NEAR, FAR), aspect="auto", extent=(np.log(NEAR), np.log(FAR), 0, 1))
    ticks = (2, 5, 10, 20, 50, 100)
    axes.set_xticks([np.log(tick) for tick in ticks], [f"{tick} m" for tick in ticks], fontsize=8.6, color=INK)
    for label, side in zip(axes.get_xticklabels()[:: len(ticks) - 1], ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    axes.set_yticks([])
    axes.tick_params(length=2, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _numbers(axes: Any, chosen: NDArray[np.int64], patch: int) -> None:
    """The expert's number at each patch, for those who see colours otherwise."""
    for (row, column), expert in np.ndenumerate(chosen):
        place = (column + 0.5) * patch - 0.5, (row + 0.5) * patch - 0.5
        axes.text(*place, str(expert), fontsize=6.5, color="white", alpha=0.9, ha="center", va="center")


def _facts(figure: Any, demo: Demo, x: float, y: float) -> None:
    q, size = demo.quality, demo.hardware.array
    depth = f"RMSE {q.rmse_m:.2f} m, AbsRel {q.abs_rel:.3f}, $\\delta$ < 1.25 for {100 * q.delta:.0f} %"
    lines = (
        ("Both tasks in one pass", 13, "bold"),
        (f"{demo.cycles:,} cycles, {demo.milliseconds:.2f} ms at a {CLOCK_MHZ} MHz target", 10.4, "normal"),
        (f"{size} multipliers, {100 * demo.mac_utilisation:.0f} % of their cycles useful", 10.4, "normal"),
        ("", 6, "normal"),
        (demo.verdict.partition(": ")[0], 13, "bold"),
        (f"{demo.verdict.partition(': ')[2]}, final tokens too", 10.4, "normal"),
        ("", 6, "normal"),
        ("Against the ground truth", 13, "bold"),
        (f"segmentation: mean IoU {100 * q.mean_iou:.1f} %", 10.4, "normal"),
        (f"depth: {depth}", 10.4, "normal"),
    )
    for text, size_, weight in lines:
        y -= size_ * 0.0026
        figure.text(x + 0.006, y, text, fontsize=size_, weight=weight, color=INK if weight == "bold" else QUIET)
