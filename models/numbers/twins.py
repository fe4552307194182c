# SPDX-License-Identifier: Apache-2.0
"""The datapath's units as integer functions: what each unit of the hardware computes, to the last bit, on whole
matrices at once.

Numbers are integers throughout. Where a NumPy float64 array carries them it is because BLAS and the vector unit are
fastest there: every intermediate value stays below 2^53 in magnitude, so float64 holds it exactly (each function says
why). The scalar functions and their tables are in `edgemoe.models.numbers.arithmetic`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .activation import GATE
from .arithmetic import (
    ACTIVATION_LIMIT,
    ACTIVATION_SEGMENT_BITS,
    CORRECTIONS,
    PHASE_FRACTION,
    above_zero,
    correction_table,
    exp2_fine,
    gated,
    position_factor,
    raised,
    reciprocal,
    relu_fine,
    reweighted_fine,
    round_shift,
    rsqrt,
    sigmoid_fine,
    turned_fine,
    whole_exponent,
)
from .words import (
    ACCUMULATOR_BITS,
    FINE_BITS,
    GATE_FRACTION,
    LOWEST_SCORE,
    MULTIPLIER_LIMIT,
    PACKED_BITS,
    PACKED_CHAIN,
    PACKED_SUM_BITS,
    PROBABILITY_SUM_BITS,
    SCALE_FRACTION,
    SCALE_ONE,
    SCORE_FRACTION,
    WORD_BITS,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def matmul(x: NDArray, weights: NDArray) -> Floats:
    """x [rows, inputs] @ weights [inputs, outputs], 16-bit integers both: the array's sums, exact, as float64.

    |product| <= 2^30, so up to 2^23 inputs add up below 2^53 in any order; an instruction has at most 1023 chunks x 32
    lanes.
    """
    if x.shape[-1] > 1 << 23:
        raise ValueError(f"{x.shape[-1]} inputs: sums would not be exact in float64")
    return x.astype(np.float64, copy=False) @ weights.astype(np.float64, copy=False)


def packed_matmul(x: NDArray, weights: NDArray, rows: int) -> Floats:
    """x [rows, inputs] of 9 bits times weights [inputs, pairs, 2, outputs] of 8 bits, the two of a pair in one
    multiplier: sums modulo 2^24 [rows, pairs, 2, outputs].

    In a chain of at most 16 inputs, of an array of so many rows, the sum of a pair's first has 19 bits; what is beyond
    goes to its second. Compiled weights never reach that (`linear.chains`), so it is paid for only where others might.
    """
    shape, length, half = weights.shape[1:], min(PACKED_CHAIN, rows), 1 << PACKED_BITS - 1
    missing = -len(weights) % length  # of the last chain
    x, weights = np.pad(x, ((0, 0), (0, missing))), np.pad(weights, ((0, missing), (0, 0), (0, 0), (0, 0)))
    sums = matmul(x, weights.reshape(len(weights), -1)).reshape(-1, *shape)
    first = weights[:, :, 0].reshape(-1, length, shape[0] * shape[2])
    if np.abs(first).sum(axis=1).max() * np.abs(x).max(initial=0) >= half:
        chains = x.astype(np.float64).reshape(len(x), -1, length).transpose(1, 0, 2) @ first
        beyond = np.floor((chains + half) / (2 * half)).sum(axis=0).reshape(-1, shape[0], shape[2])
        sums[:, :, 0] -= beyond * 2 * half
        sums[:, :, 1] += beyond
    limit = float(1 << PACKED_SUM_BITS - 1)
    return np.mod(sums + limit, 2 * limit) - limit


def wrap_accumulator(sums: Floats) -> Floats:
    """The 48-bit accumulator's value. Compiled programs never overflow it, so the fold is paid for only when it is
    needed.
    """
    limit = float(1 << ACCUMULATOR_BITS - 1)
    if sums.size and max(sums.max(), -sums.min()) >= limit:
        sums = np.mod(sums + limit, 2 * limit) - limit
    return sums


def _narrow(x: Floats, shift: int | NDArray, bits: int) -> None:
    """saturate(round_shift(x, shift), bits), in place. Exact:
    x has at most 48 bits, so x / 2^shift + 1/2 has at most 50.
    """
    shift = np.asarray(shift)
    if shift.any():
        x *= np.exp2(-shift.astype(np.float64))
        x += 0.5
        np.floor(x, out=x)
    np.clip(x, -float(1 << bits - 1), float((1 << bits - 1) - 1), out=x)


def activation(w: Floats, kind: str) -> Floats:
    """`arithmetic.activation` on float64 integers of at most 28 bits; 32-bit index arithmetic."""
    result = np.maximum(w, 0.0)
    if kind not in CORRECTIONS:
        return result
    magnitude = np.abs(w).astype(np.int32) >> CORRECTIONS[kind].halvings
    inside = np.minimum(magnitude, ACTIVATION_LIMIT - 1)
    index, fraction = inside >> ACTIVATION_SEGMENT_BITS, inside & ((1 << ACTIVATION_SEGMENT_BITS) - 1)
    start, rise = correction_table(kind)
    line = rise.astype(np.int32)[index] * fraction  # |rise| < 2^15, fraction < 2^10
    line += 1 << ACTIVATION_SEGMENT_BITS - 1
    line >>= ACTIVATION_SEGMENT_BITS
    line += start.astype(np.int32)[index]
    line += 8
    line >>= 4
    line[magnitude >= ACTIVATION_LIMIT] = 0
    result -= line
    return result


def streamed(sums: Floats) -> Ints:
    """The 16-bit numbers that a gate's matrix, whose diagonal is 2^14, has made sums of: bits 14 to 29."""
    half = 1 << WORD_BITS - 1
    return ((sums.astype(np.int64) >> GATE_FRACTION) + half) % (2 * half) - half


