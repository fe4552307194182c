# SPDX-License-Identifier: Apache-2.0
"""The lanes of a word combined into one value - largest, sum - through a tree of registers."""

from collections.abc import Callable, Sequence

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.utils import ceil_log2
from edgemoe.hw.compute.pipeline import delay


def tree_stages(lanes: int) -> int:
    """Register stages of `reduce_lanes`: it combines four to one a stage."""
    return -(-ceil_log2(lanes) // 2)


def larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


def add(a: Value, b: Value) -> Value:
    return a + b


def reduce_lanes(
    m: Module, valid: Value, values: Sequence[Value], combine: Callable[[Value, Value], Value], *, name: str
) -> Value:
    """All lanes combined into one, `tree_stages(len(values))` cycles later; `combine` is associative.
    Registers hold between valids.
    """
    for stage in range(tree_stages(len(values))):
        following = []
        for i in range(0, len(values), 4):
            group = list(values[i : i + 4])
            while len(group) > 1:
                group = [
                    combine(*group[j : j + 2]) if j + 1 < len(group) else group[j] for j in range(0, len(group), 2)
                ]
            shape = values[i].shape() if combine is larger else group[0].shape()  # Mux of two alike keeps its width
            register = Signal(shape, name=f"{name}_{stage}_{i // 4}", reset_less=True)
            with m.If(valid):
                m.d.sync += register.eq(group[0])
            following.append(register)
        values = following
        valid = delay(m, valid, 1, name=f"{name}_valid_{stage}", reset_less=False)
    return values[0]


__all__ = ["add", "larger", "reduce_lanes", "tree_stages"]
