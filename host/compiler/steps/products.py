# SPDX-License-Identifier: Apache-2.0
"""Products with weights, and the norms before them."""

from __future__ import annotations

from typing import Any

from edgemoe.host.compiler.draft import At, Operand, Region, Room
from edgemoe.host.compiler.streams import Run
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Memory, Opcode, Scale
from edgemoe.models.steps import RESIDUAL, Normalise, Place, Product, RowScale

MEMORIES = {Place.ACTIVATION: Memory.ACTIVATION, Place.KEY_VALUE: Memory.KEY_VALUE, Place.SCORE: Memory.SCORE}
SCALES = {
    RowScale.NONE: Scale.NONE,
    RowScale.NORM: Scale.NORM,
    RowScale.HEAD: Scale.NORM,
    RowScale.EXPERT: Scale.EXPERT,
}


@lowers(Normalise)
def normalise(walk: Walk, step: Normalise, label: str, slot: int | None) -> None:
    """Unless the table of row scales holds it already."""
    if step == walk.normalised:
        return
    fields = dict(rows=walk.active * walk.tokens, row_base=0, elements=step.channels)
    fields |= dict(epsilon=step.epsilon, uncentred=int(not step.centred))
    if step.of_head:
        fields |= dict(of_heads=1)
    else:
        walk.normalised = step
    walk.draft(Opcode.LAYERNORM, label, fields, writes=[Operand.HEAD_NORM if step.of_head else Operand.NORM])


@lowers(Product)
def product(walk: Walk, step: Product, label: str, slot: int | None) -> None:
    """One MATMUL with weights; where streams part, one more for each run of followers."""
    tokens = walk.tokens
    if slot is not None:
        chosen = step.rows or range(tokens)
        product_of(walk, step, label, slot * tokens + chosen.start, slot * tokens + chosen.start, len(chosen))
        return
    runs = [Run(0, 0, walk.active)]
    if walk.splits and step.into is RESIDUAL:
        copy_residual(walk, step.where)
        runs += walk.placement.followers
        walk.active = walk.placement.slots
    for run in runs:
        where = label + (f" to slot {run.slot}" if run.slot else "")
        product_of(walk, step, where, run.leader * tokens, run.slot * tokens, run.count * tokens)


def diagonal_of(walk: Walk, step: Product, label: str, source: int, rows: int) -> None:
    """A MATMUL for each word of a row, in order: what is kept of rows goes on from word to word."""
    stream, into = walk.room(step.reads, rows), walk.operand(step.into, rows)
    reads: list[Room | Operand] = [stream, *([Operand.NORM] if step.scale is RowScale.NORM else [])]
    for word, linear in enumerate(walk.blocks(step.linear)):
        fields: dict[str, Any] = dict(rows=rows, row_base=source, scale=SCALES[step.scale], append=int(word > 0))
        fields |= dict(stream_base=At(stream, source * stream.stride + word), stream_stride=stream.stride)
        fields |= walk.kept(into) if isinstance(into, Room) else {}
        base = At(into, word) if isinstance(into, Room) else word
        fields |= dict(
            memory=MEMORIES[step.into.place], destination_base=base, destination_stride=walk.stride(step.into)
        )
        walk.matmul(f"{label}, word {word}", linear, fields, 0, reads, [into])
        walk.out.macs += rows * len(linear.weights)


def product_of(walk: Walk, step: Product, label: str, source: int, row: int, rows: int) -> None:
    """One MATMUL, or of a diagonal matrix one for each word.

    source: first of the rows that it reads; row: first of those that it writes, if they are the residual's.
    """
    if step.diagonal:
        diagonal_of(walk, step, label, source, rows)
        return
    stream = walk.room(step.reads, rows)
    fields: dict[str, Any] = dict(rows=rows, scale=SCALES[step.scale])
    fields |= dict(stream_base=At(stream, source * stream.stride), stream_stride=stream.stride)
    if step.linear.packed:
        fields |= dict(steps=stream.maxima, steps_base=source)
    reads: list[Room | Operand] = [stream]
    if step.scale in (RowScale.NORM, RowScale.HEAD):
        fields["row_base"] = source
        reads.append(Operand.NORM if step.scale is RowScale.NORM else Operand.HEAD_NORM)
    if step.scale is RowScale.HEAD:
        fields["of_heads"] = 1
    if step.row_sums:
        fields["row_sums"] = 1
    if walk.body:
        fields |= dict(gather=int(step.reads is RESIDUAL), scatter=int(step.into is RESIDUAL))
    if step.replaces:
        # Its rows are read until its last column is written.
        walk.updated = None if walk.last else walk.second_copy(walk.copy.rows)
    if step.into is RESIDUAL:
        fields |= walk.into_residual(row, walk.updated) | dict(residual=int(not step.replaces))
        reads += [] if walk.body else [Operand.RESIDUAL]
        writes: list[Room | Operand] = [Operand.RESIDUAL, *([walk.updated] if walk.updated else [])]
        if walk.updated:  # what is read of the residual is its copy
            walk.normalised = None
    else:
        into = walk.operand(step.into, rows)
        start = walk.start(step.into, step.group)
        base = At(into, start) if isinstance(into, Room) else start
        fields |= walk.kept(into) if isinstance(into, Room) else {}
        fields |= dict(
            memory=MEMORIES[step.into.place], destination_base=base, destination_stride=walk.stride(step.into)
        )
        fields |= dict(keys=step.into.width) if step.into.place is Place.SCORE else {}
        writes = [into]
    walk.matmul(label, step.linear, fields, rows * walk.config.top_k if walk.body else rows, reads, writes)
    if step.replaces:
        walk.copy = walk.updated or walk.copy


def copy_residual(walk: Walk, name: str) -> None:
    """Leaders' rows of the residual to their followers': through memory, as nothing on chip copies rows."""
    c, words = walk.config, walk.config.tokens * walk.width
    shared: dict[tuple[int, int], Region] = {}
    for run in walk.placement.followers:
        if (run.leader, run.count) not in shared:
            shared[run.leader, run.count] = region = Region(run.count * words * walk.hardware.word_bytes)
            label = f"{name} shared residual" + (f" of slot {run.leader}" if run.leader else "")
            walk.transfer(
                Opcode.STORE, label, Memory.RESIDUAL, run.leader * words, run.count * c.tokens, walk.width, region
            )
    for run in walk.placement.followers:
        region, label = shared[run.leader, run.count], f"{name} residual for slot {run.slot}"
        walk.transfer(
            Opcode.LOAD,
            label,
            Memory.RESIDUAL,
            run.slot * words,
            run.count * c.tokens,
            walk.width,
            region,
            writes=[Operand.RESIDUAL],
        )
