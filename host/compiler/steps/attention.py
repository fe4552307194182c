# SPDX-License-Identifier: Apache-2.0
"""The two products of attention, whose stationary operand lies on chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgemoe.host.compiler.draft import At, Operand, Room
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Memory, Opcode, Scale, Stationary
from edgemoe.models.steps import Attend, Scores


@lowers(Scores)
def scores(walk: Walk, step: Scores, label: str, slot: int | None) -> None:
    c = walk.config
    first, rows = (slot or 0) * c.tokens, walk.active * c.tokens
    queries, held, columns = walk.room(step.queries, rows), walk.stride(step.held), walk.stride(step.into)
    fields = dict(
        stationary=Stationary.KEYS,
        stationary_base=first * held + walk.start(step.held, step.keys),
        stationary_stride=held,
        memory=Memory.SCORE,
        destination_base=0,
        destination_stride=columns,
        rows=c.tokens,
        keys=c.tokens,
        chunks=walk.hardware.words(step.queries.width),
        columns=columns,
        stream_base=At(queries, first * queries.stride + walk.start(step.queries, step.head)),
        stream_stride=queries.stride,
        accumulator_shift=step.accumulator_shift,
        output_shift=step.output_shift,
    )
    attention_product(walk, label, fields, step.queries.width, reads=[queries], writes=[Operand.SCORE])


@lowers(Attend)
def attend(walk: Walk, step: Attend, label: str, slot: int | None) -> None:
    c = walk.config
    first, rows = (slot or 0) * c.tokens, walk.active * c.tokens
    attended, held, chunks = walk.room(step.into, rows), walk.stride(step.held), walk.stride(step.scores)
    fields = dict(
        stationary=Stationary.VALUES,
        stationary_base=first * held + walk.start(step.held, step.values),
        stationary_stride=held,
        probabilities=1,
        exponent_shift=step.exponent_shift,
        scale=Scale.SOFTMAX,
        memory=Memory.ACTIVATION,
        destination_base=At(attended, first * attended.stride + walk.start(step.into, step.head)),
        destination_stride=attended.stride,
        rows=c.tokens,
        keys=c.tokens,
        chunks=chunks,
        columns=walk.hardware.words(step.into.width),
        stream_base=0,
        stream_stride=chunks,
        accumulator_shift=step.accumulator_shift,
        output_shift=step.output_shift,
    )
    attention_product(walk, label, fields, step.into.width, reads=[Operand.SCORE], writes=[attended])


def attention_product(
    walk: Walk, label: str, fields: dict[str, Any], width: int, **operands: Sequence[Room | Operand]
) -> None:
    """A MATMUL that holds keys or values."""
    walk.out.macs += walk.config.tokens**2 * width
    walk.draft(Opcode.MATMUL, label, fields, holds=[Operand.KEY_VALUE], **operands)
