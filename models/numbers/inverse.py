# SPDX-License-Identifier: Apache-2.0
"""How symmetric matrices P with eigenvalues from `least` to `most` are inverted by products of 16-bit words.

X <- (a I - X P) X from X = c I. An eigenvalue p of P and x of X have a product y = x p, which a step takes to
y (a - y). With a = GROWTH the small ones grow by that, while the large ones stay below GROWTH^2 / 4; halved, they are
where a = 2, as in Newton's iteration, takes all of them to 1, each step squaring what is missing. From c I, not from
Newton's multiple of P, the small ones start at least / most of the large ones, not at the square of that.

Words of the inverse itself would hold the reciprocals of the smallest eigenvalues, and what is left of I - X P beside
the largest could be anything. So half-way X stays what it is, a matrix V, and the steps begin again, from Z = c I, with
the product S = V P, whose eigenvalues are no further apart than those of V: P^-1 = Z V. What words of Z leave of
I - Z S is a small constant T, with which w <- w0 + T w solves P w = y from w0 = Z (V y): the rounding of Z and of T is
none of w's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .words import WORD_BITS, WORD_LIMIT

GROWTH = 3.6
SAFE = 0.98  # of the largest y that a step leaves, so that rounding does not go beyond
RISEN = 0.7  # smallest y, once they are to be halved
LEFT = 0.02  # of 1 - y, behind the last step
REFINEMENTS = 3  # times w <- w0 + T w
UNIT_FRACTION = WORD_BITS - 2  # of ones, of P and of T
FACTOR_FRACTION = WORD_BITS - 3  # of a I - X P, and of S
MOST = 64  # rows of a matrix whose elements may all be rounded the same way


@dataclass(frozen=True)
class Stage:
    """start      c
    factors    a of each step
    fractions  exponent of X before each step, and behind the last one; words that are halved have one more
    """

    start: float
    factors: tuple[float, ...]
    fractions: tuple[int, ...]

    def shifts(self) -> list[int]:
        """Of each step, by how much the sums of (a I - X P) X are finer than their words."""
        following = (*self.factors[1:], self.factors[-1]) if self.factors else ()
        pairs = zip(self.fractions, self.fractions[1:], self.factors, following, strict=False)
        return [FACTOR_FRACTION + before - after + (a != b) for before, after, a, b in pairs]


@cache
def inverse(least: float, most: float) -> tuple[Stage, Stage]:
    """Those that lead to V, and those that lead to Z, for matrices with such eigenvalues."""
    p = np.geomspace(least, most, 4096)
    growing = int(np.ceil(np.log(RISEN * most / (least * SAFE * GROWTH**2 / 4)) / np.log(GROWTH)))
    first, v = _grown(p, most, growing // 2, FACTOR_FRACTION)
    highest = GROWTH**2 / 4
    s = np.geomspace((v * p).min(), highest, 4096)
    second, z = _grown(s, highest, 0, UNIT_FRACTION)
    while (z * s).min() < RISEN:
        second, z = _stepped(second, z, s, GROWTH, UNIT_FRACTION)
    z = z / 2
    second = Stage(second.start, second.factors, (*second.fractions[:-1], second.fractions[-1] + 1))
    while np.abs(1 - z * s).max() > LEFT:
        second, z = _stepped(second, z, s, 2.0, UNIT_FRACTION)
    return first, second


def scaled(p: NDArray, steps: Stage) -> NDArray:
    """V of matrices [..., m, m]."""
    one = np.eye(p.shape[-1], dtype=p.dtype)
    x = np.broadcast_to(one * p.dtype.type(steps.start), p.shape)
    for a in steps.factors:
        x = (p.dtype.type(a) * one - x @ p) @ x
    return x


def _grown(p: NDArray, most: float, steps: int, finest: int) -> tuple[Stage, NDArray]:
    x = np.full_like(p, SAFE * GROWTH**2 / 4 / most)
    stage = Stage(float(x[0]), (), (_fraction(x, finest),))
    for _ in range(steps):
        stage, x = _stepped(stage, x, p, GROWTH, finest)
    return stage, x


def _stepped(stage: Stage, x: NDArray, p: NDArray, a: float, finest: int) -> tuple[Stage, NDArray]:
    x = x * (a - x * p)
    return Stage(stage.start, (*stage.factors, a), (*stage.fractions, _fraction(x, finest))), x


def _fraction(x: NDArray, finest: int) -> int:
    """Of words that hold all elements of a matrix with such eigenvalues, as no element is larger than the largest."""
    return min(finest, int(np.floor(np.log2(SAFE * WORD_LIMIT / x.max()))))
