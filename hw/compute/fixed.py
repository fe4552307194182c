# SPDX-License-Identifier: Apache-2.0
"""Fixed-point helpers: the only narrowing in the hardware.

Twins: `models.numbers.arithmetic.round_shift` and `models.numbers.arithmetic.saturate`.
"""

from amaranth.hdl import Cat, Mux, Shape, Value, ValueLike


def half_shift(value: ValueLike, amount: ValueLike) -> Value:
    """floor(2 * value / 2^amount): the barrel-shift half of `round_shift`, one bit finer than its result, for pipelines
    that register it.

    round_shift(value, amount) = (half_shift(value, amount) + 1) >> 1, which rounds with one small adder behind the
    shifter instead of a wide constant in front of it. `amount` is an int or an unsigned value; a signed one counts as 0
    when negative.
    """
    value = Value.cast(value)
    doubled = Cat(0, value)
    doubled = doubled.as_signed() if value.shape().signed else doubled
    if isinstance(amount, int):
        return doubled >> max(amount, 0)
    amount = Value.cast(amount)
    if amount.shape().signed:
        amount = Mux(amount < 0, 0, amount[:-1])
    return doubled >> amount


def round_half(value: ValueLike) -> Value:
    """(value + 1) >> 1: the adder half of `round_shift`."""
    return (Value.cast(value) + 1) >> 1


def round_shift(value: ValueLike, amount: ValueLike) -> Value:
    """floor(value / 2^amount + 1/2), value signed or unsigned; amount an int or a value, 0 (or negative) keeps value.
    Combinational.
    """
    if isinstance(amount, int):  # one addition of a constant, as a DSP slice does it behind its multiplier
        return (Value.cast(value) + (1 << max(amount, 0) >> 1)) >> max(amount, 0)
    return round_half(half_shift(value, amount))


def saturate(value: ValueLike, bits: int) -> Value:
    """Clamp to a signed number of `bits` bits. Combinational: fits exactly when all bits from bits - 1 up are equal."""
    value = Value.cast(value)
    shape = value.shape()
    if not shape.signed:
        value, shape = Cat(value, 0).as_signed(), Shape(shape.width + 1, True)
    if shape.width <= bits:
        return value
    high = value[bits - 1 :]
    sign = value[-1]
    limit = Cat((~sign).replicate(bits - 1), sign)
    return Mux(high.all() | ~high.any(), value[:bits], limit).as_signed()


__all__ = ["half_shift", "round_half", "round_shift", "saturate"]
