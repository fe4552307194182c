# SPDX-License-Identifier: Apache-2.0
"""Instruction fetch, ahead of need."""

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS, INSTRUCTION
from edgemoe.hw.memory.axi import Failure, ReadClient

AHEAD = 2  # instructions fetched and not taken


class Fetch(wiring.Component):
    """Instructions from a jump address on, in order, as a stream; up to two stand ready or are under way.

    Two instructions behind the last one wanted are read: that memory must exist, but may hold anything (or fail).

    Ports:
        jump, pc (in): start, or go on, at linear byte offset `pc` (a multiple of 64): whatever was fetched before is
            dropped.
        instruction (out stream): instructions.
        failure (out Failure): an instruction that is wanted (ready) could not be read; it is never shown. `address` is
            always that of the instruction that `instruction` shows or will show next.
        read (out ReadClient): to the Reader, whose client must be given CAPACITY beats.
        stop (in): forgets everything; hold until the Reader is idle, then jump.
    Latency: LATENCY = 2 cycles from an instruction's last beat to `instruction`; 2 from `jump` to a request.
    Interval: none (the bus's).
    Limits: AHEAD instructions fetched and not taken.
    Twin: none (no arithmetic).
    """

    LATENCY = 2

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.beats = INSTRUCTION_BYTES // config.bus_bytes
        self.CAPACITY = AHEAD * self.beats
        super().__init__(
            {
                "jump": In(1),
                "pc": In(DRAM_OFFSET_BITS),
                "instruction": Out(stream.Signature(INSTRUCTION)),
                "failure": Out(Failure()),
                "read": Out(ReadClient(config)),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> ResetInserter:
        m = Module()
        read, address = self.read, self.failure.address
        running = Signal()
        next_address = Signal(DRAM_OFFSET_BITS)
        wanted = Signal(range(AHEAD + 1))  # asked for since the jump, and not taken
        pending = Signal(range(2 * AHEAD + 1))  # asked for, and not arrived
        obsolete = Signal(range(2 * AHEAD + 1))  # the first ones of those: from before the jump
        assembly, assembled, assembly_fault = Signal(8 * INSTRUCTION_BYTES, reset_less=True), Signal(), Signal()
        shown, shown_fault = Signal(), Signal()

        arrives = read.valid & read.last
        leaves = shown & self.instruction.ready & ~shown_fault
        moves = assembled & (~shown | leaves)
        asks = running & ~self.jump & ~read.request.valid & (wanted < AHEAD) & (pending < 2 * AHEAD)
        m.d.comb += [
            self.instruction.valid.eq(shown & ~shown_fault),
            self.failure.valid.eq(shown & shown_fault & self.instruction.ready),
            read.release.eq(read.valid),  # every instruction asked for has its place here
        ]
        with m.If(read.request.ready):
            m.d.sync += read.request.valid.eq(0)
        with m.If(asks):
            m.d.sync += [
                read.request.valid.eq(1),
                read.request.p.address.eq(next_address),
                read.request.p.beats.eq(self.beats),
                next_address.eq(next_address + INSTRUCTION_BYTES),
            ]
        m.d.sync += [
            wanted.eq(wanted + asks - leaves),
            pending.eq(pending + asks - arrives),
            obsolete.eq(Mux(arrives & (obsolete != 0), obsolete - 1, obsolete)),
        ]
        first = Signal(init=1)  # the next beat is an instruction's first
        with m.If(read.valid):
            m.d.sync += [
                assembly.eq(Cat(assembly, read.data)[len(read.data) :]),
                assembly_fault.eq(read.fault | assembly_fault & ~first),
                first.eq(read.last),
            ]
        with m.If(moves):
            m.d.sync += [self.instruction.p.as_value().eq(assembly), shown_fault.eq(assembly_fault), assembled.eq(0)]
        m.d.sync += shown.eq(moves | shown & ~leaves)
        with m.If(arrives & (obsolete == 0)):
            m.d.sync += assembled.eq(1)
        with m.If(leaves):
            m.d.sync += address.eq(address + INSTRUCTION_BYTES)
        with m.If(self.jump):
            m.d.sync += [
                running.eq(1),
                next_address.eq(self.pc),
                address.eq(self.pc),
                wanted.eq(0),
                obsolete.eq(pending - arrives),
                assembled.eq(0),
                shown.eq(0),
            ]
        return ResetInserter(self.stop)(m)
