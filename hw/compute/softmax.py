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

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.cosformer import ANGLE
from edgemoe.hw.compute.exponential import Exponential
from edgemoe.hw.compute.lane_tree import add, first_pairs, largest, reduce_lanes, tree_stages
from edgemoe.hw.compute.normalise import SCALE, ScalePort
from edgemoe.hw.compute.reciprocal import Reciprocal
from edgemoe.hw.compute.reweighting import KEYS_BITS, Reweighting
from edgemoe.hw.compute.running_sums import EXPONENT_BITS, RunningSums, whole_exponent
from edgemoe.hw.compute.score_functions import ScoreFunctions
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.isa import Attention
from edgemoe.hw.contract.layouts import index_shape
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.words import LOWEST_SCORE, PROBABILITY_BITS, PROBABILITY_SUM_BITS


def lane_mask(count: Value, lanes: int) -> Value:
    """Bit i is set for the lanes i < count."""
    return ((1 << lanes) - 1) >> (lanes - count)[: len(count)]


FLAGS = data.StructLayout({"counts": 1, "first": 1, "last": 1})
"""What a word is to the sum of its row: it counts, it is the first, it is the last."""


class ScoreWrite(wiring.Signature):
    """A finished word of scores of query `index`, as its source sees it: the `first` of its row or not, and in `mask`
    the lanes that count. Where a build keeps more of them: the `kind` of attention, and `shift` as in ScoreStream.
    """

    def __init__(self, config: HardwareConfig) -> None:
        choice = {"kind": Out(layouts.ATTENTION_BITS), "shift": Out(4)} if config.keeps_scores else {}
        super().__init__(
            choice
            | {
                "valid": Out(1),
                "index": Out(index_shape(config.tokens)),
                "first": Out(1),
                "word": Out(layouts.word(config)),
                "mask": Out(config.lanes),
            }
        )


class ScoreStream(wiring.Signature):
    """A word of scores of query `index` that is to become probabilities, as its source sees it; or two words that enter
    the array together. `word` comes a cycle later than the rest.

    `lanes`: how many lanes count, from lane 0 on; `shift`: 2^(shift - 12) is the unit of a score; `accumulate`: the sum
    of the row counts this word, which is then the `first` or the `last` of the row or neither. Where a build has other
    kinds of attention than softmax: `kind`, and what is added to every score, `bias`; of SOFTPLUS the row's `keys`, of
    COSFORMER the `angle`.
    """

    def __init__(self, config: HardwareConfig) -> None:
        choice = (
            {"kind": Out(layouts.ATTENTION_BITS), "bias": Out(signed(WORD_BITS))} if len(config.weighings) > 1 else {}
        )
        choice |= {"angle": Out(ANGLE)} if Attention.COSFORMER in config.kinds else {}
        choice |= {"keys": Out(KEYS_BITS)} if Attention.SOFTPLUS in config.kinds else {}
        super().__init__(
            choice
            | {
                "valid": Out(1),
                "index": Out(index_shape(config.tokens)),
                "word": Out(layouts.inputs(config)),
                "lanes": Out(range(config.inputs + 1)),
                "shift": Out(4),
                "first": Out(1),
                "last": Out(1),
                "accumulate": Out(1),
            }
        )


