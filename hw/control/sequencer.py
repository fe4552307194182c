# SPDX-License-Identifier: Apache-2.0
"""Sequencer: takes instructions from the fetch unit, has them judged, issues them, and repeats the bodies of EXPERTS.

    IDLE  -- start --> FETCH -- an instruction --> CHECK

    CHECK -- error ------> STOPPED                            until the control unit resets the sequencer
          -- END --------> END ----- all complete ----------> IDLE
          -- EXPERTS ----> EXPERTS - all complete ----------> LOOK UP --> NEXT EXPERT --> FETCH
          -- any other --> ISSUE --- all have it -----------> FETCH
                                 --- the last of a body ----> LOOK UP

The expert loop. EXPERTS stands before a body of `length` instructions. When every instruction before it is complete,
and with them the ROUTEs that filled the queues, the sequencer asks the queues for the first expert, from 0 on, whose
queue is not empty (`next_from` -> `next_found`, `next_expert`, a cycle later: LOOK UP), jumps to the body and issues it
with that expert's number, with the length of its queue as `rows` of instructions that follow the queue, and with its
share of `expert_stride` in the address. Behind the body it asks from the next expert on, jumps back to the body, or,
when none is left, behind it. An expert without tokens costs neither time nor weights.

    EXPERTS  --> first --> body of expert 1 --> next --> body of expert 4 --> next --> none: behind the body
                 from 0                         from 2                        from 5

What makes the body work on an expert's tokens is not here. Gather is in the streamer: row i of the stream is the row
that the queue's i-th entry names. Scatter is in write-back: row i of the result goes to that row. The queues are the
router's (`compute.expert_queues`), which also answer `count`.
"""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, ErrorCode, Opcode
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS, EXPERT_BITS, INSTRUCTION, JOB, SEQUENCE_BITS
from edgemoe.hw.contract.ports import QueueQuery
from edgemoe.hw.contract.registers import REGISTER_BITS
from edgemoe.hw.control.legality import Legality
from edgemoe.hw.memory.pipeline import delay

STRIDE_PART = 17  # bits of an expert's stride that the narrow side of any multiplier takes, unsigned
# of an instruction: in memory, in the program
PLACE = data.StructLayout({"address": DRAM_OFFSET_BITS, "number": REGISTER_BITS})
LOOP = data.StructLayout(
    {
        "active": 1,
        "expert": EXPERT_BITS,  # present one; between two, the first that may be next
        "left": 8,  # instructions of this repetition that are not issued
        "length": 8,
        "body": PLACE,
    }
)


