# SPDX-License-Identifier: Apache-2.0
"""The one multiplier array of the accelerator: weight-stationary, R x N, with a second set of weights behind the
first.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.slice_row import SliceRow
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, WORD_BITS, HardwareConfig
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers.words import FINE_BITS, PACKED_BITS, PACKED_CHAIN, PACKED_SUM_BITS

OPERAND_BITS = FINE_BITS  # the wide side of a DSP48E2 holds two weights


class ArrayStream(wiring.Signature):
    """What the array multiplies, as its source sees it: a word, or two; with `swap` they are the first of a block.
    `data` come a cycle later than what else is told of them.
    """

    def __init__(self, config: HardwareConfig) -> None:
        packed = {"packed": Out(1)} if config.packed else {}
        super().__init__({"valid": Out(1), "swap": Out(1), "data": Out(layouts.inputs(config)), **packed})


class ArrayLoad(wiring.Signature):
    """The array's next block, as its source sees it: row `index` of it, with `pair` that row and the next one of 8-bit
    weights, low half first (`index` is even), or with `by_column` its column `index`; from `index` N on, of the rows
    from N on. `packed`: a row of pairs of weights, as `weight_stream` has them.
    """

    def __init__(self, config: HardwareConfig) -> None:
        packed = {"packed": Out(1)} if config.packed else {}
        super().__init__(
            {
                "valid": Out(1),
                "by_column": Out(1),
                "pair": Out(1),
                "index": Out(range(config.inputs)),
                "data": Out(layouts.word(config)),
                **packed,
            }
        )


class ArrayRow(wiring.Component):
    """N cells: sums[j] = above[j] + value * weight[j], with a second set of weights behind the first.

    One row is enough to know what the logic of N of them costs. Written with one vector for the weights, since that
    simulates 1.5 times as fast as a signal a cell.

    Ports:
        value (in): the row's input lane.
        load, load_row (in): all weights of the next block,
        pair (in): of 8 bits, in the half of the word that is this row's: `half`. On a build with packed products the
            word has been widened to operands before.
        by_column, load_column, load_lane (in): instead, one weight of it: that of the column whose bit is set.
        swap (in): the loaded weights take over in the following cycle.
        above (in): partial sums of the row before, added one cycle after their products' values came.
        sums (out): partial sums of this row.
    Latency: LATENCY = 2 cycles from value to sums: product, sum.
    Interval: INTERVAL = 1 cycle between values.
    Format: value and weights 16-bit signed, sums 48-bit signed, exact; weights of 27 bits where products are packed.
    Twin: `models.numbers.twins.matmul`, of one input.
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, half: int = 0):
        self.lanes, self.half, self.packed = config.lanes, half, config.packed
        self.bits = bits = OPERAND_BITS if config.packed else WORD_BITS
        shadow, active = Signal(config.lanes * bits, reset_less=True), Signal(config.lanes * bits, reset_less=True)
        self.shadow, self.active = shadow, active
        sums = layouts.sums(config)
        super().__init__(
            {
                "value": In(signed(WORD_BITS)),
                "load": In(config.lanes * bits),
                "load_row": In(1),
                **({} if config.packed else {"pair": In(1)}),
                "by_column": In(1),
                "load_column": In(config.lanes),
                "load_lane": In(bits),
                "swap": In(1),
                "above": In(sums),
                "sums": Out(sums),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n, bits, shadow, active = self.lanes, self.bits, self.shadow, self.active
        lane = [slice(j * bits, (j + 1) * bits) for j in range(n)]
        with m.If(self.by_column):
            for j in range(n):
                with m.If(self.load_column[j]):
                    m.d.sync += shadow[lane[j]].eq(self.load_lane)
        with m.Elif(self.load_row):
            m.d.sync += shadow.eq(
                self.load if self.packed else Mux(self.pair, half_of(self.load, self.half), self.load)
            )
        with m.If(self.swap):
            m.d.sync += active.eq(shadow)
        for j in range(n):
            product = Signal(signed(WORD_BITS + bits), name=f"product_{j}", reset_less=True)
            total = Signal(signed(ACCUMULATOR_BITS), name=f"sum_{j}", reset_less=True)
            m.d.sync += [product.eq(self.value * active[lane[j]].as_signed()), total.eq(self.above[j] + product)]
            m.d.comb += self.sums[j].eq(total)
        return m


def half_of(word: Value, half: int, bits: int = WORD_BITS) -> Value:
    """The 8-bit weights in a half of a word, as `bits` bits each."""
    narrow = word.word_select(half, len(word) // 2)
    weights = (narrow.word_select(j, WORD_BITS // 2) for j in range(len(word) // WORD_BITS))
    return Cat(Cat(weight, weight[-1].replicate(bits - WORD_BITS // 2)) for weight in weights)


def operands(load: Value, half: int) -> Value:
    """A loaded word as the multipliers of a row take it: weights of 16 bits, or of 8 in the word's half. If products
    are packed, 27 bits for each of them, or for a pair, the second 2^19 times as much as the first.
    """
    word = Value.cast(load.data)
    if "packed" not in load.signature.members:
        return Mux(load.pair, half_of(word, half), word)
    weights = [word.word_select(j, WORD_BITS) for j in range(len(word) // WORD_BITS)]
    pairs = Cat(
        Cat(w[:8], w[7].replicate(PACKED_BITS - 8), w[8:], w[15].replicate(OPERAND_BITS - PACKED_BITS - 8))
        for w in weights
    )
    whole = Cat(Cat(w, w[15].replicate(OPERAND_BITS - WORD_BITS)) for w in weights)
    return Mux(load.packed, pairs, Mux(load.pair, half_of(word, half, OPERAND_BITS), whole))


class Array(wiring.Component):
    """sums[j] = sum over k of stream.data[k] * weight[k][j]: R inputs in and N sums out each cycle, R = config.inputs,
    N = config.lanes.

    Cell: shadow weight, active weight, product and sum are one register each; the sum enters from the row above.
    Elaborated for a `DspSlice`, a cell is such a slice (`SliceRow`).

    Loading while streaming: row k takes its new weights k cycles after row 0. So, for a swap word presented in cycle t,
    the write of cell (k, j) belongs to the block that starts at t if it is presented in cycle t + k - 1 or earlier, and
    to the block after it from cycle t + k on:

    * all loads presented up to cycle t - 1 count, and row k still may come in cycle t + k - 1;
    * a load of row k is safe for the next block from cycle t + k on: rows in order, one a cycle, starting in cycle t or
      later, run beside the block without a bubble, and a block of R words hides the loading of the next one completely;
    * a load of a pair of rows overtakes the wave, two rows a cycle: pairs in order, one a cycle, are safe from cycle
      t + R/2 on, so that blocks of R/2 + 1 words hide each other's loading; where products are packed, the rows from
      R/2 on take what is loaded a cycle later (so that row k must be presented in cycle t + k - 2 or earlier), pairs
      are safe from cycle t + R/2 - 1 on, and R/2 words do;
    * a load of a column touches N rows: it is safe for the next block from cycle t + N - 1 on, in the rows from N on N
      cycles later.

    Packed (`stream.packed`, inputs of 9 bits, blocks of pairs): two products a cell. A chain of 16 rows ends with the
    lower sum taken out, and the upper one goes on; sums[j] then holds both, the lower one in its lower half, 24 bits
    each.

    Ports:
        stream (in ArrayStream): R inputs, a cycle behind the rest; with `swap` they are the first of a block: the
            weights loaded since the last swap take over as it enters, row after row. Words without `valid` flow through
            alike, and whoever counts cycles ignores their sums.
        load (in ArrayLoad): writes one row (weight[index][j] = data[j]), two rows of 8-bit weights (half h of data is
            row index + h) or N rows of a column (weight[k][index] = data[k]) of the next block.
        sums (out): N sums of the word presented LATENCY cycles before.
    Latency: LATENCY = inputs + 3 cycles from stream to sums: two registers before row 0, inputs - 1 from there to the
        last row, product, sum; one more where products are packed, to take sums apart.
    Interval: INTERVAL = 1 cycle between words, and between loads: never a stall.
    Format: inputs and weights 16-bit signed, sums 48-bit signed; exact while |sum| < 2^47, which 2^16 products of
        full-scale numbers reach no sooner than N = 2^17.
    Twin: `models.numbers.twins.matmul`; packed `models.numbers.twins.packed_matmul`.
    """

    INTERVAL = 1

    def __init__(self, config: HardwareConfig):
        self.config, self.lanes, self.rows = config, config.lanes, config.inputs
        self.LATENCY = self.rows + 3 + config.packed
        super().__init__(
            {
                "stream": In(ArrayStream(config)),
                "load": In(ArrayLoad(config)),
                "sums": Out(layouts.sums(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n, rows, packed = self.lanes, self.rows, self.config.packed
        slices = platform if isinstance(platform, DspSlice) and platform.holds(self.config) else None

        # Loads are registered: they fan out to a row or all cells, by rows and once more by columns.
        selected = Mux(self.load.valid, 1 << self.load.index, 0)[:rows]
        load_row, load_column, by_column, pair = Signal(rows), Signal(rows), Signal(), Signal()
        m.d.sync += [
            load_row.eq(Mux(self.load.by_column, 0, selected | Mux(self.load.pair, selected << 1, 0))),
            *(() if slices else (pair.eq(self.load.pair),)),
            load_column.eq(Mux(self.load.by_column, selected, 0)),
            *(() if slices else (by_column.eq(self.load.valid & self.load.by_column),)),
        ]
        if packed or slices:
            loads = [delay(m, operands(self.load, half), 1, name=f"load_{half}") for half in range(2)]
        else:
            loads = [delay(m, self.load.data, 1, name="load")]
        lane_load = delay(m, self.load.data, 1, name="lane_load")
        loading = (load_row, load_column, by_column, pair, lane_load, *loads)
        later = [delay(m, signal, packed, name=f"late_{number}") for number, signal in enumerate(loading)]
        swap = Signal(rows)  # bit k: the first word of a block is at row k
        m.d.sync += swap.eq(Cat(self.stream.valid & self.stream.swap, swap[:-1]))

        above = cascade = Const(0, layouts.sums(self.config).size)
        lower = []
        for k in range(rows):
            row = SliceRow(self.config, slices, k) if slices else ArrayRow(self.config, k % 2)
            begins = packed and k and k % PACKED_CHAIN == 0
            if begins:
                above, low = self._chain_end(m, above, k, Const(1) if slices else self._packed_at(m, k + 3))
                lower.append(low)
            if k == rows // 2:
                load_row, load_column, by_column, pair, lane_load, *loads = later
            m.submodules[f"row_{k}"] = row
            m.d.comb += [
                row.value.eq(delay(m, self.stream.data[k], k + 3 - row.LATENCY, name=f"stream_{k}")),
                row.load.eq(loads[k % len(loads)]),
                row.load_row.eq(load_row[k]),
                *(() if packed or slices else (row.pair.eq(pair),)),
                *(() if slices else (row.by_column.eq(by_column),)),
                row.load_column.eq(load_column.word_select(k // n, n)),
                row.load_lane.eq(lane_load[k % n]),
                row.swap.eq(swap[k]),
            ]
            if slices:
                m.d.comb += row.cascade.as_value().eq(cascade)
                cascade = row.cascade_out.as_value()
                if begins:
                    m.d.comb += row.restart.eq(self._packed_at(m, k + 2))
            if begins or not slices:
                m.d.comb += row.above.as_value().eq(above)
            above = row.sums.as_value()
        # Column j leaves the last row at the same time in all columns: only the rows are skewed.
        if packed:
            self._recover(m, above, lower)
        else:
            m.d.comb += self.sums.as_value().eq(above)
        return m

    def _packed_at(self, m: Module, cycles: int) -> Signal:
        """Whether the word presented so many cycles ago was packed."""
        return delay(m, self.stream.packed, cycles, name=f"packed_{cycles}")

    def _chain_end(self, m: Module, above: Value, k: int, packed: Value) -> tuple[Value, Value]:
        """(what row k adds to, the lower sums of the chain before it, as they are when the last row has its sums)."""
        parts, low = [], []
        for j in range(self.lanes):
            total = above.word_select(j, ACCUMULATOR_BITS)
            parts.append(Cat(total[:PACKED_BITS] & ~packed.replicate(PACKED_BITS), total[PACKED_BITS:]))
            low.append(total[:PACKED_BITS])
        return Cat(parts), delay(m, Cat(low), self.rows - k, name=f"lower_{k}")

    def _recover(self, m: Module, above: Value, lower: list[Value]) -> None:
        """Packed sums apart: what a chain's lower sum has borrowed from the upper ones, by its sign, they get back."""
        packed = self._packed_at(m, self.rows + 3)
        for j in range(self.lanes):
            total = above.word_select(j, ACCUMULATOR_BITS)
            lows = [total[:PACKED_BITS], *(low.word_select(j, PACKED_BITS) for low in lower)]
            low = Signal(signed(PACKED_SUM_BITS), name=f"low_{j}")
            high = Signal(signed(PACKED_SUM_BITS), name=f"high_{j}")
            m.d.comb += [
                low.eq(sum((each.as_signed() for each in lows[1:]), lows[0].as_signed())),
                high.eq(sum((each[-1] for each in lows), total[PACKED_BITS:].as_signed())),
            ]
            m.d.sync += self.sums[j].eq(Mux(packed, Cat(low, high), total))
