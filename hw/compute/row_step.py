# SPDX-License-Identifier: Apache-2.0
"""What sums of rounded activations are worth, between accumulators and epilogue; and the bias that they begin with."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.accumulator import RowSums
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, HardwareConfig
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.words import PACKED_SUM_BITS


class RowStep(wiring.Component):
    """out.sums[j] = (packed ? row.sums[j] * mantissa * 2^exponent : row.sums[j]) + bias[j], modulo 2^48.

    ==========  ===========================================  ==================
    stage       value of a lane                              beside it
    ==========  ===========================================  ==================
    value       the sum
    product     sum * mantissa                               exponent
    sum         product * 2^exponent + bias
    ==========  ===========================================  ==================

    Ports:
        row (in RowSums): a row of sums,
        packed, step (in): whether they are of rounded activations, and in which step.
        bias (in): what is added, BIAS_DELAY cycles after the row.
        out (out RowSums): LATENCY cycles after the row.
    Latency: LATENCY = 3 cycles from row to out, a register for each of the STAGES; BIAS_DELAY = 2 cycles.
    Interval: INTERVAL = 1 cycle between rows.
    Format: packed sums signed 24 bit, mantissa 8..16, exponent 0..7; others and the bias signed 48 bit.
    Twin: `models.numbers.arithmetic.row_step`, by whose product the emulator multiplies.
    """

    STAGES = Stages("value", "product", "sum")
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
        packed, step = delay(m, self.packed, 1, name="packed"), delay(m, self.step, 1, name="step")
        exponent = Signal.like(step.exponent, reset_less=True)
        m.d.sync += exponent.eq(Mux(packed, step.exponent, 0))
        for lane in range(self.config.lanes):
            value, product = (
                Signal(signed(ACCUMULATOR_BITS), name=f"{name}_{lane}", reset_less=True)
                for name in ("value", "product")
            )
            narrow = value[
                :PACKED_SUM_BITS
            ].as_signed()  # times few bits: adders, for which no DSP slice is worth its place
            parts = [Mux(step.mantissa[k], narrow << k, 0) for k in range(len(step.mantissa))]
            scaled = (parts[0] + parts[1]) + (parts[2] + parts[3]) + parts[4]
            m.d.sync += [
                value.eq(self.row.sums[lane]),
                product.eq(Mux(packed, scaled, value)),
                self.out.sums[lane].eq((product << exponent) + self.bias[lane]),
            ]
        m.d.comb += self.out.valid.eq(delay(m, self.row.valid, self.LATENCY, name="valid", reset_less=False))
        return m


__all__ = ["RowStep"]
