# SPDX-License-Identifier: Apache-2.0
"""A matrix as the hardware takes it, and the shifts that its sums go through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..keys import Key
from .words import (
    ACCUMULATOR_SHIFT_LIMIT,
    FINE_LIMIT,
    MULTIPLIER_LIMIT,
    NARROW_LIMIT,
    PACKED_BITS,
    PACKED_CHAIN,
    PACKED_SUM_BITS,
    SCALE_FRACTION,
    SCALE_ONE,
    UNSIGNED_LIMIT,
    WORD_BITS,
)

TOLERANCE = 1e-9  # of a base-2 logarithm: that of a power of two may come out a hair below the integer


@dataclass
class Linear:
    """One matrix as the hardware takes it.

    weights     [inputs, outputs], or [experts, inputs, outputs]; int16 or int8 (`bits`)
    bias        [outputs] or [experts, outputs], 27 bits: in units of the epilogue's fine result, or, with bias_first,
                of the accumulator >> bias_shift
    multiplier  like bias, 0..65535, 2^15 = 1.0
    activation  function of the results; "": none
    smoothing   like bias, how often a result is halved where it goes to activation memory; None: not at all
    packed      two products share a multiplier, of activations in steps of their row
    raised      so are the results of the activation function: none is below zero
    unsigned    the activations that it sees are, and so are rounded without a sign
    groups      outputs come in this many groups (heads), each padded to whole words on its own; input_groups likewise
    """

    key: Key
    weights: NDArray
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    bits: int
    accumulator_shift: int
    output_shift: int
    residual_shift: int = 0
    bias_shift: int = 0
    bias_first: bool = False
    activation: str = ""
    groups: int = 1
    input_groups: int = 1
    packed: bool = False
    raised: bool = False
    unsigned: bool = False
    smoothing: NDArray[np.int64] | None = None

    @property
    def products(self) -> int:
        """Multiplications of one row."""
        inputs, outputs = self.weights.shape[-2:]
        return inputs * outputs


def chains(weights: NDArray, groups: int) -> NDArray:
    """Sums [..., outputs, chains] of weights [..., outputs, inputs], `groups` groups of inputs, over what a multiplier
    adds up before packed products are taken apart.
    """
    inputs = weights.shape[-1] // groups
    starts = [group * inputs + start for group in range(groups) for start in range(0, inputs, PACKED_CHAIN)]
    return np.add.reduceat(weights.astype(np.float64), starts, axis=-1)


def overfull(weights: NDArray, groups: int, unsigned: bool = False) -> NDArray:
    """[..., outputs]: how far weights are beyond what packed sums can hold, whatever the activations; at most 1: they
    are not.

    Activations of -256 to 255 make a sum largest with weights of whichever sign: their magnitudes count, times 256.
    Unsigned ones, 0 to 511, with those of one sign alone: the larger of the two sums, times 511.
    """
    if unsigned:
        parts = [chains(np.maximum(sign * weights.astype(np.float64), 0), groups) for sign in (1, -1)]
        largest = UNSIGNED_LIMIT
    else:
        parts, largest = [chains(np.abs(weights.astype(np.float64)), groups)], NARROW_LIMIT
    found = np.zeros(weights.shape[:-1])
    for sums in parts:
        for reached, bits in ((sums.max(axis=-1), PACKED_BITS), (sums.sum(axis=-1), PACKED_SUM_BITS)):
            found = np.maximum(found, reached / (((1 << bits - 1) - 1) // largest))
    return found


@dataclass(frozen=True)
class Shifts:
    """How the sums of a matrix become results, for one exponent `at` that values have inside the epilogue.

    With step s (value of a weight's unit, per channel) and fraction F, sum = value / s * 2^F. The epilogue makes

        a    = sum >> shift                                  27 bits
        fine = a * multiplier / 2^15 = value * 2^at          27 bits

    so that, with L the largest |value|,

        multiplier = s * 2^(at - F + shift + 15)             what turns sums into values
        shift      = floor(log2(M / max(s * 2^at)) + F)      the largest with multiplier / 2^15 <= M
                                                             M = 1 (16 bits, powers of two) or 65535 / 2^15
        L * 2^at  <= 2^26                                    fine fits
        multiplier >= L * 2^at / 2^26 * 2^15                 a = fine / (multiplier / 2^15) fits
        shift + lowest >= 0                                  sums are never shifted left, not even in the quietest row

    Example: 16-bit weights of step s = 2^-15, inputs of exponent F = 10, results up to L = 9 that are to have exponent
    11, with six guard bits: at = 17. Then M / (s * 2^at) = 2^-2 and shift = -2 + 10 = 8; multiplier =
    2^(-15 + 17 - 10 + 8 + 15) = 2^15; fine reaches 9 * 2^17 = 1.2 million of 67 million: it fits, and output_shift =
    17 - 11 = 6 brings 9 to 18,432 of 32,767.
    """

    at: NDArray
    shift: int
    multiplier: NDArray
    largest: float
    lowest: int

    @classmethod
    def choose(cls, step: NDArray, bits: int, fraction: int, at: NDArray, reach: float, lowest: int) -> Shifts:
        """The formulas above; reach: L, headroom included. at: one exponent, or one per channel."""
        power = np.exp2(at.astype(float))
        product = step * power
        limit = SCALE_ONE if bits == WORD_BITS else MULTIPLIER_LIMIT
        shift = min(
            ACCUMULATOR_SHIFT_LIMIT, math.floor(math.log2(limit / SCALE_ONE / product.max()) + fraction + TOLERANCE)
        )
        return cls(at, shift, product * np.exp2(SCALE_FRACTION + shift - fraction), float(reach * power.max()), lowest)

    @property
    def least(self) -> float:
        """The smallest multiplier that keeps `a` within 27 bits."""
        return self.largest / FINE_LIMIT * SCALE_ONE

    def fits(self) -> bool:
        """Whether no channel overflows and no sum would be shifted left."""
        return bool(self.multiplier.min() >= self.least and self.largest < FINE_LIMIT and self.shift + self.lowest >= 0)

    @property
    def low(self) -> NDArray:
        """Channels whose multiplier is below `least`: those of the smallest weights."""
        return self.multiplier < self.least

    def coarser(self, step: NDArray, bits: int, fraction: int) -> tuple[NDArray, NDArray]:
        """(steps, multipliers) with larger steps in the low channels, so that they fit, too."""
        factor = self.least / self.multiplier
        if bits == WORD_BITS:
            factor = np.exp2(np.ceil(np.log2(np.maximum(factor, 1))))
        step = np.where(self.low, step * factor, step)
        return step, step * np.exp2(self.at.astype(float)) * np.exp2(SCALE_FRACTION + self.shift - fraction)
