# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic of the hardware, function by function: the twin of every arithmetic unit, on NumPy int64 arrays.

Tables are generated here, from the exact functions, and the hardware takes them from here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .activation import QUICK, TANH
from .words import (
    ACTIVATION_FRACTION,
    DISTANCE_BITS,
    FINE_PROBABILITY_BITS,
    GATE_ARGUMENT_FRACTION,
    MULTIPLIER_LIMIT,
    NARROW_BITS,
    PROBABILITY_BITS,
    PROBABILITY_SUM_BITS,
    RECIPROCAL_FRACTION,
    SCORE_FRACTION,
    SHARPNESS,
    UNSIGNED_LIMIT,
    WORD_BITS,
    WORD_LIMIT,
)

Ints = NDArray[np.int64]

EXP2_SEGMENT_BITS = 5  # of 12 fractional bits: 2^7 segments
SIGMOID_SEGMENT_BITS = 6  # of 12 fractional bits: segments of 1/64
SIGMOID_LIMIT = 16 << SCORE_FRACTION  # |x| from which it is 0 or 1
SINE_SEGMENT_BITS = 8  # of 16 bits of a quarter turn: 2^8 segments
PHASE_FRACTION = 16  # of a quarter turn, and of its sine
STEP_FRACTION = 14  # of a token's step, before the instruction's shift
ROOT_SEGMENT_BITS = 12  # below the 8 (1/x) or 7 (1/sqrt(x)) bits that choose the segment
ROOT_TABLE_FRACTION = 18  # of 1/x and 1/sqrt(x) in their tables
LOGARITHM_FRACTION = 18  # of log2(x)
ACTIVATION_SEGMENT_BITS = 10  # 2^10 steps of 2^-16: segments of 1/64
ACTIVATION_TABLE_FRACTION = 20
STEP_TABLE_FRACTION = 15
ACTIVATION_LIMIT = 8 << ACTIVATION_FRACTION  # what is looked up is below


def round_shift(x, shift):
    """floor(x / 2^shift + 1/2); shift 0 keeps x. Negative shifts count as 0."""
    x, shift = np.asarray(x, np.int64), np.maximum(np.asarray(shift, np.int64), 0)
    return (x + ((np.int64(1) << shift) >> 1)) >> shift


def saturate(x, bits: int) -> Ints:
    """Clamp to a signed number of `bits` bits."""
    return np.clip(x, -(1 << bits - 1), (1 << bits - 1) - 1)


@cache
def exp2_table() -> tuple[Ints, Ints]:
    """2^-f at f = i/128 in units of 2^-18, and its drop to the next entry."""
    nodes = np.round(np.exp2(-np.arange(129) / 128) * (1 << FINE_PROBABILITY_BITS)).astype(np.int64)
    return nodes[:-1], nodes[:-1] - nodes[1:]


def exp2_fine(distance, shift) -> Ints:
    """2^-(distance * 2^shift / 2^12) in units of 2^-18, so 1.0 is 2^18. distance >= 0 (maximum - score), 17 bit.

    v = distance << shift; n = integer part; 7 bits of the fraction choose the segment, 5 interpolate;
    result = round_shift(value, n), which is 0 from n = 20 on. Sums are made of these, three bits finer than what the
    array multiplies: or else dozens of keys below half a step of 2^-15 would be missed in the sum of a row in which one
    key has nearly all.
    """
    value = np.asarray(distance, np.int64) << shift
    whole, fraction = value >> SCORE_FRACTION, value & ((1 << SCORE_FRACTION) - 1)
    start, drop = exp2_table()
    return round_shift(_line(start, drop, fraction, EXP2_SEGMENT_BITS, -1), np.minimum(whole, 31))


def whole_exponent(score, shift) -> Ints:
    """The least score from `score` on that is a whole number of octaves: n of 2^score = m 2^n, 1/2 < m <= 1."""
    step = np.int64(1) << np.maximum(SCORE_FRACTION - np.asarray(shift, np.int64), 0)
    return np.asarray(score, np.int64) + step - 1 & -step


@cache
def sigmoid_table() -> tuple[Ints, Ints]:
    """1 / (1 + exp(x)) at x = i/64 in units of 2^-18, and its drop to the next entry; 0 at x = 16."""
    nodes = np.round((1 << FINE_PROBABILITY_BITS) / (1 + np.exp(np.arange(1025) / 64))).astype(np.int64)
    return nodes[:-1], nodes[:-1] - nodes[1:]


