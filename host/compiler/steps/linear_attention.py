# SPDX-License-Identifier: Apache-2.0
"""The products of linear attention. What `Summarise` leaves stands behind keys and values, a row for each feature: a
head's words, and one whose first number is the sum of ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from edgemoe.host.compiler.draft import At, Operand, Region
from edgemoe.host.compiler.packing import pad
from edgemoe.host.compiler.split import pieces
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Attention, Memory, Opcode, Scale, Stationary, Turn, turning
from edgemoe.models.numbers.words import ACCUMULATOR_SHIFT_LIMIT
from edgemoe.models.steps import Constant, Features, Recall, Shift, Summarise


@lowers(Constant)
def constant(walk: Walk, step: Constant, label: str, slot: int | None) -> None:
    """Into activation memory, as many rows at once as the build has."""
    words = walk.stride(step.into)
    rows = pad(step.rows, 1, step.into.groups, walk.hardware.lanes).astype("<i2")
    room = walk.room(step.into, len(rows))
    for piece in pieces(range(len(rows)), walk.hardware.rows):
        data = np.ascontiguousarray(rows[piece.start : piece.stop]).view(np.uint8).reshape(-1)
        region = Region(data.size, data)
        walk.out.constants.append(region)
        at = At(room, piece.start * words)
        walk.transfer(Opcode.LOAD, label, Memory.ACTIVATION, at, len(piece), words, region, writes=[room])


@lowers(Summarise)
def summarise(walk: Walk, step: Summarise, label: str, slot: int | None) -> None:
    """As many features at once as there is room for their scores."""
    h, first, held = walk.hardware, (slot or 0) * walk.tokens, walk.stride(step.held)
    head, chunks, vectors = h.words(step.held.width), h.words(walk.tokens), walk.room(step.vectors, step.rows)
    base = walk.active * walk.tokens * held
    keys, values = (first * held + walk.start(step.held, group) for group in (step.keys, step.values))
    for rows in pieces(range(step.rows), min(h.tokens, h.score_words // chunks)):
        name = label + (f" features {rows.start}..{rows.stop - 1}" if len(rows) < step.rows else "")
        common: dict[str, Any] = dict(rows=len(rows), keys=walk.tokens)
        fields = common | shifts(step.scores) | dict(
            stationary=Stationary.KEYS, stationary_base=keys, stationary_stride=held, chunks=head, columns=chunks,
            stream_base=At(vectors, rows.start * head), stream_stride=head,
            memory=Memory.SCORE, destination_base=0, destination_stride=chunks,
        )  # fmt: skip
        walk.out.macs += len(rows) * walk.tokens * step.held.width
        walk.draft(
            Opcode.MATMUL, f"{name} features of keys", fields, holds=[Operand.KEY_VALUE], reads=[vectors],
            writes=[Operand.SCORE],
        )  # fmt: skip
        for part in range(step.features.parts):
            start = base + (part * h.words(step.rows) * h.lanes + rows.start) * (head + 1)
            weighed = common | features(step.features, (Turn.SINE, Turn.COSINE)[part]) | dict(
                chunks=chunks, stream_base=0, stream_stride=chunks, memory=Memory.KEY_VALUE,
                destination_stride=head + 1,
            )  # fmt: skip
            fields = weighed | shifts(step.sums) | dict(
                stationary=Stationary.VALUES, stationary_base=values, stationary_stride=held, columns=head,
                destination_base=start,
            )  # fmt: skip
            walk.out.macs += len(rows) * walk.tokens * step.held.width
            walk.draft(
                Opcode.MATMUL, f"{name} values of keys", fields, holds=[Operand.KEY_VALUE], reads=[Operand.SCORE],
                writes=[Operand.SUMMARY],
            )  # fmt: skip
            fields = weighed | dict(destination_base=start + head)
            walk.matmul(f"{name} sums of keys", step.ones, fields, len(rows), [Operand.SCORE], [Operand.SUMMARY])


@lowers(Recall)
def recall(walk: Walk, step: Recall, label: str, slot: int | None) -> None:
    """As many queries at once as there is room for their features, and a word for their product with ones."""
    h, first = walk.hardware, (slot or 0) * walk.tokens
    head, chunks = h.words(step.into.width), walk.stride(step.products)
    count = (step.features.parts - 1) * h.words(step.products.width) * h.lanes + step.products.width
    useful = step.features.parts * step.products.width
    queries, attended = (walk.room(value, walk.active * walk.tokens) for value in (step.queries, step.into))
    base = walk.active * walk.tokens * 2 * queries.stride
    for rows in pieces(range(walk.tokens), min(walk.tokens, h.score_words // (chunks + 1))):
        name = label + (f" rows {rows.start}..{rows.stop - 1}" if len(rows) < walk.tokens else "")
        wanted = At(queries, (first + rows.start) * queries.stride + walk.start(step.queries, step.head))
        result = At(attended, (first + rows.start) * attended.stride + walk.start(step.into, step.group))
        to_scores: dict[str, Any] = dict(rows=len(rows), memory=Memory.SCORE)
        fields = to_scores | dict(
            stream_base=wanted, stream_stride=queries.stride, keys=count, destination_stride=chunks
        )  # fmt: skip
        walk.matmul(f"{name} features of queries", step.linear, fields, len(rows), [queries], [Operand.SCORE])
        common: dict[str, Any] = dict(
            stationary=Stationary.VALUES, stationary_stride=head + 1, keys=count, chunks=chunks, rows=len(rows),
            row_base=rows.start, stream_base=0, stream_stride=chunks,
        )  # fmt: skip
        # The weights' sum is a score, its own sum that of a row of one score; by that the values' product is divided.
        total = len(rows) * chunks
        fields = common | to_scores | features(step.features, Turn.ROWS) | shifts(step.weights) | dict(
            stationary_base=base + head, columns=1, destination_base=total, destination_stride=1
        )  # fmt: skip
        walk.out.macs += len(rows) * useful
        walk.draft(
            Opcode.MATMUL, f"{name} sums of weights", fields, holds=[Operand.SUMMARY], reads=[Operand.SCORE],
            writes=[Operand.SCORE],
        )  # fmt: skip
        into: dict[str, Any] = dict(
            memory=Memory.ACTIVATION, destination_base=result, destination_stride=attended.stride
        )  # fmt: skip
        plain = features(replace(step.features, number=0), Turn.NONE)
        fields = common | plain | into | dict(
            stationary_base=base, keys=1, chunks=1, columns=1, stream_base=total, stream_stride=1,
            accumulator_shift=ACCUMULATOR_SHIFT_LIMIT,
        )  # fmt: skip
        walk.draft(
            Opcode.MATMUL, f"{name} their reciprocals", fields, holds=[Operand.SUMMARY], reads=[Operand.SCORE],
            writes=[attended],
        )  # fmt: skip
        fields = common | features(step.features, Turn.ROWS) | shifts(step.results) | into | dict(
            stationary_base=base, columns=head, scale=Scale.SOFTMAX
        )  # fmt: skip
        walk.out.macs += len(rows) * useful * step.into.width
        walk.draft(
            Opcode.MATMUL, f"{name} values", fields, holds=[Operand.SUMMARY], reads=[Operand.SCORE], writes=[attended]
        )


def features(of: Features, turn: Turn) -> dict[str, Any]:
    """Fields of a product with features; turn: whose positions these are, if they have two parts."""
    fields = dict(probabilities=1, attention=Attention.of(of.kind), score_bias=of.number)
    if of.parts > 1:
        fields |= dict(exponent_shift=of.shift, score_bias=turning(turn, of.number))
    return fields


def shifts(shift: Shift) -> dict[str, Any]:
    """Fields of a product's shifts."""
    return dict(accumulator_shift=shift.accumulator, output_shift=shift.output)
