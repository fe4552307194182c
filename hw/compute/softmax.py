# SPDX-License-Identifier: Apache-2.0
"""Single-pass softmax: the scores are never read for the sake of their sum.

The textbook needs three passes over a row of scores: the maximum, the sum of 2^(score - maximum), the quotients.
Edge-MoE (ICCAD 2023) keeps a running maximum and a running sum as scores come out, and corrects the sum when the
maximum grows. Here nothing has to be corrected: the maximum is complete when the last score of a row leaves the
epilogue, and the sum is taken of the very probabilities that the array multiplies by the values, as they pass on their
way in. Its reciprocal scales the finished row.

    scores out of the epilogue ----> score memory ----------+
           |                                                v
           +--> max[i]  -------------------------> 2^(score - max[i]) ----> array: sum of probability x value
                                                            |                          |
                                                            +--> sum[i] --> 1/sum[i] --+--> x (epilogue) --> row i

So a score is written once and read once, when it is needed as a factor; the sum costs no pass and no correction, and
the tables hold one word a query.
"""

from amaranth.hdl import Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from edgemoe.hw.compute.exponential import FINE_BITS, Exponential
from edgemoe.hw.compute.lane_tree import add, larger, reduce_lanes, tree_stages
from edgemoe.hw.compute.normalise import EXPONENT_BITS, MANTISSA_BITS, SCALE
from edgemoe.hw.compute.pipeline import delay
from edgemoe.hw.compute.reciprocal import Reciprocal
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.layouts import index_shape

LOWEST = -(1 << WORD_BITS - 1)


def lane_mask(count: Value, lanes: int) -> Value:
    """Bit i is set for the lanes i < count."""
    return ((1 << lanes) - 1) >> (lanes - count)[: len(count)]


FLAGS = data.StructLayout({"counts": 1, "first": 1, "last": 1})
"""What a word is to the sum of its row: it counts, it is the first, it is the last."""


