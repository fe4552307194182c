# SPDX-License-Identifier: Apache-2.0
"""The steps of a model's operations as instructions, whose operands are still values."""

from __future__ import annotations

from collections.abc import Sequence

import edgemoe.host.compiler.steps  # noqa: F401 (registers what each kind of step becomes)
from edgemoe.host.compiler.draft import At, DraftResult, Lowered, Region
from edgemoe.host.compiler.streams import Placement
from edgemoe.host.compiler.walk import Walk
from edgemoe.host.runtime.program import Buffer, Stream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.models.numbers.quantise import QuantisedModel
from edgemoe.models.steps import RESIDUAL, Normalise, Product, Step


def lower(
    model: QuantisedModel, streams: list[Stream], placement: Placement, hardware: HardwareConfig, save_tokens: bool
) -> Lowered:
    """All instructions of a pass, in order."""
    walk = Walk(model, streams, placement, hardware)
    trunk, operations = walk.model.trunk, walk.model.graph.trunk
    heads = [walk.model.heads.get(walk.config.tasks[stream.task].name) for stream in walk.out.streams]
    routed = [index for index, operation in enumerate(operations) if operation.routed]
    for index, operation in enumerate(trunk):
        walk.part = operations[index].title
        walk.splits = bool(routed) and index + 1 == routed[0]
        walk.last = index + 1 == len(trunk) and not any(heads) and walk.model.back is None
        for step in operation.steps():
            walk.step(step)
    finish(walk, [list(head.steps()) if head else [] for head in heads], save_tokens)
    walk.draft(Opcode.END, "end")
    return walk.out


def finish(walk: Walk, heads: Sequence[Sequence[Step]], save_tokens: bool) -> None:
    """Task heads and the stores of all results."""
    c, h = walk.config, walk.hardware
    walk.part = "heads"
    for norm in (step for steps in heads for step in steps if isinstance(step, Normalise)):
        walk.step(norm)
    back = walk.model.back
    if back and (save_tokens or not all(heads)):
        walk.part, walk.last = "results", True
        walk.step(Product("tokens", ": rotated back", back, RESIDUAL, RESIDUAL, replaces=True))
    for index, (stream, steps) in enumerate(zip(walk.out.streams, heads, strict=True)):
        slot, task = walk.placement.slot_of[index], c.tasks[stream.task]
        operation = walk.model.graph.heads.get(task.name)
        walk.part = operation.title if operation else "results"
        head = tokens = None
        for step in steps:
            walk.step(step, slot, f", stream {index}")
            if isinstance(step, Product):
                room = walk.rooms[step.into]
                assert operation is not None
                key, rows = operation.result, len(c.head_rows(task))
                buffer = Buffer(0, rows, room.stride, h.lanes, task.head_outputs, walk.model.exponents[key])
                head = buffer, Region(buffer.size)
                label = f"result {task.name}, stream {index}"
                walk.transfer(Opcode.STORE, label, Memory.ACTIVATION, At(room), rows, room.stride, head[1])
        if save_tokens or head is None:
            buffer = Buffer(0, c.tokens, walk.width, h.lanes, c.width, walk.model.token_exponent)
            tokens = buffer, Region(buffer.size)
            base = slot * c.tokens * walk.width
            walk.transfer(
                Opcode.STORE, f"tokens, stream {index}", Memory.RESIDUAL, base, c.tokens, walk.width, tokens[1]
            )
        walk.out.results.append(DraftResult(stream, head, tokens))
