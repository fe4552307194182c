# SPDX-License-Identifier: Apache-2.0
"""The lanes of a word combined into one value - largest, sum - through a tree of registers."""

from collections.abc import Callable, Sequence

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.utils import ceil_log2, exact_log2
from edgemoe.hw.memory.pipeline import delay


def tree_stages(lanes: int, ways: int = 4, first: int = 0) -> int:
    """Register stages of `reduce_lanes`: it combines four to one a stage, or two; in the `first` perhaps others."""
    if first:
        return 1 + tree_stages(-(-lanes // first), ways)
    return -(-ceil_log2(lanes) // exact_log2(ways))


def first_pairs(lanes: int) -> int:
    """`first`, for what comes late: two, where that takes no stage more than four."""
    return 2 if tree_stages(lanes, first=2) == tree_stages(lanes) else 4


def largest(values: Sequence[Value]) -> Value:
    """Of up to four: all are compared with each other at once, then one is chosen."""
    if len(values) < 2:
        return values[0]
    above = {(i, j): values[i] > values[j] for j in range(len(values)) for i in range(j)}
    left = above[0, 1]
    if len(values) == 2:
        return Mux(left, *values)
    if len(values) == 3:
        return Mux(Mux(left, above[0, 2], above[1, 2]), Mux(left, values[0], values[1]), values[2])
    right = above[2, 3]
    over = Mux(left, Mux(right, above[0, 2], above[0, 3]), Mux(right, above[1, 2], above[1, 3]))
    return Mux(over, Mux(left, values[0], values[1]), Mux(right, values[2], values[3]))


def add(values: Sequence[Value]) -> Value:
    """Of up to four, two and two."""
    group = list(values)
    while len(group) > 1:
        group = [group[j] + group[j + 1] if j + 1 < len(group) else group[j] for j in range(0, len(group), 2)]
    return group[0]


def reduce_lanes(
    m: Module,
    valid: Value,
    values: Sequence[Value],
    combine: Callable[[Sequence[Value]], Value],
    *,
    name: str,
    ways: int = 4,
    first: int = 0,
) -> Value:
    """All lanes combined into one, `tree_stages(len(values), ways, first)` cycles later; `combine` is associative.
    Registers hold between valids.
    """
    for stage in range(tree_stages(len(values), ways, first)):
        following, at_once = [], first if first and not stage else ways
        for i in range(0, len(values), at_once):
            combined = combine(values[i : i + at_once])
            shape = values[i].shape() if combine is largest else combined.shape()  # Mux of two alike keeps its width
            register = Signal(shape, name=f"{name}_{stage}_{i // at_once}", reset_less=True)
            with m.If(valid):
                m.d.sync += register.eq(combined)
            following.append(register)
        values = following
        valid = delay(m, valid, 1, name=f"{name}_valid_{stage}", reset_less=False)
    return values[0]


__all__ = ["add", "first_pairs", "largest", "reduce_lanes", "tree_stages"]
