# SPDX-License-Identifier: Apache-2.0
"""x + proj(softmax(Q K^T / sqrt(d)) V) of the normalised x, head by head; or with other weights than softmax's.

Folded: 1 / sqrt(d) into W_q, and log2(e), as the softmax is in base 2. Softmax does not see what all keys share, so
keys are centred on their calibrated mean (the bias disappears); probabilities add up to 1, so values are centred, too,
and W_proj * mean goes into the projection's bias: both give the 16 bits to what carries information. Channel by
channel, queries and keys are scaled against each other to equal range, which their product does not see.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..keys import Key, Role
from ..numbers.activation import FUNCTIONS
from ..numbers.calibration import Channels
from ..numbers.folding import BYTE_LIMIT, Folded
from ..numbers.linear import TOLERANCE, Linear
from ..numbers.orthogonal import orthogonal
from ..numbers.words import (
    ACTIVATION_FRACTION,
    FINE_BITS,
    FINE_PROBABILITY_BITS,
    PROBABILITY_BITS,
    RECIPROCAL_FRACTION,
    SCALE_FRACTION,
    SCORE_FRACTION,
    WORD_BITS,
)
from ..steps import RESIDUAL, Attend, EachStream, Place, Product, RowScale, Scores, Step, Value, Weights
from .norm import Norm
from .norms import norm
from .operation import Context, Matrix, Operation, Over, Quantised, Tensors, Work, affine, linear, turned
from .weighing import KINDS, Weighing

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser

SILENT = 1e-9  # channels that never reach further are left alone
LARGEST_BOOST = 8
AVERAGING_BITS = 4  # results may be so many bits finer than the values that they are means of
# Exponent of sum(p v) / sum(p) beyond that of v, before any shift: p is finer where it is added up, mantissas are finer
# than scales.
QUOTIENT_FRACTION = PROBABILITY_BITS - FINE_PROBABILITY_BITS + RECIPROCAL_FRACTION - SCALE_FRACTION
VALUE_GUARD = FINE_BITS - WORD_BITS  # a mean is no larger than the largest value, so that these bits fill the epilogue


@dataclass(frozen=True)
class Operands:
    """Queries, keys and values in integers: their exponents, where they are, the steps that make them, and by how many
    places each head's products of the first two are finer than the exponents say.
    """

    query: int
    key: int
    value: int
    queries: Value
    keys_values: Value
    steps: list[Step]
    finer: tuple[int, ...]


@dataclass(frozen=True)
class Attention(Operation):
    config: ModelConfig
    layer: int
    mixes = True  # what goes into the projection is sums of values, channel by channel alike

    @property
    def title(self) -> str:
        return f"layer {self.layer} attention"

    @property
    def norm(self) -> Norm:
        return norm(self.config, f"blocks.{self.layer}.norm1", self.key(Role.NORM_1))

    @property
    def weighing(self) -> Weighing:
        return KINDS[self.config.attention](self.config.tokens)

    @property
    def score_unit(self) -> float:
        """What the hardware's scores are times as much as q k."""
        return self.weighing.unit / math.sqrt(self.config.head_width)

    def key(self, role: Role) -> Key:
        return Key(role, self.layer)

    @property
    def result(self) -> Key:
        return self.key(Role.AFTER_ATTENTION)

    def name(self, part: str) -> str:
        return f"blocks.{self.layer}.attn.{part}"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        width = self.config.width
        return (
            self.norm.tensors() | affine(self.name("qkv"), 3 * width, width) | affine(self.name("proj"), width, width)
        )

    def ranges(self) -> Sequence[Key]:
        return [self.key(Role.SCORES), self.key(Role.PROJECTION), self.result]

    def matrices(self) -> Sequence[Matrix]:
        width, heads, normal = self.config.width, self.config.heads, self.key(Role.NORM_1)
        return [
            Matrix(self.key(Role.QUERY), normal, width, width, groups=heads),
            Matrix(self.key(Role.KEY_VALUE), normal, width, 2 * width, groups=2 * heads),
            Matrix(self.key(Role.PROJECTION), self.key(Role.ATTENTION), width, width, input_groups=heads),
        ]

    def work(self) -> Sequence[Work]:
        c, (query, key_value, *gains, projection) = self.config, self.matrices()
        scores = Work(Over.STREAM, c.head_width, c.tokens, c.heads, weights=False)
        values = Work(Over.STREAM, c.tokens, c.head_width, c.heads, weights=False)
        return [*map(Work.of, (key_value, query, *gains)), scores, values, Work.of(projection)]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        c, see = self.config, context.observer
        query, key, value = self.queries_keys_values(x, context)
        for role, tensor in ((Role.QUERY, query), (Role.KEY, key), (Role.VALUE, value)):
            see.sample(self.key(role), tensor)
        scores = query @ key.transpose(0, 1, 3, 2) * context.dtype(1 / math.sqrt(c.head_width))
        attention = self.weighing.weights(scores) @ value
        see.sample(self.key(Role.ATTENTION), attention)
        return self.projected(x, self.completed(attention, context), context)

    def completed(self, attention: NDArray, context: Context) -> NDArray:
        """What the projection gets for the heads' results [B, heads, T, d]: they themselves."""
        return attention

    def queries_keys_values(self, x: NDArray, context: Context) -> Sequence[NDArray]:
        """Of the normalised residual: [B, heads, T, d] each."""
        c = self.config
        y, _ = self.norm.forward(x, context)
        qkv = linear(y, context.tensors, self.name("qkv")).reshape(len(x), c.tokens, 3, c.heads, c.head_width)
        return tuple(qkv.transpose(2, 0, 3, 1, 4))

    def projected(self, x: NDArray, attention: NDArray, context: Context) -> NDArray:
        """The residual with the projection of attention's results [B, heads, T, d] added."""
        c, w, see, batch = self.config, context.tensors, context.observer, len(x)
        attention = attention.transpose(0, 2, 1, 3).reshape(batch, c.tokens, c.width)
        see.rows(self.matrices()[-1].sees, attention)
        y = linear(attention, w, self.name("proj"))
        see.reach(self.key(Role.PROJECTION), y)
        x = x + y
        see.residual(self.result, x)
        return x

    def channels(self, query: NDArray, key: NDArray, value: NDArray, attention: NDArray) -> tuple[Channels, float]:
        """What the channels of sampled queries, keys, values and results reach.

        The second: how far the scores do, in the hardware's unit.
        """
        mean_key = key.mean(axis=(0, 2), keepdims=True) * self.weighing.shifted
        mean_value = value.mean(axis=(0, 2), keepdims=True) * self.weighing.centred
        key, value, attention = key - mean_key, value - mean_value, attention - mean_value
        scores = max(float(np.abs(q @ k.transpose(0, 2, 1)).max()) for q, k in zip(query, key, strict=True))
        scale = self.score_unit

        def reach(x: NDArray) -> NDArray:
            return np.abs(x).max(axis=(0, 2)).ravel()

        found = (reach(query) * scale, reach(key), reach(value), reach(attention), mean_key.ravel(), mean_value.ravel())
        return Channels(*(x.astype(np.float64) for x in found)), scores * scale

    def settle(self, sampled: Callable[[Key], NDArray], calibration: Calibration) -> None:
        tensors = [sampled(self.key(role)) for role in (Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION)]
        calibration.channels[self.layer], calibration.ranges[self.key(Role.SCORES)] = self.channels(*tensors)

    def scales(self, channel: Channels) -> tuple[NDArray, NDArray]:
        """Factors of queries and keys, channel by channel."""
        balance = np.sqrt(np.maximum(channel.key, SILENT) / np.maximum(channel.query, SILENT))
        balance = np.where((channel.key > SILENT) & (channel.query > SILENT), balance, 1.0)
        return balance * self.score_unit, 1 / balance

    def boost(self, channel: Channels, tensors: Tensors) -> NDArray:
        """Factors of the values, channel by channel, undone in the projection's weights."""
        return value_boost(channel)

    def rotated(self, tensors: Tensors, rotation: NDArray) -> dict[str, NDArray]:
        """The values of each head, which come last, are rotated on their own, from where they are made to where their
        means are read: these are rounded, too.
        """
        made = self.norm.rotated(tensors, self.name("qkv"), rotation)
        read = turned(tensors, self.name("proj"), rotation)
        if self.mixes:
            c, (weight, bias) = self.config, (self.name(f"qkv.{part}") for part in ("weight", "bias"))
            values = np.kron(np.eye(c.heads), orthogonal(c.head_width))
            made[weight][-c.width :] = values.T @ made[weight][-c.width :]
            made[bias][-c.width :] = made[bias][-c.width :] @ values
            read[self.name("proj.weight")] = read[self.name("proj.weight")] @ values
        return made | read

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        channel = calibration.channels[self.layer]
        return self.folded(tensors, channel, *self.scales(channel), channel.mean_key)

    def folded(
        self, tensors: Tensors, channel: Channels, of_query: NDArray, of_key: NDArray, mean_key: NDArray
    ) -> dict[Key, Folded]:
        """Queries times a factor of each channel, keys, less their mean, too."""
        c = self.config
        matrix = tensors[self.name("qkv.weight")].reshape(3, c.width, c.width)
        bias = tensors[self.name("qkv.bias")].reshape(3, c.width)
        query = self.norm.fold(tensors, matrix[0] * of_query[:, None], bias[0] * of_query)
        key = self.norm.fold(tensors, matrix[1] * of_key[:, None], (bias[1] - mean_key) * of_key)
        boost = self.boost(channel, tensors)
        value = self.norm.fold(tensors, matrix[2] * boost[:, None], (bias[2] - channel.mean_value) * boost)
        both = Folded(np.concatenate([key.weight, value.weight]), np.concatenate([key.bias, value.bias]), undo=key.undo)
        weight = tensors[self.name("proj.weight")]
        projection = Folded(
            weight / boost,
            tensors[self.name("proj.bias")] + weight @ channel.mean_value,
            offset=channel.mean_value,
            scale=boost,
        )
        queries, keys_values, *_, projections = self.matrices()
        return {queries.key: query, keys_values.key: both, projections.key: projection}

    def places(self) -> tuple[Value, Value]:
        """Of queries; of keys and values."""
        c = self.config
        keys_values = Value("keys and values", c.head_width, 2 * c.heads, Place.KEY_VALUE)
        return Value("queries", c.head_width, c.heads), keys_values

    def operands(self, quantiser: Quantiser, before: int) -> Operands:
        """before: the residual's exponent."""
        q, c, channel = quantiser, self.config, quantiser.calibration.channels[self.layer]
        queries, keys_values, _ = self.matrices()
        norm, name = self.norm, f"layer {self.layer}"
        lowest = norm.lowest(q.sigma(norm.key), before)
        both, finer = self.evened(q, channel, (queries, keys_values))
        boosted = channel.value * np.abs(self.boost(channel, q.tensors))
        cap = min(q.cap(queries, norm.fraction, lowest), q.cap(keys_values, norm.fraction, lowest))
        query = key = q.note(self.key(Role.QUERY), min(cap, q.operand_exponent(float(both.max()))))
        q.note(self.key(Role.KEY), key)
        value = q.note(self.key(Role.VALUE), min(cap, q.exponent(float(boosted.max()))))
        common: dict[str, Any] = dict(fraction=norm.fraction, lowest=lowest)
        reach = q.without_bias(queries, both)
        query_linear = q.linear(queries, reach=reach, output=query, **common)
        reach = q.without_bias(keys_values, np.concatenate([both, boosted]))
        output = np.repeat([key, value], c.width)
        key_value_linear = q.linear(keys_values, reach=reach, output=output, **common)
        made = self.places()
        steps: list[Step] = [
            norm.step(f"{name} norm 1", norm.epsilon(before)),
            Product(f"{name} keys and values", "", key_value_linear, RESIDUAL, made[1], RowScale.NORM),
            Product(f"{name} queries", "", query_linear, RESIDUAL, made[0], RowScale.NORM),
        ]
        return Operands(query, key, value, *made, steps, finer)

    def evened(
        self, quantiser: Quantiser, channel: Channels, matrices: Sequence[Matrix]
    ) -> tuple[NDArray, tuple[int, ...]]:
        """The common reach of balanced queries and keys, channel by channel, and 0 for each head.

        Where they have 8 bits, each head's are scaled to fill them, in the folded matrices that make them, by factors
        whose square is a power of two; and by how many places the products of each head then are finer.
        """
        both, heads = np.sqrt(channel.query * channel.key), self.config.heads
        if not quantiser.format.byte_scores:
            return both, (0,) * heads
        reach = np.maximum(both.reshape(heads, -1).max(axis=1), SILENT)
        step = 2.0 ** -quantiser.operand_exponent(float(reach.max()))
        room = BYTE_LIMIT / quantiser.HEADROOM * step * (1 - TOLERANCE) / reach
        places = np.floor(2 * np.log2(room)).astype(int)
        factor = np.repeat(np.exp2(places / 2), self.config.head_width)
        for matrix in matrices:
            quantiser.scale(matrix, np.concatenate([factor, np.ones(matrix.outputs - len(factor))]))  # values stay
        return both * factor, tuple(map(int, places))

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q, channel = quantiser, quantiser.calibration.channels[self.layer]
        operands, projections = self.operands(q, before), self.matrices()[-1]
        query, key, value = operands.query, operands.key, operands.value
        attended = channel.attention * np.abs(self.boost(channel, q.tensors))
        weighing = self.weighing
        reach = max(q.reach(self.key(Role.SCORES)), abs(weighing.bias))
        if weighing.function:
            reach = float(FUNCTIONS[weighing.function](np.float64(reach)))
        product = query + key + min(operands.finer)
        scores = min(weighing.finest, product, q.exponent(reach, low=-3))
        q.note(self.key(Role.SCORES), scores)
        guard = ACTIVATION_FRACTION - scores if weighing.function else min(q.GUARD_BITS, product - scores)
        if product - scores < guard:
            raise ValueError(f"scores of layer {self.layer} are too coarse for {weighing.kind} attention")
        finest = value + (AVERAGING_BITS if weighing.normalised else weighing.fraction(scores))
        attention = q.note(self.key(Role.ATTENTION), min(q.exponent(float(attended.max())), finest))
        if weighing.normalised:
            fraction, value_output_shift = QUOTIENT_FRACTION, value + VALUE_GUARD - attention
        else:  # the sums' exponent goes into both shifts
            fraction = weighing.fraction(scores)
            value_output_shift = min(VALUE_GUARD, fraction + value - attention)
        completion, seen = self.completion(q, attention)
        after = q.note(self.result, min(after, q.cap(projections, seen)))
        projection = q.linear(
            projections, fraction=seen, reach=q.reach(self.key(Role.PROJECTION)), output=after, old=before
        )
        return QuantisedAttention(
            self,
            operands.queries,
            operands.keys_values,
            operands.steps,
            projection,
            score_accumulator_shift=product - scores - guard,
            score_output_shift=guard,
            exponent_shift=max(0, SCORE_FRACTION - scores),
            score_bias=round(weighing.bias * 2**scores),
            finer=tuple(places - min(operands.finer) for places in operands.finer),
            value_accumulator_shift=fraction + value - attention - value_output_shift,
            value_output_shift=value_output_shift,
            completion=completion,
        ), after

    def completion(self, quantiser: Quantiser, exponent: int) -> tuple[Completion | None, int]:
        """`completed` in integers, of results of this exponent, and the exponent of what the projection gets."""
        return None, exponent