def sigmoid_fine(value, shift) -> Ints:
    """1 / (1 + exp(-value * 2^shift / 2^12)) in units of 2^-18, so 1.0 is 2^18; value signed 17 bit.

    One table for both signs, as the two add up to 1; 10 bits of the magnitude choose the segment, 6 interpolate.
    """
    value = np.asarray(value, np.int64)
    magnitude = np.abs(value) << shift
    below = _line(*sigmoid_table(), np.minimum(magnitude, SIGMOID_LIMIT - 1), SIGMOID_SEGMENT_BITS, -1)
    below = np.where(magnitude >= SIGMOID_LIMIT, 0, below)
    return np.where(value < 0, below, (1 << FINE_PROBABILITY_BITS) - below)


def gated(number, value) -> Ints:
    """number / (1 + exp(-value * 2^-11)), rounded: number signed 16 bit; of value, 27 bit, what 16 bits can hold."""
    fine = sigmoid_fine(saturate(value, WORD_BITS), SCORE_FRACTION - GATE_ARGUMENT_FRACTION)
    return round_shift(np.asarray(number, np.int64) * fine, FINE_PROBABILITY_BITS)


def relu_fine(score) -> Ints:
    """max(score, 0), with as many bits below its unit as 2^-18 has below 2^-15."""
    return np.maximum(np.asarray(score, np.int64), 0) << FINE_PROBABILITY_BITS - PROBABILITY_BITS


def above_zero(score, bias) -> Ints:
    """max(score, 0) + bias within 0 to 32767: a feature of a token, `bias` the least that it has."""
    return np.clip(np.maximum(np.asarray(score, np.int64), 0) + bias, 0, WORD_LIMIT)


@cache
def log2_table() -> tuple[Ints, Ints]:
    """log2(f) at f = 1 + i/256 in units of 2^-18, and its rise to the next entry."""
    nodes = np.round((1 << LOGARITHM_FRACTION) * np.log2(1 + np.arange(257) / 256)).astype(np.int64)
    return nodes[:-1], nodes[1:] - nodes[:-1]


def log2_fine(x) -> Ints:
    """log2(x) in units of 2^-18; 1 <= x < 2^30. As of the reciprocal, 8 bits below the leading one choose the segment
    and 12 interpolate.
    """
    x = np.maximum(np.asarray(x, np.int64), 1)
    exponent = _bit_length(x) - 1
    fraction = (x << (PROBABILITY_SUM_BITS - exponent)) >> PROBABILITY_SUM_BITS - 20 & ((1 << 20) - 1)
    return (exponent << LOGARITHM_FRACTION) + _line(*log2_table(), fraction, ROOT_SEGMENT_BITS)


def reweighted_fine(score, largest, total, keys) -> Ints:
    """(relu(keys * score - total) / (keys * largest - total))^15 in units of 2^-18: of a row of scores, how far each is
    above the mean. By logarithms: 2^-(15 * difference), which is rounded to 2^-12; all integers, and exact up to there.
    """
    excess = keys * np.asarray(score, np.int64) - total
    difference = log2_fine(keys * np.asarray(largest, np.int64) - total) - log2_fine(excess)
    distance = round_shift(SHARPNESS * difference, LOGARITHM_FRACTION - SCORE_FRACTION)
    return np.where(excess > 0, exp2_fine(np.clip(distance, 0, (1 << DISTANCE_BITS) - 1), 0), 0)


@cache
def sine_table() -> tuple[Ints, Ints]:
    """sin(x) at x = i/256 of a quarter turn in units of 2^-16, and its rise to the next entry."""
    nodes = np.round(np.sin(np.arange(257) / 512 * np.pi) * (1 << PHASE_FRACTION)).astype(np.int64)
    return nodes[:-1], nodes[1:] - nodes[:-1]


def position_factor(token, step, shift, cosine) -> Ints:
    """Sine or cosine of token * step * 2^-(14 + shift) quarter turns, at most one, in units of 2^-16; step of 15 bits,
    of which the first is set and those below are given. 8 bits of the phase choose the segment, 8 interpolate.
    """
    step = 1 << STEP_FRACTION | step & (1 << STEP_FRACTION) - 1
    token = np.asarray(token, np.int64)
    phase = np.minimum(token * step << PHASE_FRACTION - STEP_FRACTION >> shift, 1 << PHASE_FRACTION)
    phase = np.where(cosine, (1 << PHASE_FRACTION) - phase, phase)
    line = _line(*sine_table(), np.minimum(phase, (1 << PHASE_FRACTION) - 1), SINE_SEGMENT_BITS)
    return np.where(phase >> PHASE_FRACTION, 1 << PHASE_FRACTION, line)