class Softmax(wiring.Component):
    """Row state of attention: max[i] while scores come out, p = 2^(score - max[i]) while they go in again, 1 / sum[i]
    of these p.

    Ports, score side (a finished word of scores of query `score_index`):
        score_valid, score_index, score_first (starts max[i] afresh), score_word, score_mask (lanes that count).
    Ports, probability side:
        valid, index, word (scores), lanes (lanes 0..lanes-1 count, the others give 0), shift (2^(shift - 12) is the
        unit of a score), accumulate (sum[i] counts this word), first (sum[i] starts afresh), last (1 / sum[i] goes to
        the scale table). out_valid, out_word: probabilities, LATENCY cycles later.
    Ports, scale table:
        scale_index -> scale_mantissa, scale_exponent one cycle later: 1/sum = mantissa * 2^-16 * 2^-exponent.

    LATENCY = 7; one word a cycle on both sides at once (initiation interval 1).
    REVISIT = 1: words of the same index may follow one another without a gap, on either side.
    MAX_DELAY: cycles from a score word to the first probability word that may use its maximum.
    SCALE_DELAY: cycles from the `last` word to the cycle in which scale_index may ask for its scale (12 + tree, 13 for
    4 lanes). Format: scores signed 16 bit; probabilities in units of 2^-15, 0..32767; sums exact, of probabilities in
    units of 2^-18. Limits: index < config.tokens; `first` and `last` count only with `accumulate`; a row's sum is of at
    most
        config.tokens lanes, one of them the maximum (so the sum is never 0). A lane that counts is never above max[i].
    Twins: `models.numbers.twins.probabilities` and `softmax_scale`.
    """

    LATENCY = 2 + Exponential.LATENCY
    REVISIT = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        lanes = config.lanes
        self.stages = tree_stages(lanes)
        self.MAX_DELAY = self.stages + 1
        self.SCALE_DELAY = self.LATENCY + self.stages + 1 + Reciprocal.LATENCY
        word, index, count = (
            data.ArrayLayout(signed(WORD_BITS), lanes),
            index_shape(config.tokens),
            Shape.cast(range(lanes + 1)),
        )
        super().__init__(
            {
                "score_valid": In(1),
                "score_index": In(index),
                "score_first": In(1),
                "score_word": In(word),
                "score_mask": In(lanes),
                "valid": In(1),
                "index": In(index),
                "word": In(word),
                "lanes": In(count),
                "shift": In(4),
                "first": In(1),
                "last": In(1),
                "accumulate": In(1),
                "out_valid": Out(1),
                "out_word": Out(word),
                "scale_index": In(index),
                "scale_mantissa": Out(MANTISSA_BITS),
                "scale_exponent": Out(EXPONENT_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.maxima = maxima = Memory(shape=signed(WORD_BITS), depth=max(2, self.config.tokens), init=[])
        self.update_maxima(m, maxima)
        self.update_sums(m, self.probabilities(m, maxima))
        return m

    def update_maxima(self, m: Module, maxima: Memory) -> None:
        write = maxima.write_port()
        read = maxima.read_port(transparent_for=[write])
        masked = [Mux(self.score_mask[lane], self.score_word[lane], LOWEST) for lane in range(self.config.lanes)]
        masked = [value.as_signed() if not value.shape().signed else value for value in masked]
        best = reduce_lanes(m, self.score_valid, masked, larger, name="score")
        before = self.stages - 1  # the table is read in the tree's last stage
        m.d.comb += [
            read.addr.eq(delay(m, self.score_index, before, name="score_index")),
            read.en.eq(delay(m, self.score_valid, before, name="score_read")),
        ]
        first = delay(m, self.score_first, self.stages, name="score_first")
        m.d.comb += [
            write.en.eq(delay(m, self.score_valid, self.stages, name="score_valid", reset_less=False)),
            write.addr.eq(delay(m, read.addr, 1, name="score_write")),
            write.data.eq(Mux(first | (best > read.data), best, read.data)),
        ]

    def probabilities(self, m: Module, maxima: Memory) -> data.View:
        """Wires the exponentials; returns what they give for the sums."""
        lanes = self.config.lanes
        read = maxima.read_port()
        m.d.comb += [read.addr.eq(self.index), read.en.eq(self.valid)]
        m.submodules.exponential = exponential = Exponential(lanes)
        word_1, word_2, mask_1 = (
            Signal.like(self.word, reset_less=True),
            Signal(exponential.distance.shape(), reset_less=True),
            Signal(lanes, reset_less=True),
        )
        valid_1 = delay(m, self.valid, 1, name="valid_1", reset_less=False)
        with m.If(self.valid):
            m.d.sync += [word_1.eq(self.word), mask_1.eq(lane_mask(self.lanes, lanes))]
        with m.If(valid_1):
            m.d.sync += [word_2[lane].eq(read.data - word_1[lane]) for lane in range(lanes)]
        m.d.comb += [
            exponential.valid.eq(delay(m, valid_1, 1, name="valid_2", reset_less=False)),
            exponential.distance.eq(word_2),
            exponential.mask.eq(delay(m, mask_1, 1, name="mask")),
            exponential.shift.eq(delay(m, self.shift, 2, name="shift")),
            self.out_valid.eq(exponential.out_valid),
        ]
        m.d.comb += [self.out_word[lane].eq(exponential.probability[lane]) for lane in range(lanes)]
        return exponential.fine

    def update_sums(self, m: Module, fine: data.View) -> None:
        config = self.config
        bits = FINE_BITS + ceil_log2(config.tokens)
        m.submodules.sums = sums = Memory(shape=bits, depth=max(2, config.tokens), init=[])
        write = sums.write_port()
        read = sums.read_port(transparent_for=[write])
        entering = Signal(FLAGS)
        m.d.comb += [
            entering.counts.eq(self.valid & self.accumulate),
            entering.first.eq(self.first),
            entering.last.eq(self.last),
        ]
        reading = delay(m, entering, self.LATENCY - 1 + self.stages, name="reading", reset_less=False)
        adding = delay(m, reading, 1, name="adding", reset_less=False)
        finished = adding.counts & adding.last
        partial = reduce_lanes(m, self.out_valid, [fine[lane] for lane in range(config.lanes)], add, name="sum")
        m.d.comb += [
            read.addr.eq(delay(m, self.index, self.LATENCY + self.stages - 1, name="sum_read")),
            read.en.eq(reading.counts),
        ]
        total = Signal(bits)
        m.d.comb += [
            total.eq(partial + Mux(adding.first, 0, read.data)),
            write.en.eq(adding.counts),
            write.addr.eq(delay(m, read.addr, 1, name="sum_write")),
            write.data.eq(total),
        ]
        m.submodules.reciprocal = reciprocal = Reciprocal()
        total_1 = Signal(bits, reset_less=True)
        with m.If(finished):
            m.d.sync += total_1.eq(total)
        m.d.comb += [
            reciprocal.valid.eq(delay(m, finished, 1, name="total_valid", reset_less=False)),
            reciprocal.value.eq(total_1),
        ]

        m.submodules.scales = scales = Memory(shape=SCALE, depth=max(2, config.tokens), init=[])
        store = scales.write_port()
        fetch = scales.read_port(transparent_for=[store])
        m.d.comb += [
            store.en.eq(reciprocal.out_valid),
            store.addr.eq(delay(m, write.addr, 1 + Reciprocal.LATENCY, name="scale_write")),
            store.data.mantissa.eq(reciprocal.mantissa),
            store.data.exponent.eq(reciprocal.exponent),
            fetch.addr.eq(self.scale_index),
            self.scale_mantissa.eq(fetch.data.mantissa),
            self.scale_exponent.eq(fetch.data.exponent),
        ]


__all__ = ["Softmax", "lane_mask"]