@dataclass(frozen=True)
class Completion(ABC):
    """What stands between the heads and the projection, in integers. result: what it leaves to the projection."""

    result: Value

    @abstractmethod
    def linears(self) -> Sequence[Linear]:
        """Its matrices, in the order of their use."""

    @abstractmethod
    def steps(self, name: str, attended: Value) -> Iterator[Step]:
        """What the array does, from `attended` to `result`."""


@dataclass(frozen=True)
class QuantisedAttention(Quantised):
    """Its matrices, and the shifts of the two products between them and of the exponential.

    first: the steps that make queries, keys and values; finer: of each head, how many places its products are finer
    than those of the coarsest.
    """

    operation: Attention
    queries: Value
    keys_values: Value
    first: list[Step]
    projection: Linear
    score_accumulator_shift: int
    score_output_shift: int
    exponent_shift: int
    score_bias: int
    value_accumulator_shift: int
    value_output_shift: int
    finer: tuple[int, ...]
    completion: Completion | None = None

    def linears(self) -> Sequence[Linear]:
        between = self.completion.linears() if self.completion else []
        return [*(step.linear for step in self.first if isinstance(step, Product)), *between, self.projection]

    def steps(self) -> Iterator[Step]:
        c, name = self.operation.config, f"layer {self.operation.layer}"
        queries, keys_values = self.queries, self.keys_values
        scores = Value("scores", c.tokens, place=Place.SCORE)
        attended = Value("attention's results", c.head_width, c.heads)

        weighing = self.operation.weighing
        weights = Weights(weighing.kind, weighing.normalised, weighing.kept, self.exponent_shift, self.score_bias)

        def heads(task: int) -> Iterator[Step]:
            for head in range(c.heads):
                where = f"{name} head {head}"
                yield Scores(
                    where,
                    " scores",
                    queries,
                    head,
                    keys_values,
                    head,
                    scores,
                    weights,
                    self.score_accumulator_shift + self.finer[head],
                    self.score_output_shift,
                    weighing.function,
                )
                yield Attend(
                    where, " values", scores, keys_values, c.heads + head, attended, head, weights,
                    self.value_accumulator_shift, self.value_output_shift,
                )  # fmt: skip

        yield from self.first
        yield EachStream(name, " heads", lambda task: list(heads(task)))
        if self.completion:
            yield from self.completion.steps(name, attended)
        seen = self.completion.result if self.completion else attended
        yield Product(name, " projection", self.projection, seen, RESIDUAL)


def value_boost(channel: Channels) -> NDArray:
    """Factor per value channel: half-way (in decibels) to equal ranges, undone in the projection's weights.

    At most LARGEST_BOOST.
    """
    reach = np.maximum(channel.value, SILENT)
    return np.clip(np.sqrt(reach.max() / reach), 1, LARGEST_BOOST)
