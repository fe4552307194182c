# SPDX-License-Identifier: Apache-2.0
"""What sums of rounded activations are worth, between accumulators and epilogue; and the bias that they begin with."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.accumulator import RowSums
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, HardwareConfig
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.words import PACKED_SUM_BITS

LONGEST = 28  # places of an addition through which its carry goes in a cycle, behind a choice


class RowStep(wiring.Component):
    """out.sums[j] = (packed ? row.sums[j] * mantissa * 2^exponent : row.sums[j]) + bias[j], modulo 2^48.

    ==========  ===============================================  ==================
    stage       value of a lane                                  beside it
    ==========  ===============================================  ==================
    parts       sum * (mantissa % 4), sum * (mantissa / 4)       the sum's upper half
    product     sum * mantissa * 2^(exponent & 6)
    sum         product * 2^(exponent & 1) + bias
    ==========  ===============================================  ==================

    Ports:
        row (in RowSums): a row of sums,
        packed, step (in): in the cycle before: whether they are of rounded activations, and in which step.
        bias (in): what is added, BIAS_DELAY cycles after the row.
        out (out RowSums): LATENCY cycles after the row.
    Latency: LATENCY = 3 cycles from row to out, a register for each of the STAGES; BIAS_DELAY = 2 cycles.
    Interval: INTERVAL = 1 cycle between rows.
    Format: packed sums signed 24 bit, mantissa 8..16, exponent 0..7; others and the bias signed 48 bit.
    Twin: `models.numbers.arithmetic.row_step`, by whose product the emulator multiplies.
    """

    STAGES = Stages("parts", "product", "sum")
    LATENCY = len(STAGES)
    BIAS_DELAY = STAGES.after("product")
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "row": In(RowSums(config)),
                "packed": In(1),
                "step": In(layouts.STEP),
                "bias": In(layouts.sums(config)),
                "out": Out(RowSums(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A mantissa of 1 leaves a sum as it is; one of 16 takes it eight times twice.
        mantissa, exponent = (Signal.like(self.step[name], reset_less=True) for name in ("mantissa", "exponent"))
        m.d.sync += [
            mantissa.eq(Mux(self.packed, self.step.mantissa | self.step.mantissa[4] << 3, 1)),
            exponent.eq(Mux(self.packed, self.step.exponent, 0)),
        ]
        packed = delay(m, self.packed, self.STAGES.after("product"), name="packed")
        places = delay(m, exponent, self.STAGES.after("parts"), name="places")
        place = delay(m, places[0], 1, name="place")
        for lane in range(self.config.lanes):
            value = self.row.sums[lane].as_unsigned()
            narrow = value[:PACKED_SUM_BITS].as_signed()  # times few bits: adders, no DSP slice is worth its place
            ones, fours = (
                Signal(signed(PACKED_SUM_BITS + bits), name=f"{name}_{lane}", reset_less=True)
                for name, bits in (("ones", 2), ("fours", 3))
            )
            product = Signal(signed(ACCUMULATOR_BITS), name=f"product_{lane}", reset_less=True)
            doubled = narrow << 1
            m.d.sync += [
                ones.eq(Mux(mantissa[0], narrow, 0) + Mux(mantissa[1], doubled, 0)),
                fours.eq(Mux(mantissa[3], doubled, 0) + Mux(mantissa[4], doubled, Mux(mantissa[2], narrow, 0))),
            ]
            top = delay(m, value[PACKED_SUM_BITS:], 1, name=f"top_{lane}")
            scaled = ones + (fours << 2) << Cat(0, places[1:])
            m.d.sync += [
                product.eq(Mux(packed, scaled, Cat(scaled[:PACKED_SUM_BITS], top).as_signed())),
                self.out.sums[lane].eq(carried(product << place, self.bias[lane])),
            ]
        m.d.comb += self.out.valid.eq(delay(m, self.row.valid, self.LATENCY, name="valid", reset_less=False))
        return m


def carried(a: Value, b: Value) -> Value:
    """a + b of ACCUMULATOR_BITS; above LONGEST both outcomes are made, and the carry only chooses."""
    a, b = a[:ACCUMULATOR_BITS], b.as_unsigned()
    lower = a[:LONGEST] + b[:LONGEST]
    upper, more = a[LONGEST:] + b[LONGEST:], Cat(1, a[LONGEST:]) + Cat(1, b[LONGEST:])
    return Cat(lower[:LONGEST], Mux(lower[LONGEST], more[1:], upper)[: ACCUMULATOR_BITS - LONGEST])


__all__ = ["RowStep"]
