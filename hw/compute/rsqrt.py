# SPDX-License-Identifier: Apache-2.0
"""1/sqrt(x) as mantissa and exponent."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.normalise import (
    EXPONENT_BITS,
    FRACTION_BITS,
    MANTISSA_BITS,
    along_line,
    mantissa_table,
    normalise,
    normalised,
)
from edgemoe.hw.memory.pipeline import Stages, chain
from edgemoe.models.numbers.arithmetic import rsqrt_table


class ReciprocalSquareRoot(wiring.Component):
    """1/sqrt(value) = mantissa * 2^-16 * 2^-exponent: leading one, a table of 2 x 128 lines (even and odd powers), one
    multiplication.

    Ports:
        valid, value (in): a number.
        out_valid (out): LATENCY cycles after `valid`.
        mantissa, exponent (out): the result; both keep their values until the next.
    Latency: LATENCY = 7 cycles from valid to out_valid, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between values.
    Format: value an unsigned integer; mantissa 2^15..65535; exponent = floor(log2 value) >> 1, 0..30.
    Limits: 1 <= value < 2^62; 0 has no result (the twin takes it as 1).
    Twin: `models.numbers.arithmetic.rsqrt`.
    """

    STAGES = Stages("coarse", "middle", "fine", "table", "multiply", "product", "result")
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
        m.submodules.table = table = mantissa_table(*rsqrt_table())
        read = table.read_port()
        valids = chain(m, self.valid, self.LATENCY, name="valid", reset_less=False)
        m.d.comb += self.out_valid.eq(valids[-1])

        # coarse, middle, fine: places in steps of 32; 16, 8; 4, 2, 1: 63 - floor(log2 x) - 2 of them in all
        spare = self.WIDE - self.VALUE_BITS
        value, places = Cat(Const(0, spare), self.value), Const(0, 0)
        for stage, amounts in (("coarse", (32,)), ("middle", (16, 8)), ("fine", (4, 2, 1))):
            shifted, moved = normalise(m, value, amounts, name=stage)
            moved = Cat(*reversed(moved), places)
            value, places = (
                Signal(len(bits), name=f"{name}_{stage}", reset_less=True)
                for name, bits in (("value", shifted), ("places", moved))
            )
            with m.If(valids[self.STAGES.after(stage) - 1]):
                m.d.sync += [value.eq(shifted), places.eq(moved)]
        # table: the lowest bit of floor(log2 x) = 61 - places is the inverse of that of places: it chooses the half of
        # the table for odd or even powers.
        parts = data.View(normalised(self.WIDE, self.SEGMENT_BITS), value)
        exponent, fraction = Signal(EXPONENT_BITS, reset_less=True), Signal(FRACTION_BITS, reset_less=True)
        m.d.comb += [read.addr.eq(Cat(parts.segment, ~places[0])), read.en.eq(valids[3])]
        with m.If(valids[3]):
            m.d.sync += [fraction.eq(parts.fraction), exponent.eq(self.VALUE_BITS // 2 - 1 - places[1:])]
        along_line(m, valids[4:], exponent, read.data, fraction, self.exponent, self.mantissa, stage=5)
        return m
