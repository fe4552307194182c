# SPDX-License-Identifier: Apache-2.0
"""Scenes: repeatable, and true to their geometry."""

import numpy as np
import pytest
from edgemoe.models import scenes


def test_the_seed_decides():
    first, again, other = scenes.scene(3), scenes.scene(3), scenes.scene(4)
    assert first.camera == again.camera
    for field in ("image", "labels", "depth"):
        assert np.array_equal(getattr(first, field), getattr(again, field))
        assert not np.array_equal(getattr(first, field), getattr(other, field))


@pytest.mark.parametrize("seed", range(8))
def test_shapes_and_ranges(seed):
    scene = scenes.scene(seed)
    assert scene.image.shape == (3, 128, 256) and scene.image.dtype == np.uint8 and scene.image.flags.c_contiguous
    assert scene.labels.shape == scene.depth.shape == (128, 256)
    assert scene.labels.dtype == np.uint8 and scene.depth.dtype == np.float32
    assert scene.labels.max() < len(scenes.CLASSES)
    assert scene.depth.min() > 0.5 and scene.depth.max() <= scenes.MAX_DEPTH
    assert (scene.depth[scene.labels == scenes.SKY] == scenes.MAX_DEPTH).all()
    assert scene.image.std() > 15


@pytest.mark.parametrize("seed", range(20, 28))
def test_ground_depth_is_the_formulas(seed):
    scene = scenes.scene(seed)
    rows, columns = np.nonzero(scene.labels == scenes.ROAD)
    assert len(rows) > 1000
    camera = scene.camera
    expected = np.minimum(camera.focal * camera.height / (rows + 0.5 - camera.cy), scenes.MAX_DEPTH)
    np.testing.assert_allclose(scene.depth[rows, columns], expected, rtol=1e-4)


@pytest.mark.parametrize("seed", range(30, 40))
def test_nothing_is_farther_than_the_ground_behind_it(seed):
    scene = scenes.scene(seed)
    rows = np.arange(scenes.HEIGHT) + 0.5
    below = rows > scene.camera.cy + 1
    ground = np.minimum(scene.camera.ground_depth(np.arange(scenes.HEIGHT)[below]), scenes.MAX_DEPTH)
    assert (scene.depth[below] <= ground[:, None] * 1.001 + 0.02).all()


def test_all_classes_occur():
    shares = np.zeros(len(scenes.CLASSES))
    for seed in range(40):
        shares += np.bincount(scenes.scene(seed).labels.ravel(), minlength=len(scenes.CLASSES)) / (40 * 128 * 256)
    assert (shares > 0.003).all(), dict(zip(scenes.CLASSES, shares.round(4), strict=True))
