# SPDX-License-Identifier: Apache-2.0
"""Row statistics of the residual, kept up to date as it is written, and 1/sigma of them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.lane_tree import add, reduce_lanes, tree_stages
from edgemoe.hw.compute.normalise import SCALE, ScalePort
from edgemoe.hw.compute.pipeline import Stages, delay
from edgemoe.hw.compute.rsqrt import ReciprocalSquareRoot
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME
from edgemoe.hw.contract.layouts import count_shape, index_shape

ELEMENT_BITS = BY_NAME["elements"].bits
EPSILON_BITS = BY_NAME["epsilon"].bits
HALF = 14  # sums are squared in halves
LOW = 20  # the sum of squares is multiplied in two parts, each within a DSP block


class RowStatistics(wiring.Signature):
    """A word written to row `row` of the residual, as its source sees it.

    `first`: the row starts from zero; `subtract_old`: the word `new` replaces `old`, whose contribution goes.
    """

    def __init__(self, config: HardwareConfig) -> None:
        word, row = layouts.word(config), index_shape(config.rows)
        super().__init__(
            {
                "valid": Out(1),
                "row": Out(row),
                "first": Out(1),
                "subtract_old": Out(1),
                "new": Out(word),
                "old": Out(word),
            }
        )


class LayerNormCommand(wiring.Signature):
    """The instruction LAYERNORM, as who orders it sees it: rows row_base .. row_base + rows - 1 get their scales,
    `of_heads` in the upper half of the table. `start` (pulse) with all the rest; `done` (pulse): all of them are there.
    """

    def __init__(self, config: HardwareConfig) -> None:
        of_heads = {"of_heads": Out(1)} if config.head_norms else {}
        super().__init__(
            {
                "start": Out(1),
                "rows": Out(count_shape(config.rows)),
                "row_base": Out(index_shape(config.rows)),
                "elements": Out(ELEMENT_BITS),
                "epsilon": Out(EPSILON_BITS),
                "uncentred": Out(1),
                **of_heads,
                "done": In(1),
            }
        )


class LayerNorm(wiring.Component):
    """sum[row] and squares[row] of every residual row (or of others, where heads are normalised), and scale[row] =
    rsqrt(max(1, elements * squares[row] - sum[row]^2 + epsilon)).

    RMSNorm's rows are `uncentred`: without sum[row]^2. What meets where, in the statistics and in a command's sweep:

    ================  ======================================================  =====================================
    stage             value                                                   beside it, for the next
    ================  ======================================================  =====================================
    difference        new - old and new + old, lane by lane                   row, first
    change            the difference, and the product: new^2 - old^2          row, first
    tree              both added up over the lanes, four to one a stage       sum[row] and squares[row], out of the
                                                                              table, into which they are added

    read              sum[row] and squares[row] of the swept row              elements, epsilon, uncentred: held
    magnitude         |sum|, or 0 if uncentred                                squares
    partial products  sum^2 and elements * squares, both in parts
    cross             elements * squares, and the lower parts of sum^2        the highest part of sum^2
    squared           sum^2                                                   elements * squares + epsilon
    variance          the second less the first
    argument          the same, but at least 1
    coarse to result  the root's: the scale, into its table                   row
    ================  ======================================================  =====================================

    Ports:
        statistics (in RowStatistics): a residual word is written.
        command (in LayerNormCommand): whose scales are wanted; all sampled with `start`.
        scale (in ScalePort): mantissa * 2^-16 * 2^-exponent of row `index`, above half of the table that of heads.
    Latency: STATISTICS_DELAY = 2 + tree cycles, at least, from the last word of a row to a `start` that covers it
        (words of other rows may come at any time). From `start` to `done` rows + SWEEP_DELAY, one row a cycle;
        SWEEP_DELAY = 13 cycles.
    Interval: INTERVAL = 1 cycle between words; REVISIT = 1 cycle between words of the same row.
    Format: words signed 16 bit; sums exact; (new^2 - old^2) is one multiplication a lane, (new - old) * (new + old).
    Limits: row < config.rows; a row has at most 2^12 elements (padding lanes hold 0); elements 12 bit, epsilon
        48 bit; no `start` between a `start` and its `done`.
    Twin: `models.numbers.twins.layernorm_scale`.
    """

    INTERVAL = 1
    REVISIT = 1
    SUM_BITS = WORD_BITS + ELEMENT_BITS
    SQUARE_BITS = 2 * WORD_BITS - 1 + ELEMENT_BITS
    VARIANCE_STAGES = Stages("magnitude", "partial products", "cross", "squared", "variance", "argument")
    VARIANCE_LATENCY = len(VARIANCE_STAGES)  # statistics table to the argument of the square root
    SWEEP_DELAY = 2 + VARIANCE_LATENCY + ReciprocalSquareRoot.LATENCY

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.STATISTICS_DELAY = 2 + self.stages
        super().__init__(
            {
                "statistics": In(RowStatistics(config)),
                "command": In(LayerNormCommand(config)),
                "scale": In(ScalePort(config.scale_rows)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = data.StructLayout({"sum": signed(self.SUM_BITS), "squares": self.SQUARE_BITS})
        m.submodules.statistics = statistics = Memory(shape=layout, depth=max(2, self.config.rows), init=[])
        self.update(m, statistics)
        self.sweep(m, statistics)
        return m

    def update(self, m: Module, statistics: Memory) -> None:
        write = statistics.write_port()
        read = statistics.read_port(transparent_for=[write])
        written = self.statistics
        valid_1 = delay(m, written.valid, 1, name="valid_1", reset_less=False)
        valid_2 = delay(m, valid_1, 1, name="valid_2", reset_less=False)
        changes, products = [], []
        for lane in range(self.config.lanes):
            old = Mux(written.subtract_old, written.old[lane], Const(0, signed(WORD_BITS)))
            difference, total = (
                Signal(signed(WORD_BITS + 1), name=f"{name}_{lane}", reset_less=True)
                for name in ("difference", "total")
            )
            change = Signal(signed(WORD_BITS + 1), name=f"change_{lane}", reset_less=True)
            product = Signal(signed(2 * WORD_BITS), name=f"product_{lane}", reset_less=True)  # |new^2 - old^2| <= 2^30
            with m.If(written.valid):
                m.d.sync += [difference.eq(written.new[lane] - old), total.eq(written.new[lane] + old)]
            with m.If(valid_1):
                m.d.sync += [change.eq(difference), product.eq(difference * total)]
            changes.append(change)
            products.append(product)
        change = reduce_lanes(m, valid_2, changes, add, name="sum")
        square = reduce_lanes(m, valid_2, products, add, name="square")
        cycles = 2 + self.stages
        valid = delay(m, valid_2, self.stages - 1, name="read", reset_less=False)
        first = delay(m, written.first, cycles, name="first")
        m.d.comb += [
            read.addr.eq(delay(m, written.row, cycles - 1, name="row")),
            read.en.eq(valid),
            write.addr.eq(delay(m, read.addr, 1, name="write")),
            write.en.eq(delay(m, valid, 1, name="written", reset_less=False)),
            write.data.sum.eq(Mux(first, 0, read.data.sum) + change),
            write.data.squares.eq(Mux(first, 0, read.data.squares) + square),
        ]

    def sweep(self, m: Module, statistics: Memory) -> None:
        read = statistics.read_port()
        m.submodules.rsqrt = rsqrt = ReciprocalSquareRoot()
        m.submodules.scales = scales = Memory(shape=SCALE, depth=max(2, self.config.scale_rows), init=[])
        store, fetch = scales.write_port(), scales.read_port()

        command = self.command
        remaining, row = Signal.like(command.rows), Signal.like(command.row_base)
        elements, epsilon, uncentred = Signal.like(command.elements), Signal.like(command.epsilon), Signal()
        running = Signal()
        with m.If(command.start):
            m.d.sync += [
                running.eq(1),
                remaining.eq(command.rows),
                row.eq(command.row_base),
                elements.eq(command.elements),
                epsilon.eq(command.epsilon),
                uncentred.eq(command.uncentred),
            ]
        with m.Elif(running):
            m.d.sync += [running.eq(remaining > 1), remaining.eq(remaining - 1), row.eq(row + 1)]
        valid = running & (remaining != 0)
        m.d.comb += [read.addr.eq(row), read.en.eq(valid)]

        half = [Signal(name="half")] if self.config.head_norms else []  # of the table
        with m.If(command.start):
            m.d.sync += [of_heads.eq(command.of_heads) for of_heads in half]
        rsqrt_valid = delay(m, valid, 1 + self.VARIANCE_LATENCY, name="sweep_valid", reset_less=False)
        finished = delay(m, running & (remaining <= 1), self.SWEEP_DELAY - 1, name="sweep_last", reset_less=False)
        m.d.comb += [
            rsqrt.valid.eq(rsqrt_valid),
            rsqrt.value.eq(self.variance(m, read.data, elements, epsilon, uncentred)),
            store.en.eq(rsqrt.out_valid),
            store.addr.eq(Cat(delay(m, row, 1 + self.VARIANCE_LATENCY + rsqrt.LATENCY, name="sweep_row"), *half)),
            store.data.mantissa.eq(rsqrt.mantissa),
            store.data.exponent.eq(rsqrt.exponent),
            fetch.addr.eq(self.scale.index),
            self.scale.mantissa.eq(fetch.data.mantissa),
            self.scale.exponent.eq(fetch.data.exponent),
        ]
        m.d.sync += command.done.eq(finished)

    def variance(self, m: Module, row: data.View, elements: Signal, epsilon: Signal, uncentred: Signal) -> Signal:
        """max(1, elements * squares - sum^2 + epsilon), VARIANCE_LATENCY cycles after the statistics were read.

        Free-running: outside a sweep the table's output does not change, and nothing moves.
        """

        def register(shape, value, name: str) -> Signal:
            signal = Signal(shape, name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        # magnitude: operands of the multipliers
        magnitude = register(2 * HALF, Mux(row.sum < 0, -row.sum, row.sum), "magnitude")
        with m.If(uncentred):
            m.d.sync += magnitude.eq(0)
        squares = register(self.SQUARE_BITS, row.squares, "squares")
        # partial products
        low, high = magnitude[:HALF], magnitude[HALF:]
        squares_low = register(LOW + ELEMENT_BITS, squares[:LOW] * elements, "squares_low")
        squares_high = register(self.SQUARE_BITS - LOW + ELEMENT_BITS, squares[LOW:] * elements, "squares_high")
        low_low, low_high, high_high = (
            register(2 * HALF, value, name)
            for value, name in ((low * low, "low_low"), (low * high, "low_high"), (high * high, "high_high"))
        )
        # cross, squared: their sums
        scaled = register(self.SQUARE_BITS + ELEMENT_BITS, squares_low + (squares_high << LOW), "scaled")
        cross = register(3 * HALF + 1, low_low + (low_high << HALF + 1), "cross")
        high_high = register(2 * HALF, high_high, "high_high_3")
        raised = register(ReciprocalSquareRoot.VALUE_BITS, scaled + epsilon, "raised")
        squared = register(4 * HALF, cross + (high_high << 2 * HALF), "squared")
        # variance, argument: their difference, at least 1
        variance = register(signed(ReciprocalSquareRoot.VALUE_BITS + 1), raised - squared, "variance")
        return register(ReciprocalSquareRoot.VALUE_BITS, Mux(variance > 0, variance, 1), "argument")


__all__ = ["LayerNorm"]
