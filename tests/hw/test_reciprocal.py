# SPDX-License-Identifier: Apache-2.0
"""Reciprocal against its twin: every 16-bit value, powers of two and their neighbours, random wide ones."""

import numpy as np
import pytest
from bench_nonlinear import GAPS, by_copies, spread
from edgemoe.hw.compute.reciprocal import Reciprocal
from edgemoe.models.numbers.arithmetic import reciprocal
from numpy.testing import assert_array_equal

KINDS = {"every 16-bit value": np.arange(1, 1 << 16), "wide values": spread(Reciprocal.VALUE_BITS)}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, gap):
    x = KINDS[kind]
    mantissa, exponent = by_copies(Reciprocal, x, GAPS[gap])
    assert_array_equal((mantissa, exponent), reciprocal(x))
    assert np.abs(mantissa / 2.0 ** (16 + exponent) * x - 1).max() < 2.0**-15