class Sequencer(wiring.Component):
    """Issues each instruction to the streamer, MATMULs also to the loader, and those with weights also to the weight
    prefetch, whose queues let it run ahead of execution across instructions. Only EXPERTS and END wait for everything
    before them.

    Ports:
        start, program (in): pulse, when no program runs; where it begins.
        jump, jump_address (out): to Fetch,
        instructions (in stream): whose instructions come here.
        jobs, loads, weights (out stream): to streamer, loader and prefetch: the same JOB, each taken in its own time.
        completed (in): instructions that have written all their results, modulo 256.
        queues (out QueueQuery): to the router.
        done (out): pulse: END, and everything before it is complete.
        error, error_code (out): pulse: the instruction may not be issued. The sequencer then stands until it is reset,
            which the control unit does when the bus is quiet.
        instruction_number (out): of the instruction being checked, counted from the program's start.
        busy (out): a program runs.
    Latency: varies: with those who take its instructions.
    Interval: INTERVAL = Legality.LATENCY + 2 cycles an instruction, if nobody makes it wait, hidden behind the
        execution of those before it.
    Limits: an EXPERTS body holds MATMUL, LOAD and STORE alone.
    Twin: none (no arithmetic); the order of execution is that of `sim.emulator.Emulator`.
    """

    INTERVAL = Legality.LATENCY + 2

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "program": In(DRAM_OFFSET_BITS),
                "jump": Out(1),
                "jump_address": Out(DRAM_OFFSET_BITS),
                "instructions": In(stream.Signature(INSTRUCTION)),
                "jobs": Out(stream.Signature(JOB)),
                "loads": Out(stream.Signature(JOB)),
                "weights": Out(stream.Signature(JOB)),
                "completed": In(SEQUENCE_BITS),
                "queues": Out(QueueQuery()),
                "done": Out(1),
                "error": Out(1),
                "error_code": Out(ErrorCode),
                "instruction_number": Out(REGISTER_BITS),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        job, following, loop = Signal(JOB), Signal(PLACE), Signal(LOOP)
        sequence = Signal(SEQUENCE_BITS)  # instructions issued so far, modulo 256
        issued = Signal(3)  # which of jobs, loads, weights have taken the instruction
        m.submodules.legality = legality = Legality(self.config)
        m.d.comb += [
            self.busy.eq(1),
            legality.instruction.eq(job.instruction),
            legality.looping.eq(loop.active),
            legality.address.eq(job.address),
            self.queues.count_expert.eq(loop.expert),
            self.queues.next_from.eq(loop.expert),
            *(port.payload.eq(job) for port in (self.jobs, self.loads, self.weights)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.d.comb += [self.jump.eq(1), self.jump_address.eq(self.program)]
                    m.d.sync += [following.address.eq(self.program), following.number.eq(0), loop.active.eq(0)]
                    m.d.sync += [self.instruction_number.eq(0), sequence.eq(self.completed)]
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += self.instructions.ready.eq(1)
                with m.If(self.instructions.valid):
                    m.d.comb += legality.start.eq(1)
                    m.d.sync += [
                        job.instruction.eq(self.instructions.payload),
                        job.expert.eq(loop.expert),
                        job.sequence.eq(sequence),
                        self.instruction_number.eq(following.number),
                        following.address.eq(following.address + INSTRUCTION_BYTES),
                        following.number.eq(following.number + 1),
                        issued.eq(0),
                    ]
                    m.next = "CHECK"
            with m.State("CHECK"):
                self._resolve(m, job, loop)
                with m.If(legality.judged):
                    m.d.comb += [self.error.eq(legality.error), self.error_code.eq(legality.error_code)]
                    m.next = "ISSUE"
                    with m.If(legality.error):
                        m.next = "STOPPED"
                    with m.Elif(job.instruction.opcode == Opcode.EXPERTS):
                        m.next = "EXPERTS"
                    with m.Elif(job.instruction.opcode == Opcode.END):
                        m.next = "END"
            with m.State("ISSUE"):
                with m.If(self._issue(m, job, issued)):
                    m.d.sync += [sequence.eq(sequence + 1), loop.left.eq(loop.left - 1)]
                    m.next = "FETCH"
                    with m.If(loop.active & (loop.left == 1)):
                        m.d.sync += loop.expert.eq(loop.expert + 1)
                        m.next = "LOOK UP"
            self._expert_loop(m, job, loop, following, self.completed == sequence)
            with m.State("END"):
                with m.If(self.completed == sequence):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
            with m.State("STOPPED"):
                pass
        return m

    def _resolve(self, m: Module, job, loop) -> None:
        """What depends on the expert: number of rows, address."""
        i, offset = job.instruction, Signal(DRAM_OFFSET_BITS)
        # Two products, registers behind the multipliers and their sum: CHECK lasts long enough.
        low, high = (
            delay(m, part * loop.expert, 2, name=f"{name}_product")
            for name, part in (("low", i.expert_stride[:STRIDE_PART]), ("high", i.expert_stride[STRIDE_PART:]))
        )
        m.d.sync += [
            offset.eq(low + (high << STRIDE_PART)),
            job.address.eq(i.address + Mux(loop.active, offset, 0)),
            job.rows.eq(Mux(i.gather | i.scatter | i.queued, self.queues.count, i.rows)),
        ]

    def _issue(self, m: Module, job, issued: Signal) -> Signal:
        """Offers the job to all who want it; whether each of them has it at the end of this cycle."""
        matmul = job.instruction.opcode == Opcode.MATMUL
        with_weights = matmul & ~job.instruction.stationary[1]
        ports, now = (self.jobs, self.loads, self.weights), Signal(3)
        for number, (port, wanted) in enumerate(zip(ports, (Const(1), matmul, with_weights), strict=True)):
            m.d.comb += [
                port.valid.eq(wanted & ~issued[number]),
                now[number].eq(issued[number] | port.ready | ~wanted),
            ]
        m.d.sync += issued.eq(now)
        return now.all()

    def _expert_loop(self, m: Module, job, loop, following, complete) -> None:
        """States from EXPERTS to the next instruction. complete: everything before EXPERTS is."""
        with m.State("EXPERTS"):
            with m.If(complete):
                m.d.sync += [loop.active.eq(1), loop.expert.eq(0)]
                m.d.sync += [loop.length.eq(job.instruction.length), loop.body.eq(following)]
                m.next = "LOOK UP"
        with m.State("LOOK UP"):
            m.next = "NEXT EXPERT"
        behind = Signal(PLACE)  # the body
        m.d.sync += [
            behind.address.eq(loop.body.address + loop.length * INSTRUCTION_BYTES),
            behind.number.eq(loop.body.number + loop.length),
        ]
        with m.State("NEXT EXPERT"):
            target = Signal(PLACE)
            m.d.comb += [self.jump.eq(1), self.jump_address.eq(target.address), target.eq(loop.body)]
            m.d.sync += [following.eq(target), loop.expert.eq(self.queues.next_expert), loop.left.eq(loop.length)]
            with m.If(~self.queues.next_found):
                m.d.comb += target.eq(behind)
                m.d.sync += loop.active.eq(0)
            m.next = "FETCH"
