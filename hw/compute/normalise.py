# SPDX-License-Identifier: Apache-2.0
"""What both reciprocals share: the leading one found, the parts of a normalised number, the last two stages, the
result's form.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import DROP_BITS, START_BITS, interpolate, line_table
from edgemoe.hw.contract.layouts import index_shape

MANTISSA_BITS = 16
EXPONENT_BITS = 5
FRACTION_BITS = 12
GUARD_BITS = START_BITS - 1 - MANTISSA_BITS  # of a table's nodes, below a mantissa's last place

SCALE = data.StructLayout({"mantissa": MANTISSA_BITS, "exponent": EXPONENT_BITS})
"""A factor mantissa * 2^-16 * 2^-exponent, as tables of row scales hold it."""


class ScalePort(wiring.Signature):
    """Reading a table of row scales, as its reader sees it: the scale stands one cycle after the `index`, below
    `rows`.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(
            {"index": Out(index_shape(rows)), "mantissa": In(MANTISSA_BITS), "exponent": In(EXPONENT_BITS)}
        )


def normalised(width: int, segment_bits: int) -> data.StructLayout:
    """A number of `width` bits shifted left until its top bit is set: (1 + segment / 2^segment_bits + fraction /
    2^(segment_bits + 12)).

    `segment` chooses the line of a table, `fraction` the place on it; `rest` is below the table's precision.
    """
    rest = width - 1 - segment_bits - FRACTION_BITS
    return data.StructLayout({"rest": rest, "fraction": FRACTION_BITS, "segment": segment_bits, "one": 1})


def normalise(m: Module, value: Value, amounts, *, name: str) -> tuple[Value, list[Value]]:
    """Shift left towards a set top bit, in steps of `amounts` (falling powers of two):
    the value and, for each step, whether it moved.

    Whether a step's places are empty is known of the last step's before anything moves: these flags move ahead.
    """
    moved, least = [], amounts[-1]
    flags = Cat(value[k : k + least].any() for k in range(0, len(value), least))
    for amount in amounts:
        empty, places = Signal(name=f"{name}_empty_{amount}"), amount // least
        shifted = Signal(len(value), name=f"{name}_{amount}")
        moving = Signal(len(flags), name=f"{name}_flags_{amount}")
        m.d.comb += [
            empty.eq(~flags[len(flags) - places :].any()),
            shifted.eq(Mux(empty, value << amount, value)),
            moving.eq(Mux(empty, flags << places, flags)),
        ]
        value, flags = shifted, moving
        moved.append(empty)
    return value, moved


def mantissa_table(start, drop) -> Memory:
    """`line_table`, but each line half a mantissa's place higher: one subtraction interpolates and rounds."""
    return line_table(start + (1 << GUARD_BITS - 1), drop)


def along_line(
    m: Module,
    valids: Sequence[Value],
    exponent: Value,
    line: Value,
    fraction: Value,
    to_exponent: Signal,
    to_mantissa: Signal,
    *,
    stage: int,
) -> None:
    """The stages `multiply` and `product` (drop along the table's line, twice in the multiplier's slice) and `result`
    (interpolated and rounded), of which the first is stage number `stage`; valids: that of what goes into each.
    """
    start, drop = line[:START_BITS], line[START_BITS:]
    product = drop * fraction
    for i, valid in enumerate(valids[:2]):
        product_on = Signal(DROP_BITS + FRACTION_BITS, reset_less=True, name=f"product_{stage + i}")
        exponent_on = Signal(EXPONENT_BITS, reset_less=True, name=f"exponent_{stage + i}")
        start_on = Signal(START_BITS, reset_less=True, name=f"start_{stage + i}")
        with m.If(valid):
            m.d.sync += [exponent_on.eq(exponent), start_on.eq(start), product_on.eq(product)]
        exponent, start, product = exponent_on, start_on, product_on
    with m.If(valids[2]):
        m.d.sync += [to_exponent.eq(exponent), to_mantissa.eq(mantissa_of(start, product))]


def mantissa_of(start: Value, product: Value) -> Value:
    """12 bits of interpolation and 2^-18 to 2^-16, at most 65535; `start` is of a `mantissa_table`."""
    rounded = interpolate(start, product, FRACTION_BITS)[GUARD_BITS:]
    return rounded[:MANTISSA_BITS] | rounded[MANTISSA_BITS].replicate(MANTISSA_BITS)


__all__ = [
    "EXPONENT_BITS",
    "FRACTION_BITS",
    "MANTISSA_BITS",
    "SCALE",
    "ScalePort",
    "along_line",
    "mantissa_of",
    "mantissa_table",
    "normalise",
    "normalised",
]
