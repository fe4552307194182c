# SPDX-License-Identifier: Apache-2.0
"""The accumulator memory: adds up the chunks of a long input, one row of N sums a cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.memory.block_memory import BlockMemory
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.words import PACKED_SUM_BITS

LONGEST = 36  # places of an addition through which its carry goes in a cycle


class RowTag(wiring.Signature):
    """A row of the array's sums, as who keeps count of it sees it: where it is added up, and whether it is the `first`
    or the `last` of those that are. Where products are packed: whether these are, and what `layouts.tag` says.
    """

    def __init__(self, config: HardwareConfig) -> None:
        index = layouts.index_shape(config.rows)
        more = {name: Out(1) for name in ("packed", "emits", "high", "flush")} if config.packed else {}
        super().__init__({"valid": Out(1), "index": Out(index), "first": Out(1), "last": Out(1), **more})


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

    Packed rows are two sums of 24 bits a lane. `row.emits`, and not `last`, says which rows come out: the lower sums,
    or with `row.high` the upper ones that were there before; `row.flush` adds nothing. Sums then start from 0.

    Ports:
        row (in RowTag): a row of the stream: with `first` its sums start from `bias`, with `last` they are finished.
        sums (in): what is added.
        bias (in): counts only with `first`, in the same cycle; not there where products are packed.
        out (out RowSums): `valid` LATENCY cycles after a row with `last`; `sums` is the new value of every row.
    Latency: LATENCY = 3 cycles from row to out, a register for each of the STAGES; `memory` is its own.
    Interval: INTERVAL = 1 cycle between rows.
    Format: N signed 48-bit integers, modulo 2^48: the compiler chooses formats that cannot overflow.
    Limits: config.rows indices.
    Twin: `models.numbers.twins.wrap_accumulator` of the sum of all chunks' `models.numbers.twins.matmul`; packed
        `models.numbers.twins.packed_matmul`.
    """

    STAGES = Stages("memory", "operand", "sum")
    LATENCY = len(STAGES)
    INTERVAL = 1
    REVISIT = LATENCY + 1

    def __init__(self, config: HardwareConfig):
        self.rows, self.packed = config.rows, config.packed
        sums = layouts.sums(config)
        super().__init__(
            {
                "row": In(RowTag(config)),
                "sums": In(sums),
                **({} if config.packed else {"bias": In(sums)}),
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
        if self.packed:
            self._packed(m, memory, valid, first)
            return m
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

    def _packed(self, m: Module, memory: BlockMemory, valid: Signal, first: Signal) -> None:
        """The same with two sums a lane, if the row has them."""
        layout, row, bits = self.sums.shape(), self.row, PACKED_SUM_BITS
        operand, held, before = (Signal(layout, name=name, reset_less=True) for name in ("operand", "held", "before"))
        total = Signal(layout, reset_less=True)
        packed, sums = delay(m, row.packed, 2, name="packed"), delay(m, self.sums, 2, name="sums")
        m.d.sync += [
            operand.eq(Mux(first, 0, memory.read_data)),
            held.as_value().eq(memory.read_data),
            before.eq(held),
        ]
        emitted_packed, high = delay(m, packed, 1, name="emitted"), delay(m, row.high, 3, name="high")
        for lane in range(layout.length):
            mine, more = operand[lane].as_unsigned(), sums[lane].as_unsigned()
            # A place between the two sums stops the carry, or hands it on; above LONGEST both outcomes are made.
            lower = Signal(LONGEST + 2, name=f"lower_{lane}")
            m.d.comb += lower.eq(
                Cat(mine[:bits], ~packed, mine[bits:LONGEST]) + Cat(more[:bits], 0, more[bits:LONGEST])
            )
            upper, carried = (Cat(c, mine[LONGEST:]) + Cat(c, more[LONGEST:]) for c in (0, 1))
            m.d.sync += total[lane].eq(
                Cat(lower[:bits], lower[bits + 1 : -1], Mux(lower[-1], carried, upper)[1 : len(mine) - LONGEST + 1])
            )
            lower, upper = total[lane].as_unsigned()[:bits].as_signed(), before[lane].as_unsigned()[bits:].as_signed()
            m.d.comb += self.out.sums[lane].eq(Mux(high, upper, Mux(emitted_packed, lower, total[lane])))
        valid = delay(m, valid, 2, name="valid", reset_less=False)
        m.d.comb += [
            memory.write_address.eq(delay(m, row.index, 3, name="index")),
            memory.write_data.eq(total),
            memory.write_enable.eq(valid & ~delay(m, row.flush, 3, name="flush")),
            self.out.valid.eq(valid & delay(m, row.emits, 3, name="emits")),
        ]
