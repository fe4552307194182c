# SPDX-License-Identifier: Apache-2.0
"""x + proj(K1 (K2 + 0.01 I)^-1 (K1^T V)) of the normalised x, head by head: attention without softmax, whose keys are
its queries, as in "SOFT: Softmax-free Transformer with Linear Complexity". K = exp(-|a - b|^2 / 2) of queries with
landmarks (K1), the means of 2 x 2 patches, and of these among themselves (K2).

Nothing in the hardware is SOFT's own. -|a - b|^2 / 2 is a . b - |a|^2 / 2 - |b|^2 / 2, in base 2: NORM_CHANNELS more
channels of a query. Scores are raised by as much as makes the largest one of them, that of a point with itself, fill
their words; as the maximum of all rows it is the constant that softmax's exponentials are taken from. The inverse is
that of `inverse`, in products of words; -V is what is kept of it, as sums are never subtracted, and so values change
their signs on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import LANDMARK_GRID, ModelConfig
from ..keys import Key, Role
from ..numbers.calibration import Channels
from ..numbers.folding import Folded
from ..numbers.inverse import FACTOR_FRACTION, MOST, UNIT_FRACTION, Stage, inverse, scaled
from ..numbers.linear import Linear
from ..numbers.words import PROBABILITY_BITS, SCORE_FRACTION, WORD_BITS
from ..steps import (
    NORM_CHANNELS,
    RESIDUAL,
    EachStream,
    Inversion,
    Landmarks,
    Place,
    Prepare,
    Product,
    RowScale,
    Shift,
    Soften,
    Step,
    Value,
)
from .attention import VALUE_GUARD, Attention, value_boost
from .linear_attention import fixed
from .normed_attention import part
from .operation import Context, Matrix, Over, Quantised, Tensors, Work, affine, linear

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser

RIDGE = 0.01  # added to the diagonal of K2
RIDGE_FRACTION = WORD_BITS + 5  # of it, beside ones of RIDGE_UNIT
RIDGE_UNIT = 1 << PROBABILITY_BITS + UNIT_FRACTION - RIDGE_FRACTION
COPIES = NORM_CHANNELS // 2  # of a half square, that products with 2^14 reach the scores' unit
RAISED = 4  # half of what scores are raised by


def means(config: ModelConfig) -> NDArray[np.float64]:
    """[landmarks, tokens]: what makes the mean of the patches of each; tokens before the patches have none."""
    across = config.patches_per_row
    found = np.zeros((config.landmarks, config.tokens))
    per_row = across // LANDMARK_GRID
    for patch in range(config.patches):
        row, column = (place // LANDMARK_GRID for place in divmod(patch, across))
        if column < per_row and row * per_row + column < len(found):
            found[row * per_row + column, config.prefix + patch] = LANDMARK_GRID**-2
    return found


def kernel(a: NDArray, b: NDArray) -> NDArray:
    """exp(-|a - b|^2 / 2) of all rows [..., n, d] and [..., m, d]."""
    squares = np.square(a).sum(axis=-1)[..., :, None] + np.square(b).sum(axis=-1)[..., None, :]
    found: NDArray = np.exp(np.minimum(a @ b.swapaxes(-1, -2) - squares / 2, 0))
    return found


@dataclass(frozen=True)
class LandmarkAttention(Attention):
    @property
    def unit(self) -> float:
        """What queries are divided by."""
        return self.config.head_width**0.25

    @property
    def stages(self) -> tuple[Stage, Stage]:
        """Of the inverse."""
        return inverse(RIDGE, self.config.landmarks + RIDGE)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        width = self.config.width
        return (
            self.norm.tensors() | affine(self.name("qkv"), 2 * width, width) | affine(self.name("proj"), width, width)
        )

    def ranges(self) -> Sequence[Key]:
        roles = (Role.HALF_SQUARES, Role.SUMMARY, Role.TURNED, Role.SOLVED, Role.PROJECTION)
        return [*map(self.key, roles), self.result]

    def matrices(self) -> Sequence[Matrix]:
        c, normal = self.config, self.key(Role.NORM_1)
        sides = (Matrix(self.key(role), normal, c.width, c.width, groups=c.heads) for role in (Role.QUERY, Role.VALUE))
        return [*sides, super().matrices()[-1]]

    def work(self) -> Sequence[Work]:
        c, (query, value, projection) = self.config, self.matrices()
        m, n, d = c.landmarks, c.tokens, c.head_width
        first, second = (len(stage.factors) for stage in self.stages)

        def product(rows: int, inputs: int, outputs: int, count: int = 1) -> Work:
            return Work(Over.STREAM, inputs, outputs, count * c.heads, weights=False, rows=rows)

        return [
            Work.of(value),
            replace(Work.of(query), count=2),
            product(m, n, d, 2),
            product(m, d + NORM_CHANNELS, m),
            product(m, 2 * m, m, first + second + 1),
            product(m, m, m, first + second + 2),
            product(m, d + NORM_CHANNELS, n),
            product(m, n, d),
            product(m, m, d, 3),
            product(n, d + NORM_CHANNELS, m),
            product(n, m, d),
            Work.of(projection),
        ]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        c, see = self.config, context.observer
        y, _ = self.norm.forward(x, context)
        both = linear(y, context.tensors, self.name("qkv")).reshape(len(x), c.tokens, 2, c.heads, c.head_width)
        query, value = both.transpose(2, 0, 3, 1, 4)
        points = query / context.dtype(self.unit)
        marks = means(c).astype(context.dtype) @ points
        near, ridge = kernel(points, marks), context.dtype(RIDGE) * np.eye(c.landmarks, dtype=context.dtype)
        among, summary = kernel(marks, marks) + ridge, near.swapaxes(-1, -2) @ value
        solved = np.linalg.solve(among, summary)
        attention = near @ solved
        see.reach(self.key(Role.HALF_SQUARES), np.square(points).sum(axis=-1) / 2 * context.dtype(math.log2(math.e)))
        shown = {Role.QUERY: query, Role.KEY: query, Role.VALUE: value, Role.ATTENTION: attention}
        shown |= {Role.SUMMARY: summary, Role.SOLVED: solved}
        if see.active:
            shown[Role.TURNED] = scaled(among, self.stages[0]) @ summary
        for role, tensor in shown.items():
            see.sample(self.key(role), tensor)
        return self.projected(x, attention, context)

    def settle(self, sampled: Callable[[Key], NDArray], calibration: Calibration) -> None:
        def reach(role: Role) -> NDArray:
            return np.abs(sampled(self.key(role))).max(axis=(0, 2)).ravel()

        query, none = reach(Role.QUERY) * self.scales()[0], np.zeros(self.config.width)
        found = (query, query, reach(Role.VALUE), reach(Role.ATTENTION), none, none)
        channel = Channels(*(x.astype(np.float64) for x in found))
        calibration.channels[self.layer] = channel
        for role in (Role.SUMMARY, Role.TURNED, Role.SOLVED):
            calibration.ranges[self.key(role)] = float((reach(role) * value_boost(channel)).max())

    def scales(self, channel: Channels | None = None) -> tuple[NDArray, NDArray]:
        same = np.full(self.config.width, math.sqrt(math.log2(math.e)) / self.unit)
        return same, same

    def boost(self, channel: Channels, tensors: Tensors) -> NDArray:
        """With the sign that -X takes back."""
        return -value_boost(channel)

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        c, channel = self.config, calibration.channels[self.layer]
        matrix = tensors[self.name("qkv.weight")].reshape(2, c.width, c.width)
        bias = tensors[self.name("qkv.bias")].reshape(2, c.width)
        boost = self.boost(channel, tensors)
        factors = (self.scales()[0], boost)
        queries, values, projections = self.matrices()
        folded = {
            side.key: self.norm.fold(tensors, matrix[i] * factors[i][:, None], bias[i] * factors[i])
            for i, side in enumerate((queries, values))
        }
        weight = tensors[self.name("proj.weight")]
        # What is solved for has lost the sign again.
        undone = Folded(weight / np.abs(boost), tensors[self.name("proj.bias")], scale=np.abs(boost))
        return folded | {projections.key: undone}

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q, c, channel = quantiser, self.config, quantiser.calibration.channels[self.layer]
        if q.format.byte_scores:
            raise ValueError(f"queries of {c.attention} attention have 16 bits")
        if c.landmarks > MOST:
            raise ValueError(f"it has {c.landmarks} landmarks, words of 16 bits invert what {MOST} are to each other")
        queries, values, projections = self.matrices()
        norm = self.norm
        lowest = norm.lowest(q.sigma(norm.key), before)
        boosted, attended = (reach * value_boost(channel) for reach in (channel.value, channel.attention))
        common: dict[str, Any] = dict(fraction=norm.fraction, lowest=lowest)

        half = q.reach(self.key(Role.HALF_SQUARES))
        norms = min(SCORE_FRACTION, q.exponent(max(RAISED, half - RAISED)))
        query = min(q.cap(queries, norm.fraction, lowest), q.exponent(float(channel.query.max())))
        query = q.note(self.key(Role.QUERY), min(query, (WORD_BITS + norms) // 2))
        norms = min(norms, 2 * query - 2)
        if norms < 0 or 2 * query < SCORE_FRACTION:
            raise ValueError(f"queries of layer {self.layer} are too coarse for {c.attention} attention")
        halves = q.note(self.key(Role.HALF_SQUARES), min(q.exponent(half), 2 * query + 1))
        value = q.cap(values, norm.fraction, lowest)
        value = q.note(self.key(Role.VALUE), min(value, q.exponent(float(boosted.max()))))
        query_linear = q.linear(queries, reach=q.without_bias(queries, channel.query), output=query, **common)
        value_linear = q.linear(values, reach=q.without_bias(values, boosted), output=value, **common)

        first, second = self.stages
        of_v, of_z = first.fractions[-1], second.fractions[-1]

        def noted(role: Role, finest: int) -> int:
            return q.note(self.key(role), min(finest, q.exponent(q.reach(self.key(role)))))

        summary = noted(Role.SUMMARY, PROBABILITY_BITS + value)
        turned = noted(Role.TURNED, of_v + summary)
        solved = noted(Role.SOLVED, of_z + turned)
        attention = min(q.exponent(float(attended.max())), PROBABILITY_BITS + solved)
        q.note(self.key(Role.ATTENTION), attention)
        after = q.note(self.result, min(after, q.cap(projections, attention)))
        projection = q.linear(
            projections, fraction=attention, reach=q.reach(self.key(Role.PROJECTION)), output=after, old=before
        )

        def shift(total: int, most: int = q.GUARD_BITS) -> Shift:
            guard = min(most, total)
            return Shift(total - guard, guard)

        def diagonal(a: float, fraction: int, of_matrix: int) -> int:
            """a, beside words of this exponent, whose products with ones are as fine as the words' with the matrix."""
            return round(a * 2.0 ** (fraction + of_matrix - UNIT_FRACTION))

        def inversion(stage: Stage, of_matrix: int, sign: int) -> Inversion:
            pairs = list(zip(stage.factors, stage.fractions, strict=False))
            return Inversion(
                sign * round(stage.start * 2.0 ** stage.fractions[0]),
                tuple(diagonal(a, fraction, of_matrix) for a, fraction in pairs),
                tuple(shift(fraction + of_matrix - FACTOR_FRACTION) for _, fraction in pairs),
                tuple(map(shift, stage.shifts())),
            )

        unit, raised = 1 << UNIT_FRACTION, (2 * RAISED << norms) - 1
        narrow = shift(halves + UNIT_FRACTION - norms)
        of_norm = np.repeat([-unit, 0], COPIES)[None]
        one, fine = 1 << 2 * query - norms - 2, narrow.output
        raise_by = np.repeat([RAISED << norms, one], COPIES) << fine
        less = np.repeat([one, raised - (RAISED << norms)], COPIES) << fine
        marks = np.eye(c.landmarks)
        ridged = np.concatenate([marks * unit, marks * round(RIDGE * 2**RIDGE_FRACTION)])
        key = self.key(Role.LANDMARKS)
        landmarks = Landmarks(
            means=np.round(means(c) * unit).astype(np.int16),
            of_rows=replace(fixed(key, of_norm, narrow), bias=raise_by),
            of_keys=replace(fixed(key, of_norm[:, ::-1], narrow), bias=less),
            largest=replace(
                fixed(key, np.zeros((1, 1)), Shift(0, 0)), bias=np.array([raised << SCORE_FRACTION - norms])
            ),
            ridged=replace(fixed(key, ridged, shift(PROBABILITY_BITS)), input_groups=2),
            ridge_unit=RIDGE_UNIT,
            first=inversion(first, UNIT_FRACTION, -1),
            second=inversion(second, FACTOR_FRACTION, 1),
            last=diagonal(1.0, of_z, FACTOR_FRACTION),
            mean=shift(UNIT_FRACTION),
            halves=shift(2 * query + 1 - halves),
            scores=shift(2 * query - SCORE_FRACTION),
            kernel=shift(UNIT_FRACTION),
            product=shift(of_v + UNIT_FRACTION - FACTOR_FRACTION),
            sums=shift(PROBABILITY_BITS + value - summary),
            turned=shift(of_v + summary - turned),
            rest=shift(of_z + FACTOR_FRACTION - UNIT_FRACTION),
            solution=shift(of_z + turned - solved),
            refined=shift(UNIT_FRACTION),
            results=shift(PROBABILITY_BITS + solved - attention, VALUE_GUARD),
        )
        return QuantisedLandmarkAttention(
            self, norm.epsilon(before), query_linear, value_linear, projection, landmarks
        ), after


@dataclass(frozen=True)
class QuantisedLandmarkAttention(Quantised):
    """Its matrices, and what its heads have in common."""

    operation: LandmarkAttention
    epsilon: int
    query: Linear
    value: Linear
    projection: Linear
    landmarks: Landmarks

    def linears(self) -> Sequence[Linear]:
        return [self.value, self.query, self.projection]

    def steps(self) -> Iterator[Step]:
        c, name, width = self.operation.config, f"layer {self.operation.layer}", self.operation.config.head_width
        values = Value("values", width, c.heads, Place.KEY_VALUE)
        attended = Value("attention's results", width, c.heads)
        queries = [part(self.query, head * width, (head + 1) * width) for head in range(c.heads)]

        def heads(task: int) -> list[Step]:
            return [
                Soften(f"{name} head {head}", "", queries[head], values, head, attended, head, self.landmarks)
                for head in range(c.heads)
            ]

        yield self.operation.norm.step(f"{name} norm 1", self.epsilon)
        yield Product(f"{name} values", "", self.value, RESIDUAL, values, RowScale.NORM)
        yield Prepare(f"{name} landmarks", "", values, self.landmarks)
        yield EachStream(name, " heads", heads)
        yield Product(name, " projection", self.projection, attended, RESIDUAL)
