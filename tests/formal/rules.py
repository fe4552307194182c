# SPDX-License-Identifier: Apache-2.0
"""Reusable rules. Each is stated once and is assumed of one side or asserted of the other."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Shape, Signal, Value
from edgemoe.hw.contract.isa import FIELDS, INSTRUCTION_BYTES
from edgemoe.hw.contract.layouts import JOB

from .runner import Property


def rule(p: Property, condition: Any, *, assume: bool) -> None:
    (p.assume if assume else p.check)(condition)


def held(p: Property, valid: Any, ready: Any, payload: Any, *, assume: bool, unless: Any = 0) -> None:
    """Once offered, an offer stands unchanged until it is taken. `unless`:
    in a cycle in which this holds, it may be withdrawn.
    """
    payload = Value.cast(payload)
    waits = p.past(valid & ~ready & ~Value.cast(unless).bool())
    rule(p, ~p.later | ~waits | (valid & (payload == p.past(payload))), assume=assume)


def stream(p: Property, port: Any, *, assume: bool, unless: Any = 0, payload: Any = None) -> None:
    """`held` for a `lib.stream` port: assume it of a unit's input, assert it of its output."""
    p.streams.append(port)
    held(p, port.valid, port.ready, port.payload if payload is None else payload, assume=assume, unless=unless)


def counter(p: Property, bits: int, up: Any, down: Any = 0, clear: Any = 0, name: str = "counter") -> Signal:
    """A register that counts `up - down`; `clear` empties it."""
    count = p.register(bits, name)
    with p.m.If(clear):
        p.m.d.sync += count.eq(0)
    with p.m.Else():
        p.m.d.sync += count.eq(count + up - down)
    return count


def instruction_of(p: Property, *, constant: bool = False, **widths: int) -> Value:
    """An instruction whose named fields are free (or, `constant`, arbitrary but fixed) in their low bits; all else is
    0.
    """
    fields = []
    for field in FIELDS:
        bits = widths.pop(field.name, 0)
        fields += [(p.constant if constant else p.free)(bits, field.name)] if bits else []
        fields.append(Const(0, field.bits - bits))
    assert not widths, f"no such fields: {', '.join(widths)}"
    return Cat(*fields, Const(0, 8 * INSTRUCTION_BYTES - sum(field.bits for field in FIELDS)))


def job_of(**fields: Any) -> Value:
    """A JOB of these fields, cut or filled up to their widths; all others are 0."""
    shapes = {name: Shape.cast(field.shape).width for name, field in JOB}
    assert set(fields) <= set(shapes), f"no such fields: {fields}"
    return Cat(Cat(fields.get(name, Const(0, 0)), Const(0, bits))[:bits] for name, bits in shapes.items())


class Queue:
    """The observer's own queue of `depth` values, as shift registers: `head`, `count`."""

    def __init__(
        self, p: Property, bits: int, depth: int, push: Any, value: Any, pop: Any, name: str, clear: Any = 0
    ) -> None:
        m = p.m
        places = [Signal(bits, name=f"{name}_{i}") for i in range(depth)]
        self.head, self.count = places[0], Signal(range(depth + 1), name=f"{name}_count")
        self.places = places
        left = Signal(range(depth + 1), name=f"{name}_left")
        m.d.comb += left.eq(self.count - Value.cast(pop).bool())
        for i, place in enumerate(places):
            later = places[i + 1] if i + 1 < depth else Const(0, bits)
            with m.If(push & (left == i)):
                m.d.sync += place.eq(value)
            with m.Elif(pop):
                m.d.sync += place.eq(later)
        m.d.sync += self.count.eq(left + Value.cast(push).bool())
        with m.If(clear):
            m.d.sync += self.count.eq(0)
        p.check(~Value.cast(pop).bool() | (self.count != 0))
        p.check(~Value.cast(push).bool() | (left < depth))


def all_of(*conditions: Any) -> Value:
    return Cat(*(Value.cast(c).bool() for c in conditions)).all()
