# SPDX-License-Identifier: Apache-2.0
"""Exponential against its twin, over every distance and shift, and against the real function."""

import numpy as np
import pytest
from bench_nonlinear import GAPS
from edgemoe.hw.compute.exponential import DISTANCE_BITS, Exponential
from edgemoe.models.numbers.arithmetic import exp2_fine, probability
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

LANES = 64  # of the exhaustive test
HELD = ("fine", "probability")


def test_every_distance():
    """Shift 0: all 2^17 distances. Larger shifts: all that give more than 0 (random words have the others)."""
    spans = [np.arange(1 << min(DISTANCE_BITS, 17 - shift)) for shift in range(16)]
    words = [np.pad(span, (0, -len(span) % LANES)).reshape(-1, LANES) for span in spans]
    shifts, words = np.repeat(range(16), [len(word) for word in words]), np.concatenate(words)
    out = rtl(Exponential(LANES), {"distance": words, "mask": np.full(len(words), -1), "shift": shifts}, holds=HELD)
    fine = exp2_fine(words, shifts[:, None])
    assert_array_equal(out["fine"], fine)
    assert_array_equal(out["probability"], probability(fine))
    assert np.abs(out["probability"] / 2**15 - np.exp2(-words * 2.0 ** (shifts[:, None] - 12))).max() <= 2.0**-15


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_random_words(lanes, gap):
    random = np.random.default_rng(3)
    shape = (600, lanes)
    shift = random.integers(0, 16, shape[0])
    distance = random.integers(0, 1 << DISTANCE_BITS, shape) >> random.integers(0, DISTANCE_BITS, shape)
    mask = random.integers(0, 2, shape)
    rows = {"distance": distance, "mask": mask @ (1 << np.arange(lanes)), "shift": shift}
    out = rtl(Exponential(lanes), rows, stalls=GAPS[gap], holds=HELD)
    fine = exp2_fine(distance, shift[:, None]) * mask
    assert_array_equal(out["fine"], fine)
    assert_array_equal(out["probability"], probability(fine))
