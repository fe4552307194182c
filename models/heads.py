# SPDX-License-Identifier: Apache-2.0
"""From a task head's values to a map of the image or to classes, and from a map to a picture. NumPy only: the host on
a board runs it.

A head gives, per patch, s * s cells of `channels` values in the order s row, s column, channel (fastest). The cells of
all patches form a grid of H * s / patch rows and W * s / patch columns, which is interpolated bilinearly to H x W
pixels: pixel centres and cell centres are both at + 0.5, and outside the outermost cell centres the nearest cell's
value holds.

A decoder of convolutions gives the pixels at once, and a graph whatever it does.

Depth is predicted as its logarithm: value = ln(depth / 10 m), so 0 is 10 m and the values stay within about -3..2.3.
"""

from __future__ import annotations

import numpy as np

from .config import ModelConfig, TaskConfig
from .errors import EdgemoeError

DEPTH_UNIT = 10.0  # metres at head value 0
DEPTH_LIMITS = (0.5, 100.0)  # metres; what depth_map clips to

# Cityscapes' colours of sky, road, building, car, person, vegetation, pole; but its red of people is vegetation's green
# to one man in twelve, so they are yellow here.
SEGMENTATION_COLOURS = np.array(
    [(70, 130, 180), (128, 64, 128), (70, 70, 70), (0, 0, 142), (255, 215, 0), (107, 142, 35), (153, 153, 153)],
    np.uint8,
)
# Nine equidistant points of a map with even steps in lightness, from near (bright) to far (dark).
_DEPTH_COLOURS = np.array(
    [
        (252, 253, 191), (254, 201, 141), (253, 149, 103), (241, 96, 93), (205, 63, 113),
        (158, 47, 127), (104, 31, 129), (49, 17, 98), (5, 4, 22),
    ],
    np.float32,
)  # fmt: skip


def _task(config: ModelConfig, task: TaskConfig | int | str, kind: str) -> TaskConfig:
    chosen = task if isinstance(task, TaskConfig) else config.tasks[config.task_index(task)]
    if chosen.kind != kind:
        raise EdgemoeError(
            f"task {chosen.name} is of kind {chosen.kind!r}, expected {kind!r}; choose a task of that kind"
        )
    return chosen


def cell_grid(head: np.ndarray, config: ModelConfig, task: TaskConfig) -> np.ndarray:
    """head [patches, s*s*channels] -> grid [rows, columns, channels], float32."""
    head = np.asarray(head, np.float32)
    if head.shape != (config.patches, task.head_outputs):
        raise EdgemoeError(
            f"head of task {task.name} has shape {list(head.shape)}, expected [{config.patches}, {task.head_outputs}]"
        )
    s, rows, columns = task.grid, config.patches_per_column, config.patches_per_row
    cells = head.reshape(rows, columns, s, s, task.channels).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * s, columns * s, task.channels)


