# SPDX-License-Identifier: Apache-2.0
"""x + proj(f(Q) (f(K)^T V) / (f(Q) f(K)^T 1)) of the normalised x, head by head: attention in steps that grow with the
tokens, not with their square.

Two products of ordinary attention each, with fixed vectors w for the features in the place of one side. First they are
the queries: weights max(w . k, 0) of the values give f(K)^T V, and of a column of ones f(K)^T 1. Then they are keys,
and these sums the values. Weights add up to 1, so values are centred on their calibrated mean, which goes into the
projection's bias. Nothing can be moved from keys to queries, as a feature is no product: both keep their scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..keys import Key, Role
from ..numbers.calibration import Channels
from ..numbers.linear import Linear
from ..numbers.words import SCALE_ONE, WORD_BITS, WORD_LIMIT
from ..steps import (
    RESIDUAL,
    Constant,
    EachStream,
    Features,
    Place,
    Product,
    Recall,
    RowScale,
    Shift,
    Step,
    Summarise,
    Value,
)
from .attention import AVERAGING_BITS, QUOTIENT_FRACTION, VALUE_GUARD, Attention, value_boost
from .feature_maps import MAPS, FeatureMap, step_of
from .operation import Context, Over, Quantised, Work

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser

ONE_FRACTION = 14  # of the ones that features are added up with


@dataclass(frozen=True)
class LinearAttention(Attention):
    @property
    def features(self) -> FeatureMap:
        return MAPS[self.config.attention](self.config)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return super().tensors() | self.features.tensors(self.name("features"))

    def ranges(self) -> Sequence[Key]:
        roles = (
            Role.QUERY_FEATURES, Role.KEY_FEATURES, Role.SUMMARY, Role.FEATURE_SUMS, Role.WEIGHT_SUMS, Role.PROJECTION
        )  # fmt: skip
        return [*map(self.key, roles), self.result]

    def work(self) -> Sequence[Work]:
        c, (query, key_value, projection), rows = self.config, self.matrices(), self.features.rows
        all_rows = rows * self.features.parts
        common: dict[str, Any] = dict(count=c.heads, weights=False)
        return [
            Work.of(key_value),
            Work.of(query),
            Work(Over.STREAM, c.head_width, c.tokens, rows=rows, **common),
            Work(Over.STREAM, c.tokens, c.head_width + 1, rows=all_rows, **common),
            Work(Over.STREAM, c.head_width, all_rows, **common),
            Work(Over.STREAM, all_rows, c.head_width + 1, **common),
            Work.of(projection),
        ]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        see = context.observer
        query, key, value = self.queries_keys_values(x, context)
        vectors: NDArray = self.features.vectors(context.tensors, self.name("features")).astype(context.dtype)
        of_query, of_key = self.features.products(query, vectors), self.features.products(key, vectors)
        see.reach(self.key(Role.QUERY_FEATURES), of_query)
        see.reach(self.key(Role.KEY_FEATURES), of_key)
        of_query, of_key = self.features(of_query), self.features(of_key)
        summary, sums = of_key.transpose(0, 1, 3, 2) @ value, of_key.sum(axis=2)[..., None]  # [B, heads, m, d or 1]
        weights = np.maximum(of_query @ sums, context.dtype(self.features.least))  # [B, heads, T, 1]
        attention = of_query @ summary / weights
        for role, tensor in ((Role.QUERY, query), (Role.KEY, key), (Role.VALUE, value), (Role.ATTENTION, attention)):
            see.sample(self.key(role), tensor)
        see.sample(self.key(Role.SUMMARY), np.concatenate([summary, sums], axis=-1))
        see.reach(self.key(Role.FEATURE_SUMS), sums)
        see.reach(self.key(Role.WEIGHT_SUMS), weights)
        return self.projected(x, attention, context)

    def settle(self, sampled: Callable[[Key], NDArray], calibration: Calibration) -> None:
        roles = (Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION, Role.SUMMARY)
        query, key, value, attention, summary = (sampled(self.key(role)) for role in roles)
        mean = value.mean(axis=(0, 2), keepdims=True) * (self.features.floor > 0)  # else a row may have no weights
        summary = summary[..., :-1] - summary[..., -1:] * mean

        def reach(x: NDArray) -> NDArray:
            return np.abs(x).max(axis=(0, 2)).ravel()

        query, key = query * self.features.unit, key * self.features.unit
        none = np.zeros(self.config.width)
        found = (reach(query), reach(key), reach(value - mean), reach(attention - mean), none, mean.ravel())
        channel = Channels(*(x.astype(np.float64) for x in found))
        calibration.channels[self.layer] = channel
        calibration.ranges[self.key(Role.SUMMARY)] = float((reach(summary) * value_boost(channel)).max())

    def scales(self, channel: Channels) -> tuple[NDArray, NDArray]:
        same = np.full(self.config.width, self.features.unit)
        return same, same

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q, c, channel = quantiser, self.config, quantiser.calibration.channels[self.layer]
        if q.format.byte_scores:
            raise ValueError(f"{c.attention} attention has no scores, whose queries and keys could have 8 bits")
        queries, keys_values, projections = self.matrices()
        norm = self.norm
        lowest = norm.lowest(q.sigma(norm.key), before)
        boosted, attended = channel.value * value_boost(channel), channel.attention * value_boost(channel)
        common: dict[str, Any] = dict(fraction=norm.fraction, lowest=lowest)
        cap = q.cap(keys_values, norm.fraction, lowest)
        query = min(q.cap(queries, norm.fraction, lowest), q.exponent(float(channel.query.max())))
        query = q.note(self.key(Role.QUERY), query)
        key = q.note(self.key(Role.KEY), min(cap, q.exponent(float(channel.key.max()))))
        value = q.note(self.key(Role.VALUE), min(cap, q.exponent(float(boosted.max()))))
        query_linear = q.linear(queries, reach=q.without_bias(queries, channel.query), output=query, **common)
        reach = q.without_bias(keys_values, np.concatenate([channel.key, boosted]))
        key_value_linear = q.linear(keys_values, reach=reach, output=np.repeat([key, value], c.width), **common)

        vectors = self.features.vectors(q.tensors, self.name("features"))
        fraction = q.exponent(float(np.abs(vectors).max()), headroom=1.0)
        integers = np.round(vectors * 2.0**fraction).astype(np.int16)

        def noted(role: Role, finest: int) -> int:
            return q.note(self.key(role), min(finest, q.exponent(q.reach(self.key(role)))))

        of_query = noted(Role.QUERY_FEATURES, fraction + query)
        of_key = noted(Role.KEY_FEATURES, fraction + key)
        summary = noted(Role.SUMMARY, of_key + value)
        sums = noted(Role.FEATURE_SUMS, of_key + ONE_FRACTION)
        weights = noted(Role.WEIGHT_SUMS, of_query + sums)
        # Of a quotient: fractions of its numerator and of its denominator, in the units of a row's sum.
        quotient = QUOTIENT_FRACTION + of_query + summary - weights
        finest = min(value + AVERAGING_BITS, quotient)
        attention = q.note(self.key(Role.ATTENTION), min(q.exponent(float(attended.max())), finest))
        after = q.note(self.result, min(after, q.cap(projections, attention)))
        projection = q.linear(
            projections, fraction=attention, reach=q.reach(self.key(Role.PROJECTION)), output=after, old=before
        )

        def shift(total: int) -> Shift:
            guard = min(q.GUARD_BITS, total)
            return Shift(total - guard, guard)

        result = min(VALUE_GUARD, quotient - attention)
        return QuantisedLinearAttention(
            self,
            norm.epsilon(before),
            query_linear,
            key_value_linear,
            projection,
            vectors=integers,
            features=fixed(
                self.key(Role.FEATURES),
                np.tile(integers.T, self.features.parts),
                shift(fraction + query - of_query),
                self.features.parts,
            ),
            ones=fixed(
                self.key(Role.FEATURE_SUMS),
                np.full((c.tokens, 1), 1 << ONE_FRACTION, np.int16),
                shift(of_key + ONE_FRACTION - sums),
            ),
            of_keys=shift(fraction + key - of_key),
            summary=shift(of_key + value - summary),
            weights=shift(of_query + sums - weights),
            results=Shift(quotient - attention - result, result),
            key_floor=round(self.features.floor * 2.0**of_key),
            query_floor=round(self.features.floor * 2.0**of_query),
        ), after


def fixed(key: Key, weights: NDArray, shift: Shift, groups: int = 1) -> Linear:
    """A matrix that no training has made: these integers as they are."""
    outputs = weights.shape[1]
    return Linear(
        key=key,
        weights=np.clip(weights, -WORD_LIMIT, WORD_LIMIT).astype(np.int16),
        bias=np.zeros(outputs, np.int64),
        multiplier=np.full(outputs, SCALE_ONE, np.int64),
        bits=WORD_BITS,
        accumulator_shift=shift.accumulator,
        output_shift=shift.output,
        groups=groups,
    )


@dataclass(frozen=True)
class QuantisedLinearAttention(Quantised):
    """Its matrices, and the shifts of the products between them.

    vectors: of the features, [rows, d]; features: the same as a matrix; ones: what adds features up.
    """

    operation: LinearAttention
    epsilon: int
    query: Linear
    key_value: Linear
    projection: Linear
    vectors: NDArray[np.int16]
    features: Linear
    ones: Linear
    of_keys: Shift
    summary: Shift
    weights: Shift
    results: Shift
    key_floor: int
    query_floor: int

    def linears(self) -> Sequence[Linear]:
        return [self.key_value, self.query, self.ones, self.features, self.projection]

    def steps(self) -> Iterator[Step]:
        c, name, features = self.operation.config, f"layer {self.operation.layer}", self.operation.features
        kind, rows = features.kind, len(self.vectors)
        step, angle = step_of(c.tokens) if features.turned else (0, 0)
        of_key, of_query = (
            Features(kind, step if features.turned else floor, angle, features.parts)
            for floor in (self.key_floor, self.query_floor)
        )
        keys_values = Value("keys and values", c.head_width, 2 * c.heads, Place.KEY_VALUE)
        queries = Value("queries", c.head_width, c.heads)
        vectors = Value("the features' vectors", c.head_width)
        of_keys = Value("features of keys", c.tokens, place=Place.SCORE)
        of_queries = Value("features of queries", rows, features.parts, Place.SCORE)
        attended = Value("attention's results", c.head_width, c.heads)

        def heads(task: int) -> Iterator[Step]:
            for head in range(c.heads):
                where = f"{name} head {head}"
                yield Summarise(
                    where, "", vectors, rows, keys_values, head, c.heads + head, of_keys, self.ones, of_key,
                    self.of_keys, self.summary,
                )  # fmt: skip
                yield Recall(
                    where, "", queries, head, self.features, of_queries, attended, head, of_query,
                    self.weights, self.results,
                )  # fmt: skip

        yield self.operation.norm.step(f"{name} norm 1", self.epsilon)
        yield Product(f"{name} keys and values", "", self.key_value, RESIDUAL, keys_values, RowScale.NORM)
        yield Product(f"{name} queries", "", self.query, RESIDUAL, queries, RowScale.NORM)
        yield Constant(name, " features", self.vectors, vectors)
        yield EachStream(name, " heads", lambda task: list(heads(task)))
        yield Product(name, " projection", self.projection, attended, RESIDUAL)
