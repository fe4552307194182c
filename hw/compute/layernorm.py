# SPDX-License-Identifier: Apache-2.0
"""Row statistics of the residual, kept up to date as it is written, and 1/sigma of them."""

from operator import mul

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.lane_tree import add, reduce_lanes, tree_stages
from edgemoe.hw.compute.normalise import SCALE, ScalePort
from edgemoe.hw.compute.rsqrt import ReciprocalSquareRoot
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME
from edgemoe.hw.contract.layouts import count_shape, index_shape
from edgemoe.hw.memory.pipeline import Stages, behind_memory, chain, delay

ELEMENT_BITS = BY_NAME["elements"].bits
EPSILON_BITS = BY_NAME["epsilon"].bits
HALF = 14  # sums are squared in halves
SPLIT = 32  # where the longest additions are divided: the upper part a cycle later
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
    words             new and old, or 0                                       row, first
    difference        new - old and new + old, lane by lane                   row, first
    change            the difference; of odd lanes the product: new^2 -       row, first
                      old^2
    product           of even lanes the product, of odd ones a second
                      register
    pair              the products of two lanes added
    tree              differences added up, four to one a stage; pairs, two   first ? 0 : sum[row] and squares[row],
                      to one                                                  out of the table
    total             that, and these added, into the table                   row

    read              sum[row] and squares[row] of the swept row              elements, epsilon, uncentred: held
    sums              the same
    magnitude         |sum|, or 0 if uncentred                                squares
    multiply          sum^2 and elements * squares, both in parts
    partial products  the same, in the multipliers' second registers
    cross             elements * squares, and the lower parts of sum^2        the highest part of sum^2
    squared           sum^2                                                   elements * squares + epsilon, its lower
                                                                              part
    lower part        of the second less the first                            its upper part
    variance          all of the second less the first
    argument          the same, but at least 1
    coarse to result  the root's: the scale, into its table                   row
    ================  ======================================================  =====================================

    Ports:
        statistics (in RowStatistics): a residual word is written.
        command (in LayerNormCommand): whose scales are wanted; all sampled with `start`.
        scale (in ScalePort): mantissa * 2^-16 * 2^-exponent of row `index`, above half of the table that of heads.
    Latency: STATISTICS_DELAY = 2 + tree cycles, at least, from the last word of a row to a `start` that covers it
        (words of other rows may come at any time), of which the sweep awaits the rest: it begins SETTLE = 6 cycles
        behind `start`. From `start` to `done` rows + SWEEP_DELAY, one row a cycle; SWEEP_DELAY = 23 cycles.
    Interval: INTERVAL = 1 cycle between words; REVISIT = 4 cycles between words of the same row.
    Format: words signed 16 bit; sums exact; (new^2 - old^2) is one multiplication a lane, (new - old) * (new + old).
    Limits: row < config.rows; a row has at most 2^12 elements (padding lanes hold 0); elements 12 bit, epsilon
        48 bit; no `start` between a `start` and its `done`.
    Twin: `models.numbers.twins.layernorm_scale`.
    """

    INTERVAL = 1
    REVISIT = 4
    SETTLE = 6
    SUM_BITS = WORD_BITS + ELEMENT_BITS
    SQUARE_BITS = 2 * WORD_BITS - 1 + ELEMENT_BITS
    VARIANCE_STAGES = Stages(
        *("sums", "magnitude", "multiply", "partial products", "cross"),
        *("squared", "lower part", "variance", "argument"),
    )
    VARIANCE_LATENCY = len(VARIANCE_STAGES)  # statistics table to the argument of the square root
    SWEEP_DELAY = SETTLE + 1 + VARIANCE_LATENCY + ReciprocalSquareRoot.LATENCY

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.STATISTICS_DELAY = 2 + self.stages
        self.total = 5 + tree_stages(config.lanes // 2, 2)  # from a word to its squares, added up
        if self.total + 2 > self.STATISTICS_DELAY + self.SETTLE:
            raise ValueError("a sweep begins before the statistics are there")
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
        write, read = statistics.write_port(), statistics.read_port()
        written = self.statistics
        valids = chain(m, written.valid, self.total + 1, name="valid", reset_less=False)
        changes, pairs = [], []
        for lane in range(self.config.lanes):
            old = Mux(written.subtract_old, written.old[lane], Const(0, signed(WORD_BITS)))
            new, old = delay(m, written.new[lane], 1, name=f"new_{lane}"), delay(m, old, 1, name=f"old_{lane}")
            difference, total = (
                Signal(signed(WORD_BITS + 1), name=f"{name}_{lane}", reset_less=True)
                for name in ("difference", "total")
            )
            with m.If(valids[1]):
                m.d.sync += [difference.eq(new - old), total.eq(new + old)]
            changes.append(delay(m, difference, 1, name=f"change_{lane}"))
            # |new^2 - old^2| <= 2^30. Even lanes a cycle later: the slice of the multiplier then adds the odd one's.
            later = 1 - lane % 2
            factors = [delay(m, factor, later, name=f"{factor.name}_late") for factor in (difference, total)]
            product = Signal(signed(2 * WORD_BITS), name=f"product_{lane}", reset_less=True)
            with m.If(valids[2 + later]):
                m.d.sync += product.eq(mul(*factors))
            pairs.append(delay(m, product, 1 - later, name=f"product_{lane}_late"))
        pair_sums = []
        for i in range(0, len(pairs), 2):
            pair = Signal(signed(2 * WORD_BITS + 1), name=f"pair_{i // 2}", reset_less=True)
            with m.If(valids[4]):
                m.d.sync += pair.eq(pairs[i] + pairs[i + 1])
            pair_sums.append(pair)
        change = reduce_lanes(m, valids[3], changes, add, name="sum")
        change = delay(m, change, self.total - 3 - self.stages, name="change")
        square = reduce_lanes(m, valids[5], pair_sums, add, name="square", ways=2)
        kept, more = (Signal(statistics.shape, name=name, reset_less=True) for name in ("kept", "more"))
        m.d.sync += [
            kept.eq(read.data),
            more.sum.eq(kept.sum + change),
            more.squares.eq(kept.squares + square),
        ]
        with m.If(delay(m, written.first, self.total - 1, name="first")):
            m.d.sync += kept.eq(0)
        m.d.comb += [
            read.addr.eq(delay(m, written.row, self.total - 2, name="row")),
            read.en.eq(valids[self.total - 2]),
            write.addr.eq(delay(m, read.addr, 3, name="write")),
            write.en.eq(valids[self.total + 1]),
            write.data.eq(more),
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
                remaining.eq(command.rows),
                row.eq(command.row_base),
                elements.eq(command.elements),
                epsilon.eq(command.epsilon),
                uncentred.eq(command.uncentred),
            ]
        with m.Elif(running):
            m.d.sync += [running.eq(remaining > 1), remaining.eq(remaining - 1), row.eq(row + 1)]
        with m.If(delay(m, command.start, self.SETTLE - 1, name="settle", reset_less=False)):
            m.d.sync += running.eq(1)
        valid = running & (remaining != 0)
        m.d.comb += [read.addr.eq(row), read.en.eq(valid)]

        half = [Signal(name="half")] if self.config.head_norms else []  # of the table
        with m.If(command.start):
            m.d.sync += [of_heads.eq(command.of_heads) for of_heads in half]
        rsqrt_valid = delay(m, valid, 1 + self.VARIANCE_LATENCY, name="sweep_valid", reset_less=False)
        last = self.SWEEP_DELAY - self.SETTLE
        finished = delay(m, running & (remaining <= 1), last, name="sweep_last", reset_less=False)
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

        # sums; magnitude: operands of the multipliers
        total = register(signed(self.SUM_BITS), row.sum, "row_sum")
        magnitude = register(2 * HALF, Mux(total < 0, -total, total), "magnitude")
        with m.If(uncentred):
            m.d.sync += magnitude.eq(0)
        squares = delay(m, behind_memory(m, row.squares, name="row_squares"), 1, name="row_squares_late")
        # multiply, partial products
        low, high = magnitude[:HALF], magnitude[HALF:]
        squares_low, squares_high, low_low, low_high, high_high = (
            delay(m, a * b, 2, name=name)
            for name, a, b in (
                ("squares_low", squares[:LOW], elements),
                ("squares_high", squares[LOW:], elements),
                ("low_low", low, low),
                ("low_high", low, high),
                ("high_high", high, high),
            )
        )
        # cross, squared: their sums
        scaled = register(self.SQUARE_BITS + ELEMENT_BITS, squares_low + (squares_high << LOW), "scaled")
        cross = register(3 * HALF + 1, low_low + (low_high << HALF + 1), "cross")
        high_high = register(2 * HALF, high_high, "high_high_3")
        squared = register(4 * HALF, cross + (high_high << 2 * HALF), "squared")
        raised = register(SPLIT + 1, scaled[:SPLIT] + epsilon[:SPLIT], "raised")
        scaled_high = register(self.SQUARE_BITS + ELEMENT_BITS - SPLIT, scaled[SPLIT:], "scaled_high")
        # lower part, variance: their difference; argument: at least 1
        upper = ReciprocalSquareRoot.VALUE_BITS - SPLIT
        lower = register(signed(SPLIT + 1), raised[:SPLIT] - squared[:SPLIT], "lower")
        raised_high = register(upper, scaled_high + epsilon[SPLIT:] + raised[SPLIT], "raised_high")
        squared_high = register(4 * HALF - SPLIT, squared[SPLIT:], "squared_high")
        # the borrow as another place below, so that it takes no addition of its own
        difference = (Cat(0, raised_high) - Cat(lower[SPLIT], squared_high))[1:]
        difference = register(signed(upper + 1), difference.as_signed(), "upper")
        variance = Cat(register(SPLIT, lower[:SPLIT], "lower_2"), difference).as_signed()
        return register(ReciprocalSquareRoot.VALUE_BITS, Mux(variance > 0, variance, 1), "argument")


__all__ = ["LayerNorm"]
