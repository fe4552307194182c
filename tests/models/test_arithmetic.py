# SPDX-License-Identifier: Apache-2.0
"""The scalar functions against the exact ones: every 16-bit input where that is the domain;
vector forms against scalar ones.
"""

import math

import numpy as np
import pytest
from edgemoe.hw.contract.isa import Activation
from edgemoe.models.numbers import activation, arithmetic, twins
from edgemoe.models.numbers.activation import ACTIVATIONS, GATE, OF_SCORES

ALL16 = np.arange(-32768, 32768)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activation_error_over_every_16_bit_input(function):
    """<= 5e-5 (SiLU: 8e-5) over [-8, 8] before rounding to 16 bits: every argument with 12 fractional bits, and a finer
    sweep in between. Far away it is ReLU.
    """
    for offset in (0, 5, 11):
        fine = ALL16 * 16 + offset
        error = np.abs(arithmetic.activation(fine, function) / 65536 - activation.FUNCTIONS[function](fine / 65536))
        assert error.max() <= (8e-5 if function == "silu" else 5e-5)
    assert arithmetic.activation(1 << 26, function) == 1 << 26
    assert arithmetic.activation(-(1 << 26), function) == 0


def test_every_function_has_its_numbers():
    every = {*ACTIVATIONS, OF_SCORES, GATE}
    assert {*arithmetic.CORRECTIONS, "relu", GATE} == every == {a.function for a in Activation if a}
    assert len(Activation) == len(every) + 1 and [Activation.of(a.function) for a in Activation] == [*Activation]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activation_vector_form_is_the_same_integers(function):
    ends = [side + step for side in (8 << 16, 16 << 16, (1 << 27) - 2) for step in (-1, 0, 1)]
    x = np.concatenate([ALL16 * 32 + 3, ALL16, ends, [-end for end in ends]])
    np.testing.assert_array_equal(twins.activation(x.astype(np.float64), function), arithmetic.activation(x, function))


def test_exp2_error_over_every_16_bit_distance():
    distance = np.arange(65536)
    exact = np.exp2(-distance / 4096) * (1 << 18)
    fine = arithmetic.exp2_fine(distance, 0)
    assert np.abs(fine - exact).max() <= 2.0  # units of 2^-18
    p = arithmetic.probability(fine)
    assert np.abs(p - exact / 8).max() <= 1.0  # 1.0 is 32767, one less
    assert np.abs(p[1:] - exact[1:] / 8).max() <= 0.75
    np.testing.assert_array_equal(
        arithmetic.exp2_fine(distance[:4096], 4), arithmetic.exp2_fine(distance[:4096] << 4, 0)
    )


@pytest.mark.parametrize("fraction", [9, 10, 11])
def test_softmax_error(fraction):
    """129 scores of sigma 2, 4000 rows: the largest error of all rows <= 1e-4, the mean <= 5e-6, whatever the scores'
    format.
    """
    natural = np.random.default_rng(3).normal(0, 2, (4000, 129))
    scores = np.round(natural * math.log2(math.e) * (1 << fraction)).astype(np.int64)
    fine = twins.probabilities(scores, scores.max(axis=1), 12 - fraction)
    mantissa, exponent = twins.softmax_scale(fine.sum(axis=1))
    result = arithmetic.probability(fine) * 2.0**-15 * (mantissa * np.exp2(2.0 - exponent))[:, None]
    held = np.exp2((scores - scores.max(axis=1, keepdims=True)) / (1 << fraction))
    error = np.abs(result - held / held.sum(axis=1, keepdims=True))
    assert error.max() <= 1e-4 and error.mean() <= 5e-6


