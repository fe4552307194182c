# SPDX-License-Identifier: Apache-2.0
"""The two products of attention, whose stationary operand lies on chip."""

from __future__ import annotations

from dataclasses import dataclass

from edgemoe.host.compiler.draft import At, Operand
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Activation, Attention, Memory, Opcode, Scale, Stationary
from edgemoe.models.steps import Attend, Scores


@dataclass(frozen=True)
class Held:
    """Keys or values in key/value memory: `count` of them, `stride` words apart."""

    base: int
    stride: int
    count: int


@lowers(Scores)
def scores(walk: Walk, step: Scores, label: str, slot: int | None) -> None:
    first, rows, held = (slot or 0) * walk.tokens, walk.active * walk.tokens, walk.stride(step.held)
    queries = walk.room(step.queries, rows)
    at = At(queries, first * queries.stride + walk.start(step.queries, step.head))
    keys = Held(first * held + walk.start(step.held, step.keys), held, walk.tokens)
    score_product(walk, step, label, at, walk.tokens, keys)


@lowers(Attend)
def attend(walk: Walk, step: Attend, label: str, slot: int | None) -> None:
    first, rows, held = (slot or 0) * walk.tokens, walk.active * walk.tokens, walk.stride(step.held)
    attended = walk.room(step.into, rows)
    at = At(attended, first * attended.stride + walk.start(step.into, step.head))
    values = Held(first * held + walk.start(step.held, step.values), held, walk.tokens)
    value_product(walk, step, label, at, walk.tokens, values, walk.hardware.words(step.into.width))


def score_product(walk: Walk, step: Scores, label: str, queries: At, rows: int, keys: Held, first: int = 0) -> None:
    """Scores of some queries with the keys from number `first` on, of which those before were there already."""
    fields = dict(
        stationary=Stationary.KEYS,
        stationary_base=keys.base,
        stationary_stride=keys.stride,
        memory=Memory.SCORE,
        destination_base=first // walk.hardware.lanes,
        destination_stride=walk.stride(step.into),
        rows=rows,
        keys=keys.count,
        chunks=walk.hardware.words(step.queries.width),
        columns=walk.hardware.words(keys.count),
        stream_base=queries,
        stream_stride=queries.room.stride,
        accumulator_shift=step.accumulator_shift,
        output_shift=step.output_shift,
        activation=Activation.of(step.function),
        append=int(first > 0),
    )
    if step.weights.kept:
        fields |= dict(attention=Attention.of(step.weights.kind), exponent_shift=step.weights.exponent_shift)
    walk.out.macs += rows * keys.count * step.queries.width
    reads, writes = [queries.room], [Operand.SCORE]
    walk.draft(Opcode.MATMUL, label, fields, holds=[Operand.KEY_VALUE], reads=reads, writes=writes)


def value_product(
    walk: Walk, step: Attend, label: str, attended: At, rows: int, values: Held, columns: int, channels: int = 0
) -> None:
    """What some queries attend to: `columns` words of a head, `channels` useful numbers (all of the head's if 0)."""
    chunks = walk.stride(step.scores)
    fields = dict(
        stationary=Stationary.VALUES,
        stationary_base=values.base,
        stationary_stride=values.stride,
        probabilities=1,
        attention=Attention.of(step.weights.kind),
        exponent_shift=step.weights.exponent_shift,
        score_bias=step.weights.bias,
        scale=Scale.SOFTMAX if step.weights.normalised else Scale.NONE,
        memory=Memory.ACTIVATION,
        destination_base=attended,
        destination_stride=attended.room.stride,
        rows=rows,
        keys=values.count,
        chunks=chunks,
        columns=columns,
        stream_base=0,
        stream_stride=chunks,
        accumulator_shift=step.accumulator_shift,
        output_shift=step.output_shift,
    )
    if kept := walk.kept(attended.room):  # the heads of a row follow one another
        fields |= kept | dict(append=int(step.head > 0), row_base=attended.offset // attended.room.stride)
    walk.out.macs += rows * values.count * (channels or step.into.width)
    reads, writes = [Operand.SCORE], [attended.room]
    walk.draft(Opcode.MATMUL, label, fields, holds=[Operand.KEY_VALUE], reads=reads, writes=writes)
