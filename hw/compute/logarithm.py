# SPDX-License-Identifier: Apache-2.0
"""log2: leading one, a table of 256 lines, one multiplication."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.hw.compute.normalise import EXPONENT_BITS, FRACTION_BITS, normalise, normalised
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.arithmetic import LOGARITHM_FRACTION, log2_table
from edgemoe.models.numbers.words import PROBABILITY_SUM_BITS

RISE_BITS = 11
LOGARITHM_BITS = EXPONENT_BITS + LOGARITHM_FRACTION


class Logarithm(wiring.Component):
    """log2(value), by the same parts of it as the reciprocals.

    Ports:
        value (in): a number.
        result (out): LATENCY cycles later.
    Latency: LATENCY = 4 cycles from value to result, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between values.
    Format: value an unsigned integer; result in units of 2^-18.
    Limits: 1 <= value < 2^30; 0 has no result.
    Twin: `models.numbers.arithmetic.log2_fine`.
    """

    STAGES = Stages("coarse", "fine", "product", "result")
    LATENCY = len(STAGES)
    INTERVAL = 1
    VALUE_BITS = PROBABILITY_SUM_BITS
    WIDE = 32  # a power of two, so that every step of the normalisation is one
    SEGMENT_BITS = 8

    value: In(VALUE_BITS)
    result: Out(LOGARITHM_BITS)

    def elaborate(self, platform):
        m = Module()
        start, rise = log2_table()
        line = data.StructLayout({"start": LOGARITHM_FRACTION, "rise": RISE_BITS})
        rows = [{"start": int(a), "rise": int(b)} for a, b in zip(start, rise, strict=True)]
        m.submodules.table = table = Memory(shape=line, depth=len(rows), init=rows)
        read = table.read_port()

        # coarse: places in steps of 16, 8, 4; fine: the last ones, and the table
        spare = self.WIDE - self.VALUE_BITS
        coarse, moved = normalise(m, Cat(Const(0, spare), self.value), (16, 8, 4), name="coarse")
        value_1, moved_1 = Signal(self.WIDE, reset_less=True), Signal(3, reset_less=True)
        m.d.sync += [value_1.eq(coarse), moved_1.eq(Cat(*reversed(moved)))]
        fine, moved = normalise(m, value_1, (2, 1), name="fine")
        parts = data.View(normalised(self.WIDE, self.SEGMENT_BITS), fine)
        exponent_2, fraction_2 = Signal(EXPONENT_BITS, reset_less=True), Signal(FRACTION_BITS, reset_less=True)
        m.d.comb += [read.addr.eq(parts.segment), read.en.eq(1)]
        m.d.sync += [
            fraction_2.eq(parts.fraction),
            exponent_2.eq(self.VALUE_BITS - 1 - Cat(*reversed(moved), moved_1)),
        ]
        # product: along the line; result
        product_3 = Signal(RISE_BITS + FRACTION_BITS, reset_less=True)
        whole_3 = delay(m, Cat(read.data.start, exponent_2), 1, name="whole")
        m.d.sync += [
            product_3.eq(read.data.rise * fraction_2),
            self.result.eq(whole_3 + round_shift(product_3, FRACTION_BITS)),
        ]
        return m


__all__ = ["LOGARITHM_BITS", "Logarithm"]
