# SPDX-License-Identifier: Apache-2.0
"""1/x as mantissa and exponent."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.units.exponential import START_BITS, interpolate, line_table
from edgemoe.hw.units.fixed import delay, round_shift
from edgemoe.models.arithmetic import reciprocal_table

MANTISSA_BITS = 16
EXPONENT_BITS = 5


def normalise(m: Module, value: Value, amounts, *, name: str) -> tuple[Value, list[Value]]:
    """Shift left towards a set top bit, in steps of `amounts` (falling powers of two): the value and, for each step, whether it moved."""
    moved = []
    for amount in amounts:
        empty = ~value[len(value) - amount :].any()
        shifted = Signal(len(value), name=f"{name}_{amount}")
        m.d.comb += shifted.eq(Mux(empty, value << amount, value))
        value = shifted
        moved.append(empty)
    return value, moved


def mantissa_of(start: Value, product: Value) -> Value:
    """The last stage of both reciprocals: 12 bits of interpolation, then 2^-18 to 2^-16, at most 65535."""
    rounded = round_shift(interpolate(start, product, 12), 2)
    return rounded[:MANTISSA_BITS] | rounded[MANTISSA_BITS].replicate(MANTISSA_BITS)


class Reciprocal(wiring.Component):
    """1/x = mantissa * 2^-16 * 2^-exponent: leading one, a table of 256 lines, one multiplication.

    Ports:
        valid, value: x.
        out_valid, mantissa, exponent: the result, LATENCY cycles later; both keep their value until the next result.

    LATENCY = 4; one value a cycle (initiation interval 1).
    Format: x an unsigned integer; mantissa 2^15..65535; exponent = floor(log2 x), 0..27.
    Limits: 1 <= x < 2^28; x = 0 has no result (the twin takes it as 1).
    Twin: `models.arithmetic.reciprocal`.
    """

    LATENCY = 4
    VALUE_BITS = 28

    valid: In(1)
    value: In(VALUE_BITS)
    out_valid: Out(1)
    mantissa: Out(MANTISSA_BITS)
    exponent: Out(EXPONENT_BITS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = line_table(*reciprocal_table())
        read = table.read_port()
        start, drop = read.data[:START_BITS], read.data[START_BITS:]
        valids = [self.valid]
        for stage in range(1, self.LATENCY + 1):
            valids.append(delay(m, valids[-1], 1, name=f"valid_{stage}", reset_less=False))
        m.d.comb += self.out_valid.eq(valids[-1])

        # 1: coarse normalisation; 32 bits wide so that every step is a power of two (31 - exponent places in all)
        coarse, moved = normalise(m, Cat(Const(0, 4), self.value), (16, 8, 4), name="coarse")
        value_1, moved_1 = Signal(32, reset_less=True), Signal(3, reset_less=True)
        with m.If(valids[0]):
            m.d.sync += [value_1.eq(coarse), moved_1.eq(Cat(*reversed(moved)))]
        # 2: fine normalisation, table
        fine, moved = normalise(m, value_1, (2, 1), name="fine")
        exponent_2, fraction_2 = Signal(EXPONENT_BITS, reset_less=True), Signal(12, reset_less=True)
        m.d.comb += [read.addr.eq(fine[23:31]), read.en.eq(valids[1])]
        with m.If(valids[1]):
            m.d.sync += [fraction_2.eq(fine[11:23]), exponent_2.eq(27 - Cat(*reversed(moved), moved_1))]
        # 3: multiply
        exponent_3, start_3, product_3 = (
            Signal(EXPONENT_BITS, reset_less=True),
            Signal(START_BITS, reset_less=True),
            Signal(23, reset_less=True),
        )
        with m.If(valids[2]):
            m.d.sync += [exponent_3.eq(exponent_2), start_3.eq(start), product_3.eq(drop * fraction_2)]
        # 4: interpolate, round
        with m.If(valids[3]):
            m.d.sync += [self.exponent.eq(exponent_3), self.mantissa.eq(mantissa_of(start_3, product_3))]
        return m
