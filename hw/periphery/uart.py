# SPDX-License-Identifier: Apache-2.0
"""Bytes on a serial line, 8N1: one start bit (low), eight data bits with the lowest first, one stop bit (high)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

LEAST_CYCLES = 4  # of a bit: fewer leave no middle to sample
FRAME_BITS = 10


def _checked(cycles_per_bit: int) -> int:
    if cycles_per_bit < LEAST_CYCLES:
        raise ValueError(f"a bit must last at least {LEAST_CYCLES} cycles, not {cycles_per_bit}")
    return cycles_per_bit


class UartReceiver(wiring.Component):
    """Line to bytes.

    A byte that is not taken before the next one is complete stays, and the new one is dropped; one without a stop bit
    is dropped, and the line must be high again before another begins. Every bit is sampled in its middle, so the
    sender's clock may be off by 4 % (one bit of four cycles: 2 %).

    Ports:
        line (in): idle high, synchronised here.
        bytes (out stream): what was received.
        overrun (out): pulse: a byte was dropped for want of room.
    Latency: LATENCY = 3 cycles from the middle of the stop bit to `bytes.valid`, the synchroniser's two included.
    Interval: none (the line's: a byte in ten bits).
    Limits: cycles_per_bit is at least LEAST_CYCLES.
    Twin: none (no arithmetic).
    """

    LATENCY = 3

    def __init__(self, cycles_per_bit: int):
        self.cycles_per_bit = _checked(cycles_per_bit)
        super().__init__({"line": In(1, init=1), "bytes": Out(stream.Signature(8)), "overrun": Out(1)})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.line, line, init=1)
        left = Signal(range(2 * self.cycles_per_bit))  # cycles to the next sample
        bits = Signal(range(FRAME_BITS))  # data bits and stop bit still to come
        shift = Signal(8)

        m.d.sync += self.overrun.eq(0)
        with m.If(self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [left.eq(self.cycles_per_bit + (self.cycles_per_bit - 1) // 2), bits.eq(FRAME_BITS - 2)]
                with m.If(~line):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 1):
                    m.d.sync += [left.eq(self.cycles_per_bit), bits.eq(bits - 1)]
                    with m.If(bits != 0):
                        m.d.sync += shift.eq(Cat(shift[1:], line))
                    with m.Elif(line):
                        with m.If(~self.bytes.valid | self.bytes.ready):
                            m.d.sync += [self.bytes.valid.eq(1), self.bytes.payload.eq(shift)]
                        with m.Else():
                            m.d.sync += self.overrun.eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "BROKEN"
            with m.State("BROKEN"):
                with m.If(line):
                    m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to line, without a gap while bytes are there.

    Ports:
        bytes (in stream): what is to be sent.
        line (out): idle high, from a register.
    Latency: LATENCY = 1 cycle from the taking of a byte to its start bit.
    Interval: INTERVAL = 10 * cycles_per_bit cycles between bytes.
    Limits: cycles_per_bit is at least LEAST_CYCLES.
    Twin: none (no arithmetic).
    """

    LATENCY = 1

    def __init__(self, cycles_per_bit: int):
        self.cycles_per_bit = _checked(cycles_per_bit)
        self.INTERVAL = FRAME_BITS * cycles_per_bit
        super().__init__({"bytes": In(stream.Signature(8)), "line": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self.cycles_per_bit))
        bits = Signal(range(FRAME_BITS + 1))  # bits not yet begun or under way
        shift = Signal(FRAME_BITS - 1, init=(1 << FRAME_BITS - 1) - 1)
        over = left == 0
        m.d.comb += self.bytes.ready.eq((bits == 0) | (bits == 1) & over)
        with m.If(bits != 0):
            m.d.sync += left.eq(Mux(over, self.cycles_per_bit - 1, left - 1))
            with m.If(over):
                m.d.sync += [self.line.eq(shift[0]), shift.eq(Cat(shift[1:], Const(1))), bits.eq(bits - 1)]
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += [
                self.line.eq(0),
                shift.eq(Cat(self.bytes.payload, Const(1))),
                bits.eq(FRAME_BITS),
                left.eq(self.cycles_per_bit - 1),
            ]
        return m
