# SPDX-License-Identifier: Apache-2.0
"""Router, third part: the score of a choice, its softmax over all experts of the row, or over those chosen."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from edgemoe.hw.compute.expert_choice import KEY, choice_key, expert_of_lane
from edgemoe.hw.compute.exponential import FINE_BITS, Exponential
from edgemoe.hw.compute.fixed import half_shift, round_half
from edgemoe.hw.compute.lane_tree import add, reduce_lanes, tree_stages
from edgemoe.hw.compute.logit_scan import logit_token
from edgemoe.hw.compute.reciprocal import Reciprocal
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.layouts import EXPERT_BITS, SCORE_BITS, count_shape, index_shape
from edgemoe.hw.memory.pipeline import chain, delay


class ExpertScore(wiring.Component):
    """score = min(65535, round_shift(2^(l_e - max) * mantissa, exponent + 1)) with 1 / sum over e of 2^(l_e - max) =
    (mantissa, exponent); e are all experts, or, with `among_chosen`, those that are no worse than the worst choice.

    Ports:
        seen_valid, seen_token, seen_word, seen_maximum, seen_worst (in): words of logits, as `ExpertChoice` gives them.
            Nothing comes of passes without scores.
        experts, among_chosen, shift, row_base (in): held: how many lanes of a row count; whether only those chosen are
            added up; 2^(shift - 12) is the unit of a logit; the number of row 0.
        chosen, choice, chosen_maximum (in): a row's choice, in its own cycle, `choice_delay` after its last word was
            seen.
        scored (out): pulse, with
        expert, score, row (out): an entry for a queue; row = row_base + that of the token.
    Latency: LATENCY = 17 + stages cycles from a row's last word to `scored`: 6, and those of exponential, tree and
        reciprocal.
    Interval: INTERVAL = 1 cycle between words.
    Format: score unsigned 16 bit, 2^15 is 1.0; the sum is exact, of probabilities in units of 2^-18.
    Limits: experts <= config.experts.
    Twin: `models.numbers.twins.route`.
    """

    INTERVAL = 1

    def __init__(self, config: HardwareConfig, choice_delay: int):
        """choice_delay: cycles from a row's last word being seen to `chosen`."""
        self.config, self.choice_delay = config, choice_delay
        self.stages = tree_stages(config.lanes, ways=2, first=4)
        # distances, exponentials, tree, against the row's earlier words
        self.SUM = 1 + Exponential.LATENCY + self.stages + 1
        self.PRODUCT = self.SUM + Reciprocal.LATENCY + 1
        self.LATENCY = self.PRODUCT + 3  # a second register of the product, shifted, rounded
        word, token = data.ArrayLayout(signed(WORD_BITS), config.lanes), logit_token(config)
        super().__init__(
            {
                "seen_valid": In(1),
                "seen_token": In(token),
                "seen_word": In(word),
                "seen_maximum": In(signed(WORD_BITS)),
                "seen_worst": In(KEY),
                "experts": In(count_shape(config.experts)),
                "among_chosen": In(1),
                "shift": In(4),
                "row_base": In(index_shape(config.rows)),
                "chosen": In(1),
                "choice": In(KEY),
                "chosen_maximum": In(signed(WORD_BITS)),
                "scored": Out(1),
                "expert": Out(EXPERT_BITS),
                "score": Out(SCORE_BITS),
                "row": Out(index_shape(config.rows)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valids = chain(m, self.seen_valid & self.seen_token.scored, self.LATENCY, name="valid", reset_less=False)
        tokens = chain(m, self.seen_token, self.LATENCY, name="token")
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.d.comb += [
            reciprocal.valid.eq(valids[self.SUM] & tokens[self.SUM].last),
            reciprocal.value.eq(self.sum(m, valids, tokens)),
        ]
        probability = self.probability(m)

        product = delay(m, probability * reciprocal.mantissa, 2, name="product")
        shifted = Signal.like(product, reset_less=True)
        m.d.sync += shifted.eq(half_shift(product, 1) >> delay(m, reciprocal.exponent, 2, name="exponent"))
        # Rounded, it is too large if it is by itself, or if it is the largest that is not.
        beyond = shifted[SCORE_BITS + 1 :].any() | shifted[: SCORE_BITS + 1].all()
        with m.If(valids[-2]):
            m.d.sync += self.score.eq(round_half(shifted)[:SCORE_BITS] | beyond.replicate(SCORE_BITS))
        m.d.sync += self.row.eq(self.row_base + tokens[-2].row)
        m.d.comb += [
            self.scored.eq(valids[-1] & tokens[-1].last),
            self.expert.eq(delay(m, ~self.choice[:EXPERT_BITS], self.LATENCY - self.choice_delay, name="expert")),
        ]
        return m

    def sum(self, m: Module, valids, tokens) -> Signal:
        """The row's sum of probabilities, SUM cycles after its last word."""
        config, lanes = self.config, self.config.lanes
        m.submodules.exponential = exponential = Exponential(lanes)
        distances, present = Signal(exponential.distance.shape(), reset_less=True), Signal(lanes, reset_less=True)
        for lane in range(lanes):
            expert = expert_of_lane(self.seen_token.column, lane, lanes)
            chosen = choice_key(self.seen_word[lane], expert) >= self.seen_worst
            with m.If(valids[0]):
                m.d.sync += [
                    distances[lane].eq(self.seen_maximum - self.seen_word[lane]),
                    present[lane].eq((expert < self.experts) & (~self.among_chosen | chosen)),
                ]
        m.d.comb += [exponential.valid.eq(valids[1]), exponential.distance.eq(distances)]
        m.d.comb += [exponential.mask.eq(present), exponential.shift.eq(self.shift)]
        partial = reduce_lanes(
            m,
            exponential.out_valid,
            [exponential.fine[lane] for lane in range(lanes)],
            add,
            name="sum",
            ways=2,
            first=4,
        )
        total = Signal(FINE_BITS + ceil_log2(config.experts + 1), reset_less=True)
        with m.If(valids[self.SUM - 1]):
            m.d.sync += total.eq(partial + Mux(tokens[self.SUM - 1].first, 0, total))
        return total

    def probability(self, m: Module) -> Signal:
        """That of the choice, beside the reciprocal's result."""
        m.submodules.single = single = Exponential(1)
        distance = Signal(single.distance.shape(), reset_less=True)
        with m.If(self.chosen):
            m.d.sync += distance[0].eq(self.chosen_maximum - self.choice[EXPERT_BITS:].as_signed())
        m.d.comb += [
            single.valid.eq(delay(m, self.chosen, 1, name="single_valid", reset_less=False)),
            single.distance.eq(distance),
        ]
        m.d.comb += [single.mask.eq(1), single.shift.eq(self.shift)]
        known = self.choice_delay + 1 + Exponential.LATENCY
        return delay(m, single.fine[0], self.PRODUCT - 1 - known, name="probability")


__all__ = ["ExpertScore"]
