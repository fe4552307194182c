# SPDX-License-Identifier: Apache-2.0
"""Exponential against its twin, over every distance and shift, and against the real function."""

import cocotb
import numpy as np
import pytest
from bench_nonlinear import GAPS, elements, pipeline, vector
from edgemoe.hw.compute.exponential import DISTANCE_BITS, FINE_BITS, Exponential
from edgemoe.models.numbers.arithmetic import exp2_fine, probability
from edgemoe.models.numbers.words import PROBABILITY_BITS
from edgemoe.sim.bench import parameters, run_bench

LANES = 64  # of the exhaustive test


async def run(dut, distances, shifts, masks, gap):
    """distances [words, lanes], shifts [words], masks [words, lanes] -> (fine, probabilities), [words, lanes] each."""
    inputs = [
        {"distance": vector(d, DISTANCE_BITS), "shift": s, "mask": vector(k, 1)}
        for d, s, k in zip(distances, shifts, masks, strict=True)
    ]
    results = await pipeline(dut, inputs, ("fine", "probability"), Exponential.LATENCY, gap)
    lanes = distances.shape[1]
    fine = np.array([elements(word, FINE_BITS, lanes) for word, _ in results])
    return fine, np.array([elements(word, PROBABILITY_BITS, lanes) for _, word in results])


@cocotb.test()
async def every_distance(dut):
    """Shift 0: all 2^17 distances. Larger shifts: all that give more than 0 (random_words has the others)."""
    for shift in range(16):
        distances = np.arange(1 << DISTANCE_BITS if shift == 0 else 1 << 17 - shift)
        words = np.pad(distances, (0, -len(distances) % LANES)).reshape(-1, LANES)
        fine, result = await run(dut, words, np.full(len(words), shift), np.ones_like(words), 0.0)
        assert (fine == exp2_fine(words, shift)).all() and (result == probability(fine)).all(), f"shift {shift}"
        error = np.abs(result / 2**15 - np.exp2(-words * 2.0 ** (shift - 12))).max()
        assert error <= 2.0**-15, f"shift {shift}: error {error}"


@cocotb.test()
async def random_words(dut):
    given, random = parameters(), np.random.default_rng(3)
    shape = (600, given["lanes"])
    shifts = random.integers(0, 16, shape[0])
    distances = random.integers(0, 1 << DISTANCE_BITS, shape) >> random.integers(0, DISTANCE_BITS, shape)
    masks = random.integers(0, 2, shape)
    fine, result = await run(dut, distances, shifts, masks, given["gap"])
    assert (fine == exp2_fine(distances, shifts[:, None]) * masks).all() and (result == probability(fine)).all()


def test_every_distance():
    run_bench(Exponential(LANES), __name__, testcase="every_distance")


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_random_words(lanes, gap):
    run_bench(Exponential(lanes), __name__, testcase="random_words", parameters={"lanes": lanes, "gap": GAPS[gap]})
