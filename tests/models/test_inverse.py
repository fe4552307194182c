# SPDX-License-Identifier: Apache-2.0
"""The iteration that inverts matrices: it converges for all eigenvalues, and words hold it."""

from __future__ import annotations

import numpy as np
import pytest
from edgemoe.models.numbers.inverse import FACTOR_FRACTION, LEFT, inverse
from edgemoe.models.numbers.words import WORD_LIMIT


@pytest.mark.parametrize("most", [1.01, 4.01, 32.01, 300.0])
def test_it_inverts_all_such_matrices(most: float) -> None:
    """Step by step no eigenvalue leaves where it converges, and no word what 16 bits hold."""
    steps, p = inverse(0.01, most), np.geomspace(0.01, most, 999)
    x, scale = np.full_like(p, steps.first), 1
    for index, (a, following) in enumerate(zip(steps.factors, (*steps.factors[1:], 2.0), strict=True)):
        assert (0 < x * p).all() and (x * p < a).all()
        assert a * 2.0 ** steps.fractions[index] <= WORD_LIMIT and (a - x * p).max() * 2.0**FACTOR_FRACTION < WORD_LIMIT
        x = x * (a - x * p)
        held = steps.fractions[index + 1] - (a != following)
        assert x.max() * 2.0**held <= WORD_LIMIT
        x, scale = (x / 2, scale + 1) if a != following else (x, scale)
    assert scale == 2 and np.abs(1 - x * p).max() <= LEFT


def test_it_takes_fewer_steps_than_newton() -> None:
    assert len(inverse(0.01, 32.01).factors) == 10
