# SPDX-License-Identifier: Apache-2.0
"""A number times the logistic function of another one, N lanes a cycle: what ReLA's norm is gated with."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import round_shift, saturate
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.contract.config import FINE_BITS, WORD_BITS
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.words import FINE_PROBABILITY_BITS, GATE_ARGUMENT_FRACTION, SCORE_FRACTION


class Gate(wiring.Component):
    """word = round(number / (1 + exp(-value * 2^-11))), lane by lane; of value counts what 16 bits hold, up to 16 on
    either side.

    Ports:
        valid (in): numbers and values are presented.
        number, value (in): of each lane.
        word (out): LATENCY cycles later.
    Latency: LATENCY = 9 cycles from valid to word, a register for each of the STAGES, those of Sigmoid.LATENCY cycles
        among them.
    Interval: INTERVAL = 1 cycle between words.
    Format: number and word signed 16 bit, of one unit; value signed 27 bit, 11 of them a fraction; the function in
        units of 2^-18.
    Limits: none but the format's: no number grows.
    Twin: `models.numbers.arithmetic.gated`.
    """

    STAGES = Stages("limited", *(f"sigmoid {name}" for name in Sigmoid.STAGES), "product", "rounded")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(
            {
                "valid": In(1),
                "number": In(data.ArrayLayout(signed(WORD_BITS), lanes)),
                "value": In(data.ArrayLayout(signed(FINE_BITS), lanes)),
                "word": Out(data.ArrayLayout(signed(WORD_BITS), lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.sigmoid = sigmoid = Sigmoid(self.lanes)
        number = delay(m, self.number, self.STAGES.after("product") - 1, name="number")
        m.d.comb += [
            sigmoid.valid.eq(delay(m, self.valid, 1, name="valid", reset_less=False)),
            sigmoid.mask.eq((1 << self.lanes) - 1),
            sigmoid.bias.eq(0),
            sigmoid.shift.eq(SCORE_FRACTION - GATE_ARGUMENT_FRACTION),
        ]
        for lane in range(self.lanes):
            limited = Signal(signed(WORD_BITS), name=f"limited_{lane}", reset_less=True)
            product = Signal(signed(WORD_BITS + FINE_PROBABILITY_BITS + 1), name=f"product_{lane}", reset_less=True)
            m.d.comb += sigmoid.score[lane].eq(limited)
            m.d.sync += [
                limited.eq(saturate(self.value[lane], WORD_BITS)),
                product.eq(number[lane] * sigmoid.fine[lane]),
                self.word[lane].eq(round_shift(product, FINE_PROBABILITY_BITS)),
            ]
        return m
