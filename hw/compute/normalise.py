# SPDX-License-Identifier: Apache-2.0
"""What both reciprocals share: the leading one found, the parts of a normalised number, the mantissa's last step, the
result's form.
"""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import START_BITS, interpolate
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.hw.contract.layouts import index_shape

MANTISSA_BITS = 16
EXPONENT_BITS = 5
FRACTION_BITS = 12

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
    """
    moved = []
    for amount in amounts:
        empty = ~value[len(value) - amount :].any()
        shifted = Signal(len(value), name=f"{name}_{amount}")
        m.d.comb += shifted.eq(Mux(empty, value << amount, value))
        value = shifted
        moved.append(empty)
    return value, moved


def mantissa_of(start: Value, product: Value) -> Value:
    """The last stage: 12 bits of interpolation, then 2^-18 to 2^-16, at most 65535."""
    rounded = round_shift(interpolate(start, product, FRACTION_BITS), START_BITS - 1 - MANTISSA_BITS)
    return rounded[:MANTISSA_BITS] | rounded[MANTISSA_BITS].replicate(MANTISSA_BITS)


__all__ = [
    "EXPONENT_BITS",
    "FRACTION_BITS",
    "MANTISSA_BITS",
    "SCALE",
    "ScalePort",
    "mantissa_of",
    "normalise",
    "normalised",
]
