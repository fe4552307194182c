# SPDX-License-Identifier: Apache-2.0
"""x + proj(g * o / rms(o) * sigmoid(w * o)) of what all heads give side by side, o = relu(Q K^T / sqrt(d)) V: rectified
linear attention with its gated norm, as in "Sparse Attention with Linear Units" (arXiv 2104.07012).

Two products with a diagonal do it, block by block. The first has ones: it takes each number times the sigmoid of |w|
times as much, and its row of numbers into the sums that rms(o) is made of; the other scales by g / rms(o). Where w is
negative the values change their sign, and with them o and the projection's weights: w o stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..keys import Key, Role
from ..numbers.activation import GATE
from ..numbers.calibration import Channels
from ..numbers.folding import weight_scale
from ..numbers.linear import TOLERANCE, Linear
from ..numbers.words import (
    FINE_BITS,
    GATE_ARGUMENT_FRACTION,
    GATE_FRACTION,
    MULTIPLIER_LIMIT,
    SCALE_FRACTION,
    WORD_BITS,
    WORD_LIMIT,
)
from ..steps import Product, RowScale, Shift, Step, Value
from .attention import Attention, Completion
from .norm import Norm
from .normed_attention import NormedAttention
from .operation import Context, Matrix, Over, Tensors, Work
from .rms_norm import RmsNorm

if TYPE_CHECKING:
    from ..numbers.quantise import Quantiser

MOST_GUARD = FINE_BITS - WORD_BITS - 1  # bits below a number's last that the epilogue has room for


@dataclass(frozen=True)
class GatedAttention(Attention):
    mixes = False

    @property
    def inner(self) -> RmsNorm:
        """The norm of the heads' results."""
        return RmsNorm(self.config, self.name("norm"), self.key(Role.GATED_NORM), self.config.width)

    @property
    def norms(self) -> Sequence[Norm]:
        return [*super().norms, self.inner]

    @property
    def gate(self) -> str:
        """The tensor w."""
        return f"{self.inner.name}.gate"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return super().tensors() | self.inner.tensors() | {self.gate: (self.config.width,)}

    def ranges(self) -> Sequence[Key]:
        return [*super().ranges(), self.key(Role.RESULTS)]

    def matrices(self) -> Sequence[Matrix]:
        *others, projection = super().matrices()
        return [*others, replace(projection, sees=self.key(Role.RESULTS))]

    def work(self) -> Sequence[Work]:
        *others, projection = super().work()
        diagonal = Work(Over.TOKENS, 1, self.config.width, count=2, groups=self.config.heads, unpacked=True)
        return [*others, diagonal, projection]

    def completed(self, attention: NDArray, context: Context) -> NDArray:
        c, see = self.config, context.observer

        def by_head(name: str) -> NDArray:
            return context.tensors[name].reshape(c.heads, 1, c.head_width)

        square = np.square(attention).mean(axis=(1, 3), keepdims=True)
        sigma = np.sqrt(square + context.dtype(c.eps))
        see.sigma(self.inner.key, np.where(square > 0, sigma, sigma.max()))  # rows of zeros stay so, whatever divides
        share = (1 + np.tanh(by_head(self.gate) * attention / 2)) / 2
        results: NDArray = by_head(f"{self.inner.name}.weight") * attention / sigma * share
        see.reach(self.key(Role.RESULTS), results)
        return results

    def boost(self, channel: Channels, tensors: Tensors) -> NDArray:
        """Their signs are those of w."""
        return np.where(tensors[self.gate] < 0, -1.0, 1.0)

    def completion(self, quantiser: Quantiser, exponent: int) -> tuple[Completion, int]:
        q, c, norm = quantiser, self.config, self.inner
        # Of the first product |w| o in the unit of the sigmoid, o with as many bits below its last as the multipliers
        # ask for.
        q.note(self.key(Role.GATED), exponent)
        factor = np.abs(q.tensors[self.gate]) * 2.0 ** (GATE_ARGUMENT_FRACTION + SCALE_FRACTION - exponent)
        guard = math.ceil(math.log2(max(1.0, float(factor.max()) / MULTIPLIER_LIMIT)))
        guard = min(guard, MOST_GUARD)
        multiplier = np.minimum(np.round(factor * 2.0**-guard), MULTIPLIER_LIMIT)
        ones = np.full(c.width, 1 << GATE_FRACTION)
        gate = diagonal(self.key(Role.GATE), ones, multiplier, Shift(GATE_FRACTION - guard, 0), c.heads, GATE)

        # Of the second g n / 2^L. A row that is not zero has n times a square of at least 1 / n.
        gain = norm.folded(q.tensors[f"{norm.name}.weight"], np.zeros(1)).weight
        [step] = weight_scale(gain[None], WORD_BITS)
        lowest = max(norm.lowest(q.sigma(norm.key), exponent), (c.width.bit_length() - 1) // 2)
        reach = q.reach(self.key(Role.RESULTS))
        finest = math.floor(norm.fraction + lowest - math.log2(step) + TOLERANCE)
        results = q.note(self.key(Role.RESULTS), min(q.exponent(reach), finest))
        shifts = q.shifts(np.full(c.width, step), WORD_BITS, norm.fraction, results, reach, lowest)
        narrow = Shift(shifts.shift, int(shifts.at) - results)
        scale = diagonal(norm.key, np.round(gain / step), np.round(shifts.multiplier), narrow, c.heads)
        into = Value("normalised results", c.head_width, c.heads)
        return QuantisedGate(into, norm, norm.epsilon(exponent), gate, scale), results


@dataclass(frozen=True)
class GatedNormedAttention(GatedAttention, NormedAttention):
    """The same with queries and keys that are normalised, too."""


@dataclass(frozen=True)
class QuantisedGate(Completion):
    norm: RmsNorm
    epsilon: int
    gate: Linear
    scale: Linear

    def linears(self) -> Sequence[Linear]:
        return [self.gate, self.scale]

    def steps(self, name: str, attended: Value) -> Iterator[Step]:
        where, gated = f"{name} results", Value("gated results", attended.width, attended.groups)
        yield Product(where, " gated", self.gate, attended, gated, diagonal=True)
        yield self.norm.step(f"{where}' norm", self.epsilon)
        yield Product(where, " normalised", self.scale, gated, self.result, RowScale.NORM, diagonal=True)


def diagonal(key: Key, entries: NDArray, multiplier: NDArray, shift: Shift, groups: int, function: str = "") -> Linear:
    """A matrix of these 16-bit integers on its diagonal, that no format makes narrower."""
    return Linear(
        key=key,
        weights=np.diag(np.clip(entries, -WORD_LIMIT, WORD_LIMIT).astype(np.int16)),
        bias=np.zeros(len(entries), np.int64),
        multiplier=multiplier.astype(np.int64),
        bits=WORD_BITS,
        accumulator_shift=shift.accumulator,
        output_shift=shift.output,
        activation=function,
        groups=groups,
        input_groups=groups,
    )
