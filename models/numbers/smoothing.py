# SPDX-License-Identifier: Apache-2.0
"""Smoothing of what is rounded to 9 bits: channels that reach far are halved some times where their rows go to
activation memory, and the weights that read them doubled as often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..keys import Key, Role
from .folding import Folded
from .words import SMOOTHING_BITS

if TYPE_CHECKING:
    from ..operations.operation import Operation
    from .calibration import Calibration

ALPHA = 0.6  # share of a channel's reach that goes to the weights
HIDDEN_ALPHA = 0.25  # of its usual size behind an activation function, by which other pictures differ more
QUIET = 0.75  # share of these channels that count as equally large
LEAST = 1 / 256  # of the largest weight: smaller ones count as much


def halvings(factor: NDArray) -> NDArray[np.int64]:
    """How often each channel [..., inputs] is halved for it to be multiplied with a factor, but for a common one."""
    often = np.round(np.log2(factor.max(axis=-1, keepdims=True) / factor))
    return np.clip(often, 0, (1 << SMOOTHING_BITS) - 1).astype(np.int64)


def smoothing(
    operation: Operation, before: Operation | None, folded: Mapping[Key, Folded], calibration: Calibration
) -> NDArray[np.int64] | None:
    """How often each channel that an operation's norm reads is halved by the operation before it; None: that is not
    known, or that operation cannot.
    """
    norm = operation.norm
    if norm is None or norm.key not in calibration.reaches or before is None or before.result.role is Role.NORMALISED:
        return None
    seeing = [m for m in operation.matrices() if m.sees == norm.key and not m.unpacked]
    weights = np.max([np.abs(folded[m.key].weight).reshape(-1, m.inputs).max(axis=0) for m in seeing], axis=0)
    reach = np.maximum(calibration.reaches[norm.key], 1e-9)
    return halvings(reach**-ALPHA * np.maximum(weights, max(weights.max() * LEAST, 1e-30)) ** (1 - ALPHA))


def hidden_smoothing(size: NDArray) -> NDArray[np.int64]:
    """The same of what an activation function gives, [..., inputs] of the matrix that reads it. size: root of the mean
    square, raised.
    """
    usual = np.maximum(np.quantile(size, QUIET, axis=-1, keepdims=True), 1e-9)
    return halvings(np.maximum(size, usual) ** -HIDDEN_ALPHA)


def smoothed(folded: Folded, halved: NDArray) -> Folded:
    """A matrix, for channels [..., inputs] that are halved so often."""
    often = np.asarray(halved, np.float64)
    return replace(folded, weight=folded.weight * np.exp2(often)[..., None, :], scale=np.exp2(-often))


def smoothed_norm(operation: Operation, folded: Mapping[Key, Folded], halved: NDArray[np.int64]) -> dict[Key, Folded]:
    """An operation's matrices behind its norm, for channels that are halved so often."""
    assert operation.norm
    seeing = [matrix.key for matrix in operation.matrices() if matrix.sees == operation.norm.key]
    return {key: smoothed(folded[key], halved) for key in seeing}


__all__ = ["hidden_smoothing", "smoothed", "smoothed_norm", "smoothing"]