def turned_fine(score, factor) -> Ints:
    """max(score, 0) * factor, as fine as `relu_fine`; factor in units of 2^-16."""
    return round_shift(
        np.maximum(np.asarray(score, np.int64), 0) * factor, PHASE_FRACTION - FINE_PROBABILITY_BITS + PROBABILITY_BITS
    )


def probability(fine) -> Ints:
    """What the array multiplies: a value in units of 2^-18 rounded to units of 2^-15, at most 32767."""
    return np.minimum(round_shift(fine, FINE_PROBABILITY_BITS - PROBABILITY_BITS), (1 << PROBABILITY_BITS) - 1)


@cache
def reciprocal_table() -> tuple[Ints, Ints]:
    """1/f at f = 1 + i/256 in units of 2^-18, and its drop to the next entry."""
    nodes = np.round((1 << ROOT_TABLE_FRACTION) / (1 + np.arange(257) / 256)).astype(np.int64)
    return nodes[:-1], nodes[:-1] - nodes[1:]


def _line(start: Ints, change: Ints, x: Ints, segment_bits: int, sign: int = 1) -> Ints:
    """Between the nodes of a table: the bits of x above `segment_bits` choose the segment, the others interpolate; -1:
    they drop.
    """
    index, fraction = x >> segment_bits, x & ((1 << segment_bits) - 1)
    return start[index] + sign * round_shift(change[index] * fraction, segment_bits)


def _mantissa(line: Ints) -> Ints:
    """2^15..65535 from a table's value."""
    return np.minimum(round_shift(line, ROOT_TABLE_FRACTION - RECIPROCAL_FRACTION), MULTIPLIER_LIMIT)


def _bit_length(x: Ints) -> Ints:
    return np.frexp(np.asarray(x, np.float64))[1].astype(np.int64)  # exact below 2^53


def reciprocal(x) -> tuple[Ints, Ints]:
    """(mantissa, exponent) with 1/x = mantissa * 2^-16 * 2^-exponent; mantissa in 2^15..65535; 1 <= x < 2^30.

    exponent = floor(log2 x); the 8 bits below the leading one choose the segment, the next 12 interpolate.
    """
    x = np.maximum(np.asarray(x, np.int64), 1)
    exponent = _bit_length(x) - 1
    # 20 bits below the leading one
    fraction = (x << (PROBABILITY_SUM_BITS - exponent)) >> PROBABILITY_SUM_BITS - 20 & ((1 << 20) - 1)
    start, drop = reciprocal_table()
    return _mantissa(_line(start, drop, fraction, ROOT_SEGMENT_BITS, -1)), exponent


@cache
def rsqrt_table() -> tuple[Ints, Ints]:
    """1/sqrt(f) in units of 2^-18 at f = 1 + i/128 (first 128 entries) and f = 2 + i/64 (the others), and the drops."""
    f = np.concatenate([1 + np.arange(129) / 128, 2 + np.arange(129) / 64])
    nodes = np.round((1 << ROOT_TABLE_FRACTION) / np.sqrt(f)).astype(np.int64)
    return np.concatenate([nodes[:128], nodes[129:257]]), np.concatenate(
        [nodes[:128] - nodes[1:129], nodes[129:257] - nodes[130:258]]
    )


def rsqrt(x) -> tuple[Ints, Ints]:
    """(mantissa, exponent) with 1/sqrt(x) = mantissa * 2^-16 * 2^-exponent; mantissa in 2^15..65535; 1 <= x < 2^62.

    L = floor(log2 x), exponent = L >> 1; table index = (L & 1, 7 bits below the leading one), the next 12 bits
    interpolate.
    """
    x = np.maximum(np.asarray(x, np.int64), 1)
    high = x >> 31  # two halves, as a float64 would round above 2^53
    length = np.where(high > 0, _bit_length(high) + 31, _bit_length(x & ((1 << 31) - 1))) - 1
    fraction = np.where(length >= 19, x >> np.maximum(length - 19, 0), x << np.maximum(19 - length, 0)) & (
        (1 << 19) - 1
    )
    start, drop = rsqrt_table()
    return _mantissa(_line(start, drop, (length & 1) << 19 | fraction, ROOT_SEGMENT_BITS, -1)), length >> 1


