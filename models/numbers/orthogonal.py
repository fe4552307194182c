# SPDX-License-Identifier: Apache-2.0
"""The orthogonal matrix that rows are rotated with."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

TRIES = 64  # of signs, of which the best count


@cache
def orthogonal(width: int) -> NDArray[np.float64]:
    """R [width, width]: C^T diag(s) C, C the orthonormal cosine transform, s signs in random order. R = R^T is its own
    inverse; the first row of C is constant and its sign positive, so that R keeps the mean of a row. The flattest of
    TRIES, whose largest number is the smallest: no picture has a say in it.
    """
    place = np.arange(width)
    orders = [np.random.RandomState(seed).permutation(place % 2) for seed in range(TRIES)]  # the same in every NumPy
    signs = np.array(orders) * 2.0 - 1
    signs[:, 0] = 1
    # A product of two cosines is half the cosine of the difference and half that of the sum.
    waves = np.cos(np.pi / width * np.outer(np.arange(2 * width), place)) / width
    waves[:, 0] /= 2
    difference, both = np.abs(place[:, None] - place), place[:, None] + place + 1
    made = (half[difference] + half[both] for half in signs @ waves.T)
    return min(made, key=lambda turn: float(np.abs(turn).max()))
