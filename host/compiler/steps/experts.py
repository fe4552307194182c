# SPDX-License-Identifier: Apache-2.0
"""Routers' choices, and what is repeated for every expert."""

from __future__ import annotations

from edgemoe.host.compiler.draft import Operand
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Opcode
from edgemoe.models.steps import RESIDUAL, EachExpert, Route


@lowers(Route)
def route(walk: Walk, step: Route, label: str, slot: int | None) -> None:
    words = walk.stride(step.logits)
    fields = dict(
        rows=walk.tokens,
        row_base=(slot or 0) * walk.tokens,
        stream_base=0,
        stream_stride=words,
        columns=words,
        experts=step.experts,
        top_k=step.top_k,
        exponent_shift=step.exponent_shift,
        reset_queues=int(not slot),
        among_chosen=int(step.among_chosen),
    )
    walk.draft(Opcode.ROUTE, label, fields, key=step.key, writes=[Operand.QUEUES])


@lowers(EachExpert)
def each_expert(walk: Walk, step: EachExpert, label: str, slot: int | None) -> None:
    """All experts over the common queues. They read one copy of the residual and leave another.

    Other experts still read the old copy of a row when the first of its experts has updated it. The two copies lie at
    opposite ends of the memory, so that what is free between them stays in one piece.
    """
    rows = walk.active * walk.tokens
    walk.updated = None if walk.last else walk.second_copy(rows)
    inside = [walk.room(inner.into, rows) for inner in step.steps if inner.into is not RESIDUAL]
    with walk.loop():
        walk.draft(
            Opcode.EXPERTS,
            label,
            dict(length=len(step.steps)),
            rooms=[*([walk.updated] if walk.updated else []), *inside],
        )
        walk.body = True
        for inner in step.steps:
            walk.step(inner)
        walk.body = False
    walk.copy = walk.updated or walk.copy