def test_reciprocal_and_rsqrt():
    x = np.concatenate([np.arange(1, 70000), np.random.default_rng(0).integers(1, 1 << 28, 100000), [(1 << 28) - 1]])
    mantissa, exponent = arithmetic.reciprocal(x)
    assert mantissa.min() >= 32768 and mantissa.max() <= 65535
    assert np.abs(mantissa * 2.0**-16 * np.exp2(-exponent.astype(float)) * x - 1).max() < 3e-5
    big = np.random.default_rng(1).integers(1, 1 << 62, 100000) >> np.random.default_rng(2).integers(0, 61, 100000)
    x = np.concatenate([x, np.maximum(big, 1), [(1 << 62) - 1, (1 << 53) + 1]])
    mantissa, exponent = arithmetic.rsqrt(x)
    assert mantissa.min() >= 32768 and mantissa.max() <= 65535
    assert np.abs(mantissa * 2.0**-16 * np.exp2(-exponent.astype(float)) * np.sqrt(x.astype(float)) - 1).max() < 3e-5


def scalar_epilogue(
    sums, accumulator_shift, mantissa, exponent, multiplier, bias, old, residual_shift, output_shift, function
):
    """The formula, literally, on int64."""
    a = arithmetic.saturate(arithmetic.round_shift(sums, np.maximum(0, accumulator_shift + exponent)[:, None]), 27)
    b = arithmetic.saturate(arithmetic.round_shift(a * mantissa[:, None], 15), 27)
    w = arithmetic.saturate(arithmetic.round_shift(b * multiplier, 15), 27)
    w = w + (bias if old is None else old << residual_shift)
    w = arithmetic.activation(w, function) if function else w
    return arithmetic.saturate(arithmetic.round_shift(w, output_shift), 16)


@pytest.mark.parametrize("bits", [20, 34, 47])
@pytest.mark.parametrize("function", ["", *ACTIVATIONS])
@pytest.mark.parametrize("residual", [False, True])
def test_epilogue_is_the_formula(bits, function, residual):
    rng = np.random.default_rng(bits)
    for accumulator_shift in (-20, -5, 0, 7, 21):
        sums = rng.integers(-(1 << bits), 1 << bits, (50, 24)) >> rng.integers(0, bits, (50, 24))
        mantissa, exponent = rng.integers(32768, 65536, 50), rng.integers(0, 28, 50)
        multiplier, bias = rng.integers(0, 65536, 24), rng.integers(-(1 << 26), 1 << 26, 24)
        old = rng.integers(-32768, 32768, (50, 24)) if residual else None
        arguments = dict(residual_shift=6, output_shift=7, function=function)
        expected = scalar_epilogue(
            sums, accumulator_shift, mantissa, exponent, multiplier, bias, old, *arguments.values()
        )
        got = twins.epilogue(
            sums.astype(np.float64), accumulator_shift=accumulator_shift, mantissa=mantissa, exponent=exponent,
            multiplier=multiplier, bias=bias, old=old, **arguments,
        )  # fmt: skip
        np.testing.assert_array_equal(got, expected)


def test_matmul_is_exact_at_the_extremes():
    x, w = np.full((3, 4096), -32768, np.int16), np.full((4096, 2), -32768, np.int16)
    assert (twins.matmul(x, w) == float(1 << 42)).all()
    x[1, 7], w[7, 1] = 32767, 1
    exact = x.astype(object) @ w.astype(object)
    assert (twins.matmul(x, w) == exact.astype(np.float64)).all()


def test_route_and_queues():
    logits = np.array([[5, 9, 9, 1], [7, 7, 7, 7], [-100, 3000, 40, 2999]])
    chosen, scores = twins.route(logits, 0, 2)
    assert chosen.tolist() == [[1, 2], [0, 1], [1, 3]]  # ties go to the lowest index
    assert abs(int(scores[1, 0]) - 8192) <= 1 and scores.max() <= 65535
    queues = twins.ExpertQueues(4)
    queues.push(10, chosen, scores)
    assert queues.rows[1].tolist() == [10, 12, 11]  # all first choices, then all second ones
    assert queues.lengths.tolist() == [1, 3, 1, 1]


def test_image_patches():
    image = np.arange(2 * 4 * 6).reshape(2, 4, 6).astype(np.uint8)
    patches = twins.image_patches(image, 2)
    assert patches.shape == (6, 8)
    assert patches[1].tolist() == [2, 3, 8, 9, 26, 27, 32, 33]
