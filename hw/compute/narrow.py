# SPDX-License-Identifier: Apache-2.0
"""Activations on their way into the array, rounded to 9 bits in steps of their row."""

from amaranth.hdl import Array, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.array import ArrayStream
from edgemoe.hw.compute.fixed import round_shift, saturate
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.arithmetic import STEP_TABLE_FRACTION, step_table
from edgemoe.models.numbers.words import NARROW_BITS


class Narrow(wiring.Component):
    """out.data[k] = sat9(round_shift(words.data[k] * (8 / mantissa in units of 2^-15), 15 + exponent)) of packed words;
    others pass as they are. `unsigned` words have steps half as large, and are limited to 0 to 511.

    The factor, 8 / mantissa * 2^(7 - exponent), or twice that, is made in the cycle before the word comes.

    ==========  ===========================================
    stage       value of a lane
    ==========  ===========================================
    product     word * factor
    rounded     / 2^22, in the multiplier's slice
    word        limited to 9 bits, or the word as it came
    ==========  ===========================================

    Ports:
        words (in ArrayStream): a word, `packed` if it is to be rounded,
        step, unsigned (in): of its row.
        out (out ArrayStream): LATENCY cycles later.
    Latency: LATENCY = 3 cycles from words to out, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between words.
    Format: words signed 16 bit; mantissa 8..16, exponent 0..7; rounded words signed 10 bit.
    Twin: `models.numbers.arithmetic.narrow`.
    """

    STAGES = Stages("product", "rounded", "word")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "words": In(ArrayStream(config)),
                "step": In(layouts.STEP),
                "unsigned": In(1),
                "out": Out(ArrayStream(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, out = self.words, self.out
        factors = [0] * 8 + [int(factor) for factor in step_table()] + [0] * 15
        most = (1 << len(self.step.exponent)) - 1
        factor = Signal(WORD_BITS + most + 1, reset_less=True)
        places = most + self.unsigned - self.step.exponent
        m.d.sync += factor.eq(Array(Const(value, WORD_BITS) for value in factors)[self.step.mantissa] << places[:4])
        packed = delay(m, words.packed, self.LATENCY, name="packed")
        unsigned = delay(m, self.unsigned, self.LATENCY, name="unsigned")
        plain = delay(m, words.data, self.STAGES.after("rounded"), name="plain")
        for lane in range(self.config.inputs):
            product = Signal(signed(WORD_BITS + len(factor) + 1), name=f"product_{lane}", reset_less=True)
            rounded = Signal(signed(WORD_BITS + 2), name=f"rounded_{lane}", reset_less=True)
            positive = Mux(rounded < 0, 0, saturate(rounded, NARROW_BITS + 1))
            m.d.sync += [
                product.eq(words.data[lane] * factor),
                rounded.eq(round_shift(product, STEP_TABLE_FRACTION + most)),
                out.data[lane].eq(Mux(packed, Mux(unsigned, positive, saturate(rounded, NARROW_BITS)), plain[lane])),
            ]
        m.d.comb += [
            out.valid.eq(delay(m, words.valid, self.LATENCY, name="valid", reset_less=False)),
            out.swap.eq(delay(m, words.swap, self.LATENCY, name="swap")),
            out.packed.eq(packed),
        ]
        return m


__all__ = ["Narrow"]
