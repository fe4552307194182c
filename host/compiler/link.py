# SPDX-License-Identifier: Apache-2.0
"""Offsets for everything, and the bytes that the memory begins with.

Memory, in bytes from its base: program, constants (position embedding, zeros), weights in the order of their use,
images, results and traces in the order of their STOREs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from edgemoe.host.compiler.capacities import Need
from edgemoe.host.compiler.draft import Draft, Lowered, Region
from edgemoe.host.compiler.packing import pack, stream_of
from edgemoe.host.compiler.split import Split
from edgemoe.host.runtime.program import Buffer, CompiledProgram, ImagePiece, StreamResult, Trace
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Opcode
from edgemoe.hw.contract.rules import Place, violated
from edgemoe.hw.contract.weight_stream import ALIGNMENT, aligned
from edgemoe.models.numbers.quantise import QuantisedModel

FETCHED_AHEAD = 16  # instructions: the fetcher may run past the end of the program
PAGE = 4096


class Layout:
    """Places regions one after the other."""

    def __init__(self) -> None:
        self.position = 0

    def place(self, *regions: Region) -> None:
        for region in regions:
            region.offset = self.position
            self.position += aligned(region.size)


def _regions(drafts: Iterable[Draft], *opcodes: Opcode) -> list[Region]:
    """Regions that instructions name, each once, in the order of their first use."""
    return list(dict.fromkeys(draft.region for draft in drafts if draft.region is not None and draft.opcode in opcodes))


@dataclass(frozen=True)
class Outline:
    """A program without the data that it begins with.

    needs        what it takes of the hardware's capacities
    split        how it is cut, if it does not fit in one piece
    weights      regions of the matrices, in the order of their use
    initialised  bytes of the memory that are written before it starts, images left aside
    memory_size  bytes of the whole layout
    """

    lowered: Lowered
    needs: list[Need]
    instructions: list[Instruction]
    weights: list[Region]
    initialised: int
    memory_size: int
    split: Split | None = None


def locate(lowered: Lowered, needs: list[Need], hardware: HardwareConfig, split: Split | None = None) -> Outline:
    """The program with all its numbers; sizes of weights suffice for that."""
    drafts = lowered.drafts
    weights = _regions(drafts, Opcode.MATMUL)
    for region in weights:
        assert region.linear is not None
        shape = region.linear.weights.shape
        region.size = stream_of(region.linear, hardware).stride * (shape[0] if len(shape) == 3 else 1)
    layout = Layout()
    layout.place(Region((len(drafts) + FETCHED_AHEAD) * INSTRUCTION_BYTES), *lowered.constants, *weights)
    initialised = layout.position
    for pieces in lowered.images:
        layout.place(*(piece.region for piece in pieces))
    layout.place(*_regions(drafts, Opcode.STORE))
    memory_size = -(-(layout.position + ALIGNMENT) // PAGE) * PAGE
    instructions = [_instruction(draft, hardware) for draft in drafts]
    return Outline(lowered, needs, instructions, weights, initialised, memory_size, split)


def link(outline: Outline, model: QuantisedModel, hardware: HardwareConfig) -> CompiledProgram:
    """The program with its data: weights are packed."""
    lowered, instructions, drafts = outline.lowered, outline.instructions, outline.lowered.drafts
    for region in outline.weights:
        assert region.linear is not None
        region.data = pack(region.linear, hardware).reshape(-1)
    memory = np.zeros(outline.initialised, np.uint8)
    code = b"".join(instruction.encode() for instruction in instructions)
    memory[: len(code)] = np.frombuffer(code, np.uint8)
    for region in (*lowered.constants, *outline.weights):
        assert region.data is not None
        memory[region.offset : region.offset + region.size] = region.data
    c = model.config
    index_of = {id(draft): index for index, draft in enumerate(drafts)}
    return CompiledProgram(
        config=c,
        hardware=hardware,
        weight_bits=model.weight_bits,
        streams=lowered.streams,
        memory=memory,
        memory_size=outline.memory_size,
        program=0,
        instructions=instructions,
        keys=[draft.key for draft in drafts],
        images=[
            tuple(ImagePiece(p.region.offset, p.top, p.left, p.height, p.width) for p in pieces)
            for pieces in lowered.images
        ],
        image_bytes=c.image_channels * c.image_height * c.image_width,
        results=[StreamResult(r.stream, _located(r.head), _located(r.tokens)) for r in lowered.results],
        traces=[Trace(index_of[id(draft)], draft.label, draft.key, r.offset, r.size) for draft, r in lowered.traced],
        macs=lowered.macs,
        weight_bytes=sum(region.size for region in outline.weights),
        exponents=model.exponents,
        slots=lowered.slots,
        origins=[draft.origin for draft in drafts],
        split=str(outline.split) if outline.split else "",
    )


def _instruction(draft: Draft, hardware: HardwareConfig) -> Instruction:
    """With all its numbers; nothing that the hardware would refuse leaves the compiler."""
    values = {name: int(value) for name, value in draft.fields.items() if isinstance(value, int)}
    if draft.region is not None:
        values["address"] = draft.region.offset + draft.offset
    instruction = Instruction(draft.opcode, values, draft.label)
    broken = violated(instruction, hardware, Place.of(instruction, draft.body, expert=int(draft.body)))
    assert not broken, f"{instruction.label}: {instruction}: {broken[0].text}"
    return instruction


def _located(result: tuple[Buffer, Region] | None) -> Buffer | None:
    """A buffer in its region; its offset was from the region's begin."""
    return None if result is None else replace(result[0], offset=result[1].offset + result[0].offset)
