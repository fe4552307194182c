# SPDX-License-Identifier: Apache-2.0
"""How good a map is. NumPy only."""

from __future__ import annotations

import numpy as np


def confusion(prediction: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: pixels of the class in the row that were called the class in the column."""
    if prediction.shape != labels.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, labels {labels.shape}: expected the same")
    pairs = labels.astype(np.int64).ravel() * classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """float64 [classes]: intersection over union of each class, from a confusion matrix;
    NaN for a class that never occurs.
    """
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(matrix), np.nan), where=union > 0)


def mean_iou(prediction: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean over the classes that occur of intersection / union of pixels, 0..1.
    Any shapes, as long as they are equal.
    """
    return float(np.nanmean(class_iou(confusion(prediction, labels, classes))))


def _same(prediction: np.ndarray, depth: np.ndarray) -> None:
    if prediction.shape != depth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, depth {depth.shape}: expected the same")


def depth_rmse(prediction: np.ndarray, depth: np.ndarray) -> float:
    """sqrt(mean((prediction - depth)^2)) in the unit of the arguments, metres here."""
    _same(prediction, depth)
    return float(np.sqrt(np.mean((prediction.astype(np.float64) - depth) ** 2)))


def depth_abs_rel(prediction: np.ndarray, depth: np.ndarray) -> float:
    """mean(|prediction - depth| / depth), as papers on depth call it AbsRel."""
    _same(prediction, depth)
    return float(np.mean(np.abs(prediction.astype(np.float64) - depth) / depth))


def depth_delta(prediction: np.ndarray, depth: np.ndarray, limit: float = 1.25) -> float:
    """Share of the pixels, 0..1, where the larger of prediction and depth is less than `limit` times the smaller."""
    _same(prediction, depth)
    ratio = prediction.astype(np.float64) / depth
    return float(np.mean(np.maximum(ratio, 1 / ratio) < limit))