def _interpolate(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    cells = values.shape[axis]
    if cells == size:
        return values
    position = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    high = np.minimum(low + 1, cells - 1)
    weight = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    below, above = values.take(low, axis), values.take(high, axis)
    above -= below
    above *= weight
    above += below
    return above


def bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """grid [rows, columns, channels] float32 -> [height, width, channels]."""
    return _interpolate(_interpolate(grid, height, 0), width, 1)


def _pixels(head: np.ndarray, config: ModelConfig, task: TaskConfig) -> np.ndarray:
    """[height, width, channels] of the picture's size."""
    grid = cell_grid(head, config, task) if task.decoder == "linear" else np.asarray(head, np.float32)
    return bilinear(grid, config.image_height, config.image_width)


def segmentation_map(head: np.ndarray, config: ModelConfig, task: TaskConfig | int | str) -> np.ndarray:
    """Class of every pixel, uint8 [H, W]: the largest of the interpolated logits, the lowest class of equal ones."""
    chosen = _task(config, task, "segmentation")
    logits = _pixels(head, config, chosen)
    return logits.argmax(-1).astype(np.uint8)


def depth_map(head: np.ndarray, config: ModelConfig, task: TaskConfig | int | str) -> np.ndarray:
    """Depth of every pixel in metres, float32 [H, W]: 10 m * exp(value), of the interpolated values, clipped to
    DEPTH_LIMITS.
    """
    chosen = _task(config, task, "depth")
    values = _pixels(head, config, chosen)[..., 0]
    low, high = (np.float32(np.log(limit / DEPTH_UNIT)) for limit in DEPTH_LIMITS)
    return (np.float32(DEPTH_UNIT) * np.exp(np.clip(values, low, high))).astype(np.float32)


def plain_map(head: np.ndarray, config: ModelConfig, task: TaskConfig | int | str) -> np.ndarray:
    """Values as they are, float32 [H, W] or [H, W, channels]; of a graph in the size that it gives."""
    chosen = _task(config, task, "map")
    values = np.asarray(head, np.float32) if chosen.decoder == "onnx" else _pixels(head, config, chosen)
    return values[..., 0] if chosen.channels == 1 else values


def class_probabilities(head: np.ndarray, config: ModelConfig, task: TaskConfig | int | str) -> np.ndarray:
    """Softmax of a classifier's logits, float32 [classes]; `head`: its linear layer's values [rows, outputs]."""
    chosen = _task(config, task, "classification")
    logits = class_logits(np.asarray(head, np.float32), config, chosen)
    shifted = np.exp(logits - logits.max())
    return (shifted / shifted.sum()).astype(np.float32)


def class_logits(head: np.ndarray, config: ModelConfig, task: TaskConfig) -> np.ndarray:
    """[rows, outputs] -> [classes]: what the linear layer gave, brought together as `TaskConfig.pool` says."""
    classes = task.channels
    if task.pool == "distilled":
        return (head[0, :classes] + head[1, classes:]) / 2
    if task.pool == "cls+mean":
        return head[0, :classes] + head[config.prefix :, classes:].mean(axis=0)
    return head.mean(axis=0)  # one row, or the patches'


def colourise_features(features: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Features [tokens, width] -> RGB uint8 [H, W, 3]: the patches' first three principal components.

    Each component goes from its second to its 98th percentile; patches alike have like colours, which colour means
    nothing. The sign of a component is that of its largest weight.
    """
    patches = np.asarray(features, np.float64)[config.prefix :]
    scaled = _components(patches).reshape(config.patches_per_column, config.patches_per_row, 3)
    return bilinear(scaled, config.image_height, config.image_width).round().astype(np.uint8)


def _components(patches: np.ndarray) -> np.ndarray:
    """[n, width] -> their first three principal components, 0..255 float32 [n, 3]."""
    centred = patches - patches.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:3] * np.sign(
        np.take_along_axis(directions[:3], np.abs(directions[:3]).argmax(1)[:, None], 1)
    )
    components = np.zeros((len(patches), 3))
    components[:, : len(directions)] = centred @ directions.T
    low, high = np.percentile(components, (2, 98), axis=0)
    return (np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).astype(np.float32)


def colourise_map(values: np.ndarray, config: ModelConfig) -> np.ndarray:
    """[h, w] or [h, w, channels] -> RGB uint8 [H, W, 3]: dark to bright from the lowest to the highest value; three
    channels as red, green and blue, others as features are shown.
    """
    values = np.asarray(values, np.float32)
    if values.ndim == 3 and values.shape[-1] != 3:
        shown = _components(values.reshape(-1, values.shape[-1]).astype(np.float64)).reshape(*values.shape[:2], 3)
        return bilinear(shown, config.image_height, config.image_width).round().astype(np.uint8)
    grid = values if values.ndim == 3 else values[..., None]
    pixels = bilinear(grid, config.image_height, config.image_width)
    low, high = np.nanmin(values), np.nanmax(values)
    scaled = np.clip((pixels - low) / max(high - low, 1e-12), 0, 1) * 255
    return scaled.round().astype(np.uint8) if values.ndim == 3 else _coloured(255 - scaled[..., 0])


def _coloured(position: np.ndarray) -> np.ndarray:
    """0 (bright) to 255 (dark) -> RGB uint8."""
    points = np.linspace(0, 255, len(_DEPTH_COLOURS))
    table = np.stack([np.interp(np.arange(256), points, _DEPTH_COLOURS[:, channel]) for channel in range(3)], axis=1)
    return (table + 0.5).astype(np.uint8)[position.astype(np.uint8)]


def colourise_segmentation(classes: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> RGB uint8 [H, W, 3] in Cityscapes' colours; classes beyond the seven repeat them."""
    return SEGMENTATION_COLOURS[np.asarray(classes) % len(SEGMENTATION_COLOURS)]


def colourise_depth(depth: np.ndarray, near: float = 2.0, far: float = DEPTH_LIMITS[1]) -> np.ndarray:
    """Metres [H, W] -> RGB uint8 [H, W, 3], logarithmic between near (bright) and far (dark)."""
    return _coloured(np.log(np.clip(depth, near, far) / near) / np.log(far / near) * 255)