def epilogue(
    sums: Floats,
    *,
    accumulator_shift: int,
    mantissa: NDArray | None = None,
    exponent: NDArray | int = 0,
    multiplier: NDArray | None = None,
    bias: NDArray | None = None,
    old: NDArray | None = None,
    residual_shift: int = 0,
    output_shift: int = 0,
    function: str = "",
    raise_result: int = 0,
) -> NDArray[np.int16]:
    """From 48-bit sums to 16-bit words; `sums` [rows, outputs] (float64 integers) is overwritten.

    a = sat27(round_shift(sums, max(0, accumulator_shift + exponent)))     exponent: per row, or one for all
    b = sat27(round_shift(a * mantissa, 15))                              mantissa [rows], None = 2^15
    m = sat27(round_shift(b * multiplier, 15))                            multiplier [outputs], None = 2^15
    w = m + (old << residual_shift, or else bias); w = activation(w, function) if there is one, + raised(function) if so
    y = sat16(round_shift(w, output_shift)), but of the gate y = gated(streamed(sums), m)

    Both a * mantissa (27 + 16 bits) and b * multiplier stay below 2^53. `bias` is None where it entered the accumulator
    instead.
    """
    x, number = sums, streamed(sums) if function == GATE else None
    _narrow(x, np.maximum(np.asarray(exponent) + accumulator_shift, 0).reshape(-1, 1), FINE_BITS)
    if mantissa is not None:
        x *= np.asarray(mantissa, np.float64).reshape(-1, 1)
        _narrow(x, SCALE_FRACTION, FINE_BITS)
    if multiplier is not None and np.any(multiplier != SCALE_ONE):
        x *= np.asarray(multiplier, np.float64)
        _narrow(x, SCALE_FRACTION, FINE_BITS)
    if number is not None:
        return gated(number, x.astype(np.int64)).astype(np.int16)
    if old is not None:
        x += old * float(1 << residual_shift)
    elif bias is not None:
        x += bias
    if function:
        x = activation(x, function) + raise_result * raised(function)
    _narrow(x, output_shift, WORD_BITS)
    return x.astype(np.int16)


def probabilities(scores: NDArray, maximum: NDArray, shift: int) -> Ints:
    """2^(score - maximum) in units of 2^-18: scores [rows, keys], maximum [rows]; score fractions reach 12 bits by
    `shift`.

    Added up as they are; `arithmetic.probability` of them is what the array multiplies.
    """
    return exp2_fine(maximum[:, None].astype(np.int64) - scores, shift)


def position_factors(
    turn: int, rows: int, columns: int, step: int, shift: int, first: int = 0, half: int = 0
) -> NDArray[np.int64]:
    """Factors of scores [rows, columns], as the field `turn` says, in units of 2^-16. first: number of the first row's
    token; half: the column from which on rows have their cosine.
    """
    if turn == 0:
        return np.full((rows, columns), 1 << PHASE_FRACTION, np.int64)
    if turn == 3:
        token, cosine = first + 1 + np.arange(rows)[:, None], np.arange(columns) >= half
    else:
        token, cosine = np.ones((rows, 1), np.int64) * (1 + np.arange(columns)), np.full(columns, turn == 2)
    return position_factor(token, step, shift, cosine)


