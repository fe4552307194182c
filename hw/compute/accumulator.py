# SPDX-License-Identifier: Apache-2.0
"""The accumulator memory: adds up the chunks of a long input, one row of N sums a cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.pipeline import Stages, delay
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.memory.block_memory import BlockMemory


class RowTag(wiring.Signature):
    """A row of the array's sums, as who keeps count of it sees it: where it is added up, and whether it is the `first`
    or the `last` of those that are.
    """

    def __init__(self, config: HardwareConfig) -> None:
        index = layouts.index_shape(config.rows)
        super().__init__({"valid": Out(1), "index": Out(index), "first": Out(1), "last": Out(1)})


class RowSums(wiring.Signature):
    """A row of complete sums, as its source sees it."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"valid": Out(1), "sums": Out(layouts.sums(config))})


class Accumulator(wiring.Component):
    """acc[row.index] = (row.first ? bias : acc[row.index]) + sums, lane by lane; the new value comes out as well when
    `row.last`.

    One memory with one write port and one registered read port; its contents before a `first` are never used.
    REVISIT = LATENCY + 1 (read, choose, add, write back): a row without `first` may come from so many cycles after the
    same index came last; with fewer the sum in flight would be missed. The controller keeps it.

    Ports:
        row (in RowTag): a row of the stream: with `first` its sums start from `bias`, with `last` they are finished.
        sums (in): what is added.
        bias (in): counts only with `first`, in the same cycle.
        out (out RowSums): `valid` LATENCY cycles after a row with `last`; `sums` is the new value of every row.
    Latency: LATENCY = 3 cycles from row to out, a register for each of the STAGES; `memory` is its own.
    Interval: INTERVAL = 1 cycle between rows.
    Format: N signed 48-bit integers, modulo 2^48: the compiler chooses formats that cannot overflow.
    Limits: config.rows indices.
    Twin: `models.numbers.twins.wrap_accumulator` of the sum of all chunks' `models.numbers.twins.matmul`.
    """

    STAGES = Stages("memory", "operand", "sum")
    LATENCY = len(STAGES)
    INTERVAL = 1
    REVISIT = LATENCY + 1

    def __init__(self, config: HardwareConfig):
        self.rows = config.rows
        sums = layouts.sums(config)
        super().__init__(
            {
                "row": In(RowTag(config)),
                "sums": In(sums),
                "bias": In(sums),
                "out": Out(RowSums(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = self.sums.shape()
        m.submodules.memory = memory = BlockMemory(layout.size, self.rows)

        m.d.comb += [memory.read_address.eq(self.row.index), memory.read_enable.eq(self.row.valid)]
        valid = delay(m, self.row.valid, 1, name="valid", reset_less=False)
        first = delay(m, self.row.first, 1, name="first")
        bias = delay(m, self.bias, 1, name="bias")

        operand = Signal(layout, reset_less=True)
        m.d.sync += operand.eq(Mux(first, bias.as_value(), memory.read_data))
        sums = delay(m, self.sums, 2, name="sums")

        for lane in range(layout.length):
            m.d.sync += self.out.sums[lane].eq(operand[lane] + sums[lane])
        valid = delay(m, valid, 2, name="valid", reset_less=False)
        m.d.comb += [
            memory.write_address.eq(delay(m, self.row.index, 3, name="index")),
            memory.write_data.eq(self.out.sums),
            memory.write_enable.eq(valid),
            self.out.valid.eq(valid & delay(m, self.row.last, 3, name="last")),
        ]
        return m