def maximum_code(maximum) -> Ints:
    """Of the largest magnitude of a row, 0..2^15, in 7 bits, never falling: 0 below 256, or else the place of its
    leading one and the three bits below that.
    """
    maximum = np.asarray(maximum, np.int64)
    length = _bit_length(np.maximum(maximum, 1))
    return np.where(length <= 8, 0, 8 * (length - 8) + ((maximum >> np.maximum(length - 4, 0)) & 7))


def row_step(code) -> tuple[Ints, Ints]:
    """(mantissa, exponent) of a row's step, mantissa * 2^exponent / 8, from its maximum's code: the row's maximum is
    below 256 steps. mantissa 8..16, exponent 0..7; code 0: 1.
    """
    code = np.asarray(code, np.int64)
    return np.where(code < 8, 8, (code & 7) + 9), np.maximum((code >> 3) - 1, 0)


@cache
def step_table() -> Ints:
    """8 / mantissa in units of 2^-15, for mantissas 8..16."""
    return np.round((8 << STEP_TABLE_FRACTION) / np.arange(8, 17)).astype(np.int64)


def narrow(x, mantissa, exponent, unsigned=0) -> Ints:
    """Activations in steps of their row, rounded and limited to 9 bits; unsigned: without a sign, in half as large
    steps.
    """
    product = np.asarray(x, np.int64) * step_table()[np.asarray(mantissa) - 8] << unsigned
    rounded = round_shift(product, np.asarray(exponent) + STEP_TABLE_FRACTION)
    return np.where(unsigned, np.clip(rounded, 0, UNSIGNED_LIMIT), saturate(rounded, NARROW_BITS))


@dataclass(frozen=True)
class Correction:
    """What an activation function lacks of ReLU, f(x) = max(x, 0) - delta(|x|); 0 from 8 * 2^halvings on.

    delta     its exact value, x >= 0
    halvings  |x| is halved so many times before it is looked up
    """

    delta: Callable[[float], float]
    halvings: int = 0


def _gelu_tanh_delta(x: float) -> float:
    a, b = TANH
    return x * (1 - math.tanh(a * (x + b * x**3))) / 2


CORRECTIONS: Mapping[str, Correction] = {
    "gelu": Correction(lambda x: x * 0.5 * math.erfc(x / math.sqrt(2))),
    "gelu-tanh": Correction(_gelu_tanh_delta),
    "quick-gelu": Correction(lambda x: x / (1 + math.exp(QUICK * x))),
    "silu": Correction(lambda x: x / (1 + math.exp(x)), halvings=1),
    "softplus": Correction(lambda x: -math.log1p(math.exp(-x)), halvings=1),
}


@cache
def correction_table(kind: str) -> tuple[Ints, Ints]:
    """delta at x = i/64 * 2^halvings in units of 2^-20, and its rise to the next entry (signed)."""
    correction = CORRECTIONS[kind]
    x = np.arange(513) / 64 * (1 << correction.halvings)
    nodes = np.round(np.array([correction.delta(v) for v in x]) * (1 << ACTIVATION_TABLE_FRACTION)).astype(np.int64)
    nodes[-1] = 0
    return nodes[:-1], nodes[1:] - nodes[:-1]


def activation(x, kind: str) -> Ints:
    """f(x) = max(x, 0) - delta(|x|), argument and value in units of 2^-16 (28-bit signed)."""
    x = np.asarray(x, np.int64)
    if kind not in CORRECTIONS:
        return np.maximum(x, 0)
    magnitude = np.abs(x) >> CORRECTIONS[kind].halvings
    line = _line(*correction_table(kind), np.minimum(magnitude, ACTIVATION_LIMIT - 1), ACTIVATION_SEGMENT_BITS)
    delta = round_shift(line, ACTIVATION_TABLE_FRACTION - ACTIVATION_FRACTION)
    return np.maximum(x, 0) - np.where(magnitude >= ACTIVATION_LIMIT, 0, delta)


@cache
def raised(kind: str) -> int:
    """By how much an activation function's values are raised so that none is below zero, in units of 2^-16."""
    if kind not in CORRECTIONS:
        return 0
    return max(0, -int(activation(-np.arange(ACTIVATION_LIMIT << CORRECTIONS[kind].halvings), kind).min()))
