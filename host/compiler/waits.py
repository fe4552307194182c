# SPDX-License-Identifier: Apache-2.0
"""Which MATMUL must wait for an earlier instruction's results.

All others wait by themselves for everything before them.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgemoe.host.compiler.draft import Draft, Operand, Room
from edgemoe.hw.contract.isa import Opcode


def mark_waits(drafts: Sequence[Draft]) -> None:
    """Set wait_stream and wait_load where an operand may be unfinished.

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
            if unfinished(draft.reads, complete):
                draft.fields["wait_stream"] = 1
                complete = index
            begun = complete
        if draft.opcode == Opcode.EXPERTS:
            written.clear()  # the loop starts when all before it is done
        written.update(dict.fromkeys(draft.writes, index))
