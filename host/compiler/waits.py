# SPDX-License-Identifier: Apache-2.0
"""Which MATMUL must wait for an earlier instruction's results.

All others wait by themselves for everything before them.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgemoe.host.compiler.draft import Draft, Operand, Room
from edgemoe.hw.contract.isa import Activation, Instruction, Memory, Opcode


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

        before = drafts[max(0, index - 1)]
        if draft.opcode != Opcode.MATMUL:
            complete = index
            if follow and led(before, draft):
                draft.fields["follow"] = 1
                complete -= draft.opcode == Opcode.LAYERNORM
        else:
            # The loader runs at most one block ahead of the array: when it reads keys, the MATMUL before this one has
            # begun to stream. It does not wait for what stands between the two.
            if unfinished(draft.holds, begun):
                draft.fields["wait_load"] = 1
            begun = complete
            if unfinished(draft.reads, complete):
                draft.fields["wait_stream"] = 1
                begun = index
                swept = before.opcode == Opcode.LAYERNORM
                reads = [o for o in draft.reads if not (swept and o in before.writes)]
                # Rooms and scores are only ever streamed.
                others = [o for o in reads if isinstance(o, Operand) and o is not Operand.SCORE]
                rows = in_step(drafts[index - 1 - swept], draft) or not unfinished(reads, complete)
                if follow and rows and not unfinished(others, complete) and (not swept or beside(before, draft)):
                    draft.fields["follow"] = 1
                    begun = index - 1 - swept
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
    routes = reader.opcode == Opcode.ROUTE
    streamed = Memory.SCORE if read.probabilities or routes else Memory.ACTIVATION
    base, stride = wrote.destination_base, wrote.destination_stride
    if wrote.copy and streamed == Memory.ACTIVATION:
        base, stride = wrote.copy_base, wrote.copy_stride
    elif wrote.memory != streamed:
        return False
    if writer.opcode != Opcode.MATMUL or wrote.scatter or read.gather:
        return False
    if stride != read.stream_stride or (read.columns if routes else read.chunks) > stride:
        return False
    return base >= read.stream_base and (not read.steps or wrote.row_base >= read.steps_base)


def led(writer: Draft, reader: Draft) -> bool:
    """The reader is a LAYERNORM, or a ROUTE, of whose rows i depends on row i of the writer, a MATMUL, or sooner ones.
    (A ROUTE of as many rows ends behind it.)
    """
    wrote, read = (Instruction(each.opcode, _numbers(each)) for each in (writer, reader))
    if reader.opcode == Opcode.ROUTE:
        return in_step(writer, reader) and wrote.rows == read.rows and not wrote.probabilities
    norm, matmul = reader.opcode == Opcode.LAYERNORM, writer.opcode == Opcode.MATMUL
    return norm and matmul and not wrote.scatter and wrote.row_base >= read.row_base


def beside(norm: Draft, reader: Draft) -> bool:
    """Row i of the reader, a MATMUL, needs the scale of row i of the LAYERNORM before it or sooner ones, and changes no
    sums of rows.
    """
    swept, read = (Instruction(each.opcode, _numbers(each)) for each in (norm, reader))
    sums = read.memory == Memory.RESIDUAL or read.row_sums or read.activation == Activation.GATED
    return read.row_base <= swept.row_base and not read.gather and not sums


def _numbers(draft: Draft) -> dict[str, int]:
    return {name: value for name, value in draft.fields.items() if isinstance(value, int)}
