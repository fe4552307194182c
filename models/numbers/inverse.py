# SPDX-License-Identifier: Apache-2.0
"""How symmetric matrices P with eigenvalues from `least` to `most` are inverted by products of 16-bit words:
X <- (a I - X P) X from X = c I, with other constants a than Newton's 2 at first.

An eigenvalue p of P and x of X have a product y = x p, which a step takes to y (a - y). With a = GROWTH the small ones
grow by that, while the large ones stay below GROWTH^2 / 4; halved, they are where a = 2 takes all of them to 1, each
step squaring what is missing. From c I, not from Newton's multiple of P, the small ones start at least / most of the
large ones, not at the square of that. What words of X leave of I - X P is small enough to be taken as a constant T,
with which w <- w0 + T w solves P w = y from w0 = X y: the rounding of X and of T then is none of w's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .words import WORD_BITS, WORD_LIMIT

GROWTH = 3.6
SAFE = 0.98  # of the largest y that a step leaves, so that rounding does not go beyond
RISEN = 0.7  # smallest y, once they are to be halved
LEFT = 0.02  # of 1 - y, behind the last step
REFINEMENTS = 3  # of w <- w0 + T w
UNIT_FRACTION = WORD_BITS - 2  # of ones, of P and of T
FACTOR_FRACTION = WORD_BITS - 3  # of a I - X P


@dataclass(frozen=True)
class Inverse:
    """first      c
    factors    a of each step
    fractions  exponent of X before each step, and behind the last one; words that are halved have one more
    """

    first: float
    factors: tuple[float, ...]
    fractions: tuple[int, ...]


@cache
def inverse(least: float, most: float) -> Inverse:
    """The steps for matrices with such eigenvalues."""
    p = np.geomspace(least, most, 4096)
    x = np.full_like(p, SAFE * GROWTH**2 / 4 / most)
    first, factors, fractions = float(x[0]), [], [_fraction(x)]
    while (x * p).min() < RISEN:
        x = x * (GROWTH - x * p)
        factors.append(GROWTH)
        fractions.append(_fraction(x))
    x = x / 2
    fractions[-1] += 1
    while np.abs(1 - x * p).max() > LEFT:
        x = x * (2 - x * p)
        factors.append(2.0)
        fractions.append(_fraction(x))
    return Inverse(first, tuple(factors), tuple(fractions))


def _fraction(x: np.ndarray) -> int:
    """Of words that hold all elements of a matrix with such eigenvalues, as no element is larger than the largest."""
    return min(FACTOR_FRACTION, int(np.floor(np.log2(SAFE * WORD_LIMIT / x.max()))))
