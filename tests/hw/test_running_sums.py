# SPDX-License-Identifier: Apache-2.0
"""Pairs (M, E) against their twin: every word's own sum is asked for in the first cycle that may see it."""

from __future__ import annotations

import numpy as np
import pytest
from bench_nonlinear import GAPS
from edgemoe.hw.compute.running_sums import RunningSums
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers import twins
from edgemoe.models.numbers.arithmetic import whole_exponent
from edgemoe.models.numbers.words import LOWEST_SCORE
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

CONFIG = preset("tiny")
QUERIES = 5


@pytest.mark.parametrize("gap", GAPS)
def test_words(gap: str) -> None:
    """Words of a few queries in any order, of one query also back to back; exponents grow, in small steps and in such
    that leave nothing of the sum before.
    """
    random, lanes, count = np.random.default_rng(4), CONFIG.lanes, 1500
    unit = RunningSums(CONFIG)
    state = {query: (np.array([LOWEST_SCORE]), np.array([0])) for query in range(QUERIES)}
    told, asked = [], {}
    cycle = 0
    for number in range(count):
        cycle += int(random.geometric(1 - GAPS[gap]))
        query, shift = int(random.integers(QUERIES)), int(random.integers(16))
        first, counting = number < 20 or random.random() < 0.1, int(random.integers(lanes + 1))
        word = random.integers(-32768, 32768, lanes) >> random.integers(0, 15)
        before = (np.array([LOWEST_SCORE]), np.array([0])) if first else state[query]
        after = twins.running_sums(word[None, :counting], lanes, shift, before) if counting else before
        state[query] = after
        fields = dict(index=query, first=int(first), word=word, mask=(1 << counting) - 1, shift=shift)
        told.append((cycle, fields | dict(before=int(before[0][0]), exponent=int(after[0][0]))))
        asked[cycle + unit.LATENCY] = (query, int(after[1][0]))
    end = cycle + unit.LATENCY + 1
    rows = [dict(valid=0, asked=0, asked_index=0) for _ in range(end)]
    for at, fields in told:
        rows[at] |= dict(valid=1) | fields
    for at, (query, _) in asked.items():
        rows[at] |= dict(asked=1, asked_index=query)
    out = rtl(unit, rows, latency={"sum": 1})["sum"]
    assert_array_equal([out[at] for at in asked], [value for _, value in asked.values()])
    assert len({value for _, value in asked.values()}) > count // 5


def test_exponents() -> None:
    """The next whole octave, of every score in every unit."""
    scores = np.arange(-32768, 32768)
    for shift in range(16):
        exact = np.ceil(scores * 2.0 ** (shift - 12)) * 2.0 ** (12 - shift)
        assert_array_equal(whole_exponent(scores, shift), exact if shift <= 12 else scores)


def test_the_pair_is_the_sum() -> None:
    """As near as the exponentials themselves are, wherever the maximum stands."""
    random = np.random.default_rng(1)
    scores = np.round(random.normal(0, 2, (64, 1201)) * 2048).astype(np.int64)
    for rows in (scores, np.sort(scores, axis=1), -np.sort(-scores, axis=1)):
        exponent, mantissa = twins.running_sums(rows, 8, 1)
        exact = np.exp2((rows - exponent[:, None]) / 2048.0).sum(axis=1) * 2**18
        assert np.abs(mantissa / exact - 1).max() <= 1.1e-5
