# SPDX-License-Identifier: Apache-2.0
"""1/sqrt(x) as mantissa and exponent."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.units.exponential import START_BITS, line_table
from edgemoe.hw.units.fixed import delay
from edgemoe.hw.units.reciprocal import EXPONENT_BITS, MANTISSA_BITS, mantissa_of, normalise
from edgemoe.models.arithmetic import rsqrt_table


class ReciprocalSquareRoot(wiring.Component):
    """1/sqrt(x) = mantissa * 2^-16 * 2^-exponent: leading one, a table of 2 x 128 lines (even and odd powers), one multiplication.

    Ports:
        valid, value: x.
        out_valid, mantissa, exponent: the result, LATENCY cycles later; both keep their value until the next result.

    LATENCY = 5; one value a cycle (initiation interval 1).
    Format: x an unsigned integer; mantissa 2^15..65535; exponent = floor(log2 x) >> 1, 0..30.
    Limits: 1 <= x < 2^62; x = 0 has no result (the twin takes it as 1).
    Twin: `models.arithmetic.rsqrt`.
    """

    LATENCY = 5
    VALUE_BITS = 62

    valid: In(1)
    value: In(VALUE_BITS)
    out_valid: Out(1)
    mantissa: Out(MANTISSA_BITS)
    exponent: Out(EXPONENT_BITS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = line_table(*rsqrt_table())
        read = table.read_port()
        start, drop = read.data[:START_BITS], read.data[START_BITS:]
        valids = [self.valid]
        for stage in range(1, self.LATENCY + 1):
            valids.append(delay(m, valids[-1], 1, name=f"valid_{stage}", reset_less=False))
        m.d.comb += self.out_valid.eq(valids[-1])

        # 1 and 2: normalise; 64 bits wide so that every step is a power of two (63 - floor(log2 x) - 2 places in all)
        coarse, moved = normalise(m, Cat(Const(0, 2), self.value), (32, 16), name="coarse")
        value_1, moved_1 = Signal(64, reset_less=True), Signal(2, reset_less=True)
        with m.If(valids[0]):
            m.d.sync += [value_1.eq(coarse), moved_1.eq(Cat(*reversed(moved)))]
        middle, moved = normalise(m, value_1, (8, 4), name="middle")
        value_2, moved_2 = Signal(23, reset_less=True), Signal(4, reset_less=True)  # leading one, 19 bits of fraction, room for 3 places
        with m.If(valids[1]):
            m.d.sync += [value_2.eq(middle[41:]), moved_2.eq(Cat(*reversed(moved), moved_1))]
        # 3: last places, table. The lowest bit of floor(log2 x) = 61 - places is the inverse of that of places.
        fine, moved = normalise(m, value_2, (2, 1), name="fine")
        exponent_3, fraction_3 = Signal(EXPONENT_BITS, reset_less=True), Signal(12, reset_less=True)
        m.d.comb += [read.addr.eq(Cat(fine[15:22], ~moved[-1])), read.en.eq(valids[2])]
        with m.If(valids[2]):
            m.d.sync += [fraction_3.eq(fine[3:15]), exponent_3.eq(30 - Cat(moved[0], moved_2))]
        # 4: multiply
        exponent_4, start_4, product_4 = (
            Signal(EXPONENT_BITS, reset_less=True),
            Signal(START_BITS, reset_less=True),
            Signal(23, reset_less=True),
        )
        with m.If(valids[3]):
            m.d.sync += [exponent_4.eq(exponent_3), start_4.eq(start), product_4.eq(drop * fraction_3)]
        # 5: interpolate, round
        with m.If(valids[4]):
            m.d.sync += [self.exponent.eq(exponent_4), self.mantissa.eq(mantissa_of(start_4, product_4))]
        return m
