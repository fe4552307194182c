# SPDX-License-Identifier: Apache-2.0
"""Router, second part: the next best expert of each row."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from edgemoe.hw.compute.lane_tree import reduce_lanes, tree_stages
from edgemoe.hw.compute.logit_scan import logit_token
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.layouts import EXPERT_BITS, count_shape
from edgemoe.hw.memory.pipeline import chain, delay

# logit above, inverted expert number below: the larger logit wins, ties go to the lower expert
KEY = signed(WORD_BITS + EXPERT_BITS)
# Of a lane within its word: the logit, and whether it is eligible, which decides where that is the lowest.
STRENGTH = signed(WORD_BITS + 1)
WEAKEST = -(1 << WORD_BITS)


def expert_of_lane(column: Value, lane: int, lanes: int) -> Value:
    """Number of the expert whose logit is in this lane of this word."""
    return Cat(Const(lane, ceil_log2(lanes)), column)


def choice_key(logit: Value, expert: Value) -> Value:
    """What is compared: a larger key is a better choice."""
    return Cat(~(expert | Const(0, EXPERT_BITS)), logit).as_signed()


def foremost(contenders: Sequence[Value]) -> Value:
    """Of two or four, each a strength above a place: the strongest, of equals the first, with which of them it is below
    its place, a bit for each half: 1 is the lower one.

    The places are not there before: constants that are chosen between would reset registers, later than a value comes.
    """
    strengths = [contender[-STRENGTH.width :].as_signed() for contender in contenders]
    before = {(i, j): strengths[i] >= strengths[j] for j in range(len(strengths)) for i in range(j)}
    left = before[0, 1]
    best, lower = Mux(left, *contenders[:2]), left
    if len(contenders) == 4:
        right = before[2, 3]
        over = Mux(left, Mux(right, before[0, 2], before[0, 3]), Mux(right, before[1, 2], before[1, 3]))
        best, lower = Mux(over, best, Mux(right, *contenders[2:])), Cat(Mux(over, left, right), over)
    return Cat(best[: -STRENGTH.width], lower, best[-STRENGTH.width :])


class ExpertChoice(wiring.Component):
    """choice[row] = the largest key below the row's last choice, over the row's logits; in the first pass the largest
    of all. Of each row it keeps the last choice that got no score: with all choices made twice, the worst of them.

    Eligible in a pass are the keys behind the last choice in the order (larger logit, lower expert): no set of chosen
    experts is kept. The first pass's choice is the row's maximum; the second pass starts afresh, so that its choice is
    the same expert. The choice of a row is in the table one cycle after `chosen`.

    Ports:
        valid, token (in): which word of logits is read in this cycle.
        word (in): it, two cycles later.
        experts (in): how many lanes of a row count; held.
        seen_valid, seen_token, seen_word (out): the same word SEEN cycles after its address,
        seen_maximum, seen_worst (out): with the row's maximum and its last choice without a score (meaningless in the
            first pass).
        chosen, chosen_token, choice (out): pulse: a row's choice is `choice`,
        chosen_maximum (out): with the row's maximum.
    Latency: LATENCY = 5 + stages cycles from the address of a row's last word to `chosen`: memory, word, keys, the
        tree's stages, against the row's earlier words; TURN = 4 + stages cycles from there to the first address of the
        row that may know of it, less one; SEEN = 3 cycles from an address to `seen_valid`.
    Interval: INTERVAL = 1 cycle between words.
    Format: logits signed 16 bit; keys 23 bit.
    Limits: experts <= config.experts.
    Twin: `models.numbers.twins.route`: its `argsort`.
    """

    SEEN = 3
    INTERVAL = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes, ways=2, first=4)
        # memory and word; keys; the tree; against the row's earlier words
        self.LATENCY = self.SEEN + 1 + self.stages + 1
        self.TURN = self.LATENCY - 1  # row tables are read a cycle behind the address
        word, token = data.ArrayLayout(signed(WORD_BITS), config.lanes), logit_token(config)
        super().__init__(
            {
                "valid": In(1),
                "token": In(token),
                "word": In(word),
                "experts": In(count_shape(config.experts)),
                "seen_valid": Out(1),
                "seen_token": Out(token),
                "seen_word": Out(word),
                "seen_maximum": Out(signed(WORD_BITS)),
                "seen_worst": Out(KEY),
                "chosen": Out(1),
                "chosen_token": Out(token),
                "chosen_maximum": Out(signed(WORD_BITS)),
                "choice": Out(KEY),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, lanes = self.config, self.config.lanes
        valids = chain(m, self.valid, self.LATENCY, name="valid", reset_less=False)
        # fields that nobody reads any more are removed by synthesis
        tokens = chain(m, self.token, self.LATENCY, name="token")
        # Row tables: maximum (written by the first pass), last choice, last choice without a score.
        m.submodules.maxima = maxima = Memory(shape=signed(WORD_BITS), depth=max(2, config.tokens), init=[])
        m.submodules.choices = choices = Memory(shape=KEY, depth=max(2, config.tokens), init=[])
        m.submodules.unscored = unscored = Memory(shape=KEY, depth=max(2, config.tokens), init=[])
        write_maximum, read_maximum = maxima.write_port(), maxima.read_port()
        write_worst, read_worst = unscored.write_port(), unscored.read_port()
        write_choice, read_choice = choices.write_port(), choices.read_port()
        for read in (read_maximum, read_choice, read_worst):
            m.d.comb += [read.addr.eq(tokens[1].row), read.en.eq(valids[1])]
        # Memory outputs -> registers.
        word, before = Signal.like(self.word, reset_less=True), Signal(KEY, reset_less=True)
        maximum = Signal(signed(WORD_BITS), reset_less=True)
        with m.If(valids[2]):
            m.d.sync += [word.eq(self.word), maximum.eq(read_maximum.data), before.eq(read_choice.data)]
            m.d.sync += self.seen_worst.eq(read_worst.data)
        seen = self.SEEN
        m.d.comb += [self.seen_valid.eq(valids[seen]), self.seen_token.eq(tokens[seen]), self.seen_word.eq(word)]
        m.d.comb += self.seen_maximum.eq(maximum)
        # Strengths of the eligible.
        strengths = []
        for lane in range(lanes):
            expert = expert_of_lane(tokens[seen].column, lane, lanes)
            candidate = Signal(KEY, name=f"candidate_{lane}")
            strength = Signal(STRENGTH, name=f"strength_{lane}", reset_less=True)
            m.d.comb += candidate.eq(choice_key(word[lane], expert))
            eligible = (expert < self.experts) & (tokens[seen].fresh | (candidate < before))
            with m.If(valids[seen]):
                m.d.sync += strength.eq(Mux(eligible, Cat(Const(1, 1), word[lane]).as_signed(), WEAKEST))
            strengths.append(strength)
        # The word's best, then the row's.
        at = seen + 1
        found = reduce_lanes(m, valids[at], strengths, foremost, name="best", ways=2, first=4)
        at += self.stages
        best = Signal(KEY)
        m.d.comb += best.eq(self.key(found, tokens[at].column))
        with m.If(valids[at]):
            m.d.sync += self.choice.eq(Mux(tokens[at].first | (best > self.choice), best, self.choice))
        m.d.comb += [
            self.chosen.eq(valids[-1] & tokens[-1].last),
            self.chosen_token.eq(tokens[-1]),
            self.chosen_maximum.eq(delay(m, maximum, self.LATENCY - seen, name="maximum")),
            write_choice.addr.eq(self.chosen_token.row),
            write_choice.data.eq(self.choice),
            write_choice.en.eq(self.chosen),
            write_maximum.addr.eq(self.chosen_token.row),
            write_maximum.data.eq(self.choice[EXPERT_BITS:]),
            write_maximum.en.eq(self.chosen & self.chosen_token.maximum),
            write_worst.addr.eq(self.chosen_token.row),
            write_worst.data.eq(self.choice),
            write_worst.en.eq(self.chosen & ~self.chosen_token.scored),
        ]
        return m

    @staticmethod
    def key(found: Value, column: Value) -> Value:
        """That of the lane which `foremost` has found, or less than any expert's if that is not eligible."""
        inverted, eligible, logit = found[: -STRENGTH.width], found[-STRENGTH.width], found[-WORD_BITS:]
        number = Cat(inverted, ~column)
        return Cat(number, eligible.replicate(EXPERT_BITS - len(number)), logit)


__all__ = ["ExpertChoice", "choice_key", "expert_of_lane"]
