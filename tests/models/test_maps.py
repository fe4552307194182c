# SPDX-License-Identifier: Apache-2.0
"""Maps from head values, and their metrics."""

import time

import numpy as np
import pytest
from edgemoe.models import heads, metrics
from edgemoe.models.config import PRESETS
from edgemoe.models.errors import EdgemoeError

from .small import SMALL

MICRO = PRESETS["m3vit-micro"]


def head_of(grid: np.ndarray, config, task: int) -> np.ndarray:
    """The head values that mean a grid [rows, columns, channels], cell by cell as the documentation has it."""
    t = config.tasks[task]
    head = np.zeros((config.patches, t.head_outputs), np.float32)
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            patch = (row // t.grid) * config.patches_per_row + column // t.grid
            start = ((row % t.grid) * t.grid + column % t.grid) * t.channels
            head[patch, start : start + t.channels] = grid[row, column]
    return head


def test_cell_order():
    grid = np.random.default_rng(0).standard_normal((4, 6, 7)).astype(np.float32)
    assert np.array_equal(heads.cell_grid(head_of(grid, SMALL, 0), SMALL, SMALL.tasks[0]), grid)


def test_bilinear_against_a_loop():
    grid = np.random.default_rng(1).standard_normal((3, 5, 2)).astype(np.float32)
    found = heads.bilinear(grid, 12, 10)
    for row in range(12):
        for column in range(10):
            y, x = np.clip((row + 0.5) / 4 - 0.5, 0, 2), np.clip((column + 0.5) / 2 - 0.5, 0, 4)
            r, c = min(int(y), 1), min(int(x), 3)
            top = grid[r, c] * (1 - x + c) + grid[r, c + 1] * (x - c)
            bottom = grid[r + 1, c] * (1 - x + c) + grid[r + 1, c + 1] * (x - c)
            np.testing.assert_allclose(found[row, column], top * (1 - y + r) + bottom * (y - r), atol=1e-6)
    assert np.array_equal(heads.bilinear(grid[:1, :1], 4, 4), np.broadcast_to(grid[0, 0], (4, 4, 2)))


def test_segmentation_map():
    grid = np.zeros((4, 6, 7), np.float32)
    grid[:2, :, 4], grid[2:, :, 1] = 1, 1
    found = heads.segmentation_map(head_of(grid, SMALL, 0), SMALL, "segmentation")
    assert found.dtype == np.uint8 and found.shape == (8, 12)
    assert (found[:4] == 4).all() and (found[4:] == 1).all()
    assert (heads.segmentation_map(np.zeros((6, 28)), SMALL, 0) == 0).all()  # equal logits: the lowest class


def test_depth_map_is_in_metres_and_clipped():
    grid = np.full((8, 12, 1), np.log(25 / 10), np.float32)
    grid[:, :4], grid[:, 8:] = 9, -9
    found = heads.depth_map(head_of(grid, SMALL, 1), SMALL, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, [0, 6, 11]], [100, 25, 0.5], rtol=1e-5)


def test_maps_refuse_the_wrong_task_and_shape():
    with pytest.raises(EdgemoeError, match="task depth is of kind 'depth', expected 'segmentation'"):
        heads.segmentation_map(np.zeros((6, 16)), SMALL, 1)
    with pytest.raises(EdgemoeError, match=r"has shape \[6, 15\], expected \[6, 16\]"):
        heads.depth_map(np.zeros((6, 15)), SMALL, 1)


def test_maps_are_fast():
    head = np.random.default_rng(0).standard_normal((128, 448)).astype(np.float32)
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        heads.segmentation_map(head, MICRO, 0)
        best = min(best, time.process_time() - start)
    assert best < 0.05


def test_pictures():
    labels = np.arange(7, dtype=np.uint8).reshape(1, 7)
    assert heads.colourise_segmentation(labels)[0, 1].tolist() == [128, 64, 128]
    picture = heads.colourise_depth(np.array([[1.0, 2.0, 10.0, 50.0, 100.0, 500.0]]))
    assert picture.dtype == np.uint8 and picture.shape == (1, 6, 3)
    brightness = picture.sum(-1)[0].astype(int)
    assert brightness[0] == brightness[1] > brightness[2] > brightness[3] > brightness[4] == brightness[5]


def test_metrics():
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    assert metrics.mean_iou(labels, labels, 3) == 1.0  # class 2 never occurs and does not count
    assert metrics.mean_iou(np.array([[0, 1, 1, 1]], np.uint8), labels, 3) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.confusion(np.array([[0, 1, 1, 2]]), labels, 3).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert metrics.depth_rmse(np.array([1.0, 5.0]), np.array([4.0, 9.0])) == pytest.approx(np.sqrt(12.5))
    with pytest.raises(ValueError, match="expected the same"):
        metrics.depth_rmse(np.zeros(2), np.zeros(3))
    found, depth = np.array([1.0, 5.0, 10.0]), np.array([2.0, 4.5, 10.0])
    assert metrics.depth_abs_rel(found, depth) == pytest.approx((1 / 2 + 0.5 / 4.5) / 3)
    assert metrics.depth_delta(found, depth) == pytest.approx(2 / 3)
    assert metrics.depth_delta(found, depth, limit=1.1) == pytest.approx(1 / 3)
