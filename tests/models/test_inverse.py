# SPDX-License-Identifier: Apache-2.0
"""The steps that invert matrices: they converge for all eigenvalues, and words hold them and their errors."""

from __future__ import annotations

import numpy as np
import pytest
from edgemoe.models.numbers.inverse import FACTOR_FRACTION, LEFT, MOST, UNIT_FRACTION, Stage, inverse, scaled
from edgemoe.models.numbers.words import WORD_LIMIT
from numpy.typing import NDArray

RIDGE = 0.01


def walked(stage: Stage, p: NDArray, unit: int) -> NDArray:
    """What an eigenvalue becomes, step by step: none leaves where it converges, and no word what 16 bits hold."""
    x = np.full_like(p, stage.start)
    for index, (a, shift) in enumerate(zip(stage.factors, stage.shifts(), strict=True)):
        before, after = stage.fractions[index : index + 2]
        assert (0 < x * p).all() and (x * p < 0.93 * a).all()
        assert a * 2.0 ** (before + unit - UNIT_FRACTION) <= WORD_LIMIT
        assert (a - x * p).max() * 2.0**FACTOR_FRACTION < WORD_LIMIT
        halved = shift - (FACTOR_FRACTION + before - after)
        x = x * (a - x * p)
        assert x.max() * 2.0 ** (after - halved) <= WORD_LIMIT
        x = x / (1 + halved)
    return x


@pytest.mark.parametrize("most", [1.01, 4.01, 32.01, MOST + 0.01])
def test_it_inverts_all_such_matrices(most: float) -> None:
    (first, second), p = inverse(RIDGE, most), np.geomspace(RIDGE, most, 999)
    v = walked(first, p, UNIT_FRACTION)
    np.testing.assert_allclose(scaled(np.diag(p), first).diagonal(), v)
    z = walked(second, v * p, FACTOR_FRACTION)
    assert np.abs(1 - z * v * p).max() <= LEFT


def test_it_takes_fewer_steps_than_newton() -> None:
    assert [len(stage.factors) for stage in inverse(RIDGE, 32.01)] == [3, 7]


def in_words(stage: Stage, p: NDArray, unit: int) -> NDArray:
    """X in integers."""

    def word(sums: NDArray, shift: int) -> NDArray:
        return np.clip(np.floor(sums * 2.0**-shift + 0.5), -WORD_LIMIT - 1, WORD_LIMIT)

    one = np.eye(len(p))
    x = one * np.round(stage.start * 2.0 ** stage.fractions[0])
    for before, a, shift in zip(stage.fractions, stage.factors, stage.shifts(), strict=False):
        factor = one * np.round(a * 2.0 ** (before + unit - UNIT_FRACTION)) * 2.0**UNIT_FRACTION - x @ p
        x = word(word(factor, before + unit - FACTOR_FRACTION) @ x, shift)
    return x


@pytest.mark.parametrize("rows", [2, 9, 32, MOST])
def test_what_words_leave_is_small(rows: int) -> None:
    """Whatever the kernel: also where all numbers of a matrix are the same, and are all rounded the same way."""
    first, second = inverse(RIDGE, rows + RIDGE)
    points = np.random.default_rng(rows).normal(size=(rows, 8))
    for spread in (0, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3):
        distances = np.square(spread * (points[:, None] - points)).sum(axis=-1)
        for equal in np.linspace(0.97, 1, 13):  # of all of them, but with themselves
            kernel = np.where(np.eye(rows) > 0, 1, equal * np.exp(-distances / 2)) + RIDGE * np.eye(rows)
            p = np.round(kernel * 2.0**UNIT_FRACTION)
            v = in_words(first, p, UNIT_FRACTION)
            s = np.floor(v @ p * 2.0 ** -(first.fractions[-1] + UNIT_FRACTION - FACTOR_FRACTION) + 0.5)
            z = in_words(second, s, FACTOR_FRACTION)
            rest = np.eye(rows) - z @ s * 2.0 ** -(second.fractions[-1] + FACTOR_FRACTION)
            assert np.linalg.norm(rest, 2) < 0.12, (spread, equal)
