# SPDX-License-Identifier: Apache-2.0
"""The prefetch memory as a queue whose reader decides late in the cycle."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.memory.block_memory import BlockMemory


class ElementQueue(wiring.Component):
    """A queue of `depth` elements of `width` bits in block RAM, whose output register shows the oldest one.

    Why not `amaranth.lib.fifo`: whether an element leaves is known late, and there its level is counted behind that.
    Here both outcomes are made, and it only chooses.

    Ports:
        arriving, element (in): an element enters in this cycle. There must be room: whoever asks for it keeps count.
        valid, oldest (out): the oldest element.
        leaves (in): it leaves in this cycle; counts only with `valid`.
    Latency: LATENCY = 2 cycles from arriving to valid.
    Interval: INTERVAL = 1 cycle between elements, on both sides.
    Limits: `depth` elements, the one that shows besides.
    Twin: none (no arithmetic).
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth = width, depth
        super().__init__(
            {
                "arriving": In(1),
                "element": In(width),
                "valid": Out(1),
                "oldest": Out(width),
                "leaves": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = BlockMemory(self.width, self.depth)
        stored, waiting = Signal(range(self.depth + 1)), Signal()  # not shown yet; whether there are any
        written, read = Signal(range(self.depth)), Signal(range(self.depth))
        advance, more, fewer = Signal(), Signal.like(stored), Signal.like(stored)
        m.d.comb += [
            advance.eq(waiting & (~self.valid | self.leaves)),
            more.eq(stored + self.arriving),
            fewer.eq(stored - ~self.arriving),
            memory.write_enable.eq(self.arriving),
            memory.write_address.eq(written),
            memory.write_data.eq(self.element),
            memory.read_enable.eq(advance),
            memory.read_address.eq(read),
            self.oldest.eq(memory.read_data),
        ]
        m.d.sync += [
            stored.eq(Mux(advance, fewer, more)),
            waiting.eq(Mux(advance, fewer.any(), more.any())),
        ]
        with m.If(self.arriving):
            m.d.sync += written.eq(Mux(written == self.depth - 1, 0, written + 1))
        with m.If(advance):
            m.d.sync += [self.valid.eq(1), read.eq(Mux(read == self.depth - 1, 0, read + 1))]
        with m.Elif(self.leaves):
            m.d.sync += self.valid.eq(0)
        return m


__all__ = ["ElementQueue"]