def weights(
    attention: str,
    scores: NDArray,
    maximum: NDArray,
    shift: int,
    bias: int,
    factors: NDArray[np.int64] | None = None,
    total: NDArray | int = 0,
    keys: int = 1,
) -> Ints:
    """Of a kind of attention, in units of 2^-18, as they are added up: scores [rows, keys], maximum [rows] (of
    "two-pass", E of `running_sums`), factors of "cosformer" (`position_factors`), of "softplus" total [rows] of the
    scores of a row's `keys`.
    """
    if attention == "cosformer":
        assert factors is not None
        return turned_fine(scores, factors)
    if attention == "softplus":
        return reweighted_fine(scores, maximum[:, None], np.expand_dims(total, -1), keys)
    if attention == "sigmoid":
        return sigmoid_fine(scores.astype(np.int64) + bias, shift)
    if attention in ("relu", "rela"):
        return relu_fine(scores)
    if attention == "performer":
        return relu_fine(above_zero(scores, bias))
    return probabilities(scores, maximum, shift)


def running_sums(
    scores: NDArray, lanes: int, shift: int, before: tuple[NDArray, NDArray] | None = None
) -> tuple[Ints, Ints]:
    """(E, M) of each row of scores [rows, keys] as they come out, a word of `lanes` after the other: M 2^E is the sum
    of 2^score, M in units of 2^-18, modulo 2^30. E is the largest exponent so far, as a score; as it grows, M shrinks.

    before: (E, M) that the rows go on from.
    """
    rows, keys = scores.shape
    exponent, mantissa = before or (np.full(rows, LOWEST_SCORE, np.int64), np.zeros(rows, np.int64))
    for first in range(0, keys, lanes):
        word = scores[:, first : first + lanes].astype(np.int64)
        grown = np.maximum(exponent, whole_exponent(word, shift).max(axis=1))
        octaves = np.minimum(grown - exponent << shift >> SCORE_FRACTION, 31)
        added = exp2_fine(grown[:, None] - word, shift).sum(axis=1)
        exponent, mantissa = grown, round_shift(mantissa, octaves) + added & (1 << PROBABILITY_SUM_BITS) - 1
    return exponent, mantissa


def softmax_scale(sums: NDArray) -> tuple[Ints, Ints]:
    """(mantissa, exponent) of 1 / sum of a row's weights; of a row of nothing but zeros, 1."""
    return reciprocal(sums)


def layernorm_scale(
    total: NDArray, squares: NDArray, elements: int, epsilon: int, uncentred: int = 0
) -> tuple[Ints, Ints]:
    """(mantissa, exponent) of 1 / sqrt(V), V = max(1, elements * sum x^2 - (sum x)^2 + epsilon): elements * sigma of
    each row.

    uncentred: without (sum x)^2, as RMSNorm has it.
    """
    variance = elements * squares - (0 if uncentred else total * total) + epsilon
    return rsqrt(np.maximum(variance, 1))


def route(logits: NDArray, shift: int, top_k: int, among_chosen: int = 0) -> tuple[Ints, Ints]:
    """Top-k of each row's logits [rows, experts] -> (experts [rows, top_k], scores [rows, top_k], 2^15 = 1.0, at most
    65535).

    Chosen by logit, largest first, ties to the lowest index; the score is the softmax over all experts, not
    renormalised, or over those chosen.
    """
    logits = logits.astype(np.int64)
    p = exp2_fine(logits.max(axis=1, keepdims=True) - logits, shift)
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    picked = np.take_along_axis(p, chosen, axis=1)
    mantissa, exponent = reciprocal((picked if among_chosen else p).sum(axis=1))
    return chosen, np.minimum(round_shift(picked * mantissa[:, None], exponent[:, None] + 1), MULTIPLIER_LIMIT)


class ExpertQueues:
    """One queue of (row, score) per expert; rows enter first choices first, then second choices, and so on."""

    def __init__(self, experts: int) -> None:
        self.rows: list[Ints] = []
        self.scores: list[Ints] = []
        self.experts = experts
        self.reset()

    def reset(self) -> None:
        self.rows = [np.zeros(0, np.int64) for _ in range(self.experts)]
        self.scores = [np.zeros(0, np.int64) for _ in range(self.experts)]

    def push(self, row_base: int, chosen: Ints, scores: Ints) -> None:
        """Enter rows row_base, row_base + 1, ... with their choices, as `route` gives them."""
        rows, top_k = chosen.shape
        row = np.tile(row_base + np.arange(rows), top_k)
        expert, score = chosen.T.ravel(), scores.T.ravel()
        for e in np.unique(expert):
            mine = expert == e
            self.rows[e] = np.concatenate([self.rows[e], row[mine]])
            self.scores[e] = np.concatenate([self.scores[e], score[mine]])

    @property
    def lengths(self) -> Ints:
        return np.array([len(r) for r in self.rows])


def image_patches(image: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """[channels, height, width] -> [patches, channels * patch * patch];
    patches row by row, pixels channel, row, column.
    """
    channels, height, width = image.shape
    x = image.reshape(channels, height // patch, patch, width // patch, patch)
    return x.transpose(1, 3, 0, 2, 4).reshape(-1, channels * patch * patch)