class Probabilities(wiring.Signature):
    """A word of probabilities, in units of 2^-15, as the exponentials see it: `word` comes a cycle behind `valid`."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"valid": Out(1), "word": Out(layouts.inputs(config))})


WAIT = Reweighting.LATENCY - 2  # of a word for its distance, which is otherwise made two cycles behind it


class Softmax(wiring.Component):
    """Row state of attention: max[i] while scores come out, p = 2^(score - max[i]) while they go in again, 1 / sum[i]
    of these p. A build with other kinds of attention makes p with `ScoreFunctions`, where a word asks for that. With
    two-pass softmax max[i] is the whole exponent of such a row, and its sum is that of `RunningSums`. With softplus all
    words wait for `Reweighting`, which makes distances of some.

    What meets where on the probability side:

    ==============  ======================================================  =======================================
    stage           value                                                   beside it, for the next
    ==============  ======================================================  =======================================
    maximum         max[index], out of its table                            the scores, and how many of them count
    kept            the same                                                which of them count
    distance        max - score, lane by lane                               which of them count; shift
    align to round  the exponentials: `out`, and finer ones for the sums    index, accumulate, first, last
    tree            the lanes added up, four to one in the first stage,     first ? 0 : sum[index], out of its table
                    then two
    total           tree + that, into the table                             index
    coarse to       the reciprocal's of a row's last total, into the scale
    result          table, where it may be asked for in the cycle in which
                    it is written
    ==============  ======================================================  =======================================

    On the score side a tree finds the largest lane; it is compared with max[score.index], which came out of the table a
    cycle earlier, and the larger one is in the table MAX_DELAY cycles after its word.

    Ports:
        score (in ScoreWrite): a finished word of scores; `first` starts max[i] afresh.
        stream (in ScoreStream): a word of scores; lanes that do not count give 0. `first` starts sum[i] afresh, with
            `last` 1 / sum[i] goes to the scale table; both count only with `accumulate`.
        out (out Probabilities): LATENCY cycles later.
        scale (in ScalePort): 1 / sum = mantissa * 2^-16 * 2^-exponent of query `index`.
    Latency: LATENCY = 8 cycles from stream to out, and WAIT where softplus is built in, with a register for each of the
        STAGES from `stream.index` to `out.word`; MAX_DELAY = 2 + max(tree, 2) cycles from a score word to the first
        probability word that may use its maximum; SCALE_DELAY = 15 + sum_stages cycles from the `last` word to the
        cycle in which its scale may be asked for, and WAIT.
    Interval: INTERVAL = 1 cycle between words, on both sides at once; REVISIT = 4 cycles between words of the
        same index, on either side.
    Format: scores signed 16 bit; probabilities in units of 2^-15, 0..32767; sums exact, of probabilities in units of
        2^-18.
    Limits: index < config.tokens; a row's sum is of at most MOST_KEYS lanes; of softmax one of them is the maximum, so
        that it is never 0 (of others, 0 counts as 1). Of softmax, a lane that counts is never above max[i].
    Twin: `models.numbers.twins.probabilities` and `models.numbers.twins.softmax_scale`.
    """

    STAGES = Stages("maximum", "kept", "distance", *Exponential.STAGES)
    LATENCY = len(STAGES) - 1
    INTERVAL = 1
    REVISIT = 4

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.sum_stages = tree_stages(config.inputs, ways=2, first=4)
        self.two_pass, self.softplus = (kind in config.kinds for kind in (Attention.TWO_PASS, Attention.SOFTPLUS))
        if self.softplus:
            self.LATENCY += WAIT
        self.COMPARE = max(self.stages, 2)  # cycles from a score word to its comparison with the maximum
        self.MAX_DELAY = self.COMPARE + 2
        self.SCALE_DELAY = self.LATENCY + 1 + self.sum_stages + 1 + Reciprocal.LATENCY
        super().__init__(
            {
                "score": In(ScoreWrite(config)),
                "stream": In(ScoreStream(config)),
                "out": Out(Probabilities(config)),
                "scale": In(ScalePort(config.tokens)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = EXPONENT_BITS if self.two_pass else WORD_BITS
        m.submodules.maxima = maxima = Memory(shape=signed(bits), depth=max(2, self.config.tokens), init=[])
        self.update_maxima(m, maxima)
        self.late = self.waiting(m) if self.softplus else self.stream
        self.update_sums(m, self.probabilities(m, maxima))
        return m

    def waiting(self, m: Module):
        """The stream as it was when the words began that now have their distances."""
        late = ScoreStream(self.config).create()
        for name in late.signature.members:
            value = delay(m, getattr(self.stream, name), WAIT, name=f"late_{name}", reset_less=name != "valid")
            m.d.comb += getattr(late, name).eq(value)
        return late

    def update_maxima(self, m: Module, maxima: Memory) -> None:
        write, read = maxima.write_port(), maxima.read_port()
        masked = [Mux(self.score.mask[lane], self.score.word[lane], LOWEST_SCORE) for lane in range(self.config.lanes)]
        masked = [value.as_signed() if not value.shape().signed else value for value in masked]
        at = self.COMPARE
        best = reduce_lanes(m, self.score.valid, masked, largest, name="score", first=first_pairs(len(masked)))
        best = delay(m, best, at - self.stages, name="score_best")
        m.d.comb += [
            read.addr.eq(delay(m, self.score.index, at - 2, name="score_index")),
            read.en.eq(delay(m, self.score.valid, at - 2, name="score_read")),
        ]
        kept, newest = (Signal(read.data.shape(), name=name, reset_less=True) for name in ("score_kept", "newest"))
        first = delay(m, self.score.first, at, name="score_first")
        m.d.comb += [
            write.en.eq(delay(m, self.score.valid, at + 1, name="score_valid", reset_less=False)),
            write.addr.eq(delay(m, read.addr, 3, name="score_write")),
            write.data.eq(newest),
        ]
        if self.two_pass:
            best = self.exponents(m, best, write, kept, first)
        m.d.sync += [kept.eq(read.data), newest.eq(Mux(first | (best > kept), best, kept))]

    def exponents(self, m: Module, best: Value, write, kept: Signal, first: Value) -> Value:
        """Of two-pass softmax the whole exponent in place of the maximum; and the sums that go with these."""
        m.submodules.running = running = RunningSums(self.config)
        score = self.score
        shift = delay(m, score.shift, self.COMPARE, name="score_shift")
        mine = delay(m, score.kind == Attention.TWO_PASS, self.COMPARE, name="score_two_pass")
        m.d.comb += [
            running.valid.eq(write.en & delay(m, mine, 1, name="running")),
            running.index.eq(write.addr),
            running.first.eq(delay(m, first, 1, name="running_first")),
            running.shift.eq(delay(m, shift, 1, name="running_shift")),
            running.before.eq(delay(m, kept, 1, name="running_before")),
            running.exponent.eq(write.data),
            running.word.eq(delay(m, score.word, self.COMPARE + 1, name="running_word")),
            running.mask.eq(delay(m, score.mask, self.COMPARE + 1, name="running_mask")),
        ]
        return Mux(mine, whole_exponent(best, shift), best)

    def probabilities(self, m: Module, maxima: Memory) -> data.View:
        """Wires the exponentials; returns what they give for the sums."""
        lanes = self.config.inputs
        read = maxima.read_port()
        m.d.comb += [read.addr.eq(self.late.index), read.en.eq(self.late.valid)]
        m.submodules.exponential = exponential = Exponential(lanes)
        word, count = delay(m, self.late.word, 1, name="word"), delay(m, self.late.lanes, 1, name="lanes")
        kept = delay(m, read.data, 1, name="kept")
        distance = Signal(exponential.distance.shape(), reset_less=True)
        m.d.sync += [distance[lane].eq(kept - word[lane]) for lane in range(lanes)]
        m.d.comb += [
            exponential.valid.eq(delay(m, self.late.valid, 3, name="valid", reset_less=False)),
            exponential.distance.eq(distance),
            exponential.mask.eq(delay(m, lane_mask(count, lanes), 2, name="mask")),
            exponential.shift.eq(delay(m, self.late.shift, 3, name="shift")),
            self.out.valid.eq(delay(m, exponential.valid, Exponential.LATENCY - 1, name="told", reset_less=False)),
        ]
        if self.softplus:
            self.reweighted(m, maxima, exponential)
        if len(self.config.weighings) > 1:
            return self.chosen(m, exponential)
        m.d.comb += [self.out.word[lane].eq(exponential.probability[lane]) for lane in range(lanes)]
        return exponential.fine

    def reweighted(self, m: Module, maxima: Memory, exponential: Exponential) -> None:
        """Distances of softplus in place of those from the maximum."""
        m.submodules.reweighting = unit = Reweighting(self.config)
        score, stream, read = self.score, self.stream, maxima.read_port()
        m.d.comb += [
            unit.score_valid.eq(score.valid & (score.kind == Attention.SOFTPLUS)),
            unit.score_index.eq(score.index),
            unit.score_first.eq(score.first),
            unit.score_word.eq(score.word),
            unit.score_mask.eq(score.mask),
            unit.valid.eq(delay(m, stream.valid, 1, name="asked_valid", reset_less=False)),
            unit.index.eq(delay(m, stream.index, 1, name="asked_index")),
            unit.word.eq(stream.word),
            unit.keys.eq(delay(m, stream.keys, 1, name="asked_keys")),
            read.addr.eq(unit.index),
            read.en.eq(unit.valid),
            unit.maximum.eq(read.data),
        ]
        mask = lane_mask(delay(m, self.late.lanes, 3, name="distance_lanes"), self.config.lanes)
        with m.If(delay(m, self.late.kind, 3, name="distance_kind") == Attention.SOFTPLUS):
            m.d.comb += [
                exponential.distance.eq(unit.distance),
                exponential.mask.eq(mask & unit.counts),
                exponential.shift.eq(0),
            ]

    def chosen(self, m: Module, exponential: Exponential) -> data.View:
        """The exponentials, or another function of the scores, as the word's kind asks."""
        m.submodules.functions = functions = ScoreFunctions(self.config)
        stream, fine = self.late, Signal.like(exponential.fine)
        turning = Attention.COSFORMER in self.config.kinds
        before = self.STAGES.after("distance")  # so many cycles shorter than the way of the exponentials
        valid = delay(m, stream.valid, before, name="functions_valid", reset_less=False)
        m.d.comb += [
            functions.valid.eq(valid),
            functions.word.eq(delay(m, stream.word, before - 1, name="functions_word")),
            functions.mask.eq(lane_mask(delay(m, stream.lanes, before, name="functions_lanes"), self.config.lanes)),
            functions.kind.eq(delay(m, stream.kind, before, name="functions_kind")),
            functions.bias.eq(delay(m, stream.bias, before, name="functions_bias")),
            functions.shift.eq(delay(m, stream.shift, before, name="functions_shift")),
            *([functions.angle.eq(delay(m, stream.angle, before, name="functions_angle"))] if turning else []),
            fine.eq(Mux(functions.chosen, functions.fine, exponential.fine)),
        ]
        chosen = Mux(functions.chosen, functions.probability, exponential.probability)
        for lane in range(self.config.lanes):
            m.d.comb += self.out.word[lane].eq(chosen.word_select(lane, PROBABILITY_BITS))
        return fine

    def update_sums(self, m: Module, fine: data.View) -> None:
        config = self.config
        bits = PROBABILITY_SUM_BITS
        m.submodules.sums = sums = Memory(shape=bits, depth=max(2, config.tokens), init=[])
        write, read = sums.write_port(), sums.read_port()
        entering = Signal(FLAGS)
        m.d.comb += [
            entering.counts.eq(self.late.valid & self.late.accumulate),
            entering.first.eq(self.late.first),
            entering.last.eq(self.late.last),
        ]
        reading = delay(m, entering, len(self.STAGES) - 2 + self.sum_stages, name="reading", reset_less=False)
        arriving = delay(m, reading, 1, name="arriving", reset_less=False)
        added = delay(m, arriving, 2, name="added", reset_less=False)
        lanes, valid = [fine[lane] for lane in range(config.inputs)], m.submodules.exponential.out_valid
        partial = reduce_lanes(m, valid, lanes, add, name="sum", ways=2, first=4)
        m.d.comb += [
            read.addr.eq(delay(m, self.late.index, len(self.STAGES) - 2 + self.sum_stages, name="sum_read")),
            read.en.eq(reading.counts),
        ]
        kept, total = (Signal(bits, name=name, reset_less=True) for name in ("kept_sum", "total"))
        m.d.sync += kept.eq(Mux(arriving.first, 0, read.data))
        m.d.sync += total.eq(self.kept_or(m, partial + kept, read))
        nothing = (total == 0) if len(config.weighings) > 1 else 0  # softmax has its maximum in every sum
        m.d.comb += [
            write.en.eq(added.counts),
            write.addr.eq(delay(m, read.addr, 3, name="sum_write")),
            write.data.eq(total),
        ]
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.d.comb += [reciprocal.valid.eq(added.counts & added.last), reciprocal.value.eq(total | nothing)]
        self.store_scales(m, reciprocal, delay(m, write.addr, Reciprocal.LATENCY, name="scale_write"))

    def kept_or(self, m: Module, total: Value, read) -> Value:
        """A row's sum: that of the weights, read where the sums are, or what two-pass softmax kept of the scores."""
        if not self.two_pass:
            return total
        running = m.submodules.running
        m.d.comb += [
            running.asked.eq(delay(m, read.en, 1, name="asked")),
            running.asked_index.eq(delay(m, read.addr, 1, name="running_asked")),
        ]
        mine = delay(m, self.late.kind == Attention.TWO_PASS, len(self.STAGES) + self.sum_stages, name="sum_two_pass")
        return Mux(mine, running.sum, total)

    def store_scales(self, m: Module, reciprocal: Reciprocal, index: Value) -> None:
        m.submodules.scales = scales = Memory(shape=SCALE, depth=max(2, self.config.tokens), init=[])
        store = scales.write_port()
        fetch = scales.read_port(transparent_for=[store])
        m.d.comb += [
            store.en.eq(reciprocal.out_valid),
            store.addr.eq(index),
            store.data.mantissa.eq(reciprocal.mantissa),
            store.data.exponent.eq(reciprocal.exponent),
            fetch.addr.eq(self.scale.index),
            self.scale.mantissa.eq(fetch.data.mantissa),
            self.scale.exponent.eq(fetch.data.exponent),
        ]


__all__ = ["Softmax", "lane_mask"]
