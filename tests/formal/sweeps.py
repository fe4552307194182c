# SPDX-License-Identifier: Apache-2.0
"""Proof of the streamer where LAYERNORM and ROUTE follow a MATMUL, and LAYERNORM sweeps beside the next one."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.contract.layouts import EXPERT_BITS, ROW_BITS
from edgemoe.hw.control.streamer import Streamer

from ..mutants import Mutant
from .configurations import small
from .rules import counter, instruction_of, stream
from .runner import Proof, Property

PACKED = small("packed", data_bits=64, packed=1)


def sweeps(p: Property, unit: Any) -> None:
    """No operation starts while one is under way; a MATMUL that does not follow streams beside none, and no MATMUL that
    was not right behind it; whatever completes is counted, if two do in a cycle one after the other.
    """
    m = p.m
    given = instruction_of(p, opcode=4, wait_stream=1, follow=1, rows=1, chunks=1, columns=1)
    given = Cat(given, Const(1, ROW_BITS), Const(0, EXPERT_BITS + 40), p.free(8, "job_sequence"))
    dut = p.unit(unit(PACKED, block_spacing=2, probability_latency=1), jobs_payload=given)
    instruction, present = dut.jobs.payload.instruction, dut.operation.job.instruction
    opcodes = (Opcode.MATMUL, Opcode.LAYERNORM, Opcode.ROUTE)
    stream(p, dut.jobs, assume=True)
    p.assume(Cat(instruction.opcode == opcode for opcode in opcodes).any())
    p.assume((instruction.rows == 1) & (instruction.chunks == 1) & (instruction.columns == 1))
    taken = dut.jobs.valid & dut.jobs.ready

    # MATMULs write a row behind the last one that streams; an operation is done when it has been started.
    tag = dut.streamed.issue.tag
    written = counter(p, 3, tag.valid & tag.final, dut.final_written, name="written")
    p.assume(~dut.final_written | (written != 0))
    p.assume(~dut.first_written | (written != 0))
    start, done = dut.operation.start, dut.operation.done
    operating = counter(p, 2, start, done, name="operating")
    p.assume(~done | (operating != 0))
    p.check(~start | (operating == 0))
    swept = p.register(1, "swept")  # the one that is under way, if it is a sweep, is right before the present
    m.d.sync += swept.eq(start & (present.opcode == Opcode.LAYERNORM) | swept & ~dut.events.array_active)
    streams = dut.events.array_active
    p.check(~streams | (operating == 0) | present.follow)
    begun = p.register(1, "begun")  # the present MATMUL streams
    m.d.sync += begun.eq(streams | begun & ~taken)
    p.check(~streams | begun | (operating == 0) | swept)

    completed = counter(p, 8, dut.final_written, name="finals") + counter(p, 8, done, name="dones") - dut.completed
    p.check((completed[:8] == 0) | (completed[:8] == 1) & p.past(dut.final_written & (operating != 0)))
    p.cover(p.past(done & dut.final_written))
    p.cover(streams & (operating == 1) & (written == 1))
    p.cover(start & (written == 1) & (present.opcode == Opcode.ROUTE))


PROOFS = [
    Proof(
        "streamer, sweeps",
        sweeps,
        Streamer,
        17,
        {
            "a completion is lost": Mutant("(self.operation.done | held) & ~self.final_written", "self.operation.done"),
            "one counts twice": Mutant("held.eq((self.operation.done | held)", "held.eq((1 | held)"),
            "DMA begins beside a MATMUL": Mutant("sweeps | route, hazards.operation_may_begin", "1, 1"),
            "a sweep is nothing to wait for": Mutant("self.operation.start & sweeps", "0"),
        },
        cover_depth=19,
    )
]
