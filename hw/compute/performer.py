# SPDX-License-Identifier: Apache-2.0
"""Features of Performers, with ReLU: what of a score is above zero, and a little more, which no feature is without."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import saturate
from edgemoe.hw.contract.config import WORD_BITS
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers.words import PROBABILITY_BITS


class Performer(wiring.Component):
    """mask ? max(score, 0) + bias : 0 for `lanes` scores, which are products of queries or keys with fixed vectors.

    Ports:
        score (in): of each lane.
        mask (in): the lanes that count.
        bias (in): of the word.
        feature (out): LATENCY cycles later.
    Latency: LATENCY = 2 cycles.
    Interval: INTERVAL = 1 cycle between words.
    Format: score and bias signed 16 bit; feature in their unit, within 0..32767.
    Twin: `models.numbers.arithmetic.above_zero`.
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(
            {
                "score": In(data.ArrayLayout(signed(WORD_BITS), lanes)),
                "mask": In(lanes),
                "bias": In(signed(WORD_BITS)),
                "feature": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mask, bias = delay(m, self.mask, 1, name="mask"), delay(m, self.bias, 1, name="bias")
        for lane in range(self.lanes):
            above = Signal(PROBABILITY_BITS, name=f"above_{lane}", reset_less=True)
            feature = Signal(PROBABILITY_BITS, name=f"feature_{lane}", reset_less=True)
            score = self.score[lane]
            total = saturate(above + bias, WORD_BITS)
            m.d.sync += [
                above.eq(Mux(score >= 0, score[:PROBABILITY_BITS], 0)),
                feature.eq(Mux(mask[lane] & (total >= 0), total[:PROBABILITY_BITS], 0)),
            ]
            m.d.comb += self.feature[lane].eq(feature)
        return m
