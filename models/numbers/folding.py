# SPDX-License-Identifier: Apache-2.0
"""What is folded into the weights before they are rounded, so that the hardware need not do it: each operation says
what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .words import WORD_BITS, WORD_LIMIT

BYTE_LIMIT = 127


@dataclass
class Folded:
    """A float matrix ready to be rounded: weight [..., outputs, inputs], bias [..., outputs]; sums * 2^-(fraction) =
    value / weight.

    It is to be multiplied with (x - offset) * scale of what the float model has, up to a factor 1 / undo.
    """

    weight: NDArray
    bias: NDArray
    offset: NDArray | None = None
    scale: NDArray | None = None
    undo: float = 1.0


def weight_scale(weight: NDArray, bits: int) -> NDArray:
    """Value of one step, per output channel [..., outputs]:
    a power of two for 16 bits, largest magnitude / 127 for 8.
    """
    # a matrix of zeros, such as a router not yet trained, needs no small step
    reach = np.maximum(np.abs(weight).max(axis=-1), 2.0**-30)
    reach = np.maximum(reach, reach.max() * 2.0**-12)  # channels of (almost) zero weights
    if bits == WORD_BITS:
        return np.exp2(np.ceil(np.log2(reach / WORD_LIMIT)))
    return reach / BYTE_LIMIT
