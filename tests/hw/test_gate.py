# SPDX-License-Identifier: Apache-2.0
"""The gate of ReLA's norm against its twin, over every value that 16 bits hold and some beyond, and against the real
function.
"""

import numpy as np
import pytest
from bench_nonlinear import GAPS
from edgemoe.hw.compute.gate import Gate
from edgemoe.models.numbers.arithmetic import gated
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

LANES = 8  # of the exhaustive test


def test_every_value() -> None:
    random = np.random.default_rng(1)
    beyond = [side * (1 << bits) for side in (1, -1) for bits in range(15, 26)]
    value = np.concatenate([np.arange(-(1 << 15), 1 << 15), beyond, [(1 << 26) - 1, -(1 << 26)]])
    value = np.resize(value, -(-len(value) // LANES) * LANES).reshape(-1, LANES)
    number = random.integers(-32768, 32768, value.shape) >> random.integers(0, 16, value.shape)
    number[:8], number[8:16], number[-32:-16], number[-16:] = 32767, -32768, -32768, 32767
    word = rtl(Gate(LANES), {"value": value, "number": number})["word"]
    assert_array_equal(word, gated(number, value))
    exact = number / (1 + np.exp(-np.clip(value * 2.0**-11, -16, 16)))
    assert np.abs(word - exact).max() <= 0.7 and np.abs(word).max() == 32768


@pytest.mark.parametrize("gap", GAPS)
def test_words(gap: str) -> None:
    random = np.random.default_rng(2)
    value = random.integers(-(1 << 26), 1 << 26, (300, 4)) >> random.integers(0, 26, (300, 4))
    number = random.integers(-32768, 32768, (300, 4))
    assert_array_equal(rtl(Gate(4), {"value": value, "number": number}, stalls=GAPS[gap])["word"], gated(number, value))


def test_half_where_nothing_is_known() -> None:
    """A gate of zero halves, whatever the number: rounded half up."""
    number = np.arange(-32768, 32768)
    assert_array_equal(gated(number, 0), (number + 1) >> 1)
