# SPDX-License-Identifier: Apache-2.0
"""Which MATMUL must wait for an earlier instruction's results.

All others wait by themselves for everything before them.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgemoe.host.compiler.draft import Draft, Operand, Room
from edgemoe.hw.contract.isa import Instruction, Memory, Opcode


def mark_waits(drafts: Sequence[Draft], follow: bool = False) -> None:
    """Set wait_stream and wait_load where an operand may be unfinished, and `follow`, if the build has it, where rows
    of the last writer's last column may be.

    Where the hardware is known to have finished the writer (an instruction in between waited), no wait is asked for.
    """
    written: dict[Room | Operand, int] = {}  # operand -> instruction that wrote it last
    complete = 0  # instructions before this one have written their results when the next one starts to stream
    begun = 0  # ... when the last MATMUL did
    for index, draft in enumerate(drafts):

        def unfinished(operands: Sequence[Room | Operand], complete: int) -> bool:
            return any(written.get(operand, -1) >= complete for operand in operands)

        if draft.opcode != Opcode.MATMUL:
            complete = index
        else:
            # The loader runs at most one block ahead of the array: when it reads keys, the MATMUL before this one has
            # begun to stream. It does not wait for what stands between the two.
            if unfinished(draft.holds, begun):
                draft.fields["wait_load"] = 1
            begun = complete
            if unfinished(draft.reads, complete):
                draft.fields["wait_stream"] = 1
                begun = index
                # Rooms and scores are only ever streamed.
                others = [o for o in draft.reads if isinstance(o, Operand) and o is not Operand.SCORE]
                if follow and not unfinished(others, complete) and in_step(drafts[index - 1], draft):
                    draft.fields["follow"] = 1
                    begun = index - 1
                # What it follows is complete when the next one starts to stream: two are under way at most.
                complete = index
        if draft.opcode == Opcode.EXPERTS:
            written.clear()  # the loop starts when all before it is done
        written.update(dict.fromkeys(draft.writes, index))


def in_step(writer: Draft, reader: Draft) -> bool:
    """Words that the reader streams and the writer writes, at their places in memory, are of row i of the writer or a
    sooner one where they are of row i of the reader.
    """
    wrote, read = (Instruction(each.opcode, _numbers(each)) for each in (writer, reader))
    streamed = Memory.SCORE if read.probabilities else Memory.ACTIVATION
    if writer.opcode != Opcode.MATMUL or wrote.memory != streamed or wrote.scatter or read.gather:
        return False
    if wrote.destination_stride != read.stream_stride or read.chunks > read.stream_stride:
        return False
    return wrote.destination_base >= read.stream_base and (not read.steps or wrote.row_base >= read.steps_base)


def _numbers(draft: Draft) -> dict[str, int]:
    return {name: value for name, value in draft.fields.items() if isinstance(value, int)}
