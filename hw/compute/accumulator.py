# SPDX-License-Identifier: Apache-2.0
"""The accumulator memory: adds up the chunks of a long input, one row of N sums a cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.pipeline import delay
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.memory.block_memory import BlockMemory


class Accumulator(wiring.Component):
    """acc[index] = (bias if first else acc[index]) + sums, lane by lane; the new value comes out as well when `last`.

    Ports
    -----
    valid, index, first, last, sums, bias : one row of the stream; `bias` counts only with `first`, in the same cycle.
    out_valid, out_sums : LATENCY cycles after a row with `last`.

    LATENCY = 3 cycles, one row a cycle. REVISIT = 4: a row with `first` low may come from 4 cycles after the same index
    came last (read, choose, add, write back); with fewer the sum in flight would be missed. The controller keeps it.

    Number format: N signed 48-bit integers, modulo 2^48: the compiler chooses formats that cannot overflow.
    Limits: config.rows indices. Memory: one write port, one registered read port; contents before a `first` are never
    used.

    Twin: the accumulation in `models.numbers.twins`.
    """

    LATENCY = 3
    REVISIT = 4

    def __init__(self, config: HardwareConfig):
        self.rows = config.rows
        sums = layouts.sums(config)
        super().__init__(
            {
                "valid": In(1),
                "index": In(layouts.index_shape(config.rows)),
                "first": In(1),
                "last": In(1),
                "sums": In(sums),
                "bias": In(sums),
                "out_valid": Out(1),
                "out_sums": Out(sums),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = self.sums.shape()
        m.submodules.memory = memory = BlockMemory(layout.size, self.rows)

        m.d.comb += [memory.read_address.eq(self.index), memory.read_enable.eq(self.valid)]
        valid = delay(m, self.valid, 1, name="valid", reset_less=False)
        first = delay(m, self.first, 1, name="first")
        bias = delay(m, self.bias, 1, name="bias")

        operand = Signal(layout, reset_less=True)
        m.d.sync += operand.eq(Mux(first, bias.as_value(), memory.read_data))
        sums = delay(m, self.sums, 2, name="sums")

        for lane in range(layout.length):
            m.d.sync += self.out_sums[lane].eq(operand[lane] + sums[lane])
        valid = delay(m, valid, 2, name="valid", reset_less=False)
        m.d.comb += [
            memory.write_address.eq(delay(m, self.index, 3, name="index")),
            memory.write_data.eq(self.out_sums),
            memory.write_enable.eq(valid),
            self.out_valid.eq(valid & delay(m, self.last, 3, name="last")),
        ]
        return m
