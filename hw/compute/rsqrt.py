# SPDX-License-Identifier: Apache-2.0
"""1/sqrt(x) as mantissa and exponent."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import line_table
from edgemoe.hw.compute.normalise import EXPONENT_BITS, FRACTION_BITS, MANTISSA_BITS, along_line, normalise, normalised
from edgemoe.hw.compute.pipeline import Stages, chain
from edgemoe.models.numbers.arithmetic import rsqrt_table


class ReciprocalSquareRoot(wiring.Component):
    """1/sqrt(value) = mantissa * 2^-16 * 2^-exponent: leading one, a table of 2 x 128 lines (even and odd powers), one
    multiplication.

    Ports:
        valid, value (in): a number.
        out_valid (out): LATENCY cycles after `valid`.
        mantissa, exponent (out): the result; both keep their values until the next.
    Latency: LATENCY = 5 cycles from valid to out_valid, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between values.
    Format: value an unsigned integer; mantissa 2^15..65535; exponent = floor(log2 value) >> 1, 0..30.
    Limits: 1 <= value < 2^62; 0 has no result (the twin takes it as 1).
    Twin: `models.numbers.arithmetic.rsqrt`.
    """

    STAGES = Stages("coarse", "middle", "fine", "product", "result")
    LATENCY = len(STAGES)
    INTERVAL = 1
    VALUE_BITS = 62
    WIDE = 64  # a power of two, so that every step of the normalisation is one
    SEGMENT_BITS = 7

    valid: In(1)
    value: In(VALUE_BITS)
    out_valid: Out(1)
    mantissa: Out(MANTISSA_BITS)
    exponent: Out(EXPONENT_BITS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = line_table(*rsqrt_table())
        read = table.read_port()
        valids = chain(m, self.valid, self.LATENCY, name="valid", reset_less=False)
        m.d.comb += self.out_valid.eq(valids[-1])

        # coarse, middle: places in steps of 32, 16 and 8, 4 (63 - floor(log2 x) - 2 of them in all)
        spare = self.WIDE - self.VALUE_BITS
        coarse, moved = normalise(m, Cat(Const(0, spare), self.value), (32, 16), name="coarse")
        value_1, moved_1 = Signal(self.WIDE, reset_less=True), Signal(2, reset_less=True)
        with m.If(valids[0]):
            m.d.sync += [value_1.eq(coarse), moved_1.eq(Cat(*reversed(moved)))]
        middle, moved = normalise(m, value_1, (8, 4), name="middle")
        # up to 3 more places come from below
        kept = normalised(1 + self.SEGMENT_BITS + FRACTION_BITS + 3, self.SEGMENT_BITS)
        value_2, moved_2 = Signal(kept.size, reset_less=True), Signal(4, reset_less=True)
        with m.If(valids[1]):
            m.d.sync += [value_2.eq(middle[self.WIDE - kept.size :]), moved_2.eq(Cat(*reversed(moved), moved_1))]
        # fine: last places, table. The lowest bit of floor(log2 x) = 61 - places is the inverse of that of places: it
        # chooses the half of the table for odd or even powers.
        fine, moved = normalise(m, value_2, (2, 1), name="fine")
        parts = data.View(kept, fine)
        exponent_3, fraction_3 = Signal(EXPONENT_BITS, reset_less=True), Signal(FRACTION_BITS, reset_less=True)
        m.d.comb += [read.addr.eq(Cat(parts.segment, ~moved[-1])), read.en.eq(valids[2])]
        with m.If(valids[2]):
            m.d.sync += [
                fraction_3.eq(parts.fraction),
                exponent_3.eq(self.VALUE_BITS // 2 - 1 - Cat(moved[0], moved_2)),
            ]
        along_line(m, valids[3:], exponent_3, read.data, fraction_3, self.exponent, self.mantissa, stage=4)
        return m
