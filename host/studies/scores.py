# SPDX-License-Identifier: Apache-2.0
"""From predictions to figures: what is counted of each picture, what a data set's figures are, how sure they are.

Every figure comes from sums over pictures, so that it does not matter who counted which. Its interval is the
bootstrap's: the pictures are drawn anew, with replacement, RESAMPLES times (always the same draws), and the figure of
95 % of the draws lies within. Pictures, not pixels, are drawn: those of one picture are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from edgemoe.models import metrics
from numpy.typing import NDArray

RESAMPLES, LEVEL, SEED = 1000, 95, 0
_AT_ONCE = 4_000_000  # weights of pictures that are drawn together

Row = dict[str, Any]


def count(kind: str, prediction: NDArray[Any], truth: Any, classes: int) -> Row:
    """What is kept of a picture's prediction: the picture's own figures, and the sums that those of many need."""
    if kind == "segmentation":
        known = truth >= 0
        matrix = metrics.confusion(prediction[known], truth[known], classes)
        row: Row = {"hits": np.diag(matrix).tolist(), "found": matrix.sum(0).tolist(), "true": matrix.sum(1).tolist()}
    elif kind == "classification":
        order = np.argsort(-prediction, kind="stable")
        row = {"true": int(truth), "found": int(order[0]), "probability": float(prediction[truth])}
        row["place"] = int(np.flatnonzero(order == truth)[0])
    else:
        known = np.isfinite(truth)
        is_, should = prediction[known].astype(np.float64), truth[known].astype(np.float64)
        ratio = np.maximum(is_, 1e-9) / should
        row = {
            "pixels": int(known.sum()),
            "squares": float(((is_ - should) ** 2).sum()),
            "relative": float((np.abs(is_ - should) / should).sum()),
            "close": int((np.maximum(ratio, 1 / ratio) < 1.25).sum()),
        }
    own = _KINDS[kind].figures(_KINDS[kind].sums([row], classes)[0], classes)
    return {name: _known(float(value)) for name, value in own.items() if not name.startswith("class ")} | row


@dataclass(frozen=True)
class _Kind:
    """sums: of rows, float64 [pictures, k]; figures: of such sums [..., k], name -> [...]; "class N" of each class."""

    sums: Callable[[Sequence[Row], int], NDArray[np.float64]]
    figures: Callable[[NDArray[np.float64], int], dict[str, NDArray[np.float64]]]


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """NaN of nothing."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


def _pixels(rows: Sequence[Row], classes: int) -> NDArray[np.float64]:
    return np.array([[*row["hits"], *row["found"], *row["true"]] for row in rows], np.float64)


def _segmentation(sums: NDArray[np.float64], classes: int) -> dict[str, NDArray[np.float64]]:
    hits, found, true = np.split(sums, 3, axis=-1)
    iou = _share(hits, found + true - hits)
    mean = _share(np.nansum(iou, -1), np.isfinite(iou).sum(-1))
    figures = {"mean_iou": mean, "pixel_accuracy": _share(hits.sum(-1), true.sum(-1))}
    return figures | {f"class {number}": iou[..., number] for number in range(classes)}


def _answers(rows: Sequence[Row], classes: int) -> NDArray[np.float64]:
    """Of each picture: hits and pictures of its class, and whether its class is the first, and among five."""
    sums = np.zeros((len(rows), 2 * classes + 3))
    for line, row in zip(sums, rows, strict=True):
        line[row["true"]] = row["place"] == 0
        line[classes + row["true"]] = 1
        line[-3:] = row["place"] == 0, row["place"] < 5, 1
    return sums


def _classification(sums: NDArray[np.float64], classes: int) -> dict[str, NDArray[np.float64]]:
    figures = {"accuracy": _share(sums[..., -3], sums[..., -1])}
    if classes > 5:
        figures["top5_accuracy"] = _share(sums[..., -2], sums[..., -1])
    recall = _share(sums[..., :classes], sums[..., classes : 2 * classes])
    return figures | {f"class {number}": recall[..., number] for number in range(classes)}


def _metres(rows: Sequence[Row], classes: int) -> NDArray[np.float64]:
    return np.array([[row[name] for name in ("squares", "relative", "close", "pixels")] for row in rows], np.float64)


def _depth(sums: NDArray[np.float64], classes: int) -> dict[str, NDArray[np.float64]]:
    squares, relative, close = (_share(sums[..., place], sums[..., 3]) for place in range(3))
    return {"rmse_m": np.sqrt(squares), "abs_rel": relative, "within_1.25": close}


_KINDS = {
    "segmentation": _Kind(_pixels, _segmentation),
    "classification": _Kind(_answers, _classification),
    "depth": _Kind(_metres, _depth),
}
CLASS_FIGURE = {"segmentation": "iou", "classification": "recall"}


def _drawn(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over pictures drawn with replacement, [RESAMPLES, k]."""
    pictures, rng, found = len(sums), np.random.default_rng(SEED), []
    step = max(1, _AT_ONCE // pictures)
    for first in range(0, RESAMPLES, step):
        weights = rng.multinomial(pictures, np.full(pictures, 1 / pictures), min(step, RESAMPLES - first))
        found.append(weights.astype(np.float64) @ sums)
    return np.concatenate(found)


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    """Low and high end; none where the figure often does not exist."""
    known = values[np.isfinite(values)]
    if len(known) < RESAMPLES // 2:
        return None
    return [float(end) for end in np.percentile(known, ((100 - LEVEL) / 2, (100 + LEVEL) / 2))]


@dataclass(frozen=True)
class Figures:
    """Of a task over a data set. values, intervals: by metric (no interval of fewer than two pictures); classes: the
    name of each -> its figure and interval, None where it never occurs."""

    values: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    classes: dict[str, dict[str, Any]]


def figures(kind: str, rows: Sequence[Row], classes: Sequence[str]) -> Figures:
    """Of all rows of a task; classes: their names."""
    values, drawn = _values(kind, rows, len(classes))
    intervals = {name: _interval(drawn[name]) if drawn else None for name in values}
    per_class = {
        name: {CLASS_FIGURE[kind]: _known(values[f"class {number}"]), "interval": intervals[f"class {number}"]}
        for number, name in enumerate(classes)
        if f"class {number}" in values
    }
    own = [name for name in values if not name.startswith("class ")]
    return Figures({name: _known(values[name]) for name in own}, {name: intervals[name] for name in own}, per_class)


def difference(kind: str, rows: Sequence[Row], others: Sequence[Row], classes: int) -> dict[str, Any]:
    """By metric how far the first are above the others on the same pictures, and the interval of that."""
    (mine, drawn), (theirs, redrawn) = (_values(kind, given, classes) for given in (rows, others))
    return {
        name: {
            "difference": _known(mine[name] - theirs[name]),
            "interval": _interval(drawn[name] - redrawn[name]) if drawn else None,
        }
        for name in mine
        if not name.startswith("class ")
    }


def _values(kind: str, rows: Sequence[Row], classes: int) -> tuple[dict[str, float], Mapping[str, NDArray[np.float64]]]:
    sums = _KINDS[kind].sums(rows, classes)
    whole = {name: float(value) for name, value in _KINDS[kind].figures(sums.sum(0), classes).items()}
    return whole, _KINDS[kind].figures(_drawn(sums), classes) if len(rows) > 1 else {}


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
