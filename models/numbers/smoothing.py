# SPDX-License-Identifier: Apache-2.0
"""Smoothing of what norms read: channels that reach far are halved some times before rows are rounded to 9 bits, and
their weights doubled as often.
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
LEAST = 1 / 256  # of the largest weight: smaller ones count as much


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
    factor = reach**-ALPHA * np.maximum(weights, max(weights.max() * LEAST, 1e-30)) ** (1 - ALPHA)
    return np.clip(np.round(np.log2(factor.max() / factor)), 0, (1 << SMOOTHING_BITS) - 1).astype(np.int64)


def smoothed(operation: Operation, folded: Mapping[Key, Folded], halved: NDArray[np.int64]) -> dict[Key, Folded]:
    """An operation's matrices, for channels that are halved so often."""
    assert operation.norm
    changed = {}
    for matrix in operation.matrices():
        if matrix.sees == operation.norm.key:
            found = folded[matrix.key]
            changed[matrix.key] = replace(found, weight=found.weight * np.exp2(halved), scale=np.exp2(-halved))
    return changed


__all__ = ["smoothed", "smoothing"]
