# SPDX-License-Identifier: Apache-2.0
"""The sum of a row's exponentials while its scores come out: a pair (M, E) that stands for M 2^E."""

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import Exponential
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.hw.compute.lane_tree import add, reduce_lanes, tree_stages
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.layouts import index_shape
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers.words import PROBABILITY_SUM_BITS, SCORE_FRACTION

EXPONENT_BITS = WORD_BITS + 1  # of a score, or of the whole octave above it
OCTAVE_BITS = 5  # so many octaves leave nothing


def whole_exponent(score: Value, shift: Value) -> Value:
    """The least score from `score` on that is a whole number of octaves."""
    below = Const((1 << SCORE_FRACTION) - 1, EXPONENT_BITS) >> shift
    return ((score + below)[:EXPONENT_BITS] & ~below).as_signed()


class RunningSums(wiring.Component):
    """M[i] = M[i] / 2^(growth of E[i]) + sum of 2^(score - E[i]) of a word, the growth in octaves.

    E[i] is where the maxima are; it comes with the word, as it was before it and as it is with it. It only grows, so
    nothing overflows, and no score waits for another.

    Ports:
        valid, index, first (in): a word of scores of query `index` is presented; `first` starts M[index] afresh.
        word, mask (in): its scores, and the lanes that count.
        shift (in): 2^(shift - 12) is the unit of a score.
        before, exponent (in): E of the row.
        asked, asked_index (in): M of that query is read.
        sum (out): it, a cycle later.
    Latency: LATENCY = 7 + tree cycles from valid to the earliest `asked` that sees the word in its sum.
    Interval: INTERVAL = 1 cycle between words; REVISIT = 1 cycle between words of the same index.
    Format: scores signed 16 bit, exponents signed 17 bit; sum in units of 2^-18, modulo 2^30, rounded half up whenever
        E grows.
    Limits: a lane that counts is never above `exponent`, nor `before` but for a `first` word.
    Twin: `models.numbers.twins.running_sums`.
    """

    INTERVAL = 1
    REVISIT = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.LATENCY = 1 + Exponential.LATENCY + self.stages
        super().__init__(
            {
                "valid": In(1),
                "index": In(index_shape(config.tokens)),
                "first": In(1),
                "word": In(layouts.word(config)),
                "mask": In(config.lanes),
                "shift": In(4),
                "before": In(signed(EXPONENT_BITS)),
                "exponent": In(signed(EXPONENT_BITS)),
                "asked": In(1),
                "asked_index": In(index_shape(config.tokens)),
                "sum": Out(PROBABILITY_SUM_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, bits = self.config.lanes, PROBABILITY_SUM_BITS
        m.submodules.exponential = exponential = Exponential(lanes)
        m.submodules.sums = sums = Memory(shape=bits, depth=max(2, self.config.tokens), init=[])
        write = sums.write_port()
        read, asked = (sums.read_port(transparent_for=[write]) for _ in range(2))

        distance = Signal(exponential.distance.shape(), reset_less=True)
        m.d.sync += [distance[lane].eq(self.exponent - self.word[lane]) for lane in range(lanes)]
        m.d.comb += [
            exponential.valid.eq(delay(m, self.valid, 1, name="distances", reset_less=False)),
            exponential.distance.eq(distance),
            exponential.mask.eq(delay(m, self.mask, 1, name="mask")),
            exponential.shift.eq(delay(m, self.shift, 1, name="shift")),
        ]
        partial = reduce_lanes(m, exponential.out_valid, list(exponential.fine), add, name="sum")

        grown = Signal(EXPONENT_BITS, reset_less=True)  # E never shrinks
        octaves = (grown << delay(m, self.shift, 1, name="growth_shift"))[SCORE_FRACTION:]
        amount = Signal(OCTAVE_BITS, reset_less=True)
        m.d.sync += [
            grown.eq(self.exponent - self.before),
            amount.eq(Mux(octaves[OCTAVE_BITS:].any(), (1 << OCTAVE_BITS) - 1, octaves[:OCTAVE_BITS])),
        ]
        late = delay(m, amount, self.LATENCY - 2, name="amount")
        kept = round_shift(read.data, late)
        m.d.comb += [
            read.addr.eq(delay(m, self.index, self.LATENCY - 1, name="index")),
            read.en.eq(delay(m, self.valid, self.LATENCY - 1, name="reading", reset_less=False)),
            write.en.eq(delay(m, read.en, 1, name="writing", reset_less=False)),
            write.addr.eq(delay(m, read.addr, 1, name="write_index")),
            write.data.eq(partial + Mux(delay(m, self.first, self.LATENCY, name="first"), 0, kept)),
            asked.addr.eq(self.asked_index),
            asked.en.eq(self.asked),
            self.sum.eq(asked.data),
        ]
        return m


__all__ = ["EXPONENT_BITS", "RunningSums", "whole_exponent"]
