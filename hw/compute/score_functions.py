# SPDX-License-Identifier: Apache-2.0
"""What weighs values in place of softmax: functions of one score alone, which need nothing of its row.

All of them give what the exponentials give, at the same time: weights in units of 2^-15 for the array, and the same
three bits finer for the row's sum. So the rest of the core does not know which of them a MATMUL has asked for.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.cosformer import ANGLE, STEP_BITS, CosFormer
from edgemoe.hw.compute.exponential import FINE_BITS
from edgemoe.hw.compute.performer import Performer
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.isa import Attention
from edgemoe.hw.contract.rules import one_of
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers.words import FINE_PROBABILITY_BITS, PROBABILITY_BITS


class ScoreFunctions(wiring.Component):
    """Weights of a word of scores, lane by lane: 1 / (1 + exp(-(score + bias))), max(score, 0), or this plus bias or
    times the sine of an angle; of those that the build has. RELA's are those of RELU.

    Ports:
        valid, word (in): scores are presented.
        mask (in): the lanes that count; the others give 0.
        angle (in): of the word, of COSFORMER.
        kind, bias, shift (in): of the word; 2^(shift - 12) is the unit of a score, of SIGMOID.
        chosen (out): LATENCY cycles after `valid`: the word's kind is one of these.
        fine, probability (out): then its weights; without `chosen`, anything.
    Latency: LATENCY = 6 cycles from valid to chosen, those of Sigmoid.LATENCY cycles.
    Interval: INTERVAL = 1 cycle between words.
    Format: scores and bias signed 16 bit; fine in units of 2^-18, probability in units of 2^-15; of RELU, the score and
        eight times that, and so of features.
    Limits: shift is 0..15.
    Twin: `models.numbers.arithmetic.sigmoid_fine` and `models.numbers.arithmetic.relu_fine`, for PERFORMER of
        `models.numbers.arithmetic.above_zero`; for COSFORMER `models.numbers.arithmetic.turned_fine`.
    """

    LATENCY = Sigmoid.LATENCY
    INTERVAL = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        angle = {"angle": In(ANGLE)} if Attention.COSFORMER in config.kinds else {}
        super().__init__(
            angle
            | {
                "valid": In(1),
                "word": In(layouts.word(config)),
                "mask": In(config.lanes),
                "kind": In(layouts.ATTENTION_BITS),
                "bias": In(signed(WORD_BITS)),
                "shift": In(4),
                "chosen": Out(1),
                "fine": Out(data.ArrayLayout(FINE_BITS, config.lanes)),
                "probability": Out(data.ArrayLayout(PROBABILITY_BITS, config.lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        kind = delay(m, self.kind, self.LATENCY, name="kind")
        makers = (
            (self._sigmoid, Attention.SIGMOID),
            (self._relu, Attention.RELU, Attention.RELA),
            (self._performer, Attention.PERFORMER),
            (self._cosformer, Attention.COSFORMER),
        )
        for make, *codes in makers:
            if built := tuple(code for code in codes if code in self.config.kinds):
                fine, probability = make(m)
                with m.If(one_of(kind, built)):
                    m.d.comb += [self.chosen.eq(1), self.fine.eq(fine), self.probability.eq(probability)]
        return m

    def _sigmoid(self, m: Module):
        m.submodules.sigmoid = sigmoid = Sigmoid(self.config.lanes)
        m.d.comb += [
            sigmoid.valid.eq(self.valid),
            sigmoid.score.eq(self.word),
            sigmoid.mask.eq(self.mask),
            sigmoid.bias.eq(self.bias),
            sigmoid.shift.eq(self.shift),
        ]
        return sigmoid.fine, sigmoid.probability

    def _relu(self, m: Module):
        positive = Signal(data.ArrayLayout(PROBABILITY_BITS, self.config.lanes), reset_less=True)
        for lane in range(self.config.lanes):
            score = self.word[lane]
            m.d.sync += positive[lane].eq(Mux(self.mask[lane] & (score >= 0), score[:PROBABILITY_BITS], 0))
        return self._late(m, positive, self.LATENCY - 1, "positive")

    def _performer(self, m: Module):
        m.submodules.performer = performer = Performer(self.config.lanes)
        m.d.comb += [performer.score.eq(self.word), performer.mask.eq(self.mask), performer.bias.eq(self.bias)]
        return self._late(m, performer.feature, self.LATENCY - Performer.LATENCY, "feature")

    def _cosformer(self, m: Module):
        m.submodules.cosformer = cosformer = CosFormer(self.config.lanes)
        m.d.comb += [
            cosformer.score.eq(self.word),
            cosformer.mask.eq(self.mask),
            cosformer.angle.eq(self.angle),
            cosformer.step.eq(Cat(self.bias[: STEP_BITS - 1], 1)),
            cosformer.shift.eq(self.shift),
        ]
        return cosformer.fine, cosformer.probability

    def _late(self, m: Module, weights: data.View, cycles: int, name: str):
        """(fine, probability) so many cycles later."""
        late = delay(m, weights, cycles, name=name)
        fine = Signal(data.ArrayLayout(FINE_BITS, self.config.lanes))
        m.d.comb += [fine[lane].eq(late[lane] << FINE_PROBABILITY_BITS - PROBABILITY_BITS) for lane in range(len(late))]
        return fine, late
