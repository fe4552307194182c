# SPDX-License-Identifier: Apache-2.0
"""1/x as mantissa and exponent."""

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
from edgemoe.models.numbers.arithmetic import reciprocal_table
from edgemoe.models.numbers.words import PROBABILITY_SUM_BITS


class Reciprocal(wiring.Component):
    """1/value = mantissa * 2^-16 * 2^-exponent: leading one, a table of 256 lines, one multiplication.

    Ports:
        valid, value (in): a number.
        out_valid (out): LATENCY cycles after `valid`.
        mantissa, exponent (out): the result; both keep their values until the next.
    Latency: LATENCY = 5 cycles from valid to out_valid, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between values.
    Format: value an unsigned integer; mantissa 2^15..65535; exponent = floor(log2 value), 0..29.
    Limits: 1 <= value < 2^30; 0 has no result (the twin takes it as 1).
    Twin: `models.numbers.arithmetic.reciprocal`.
    """

    STAGES = Stages("coarse", "fine", "multiply", "product", "result")
    LATENCY = len(STAGES)
    INTERVAL = 1
    VALUE_BITS = PROBABILITY_SUM_BITS
    WIDE = 32  # a power of two, so that every step of the normalisation is one
    SEGMENT_BITS = 8

    valid: In(1)
    value: In(VALUE_BITS)
    out_valid: Out(1)
    mantissa: Out(MANTISSA_BITS)
    exponent: Out(EXPONENT_BITS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = mantissa_table(*reciprocal_table())
        read = table.read_port()
        valids = chain(m, self.valid, self.LATENCY, name="valid", reset_less=False)
        m.d.comb += self.out_valid.eq(valids[-1])

        # coarse: places in steps of 16, 8, 4 (31 - exponent of them in all, the added zeros among them)
        spare = self.WIDE - self.VALUE_BITS
        coarse, moved = normalise(m, Cat(Const(0, spare), self.value), (16, 8, 4), name="coarse")
        value_1, moved_1 = Signal(self.WIDE, reset_less=True), Signal(3, reset_less=True)
        with m.If(valids[0]):
            m.d.sync += [value_1.eq(coarse), moved_1.eq(Cat(*reversed(moved)))]
        # fine: the last places; table
        fine, moved = normalise(m, value_1, (2, 1), name="fine")
        parts = data.View(normalised(self.WIDE, self.SEGMENT_BITS), fine)
        exponent_2, fraction_2 = Signal(EXPONENT_BITS, reset_less=True), Signal(FRACTION_BITS, reset_less=True)
        m.d.comb += [read.addr.eq(parts.segment), read.en.eq(valids[1])]
        with m.If(valids[1]):
            m.d.sync += [
                fraction_2.eq(parts.fraction),
                exponent_2.eq(self.VALUE_BITS - 1 - Cat(*reversed(moved), moved_1)),
            ]
        along_line(m, valids[2:], exponent_2, read.data, fraction_2, self.exponent, self.mantissa, stage=3)
        return m
