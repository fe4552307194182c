# SPDX-License-Identifier: Apache-2.0
"""Weights that need nothing of their row against their twins: sigmoid over every sum of score and bias, and against the
real function; and which of them a word gets.
"""

from dataclasses import replace

import numpy as np
import pytest
from bench_nonlinear import GAPS
from edgemoe.hw.compute.score_functions import ScoreFunctions
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import Attention
from edgemoe.models.numbers.arithmetic import (
    above_zero,
    position_factor,
    probability,
    relu_fine,
    sigmoid_fine,
    turned_fine,
)
from edgemoe.models.operations.feature_maps import step_of
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

LANES = 64  # of the exhaustive test
HELD = ("fine", "probability")
FAMILY = replace(preset("tiny"), attention=preset("family").attention)
MADE = ("sigmoid", "relu", "performer", "cosformer", "rela")
ONE_MORE = {kind: replace(FAMILY, attention=f"softmax,{kind}") for kind in MADE}


def test_every_sum() -> None:
    """Shift 0: all sums that two words have. Larger shifts: all that are neither 0 nor 1, and some that are."""
    words, shifts, biases = [], [], []
    for shift in range(16):
        limit = min(1 << 15, 2 << 16 - shift)
        for bias in (-32768, 32767) if shift == 0 else (0, -1):
            span = np.arange(-limit, max(limit, LANES))
            words.append(np.resize(span, -(-len(span) // LANES) * LANES).reshape(-1, LANES))
            shifts.append(np.full(len(words[-1]), shift))
            biases.append(np.full(len(words[-1]), bias))
    word, shift, bias = np.concatenate(words), np.concatenate(shifts), np.concatenate(biases)
    rows = {"score": word, "mask": np.full(len(word), -1), "shift": shift, "bias": bias}
    out = rtl(Sigmoid(LANES), rows, holds=HELD)
    fine = sigmoid_fine(word + bias[:, None], shift[:, None])
    assert_array_equal(out["fine"], fine)
    assert_array_equal(out["probability"], probability(fine))
    exact = 1 / (1 + np.exp(-np.clip((word + bias[:, None]) * 2.0 ** (shift[:, None] - 12), -700, 700)))
    assert np.abs(fine / 2**18 - exact).max() <= 2 * 2.0**-18
    assert np.abs(out["probability"] / 2**15 - exact).max() <= 2.0**-15


def random_rows(lanes: int, count: int = 400) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "word": random.integers(-32768, 32768, (count, lanes)) >> random.integers(0, 15, (count, lanes)),
        "mask": random.integers(0, 1 << lanes, count),
        "shift": random.integers(0, 16, count),
        "bias": random.integers(-32768, 32768, count) >> random.integers(0, 15, count),
        "kind": random.integers(0, 8, count),
    }


def random_angles(count: int) -> dict[str, np.ndarray]:
    """Many of them within the quarter turn."""
    random = np.random.default_rng(4)
    token = random.integers(0, 1 << 16, count) >> random.integers(0, 16, count)
    return {"token": token} | {name: random.integers(0, 2, count) for name in ("spread", "cosine", "none")}


def test_sines() -> None:
    """Every token of every length up to 4,095, as the compiler scales their steps: the real sine and cosine."""
    for tokens in (1, 2, 3, 5, 64, 65, 129, 1201, 4095):
        step, shift = step_of(tokens)
        token = np.arange(1, tokens + 1)
        exact = np.pi / 2 * token / tokens
        for cosine, function in ((False, np.sin), (True, np.cos)):
            found = position_factor(token, step, shift, cosine) * 2.0**-16
            assert np.abs(found - function(exact)).max() <= 2.0**-14, tokens


@pytest.mark.parametrize(
    ("config", "gap"),
    [
        (FAMILY, "back to back"),
        (ONE_MORE["sigmoid"], "gaps"),
        (ONE_MORE["relu"], "back to back"),
        (ONE_MORE["performer"], "gaps"),
        (ONE_MORE["cosformer"], "back to back"),
        (ONE_MORE["rela"], "gaps"),
    ],
    ids=["family", *ONE_MORE],
)
def test_kinds(config, gap) -> None:
    rows = random_rows(config.lanes)
    angle = random_angles(len(rows["mask"]))
    if Attention.COSFORMER in config.kinds:
        rows["angle"] = angle
    out = rtl(ScoreFunctions(config), rows, stalls=GAPS[gap])
    counts = rows["mask"][:, None] >> np.arange(config.lanes) & 1
    made = {
        Attention.SIGMOID: sigmoid_fine(rows["word"] + rows["bias"][:, None], rows["shift"][:, None]),
        Attention.RELU: relu_fine(rows["word"]),
        Attention.RELA: relu_fine(rows["word"]),
        Attention.PERFORMER: relu_fine(above_zero(rows["word"], rows["bias"][:, None])),
    }
    token = angle["token"][:, None] + angle["spread"][:, None] * np.arange(config.lanes)
    factor = position_factor(token, rows["bias"][:, None], rows["shift"][:, None], angle["cosine"][:, None])
    factor = np.where(angle["none"][:, None], 1 << 16, factor)
    made[Attention.COSFORMER] = turned_fine(rows["word"], factor)
    built = [code for code in made if code in config.kinds]
    assert_array_equal(out["chosen"], np.isin(rows["kind"], built))
    for code, fine in ((code, weights * counts) for code, weights in made.items()):
        mine = rows["kind"] == code
        assert mine.sum() > 20
        if code in built:
            assert_array_equal(out["fine"][mine], fine[mine])
            assert_array_equal(out["probability"][mine], probability(fine[mine]))
