# SPDX-License-Identifier: Apache-2.0
"""What a pass moves over the bus, by what it is for, beside what no program could do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemoe.host.compiler.timing import follow
from edgemoe.host.runtime.program import Buffer, CompiledProgram
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Opcode
from edgemoe.models.compatibility import StrEnum


class Use(StrEnum):
    """What bytes are for."""

    PROGRAM = "program"
    WEIGHTS = "weights"
    EXPERTS = "weights of experts"
    CONSTANTS = "constants"
    IMAGES = "pictures"
    COPIES = "copies"
    RESULTS = "results"


@dataclass
class Bytes:
    """Bytes that were moved, and those that have to be."""

    moved: int = 0
    minimum: int = 0


def traffic(program: CompiledProgram, queues: Sequence[Sequence[int]]) -> dict[Use, Bytes]:
    """Of one pass. queues: of each EXPERTS, in order, how many rows every expert gets.

    Compulsory are program, constants, the weights of every matrix and of every expert with tokens once, pictures, and
    results. What the fetcher reads ahead and drops is not in it.
    """
    found = {use: Bytes() for use in Use}
    buffers = [buffer for result in program.results for buffer in (result.head, result.tokens) if buffer]
    seen: set[tuple[Use, int, int | None]] = set()
    for execution in follow(program.instructions, program.hardware, queues):
        i = program.instructions[execution.number]
        use = _use(i, program, buffers, execution.expert)
        found[Use.PROGRAM].moved += INSTRUCTION_BYTES
        size = execution.cost.read + execution.cost.written - INSTRUCTION_BYTES
        found[use].moved += size
        place = (use, i.address, execution.expert)
        if use is not Use.COPIES and place not in seen:
            seen.add(place)
            found[use].minimum += size
    found[Use.PROGRAM].minimum = len(program.instructions) * INSTRUCTION_BYTES
    return found


def _use(i: Instruction, program: CompiledProgram, results: Sequence[Buffer], expert: int | None) -> Use:
    if i.opcode == Opcode.IMAGE:
        return Use.IMAGES
    if i.opcode == Opcode.STORE:
        inside = any(buffer.offset <= i.address < buffer.offset + buffer.size for buffer in results)
        return Use.RESULTS if inside else Use.COPIES
    if i.opcode == Opcode.LOAD:
        return Use.CONSTANTS if i.address < program.memory.size else Use.COPIES
    return Use.WEIGHTS if expert is None else Use.EXPERTS
