# SPDX-License-Identifier: Apache-2.0
"""Softplus attention's unit and its logarithms against their twins: sums of rows, exponents of their weights."""

from __future__ import annotations

import numpy as np
import pytest
from bench_nonlinear import GAPS
from edgemoe.hw.compute.logarithm import Logarithm
from edgemoe.hw.compute.reweighting import Reweighting
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers.arithmetic import exp2_fine, log2_fine, reweighted_fine
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

CONFIG = preset("tiny")
QUERIES = 5


def test_logarithms() -> None:
    """Of every number of 16 bits, and of larger ones; against the real function."""
    random = np.random.default_rng(1)
    values = np.concatenate([np.arange(1, 1 << 16), 1 << np.arange(30), random.integers(1, 1 << 30, 5000)])
    assert_array_equal(rtl(Logarithm(), {"value": values})["result"], log2_fine(values))
    assert np.abs(log2_fine(values) / 2**18 - np.log2(values)).max() <= 2 * 2.0**-18


def test_powers() -> None:
    """Weights of rows against the formula: near where it matters, exactly 0 at the mean and below."""
    random = np.random.default_rng(2)
    for keys in (1, 2, 129, 1201, 4095):
        rows = np.abs(random.normal(0, 4000, (16, keys))).astype(np.int64).clip(0, 32767)
        rows[1] = 7  # all equal
        found = reweighted_fine(rows, rows.max(1, keepdims=True), rows.sum(1, keepdims=True), keys) / 2**18
        above = np.maximum(rows - rows.mean(1, keepdims=True), 0)
        most = above.max(1, keepdims=True)
        exact = (above / np.where(most > 0, most, 1)) ** 15
        assert np.abs(found - exact).max() <= 3e-4
        assert not found[1].any() and not found[rows * keys <= rows.sum(1, keepdims=True)].any()


@pytest.mark.parametrize("gap", GAPS)
def test_words(gap: str) -> None:
    """Scores of a few queries in any order, of one also back to back, and then as early as they may, back again."""
    random, lanes, unit = np.random.default_rng(4), CONFIG.lanes, Reweighting(CONFIG)
    total, rows, expected = np.zeros(QUERIES, np.int64), [], []
    delayed: dict[int, dict] = {}
    cycle = 0
    for number in range(600):
        cycle += int(random.geometric(1 - GAPS[gap]))
        query, first, mask = int(random.integers(QUERIES)), random.random() < 0.2, int(random.integers(1 << lanes))
        first |= number < 20
        word = random.integers(-32768, 32768, lanes) >> random.integers(0, 15)
        total[query] = total[query] * (not first) + (word * (mask >> np.arange(lanes) & 1)).sum()
        delayed.setdefault(cycle, {}).update(
            score_valid=1, score_index=query, score_first=int(first), score_word=word, score_mask=mask
        )
        again, keys = random.integers(-300, 32768, lanes) >> random.integers(0, 15), int(random.integers(1, 4096))
        maximum, at = int(again.max() + random.integers(0, 3)), cycle + unit.SUM_DELAY
        delayed.setdefault(at, {}).update(valid=1, index=query, word=again, keys=keys)
        delayed.setdefault(at + 1, {}).update(maximum=maximum)
        expected.append((at, again, maximum, int(total[query]), keys))
    for at in range(cycle + unit.SUM_DELAY + 2):
        rows.append(dict(score_valid=0, valid=0) | delayed.get(at, {}))
    out = rtl(unit, rows)
    seen = 0
    for at, again, maximum, sums, keys in expected:
        counts = keys * again - sums > 0
        assert_array_equal(out["counts"][at] >> np.arange(lanes) & 1, counts)
        fine = exp2_fine(out["distance"][at], 0) * counts
        assert_array_equal(fine, reweighted_fine(again, maximum, sums, keys))
        seen += np.count_nonzero((fine > 0) & (fine < 1 << 18))
    assert seen > 100
