# SPDX-License-Identifier: Apache-2.0
"""The one multiplier array of the accelerator: weight-stationary, N x N, with a second set of weights behind the
first.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.pipeline import delay
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, WORD_BITS, HardwareConfig


class ArrayStream(wiring.Signature):
    """The words that the array multiplies, as their source sees them: with `swap` a word is the first of a block."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"valid": Out(1), "swap": Out(1), "data": Out(layouts.word(config))})


class ArrayLoad(wiring.Signature):
    """The array's next block, as its source sees it: row `index` of it, or with `by_column` its column `index`."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "by_column": Out(1),
                "index": Out(range(config.lanes)),
                "data": Out(layouts.word(config)),
            }
        )


class ArrayRow(wiring.Component):
    """N cells: sums[j] of the row above + value * weight[j].

    Ports: `value`, the row's input lane; `load` with `load_row` (all its weights) or with `by_column` and `load_column`
    (one weight, from `load_lane`): the next block's weights; `swap`: they take over in the following cycle; `above`,
    `sums`: partial sums in and out. A product is in `sums` two cycles after its value; `above` is added in the second.
    Twin: that of `Array`, whose rows are all alike: one of them is enough to know what the logic of N of them costs.
    """

    def __init__(self, config: HardwareConfig):
        self.lanes = config.lanes
        sums = layouts.sums(config)
        super().__init__(
            {
                "value": In(signed(WORD_BITS)),
                "load": In(config.lanes * WORD_BITS),
                "load_row": In(1),
                "by_column": In(1),
                "load_column": In(config.lanes),
                "load_lane": In(WORD_BITS),
                "swap": In(1),
                "above": In(sums),
                "sums": Out(sums),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n = self.lanes
        shadow, active = Signal(n * WORD_BITS, reset_less=True), Signal(n * WORD_BITS, reset_less=True)
        lane = [slice(j * WORD_BITS, (j + 1) * WORD_BITS) for j in range(n)]
        with m.If(self.by_column):
            for j in range(n):
                with m.If(self.load_column[j]):
                    m.d.sync += shadow[lane[j]].eq(self.load_lane)
        with m.Elif(self.load_row):
            m.d.sync += shadow.eq(self.load)
        with m.If(self.swap):
            m.d.sync += active.eq(shadow)
        for j in range(n):
            product = Signal(signed(2 * WORD_BITS), name=f"product_{j}", reset_less=True)
            total = Signal(signed(ACCUMULATOR_BITS), name=f"sum_{j}", reset_less=True)
            m.d.sync += [product.eq(self.value * active[lane[j]].as_signed()), total.eq(self.above[j] + product)]
            m.d.comb += self.sums[j].eq(total)
        return m


class Array(wiring.Component):
    """sums[j] = sum over k of stream.data[k] * weight[k][j], one word in and N sums out each cycle, N = config.lanes.

    Ports
    -----
    stream : a word is presented; with `swap` it is the first of a block: the weights loaded since the last swap take
        over as this word enters, row after row. `data`: N signed 16-bit inputs. Words without `valid` flow through
        alike, and whoever counts cycles ignores their sums.
    load : writes one row (weight[index][j] = data[j]) or one column (weight[k][index] = data[k]) of the next block.
    sums : N signed 48-bit sums of the word presented LATENCY cycles earlier.

    LATENCY = N + 3 cycles; one word and one load a cycle, never a stall.

    Loading while streaming
    -----------------------
    Row k takes its new weights k cycles after row 0. So, for a swap word presented in cycle t, the write of cell (k, j)
    belongs to the block that starts at t if it is presented in cycle t + k - 1 or earlier, and to the block after it
    from cycle t + k on:

    * all loads presented up to cycle t - 1 count, and row k still may come in cycle t + k - 1;
    * a load of row k is safe for the next block from cycle t + k on: rows in order, one a cycle, starting in cycle t or
      later, run beside the block without a bubble, and a block of N words hides the loading of the next one completely;
    * a load of a column touches every row: it is safe for the next block from cycle t + N - 1 on.

    Number format: integers; exact while |sum| < 2^47, which 2^16 products of full-scale numbers reach no sooner than N
    = 2^17. Cell: shadow weight, active weight, product and sum are one register each (B1, B2, M and P of a DSP48E2, the
    input register before the multiplier being A); the sum enters from the row above (the DSP cascade).
    Written with one vector a row for the weights, since that simulates 1.5 times as fast as a signal a cell.

    Twin: `x.astype(int64) @ block` in `models.numbers.twins`.
    """

    def __init__(self, config: HardwareConfig):
        self.config, self.lanes = config, config.lanes
        self.LATENCY = config.lanes + 3
        super().__init__(
            {
                "stream": In(ArrayStream(config)),
                "load": In(ArrayLoad(config)),
                "sums": Out(layouts.sums(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n = self.lanes

        # The inputs are registered: they fan out to n or n * n cells, a loaded word by rows and once more by columns.
        selected = Mux(self.load.valid, 1 << self.load.index, 0)[:n]
        load_row, load_column, by_column = Signal(n), Signal(n), Signal()
        m.d.sync += [
            load_row.eq(Mux(self.load.by_column, 0, selected)),
            load_column.eq(Mux(self.load.by_column, selected, 0)),
            by_column.eq(self.load.valid & self.load.by_column),
        ]
        load = delay(m, self.load.data, 1, name="load")
        lane_load = delay(m, self.load.data, 1, name="lane_load")
        swap = Signal(n)  # bit k: the first word of a block is at row k
        m.d.sync += swap.eq(Cat(self.stream.valid & self.stream.swap, swap[:-1]))

        above = Const(0, layouts.sums(self.config).size)
        for k in range(n):
            m.submodules[f"row_{k}"] = row = ArrayRow(self.config)
            m.d.comb += [
                row.value.eq(delay(m, self.stream.data[k], k + 2, name=f"stream_{k}")),
                row.load.eq(load),
                row.load_row.eq(load_row[k]),
                row.by_column.eq(by_column),
                row.load_column.eq(load_column),
                row.load_lane.eq(lane_load[k]),
                row.swap.eq(swap[k]),
                row.above.as_value().eq(above),
            ]
            above = row.sums.as_value()
        # Column j leaves row n - 1 at the same time in all columns: only the rows are skewed.
        m.d.comb += self.sums.as_value().eq(above)
        return m
