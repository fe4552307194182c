# SPDX-License-Identifier: Apache-2.0
"""The picture, the maps that came of it, and attention, as a page holds them: PNG in `data:` addresses."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from edgemoe.host.images import png
from edgemoe.host.inference import best_classes, colourised
from edgemoe.models import heads
from edgemoe.models.config import ModelConfig
from edgemoe.models.scenes import CLASSES
from numpy.typing import NDArray

METRES = (2, 5, 10, 20, 50, 100)  # of the legend of depth


def address(pixels: NDArray[np.uint8]) -> str:
    """uint8 [H, W] or [H, W, 3] as a PNG inside an address."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def seen(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a model is given, uint8 [C, H, W], as people look at it."""
    return image.transpose(1, 2, 0) if len(image) == 3 else image[0]


def result(config: ModelConfig, task: int, prediction: NDArray[Any] | None) -> dict[str, Any]:
    """What a task said: a map as a picture with its legend, or the likeliest classes; tokens have neither."""
    chosen = config.tasks[task]
    found: dict[str, Any] = {
        "task": chosen.name,
        "kind": chosen.kind,
        "map": None,
        "range": None,
        "legend": [],
        "classes": {},
    }
    if prediction is None:
        return found
    if chosen.kind == "classification":
        return found | {"classes": best_classes(config, task, prediction)}
    found["map"] = address(colourised(config, task, prediction))
    if chosen.kind == "segmentation":
        found["legend"] = _classes(chosen.channels, chosen.labels, prediction)
    elif chosen.kind == "depth":
        near, far = float(prediction.min()), float(prediction.max())
        found["legend"] = _depths(near, far)
        found["range"] = [round(near, 1), round(far, 1)]
    return found


def _classes(count: int, labels: tuple[str, ...], prediction: NDArray[Any]) -> list[dict[str, str]]:
    """Those that are there, with their share of the picture."""
    names = labels or (CLASSES if count == len(CLASSES) else tuple(f"class {n}" for n in range(count)))
    numbers, pixels = np.unique(prediction, return_counts=True)
    colours = heads.colourise_segmentation(numbers)
    return [
        {"label": f"{names[number]} {share:.0%}".replace("%", " %"), "colour": _hex(colour)}
        for number, share, colour in zip(numbers, pixels / prediction.size, colours, strict=True)
    ]


def _depths(near: float, far: float) -> list[dict[str, str]]:
    colours = heads.colourise_depth(np.array([METRES], np.float32))[0]
    return [
        {"label": f"{metres} m", "colour": _hex(colour)}
        for metres, colour in zip(METRES, colours, strict=True)
        if near / 2 <= metres <= far * 2
    ]


def _hex(colour: NDArray[np.uint8]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def grey(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[heads, queries, keys] -> uint8 [heads * queries, keys]: of every row, white is what it looked at most; one that
    looked at nothing is black.
    """
    rows = shares.reshape(-1, shares.shape[-1])
    most = rows.max(axis=1, keepdims=True)
    return (255 * rows / np.where(most > 0, most, 1)).round().astype(np.uint8)
