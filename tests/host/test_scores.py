# SPDX-License-Identifier: Apache-2.0
"""Figures over a data set are those of the field's own tools, and so are their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from edgemoe.host.studies import scores

CLASSES = ["a", "b", "c", "never"]


def maps(pictures: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Classes found and true ones, [pictures, 10, 12]; a tenth of the pixels is not counted."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, (pictures, 10, 12)).astype(np.int16)
    found = np.where(rng.random(true.shape) < rng.uniform(0.1, 0.6, (pictures, 1, 1)), (true + 1) % 3, true)
    true[rng.random(true.shape) < 0.1] = -1
    return found.astype(np.uint8), true


def test_segmentation_is_what_scikit_learn_says() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found, true = maps()
    rows = [scores.count("segmentation", f, t, 4) for f, t in zip(found, true, strict=True)]
    figures = scores.figures("segmentation", rows, CLASSES)
    known = true >= 0
    each = metrics.jaccard_score(true[known], found[known], average=None)
    assert figures.values["mean_iou"] == pytest.approx(each.mean())
    assert figures.values["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(true[known], found[known]))
    assert [figures.classes[name]["iou"] for name in "abc"] == pytest.approx(each.tolist())
    assert figures.classes["never"] == {"iou": None, "interval": None}
    first = metrics.jaccard_score(true[0][known[0]], found[0][known[0]], average="macro")
    assert rows[0]["mean_iou"] == pytest.approx(first)
    for name, (low, high) in figures.intervals.items():
        assert low < figures.values[name] < high


def test_classification_is_what_scikit_learn_says() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    true = rng.integers(0, 7, 60)
    answers = rng.dirichlet(np.ones(8), 60) + 0.3 * np.eye(8)[true]
    rows = [scores.count("classification", a, t, 8) for a, t in zip(answers, true, strict=True)]
    figures = scores.figures("classification", rows, [str(number) for number in range(8)])
    assert figures.values["accuracy"] == pytest.approx(metrics.accuracy_score(true, answers.argmax(1)))
    five = metrics.top_k_accuracy_score(true, answers, k=5, labels=range(8))
    assert figures.values["top5_accuracy"] == pytest.approx(five)
    recall = metrics.recall_score(true, answers.argmax(1), labels=range(7), average=None)
    assert [figures.classes[str(number)]["recall"] for number in range(7)] == pytest.approx(recall.tolist())
    assert rows[0]["found"] == answers[0].argmax() and rows[0]["probability"] == answers[0][true[0]]


def test_depth_is_by_its_formulas_where_it_is_known() -> None:
    rng = np.random.default_rng(2)
    true = rng.uniform(1, 50, (5, 6, 8)).astype(np.float32)
    found = (true * rng.uniform(0.6, 1.6, true.shape)).astype(np.float32)
    true[:, :2] = np.nan
    true[4] = np.nan
    rows = [scores.count("depth", f, t, 1) for f, t in zip(found, true, strict=True)]
    assert rows[4]["rmse_m"] is None and rows[4]["pixels"] == 0 and json.loads(json.dumps(rows)) == rows
    f, t = found[:4, 2:].astype(np.float64), true[:4, 2:].astype(np.float64)
    values = scores.figures("depth", rows, []).values
    assert values["rmse_m"] == pytest.approx(np.sqrt(((f - t) ** 2).mean()))
    assert values["abs_rel"] == pytest.approx((np.abs(f - t) / t).mean())
    assert values["within_1.25"] == pytest.approx((np.maximum(f / t, t / f) < 1.25).mean())


def test_intervals_are_the_bootstrap_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    hits = rng.random(80) < 0.8
    answers = np.where(hits[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
    rows = [scores.count("classification", answer, 0, 2) for answer in answers]
    low, high = scores.figures("classification", rows, ["x", "y"]).intervals["accuracy"]
    reference = stats.bootstrap((hits,), np.mean, n_resamples=5000, method="percentile", random_state=0)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=0.015)
    assert high - low == pytest.approx(2 * 1.96 * hits.std() / np.sqrt(80), rel=0.15)


def test_differences_are_paired() -> None:
    """Two models alike on all pictures but one differ surely little, however uncertain each figure is."""
    found, true = maps()
    rows = [scores.count("segmentation", f, t, 4) for f, t in zip(found, true, strict=True)]
    other = found.copy()
    other[0, 0, :3] = (other[0, 0, :3] + 1) % 3
    others = [scores.count("segmentation", f, t, 4) for f, t in zip(other, true, strict=True)]
    apart = scores.difference("segmentation", rows, others, 4)["pixel_accuracy"]
    own = scores.figures("segmentation", rows, CLASSES).intervals["pixel_accuracy"]
    assert apart["interval"][1] - apart["interval"][0] < (own[1] - own[0]) / 5
    assert scores.difference("segmentation", rows, rows, 4)["mean_iou"] == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_one_picture_has_no_interval() -> None:
    found, true = maps(1)
    figures = scores.figures("segmentation", [scores.count("segmentation", found[0], true[0], 4)], CLASSES)
    assert figures.values["mean_iou"] > 0 and set(figures.intervals.values()) == {None}
