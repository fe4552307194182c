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
    """The array's next block, as its source sees it: row `index` of it, with `pair` that row and the next one of 8-bit
    weights, low half first (`index` is even), or with `by_column` its column `index`.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "by_column": Out(1),
                "pair": Out(1),
                "index": Out(range(config.lanes)),
                "data": Out(layouts.word(config)),
            }
        )


class ArrayRow(wiring.Component):
    """N cells: sums[j] = above[j] + value * weight[j], with a second set of weights behind the first.

    One row is enough to know what the logic of N of them costs. Written with one vector for the weights, since that
    simulates 1.5 times as fast as a signal a cell.

    Ports:
        value (in): the row's input lane.
        load, load_row (in): all weights of the next block,
        pair (in): of 8 bits, in the half of the word that is this row's: `half`.
        by_column, load_column, load_lane (in): instead, one weight of it: that of the column whose bit is set.
        swap (in): the loaded weights take over in the following cycle.
        above (in): partial sums of the row before, added one cycle after their products' values came.
        sums (out): partial sums of this row.
    Latency: LATENCY = 2 cycles from value to sums: product, sum.
    Interval: INTERVAL = 1 cycle between values.
    Format: value and weights 16-bit signed, sums 48-bit signed, exact.
    Twin: `models.numbers.twins.matmul`, of one input.
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, half: int = 0):
        self.lanes, self.half = config.lanes, half
        sums = layouts.sums(config)
        super().__init__(
            {
                "value": In(signed(WORD_BITS)),
                "load": In(config.lanes * WORD_BITS),
                "load_row": In(1),
                "pair": In(1),
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
            half = self.load.word_select(self.half, n * WORD_BITS // 2)
            narrow = (half.word_select(j, WORD_BITS // 2) for j in range(n))
            extended = Cat(Cat(weight, weight[-1].replicate(WORD_BITS // 2)) for weight in narrow)
            m.d.sync += shadow.eq(Mux(self.pair, extended, self.load))
        with m.If(self.swap):
            m.d.sync += active.eq(shadow)
        for j in range(n):
            product = Signal(signed(2 * WORD_BITS), name=f"product_{j}", reset_less=True)
            total = Signal(signed(ACCUMULATOR_BITS), name=f"sum_{j}", reset_less=True)
            m.d.sync += [product.eq(self.value * active[lane[j]].as_signed()), total.eq(self.above[j] + product)]
            m.d.comb += self.sums[j].eq(total)
        return m


class Array(wiring.Component):
    """sums[j] = sum over k of stream.data[k] * weight[k][j]: one word in and N sums out each cycle, N = config.lanes.

    Cell: shadow weight, active weight, product and sum are one register each (B1, B2, M and P of a DSP48E2, the input
    register before the multiplier being A); the sum enters from the row above (the DSP cascade).

    Loading while streaming: row k takes its new weights k cycles after row 0. So, for a swap word presented in cycle t,
    the write of cell (k, j) belongs to the block that starts at t if it is presented in cycle t + k - 1 or earlier, and
    to the block after it from cycle t + k on:

    * all loads presented up to cycle t - 1 count, and row k still may come in cycle t + k - 1;
    * a load of row k is safe for the next block from cycle t + k on: rows in order, one a cycle, starting in cycle t or
      later, run beside the block without a bubble, and a block of N words hides the loading of the next one completely;
    * a load of a pair of rows overtakes the wave, two rows a cycle: pairs in order, one a cycle, are safe from cycle
      t + N/2 on, so that blocks of N/2 + 1 words hide each other's loading;
    * a load of a column touches every row: it is safe for the next block from cycle t + N - 1 on.

    Ports:
        stream (in ArrayStream): a word of N inputs; with `swap` it is the first of a block: the weights loaded since
            the last swap take over as it enters, row after row. Words without `valid` flow through alike, and whoever
            counts cycles ignores their sums.
        load (in ArrayLoad): writes one row (weight[index][j] = data[j]), two rows of 8-bit weights (half h of data is
            row index + h) or one column (weight[k][index] = data[k]) of the next block.
        sums (out): N sums of the word presented LATENCY cycles before.
    Latency: LATENCY = lanes + 3 cycles from stream to sums: two registers before row 0, lanes - 1 from there to the
        last row, product, sum.
    Interval: INTERVAL = 1 cycle between words, and between loads: never a stall.
    Format: inputs and weights 16-bit signed, sums 48-bit signed; exact while |sum| < 2^47, which 2^16 products of
        full-scale numbers reach no sooner than N = 2^17.
    Twin: `models.numbers.twins.matmul`.
    """

    INTERVAL = 1

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
        load_row, load_column, by_column, pair = Signal(n), Signal(n), Signal(), Signal()
        m.d.sync += [
            load_row.eq(Mux(self.load.by_column, 0, selected | Mux(self.load.pair, selected << 1, 0))),
            pair.eq(self.load.pair),
            load_column.eq(Mux(self.load.by_column, selected, 0)),
            by_column.eq(self.load.valid & self.load.by_column),
        ]
        load = delay(m, self.load.data, 1, name="load")
        lane_load = delay(m, self.load.data, 1, name="lane_load")
        swap = Signal(n)  # bit k: the first word of a block is at row k
        m.d.sync += swap.eq(Cat(self.stream.valid & self.stream.swap, swap[:-1]))

        above = Const(0, layouts.sums(self.config).size)
        for k in range(n):
            m.submodules[f"row_{k}"] = row = ArrayRow(self.config, k % 2)
            m.d.comb += [
                row.value.eq(delay(m, self.stream.data[k], k + 2, name=f"stream_{k}")),
                row.load.eq(load),
                row.load_row.eq(load_row[k]),
                row.pair.eq(pair),
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
