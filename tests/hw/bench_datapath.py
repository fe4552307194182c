# SPDX-License-Identifier: Apache-2.0
"""What the datapath benches share: words as integers, and one loop that plays inputs and hands out outputs, cycle by
cycle.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cocotb.triggers import FallingEdge
from edgemoe.sim.bench import start


def to_bits(values: Iterable[int], width: int) -> int:
    """Lanes to the bits of an ArrayLayout port; negative numbers as two's complement."""
    bits = 0
    for lane, value in enumerate(values):
        bits |= (int(value) & ((1 << width) - 1)) << lane * width
    return bits


def to_lanes(bits: Any, lanes: int, width: int) -> list[int]:
    """The signed lanes of an ArrayLayout port."""
    bits, half = int(bits), 1 << width - 1
    return [((bits >> lane * width & (2 * half - 1)) ^ half) - half for lane in range(lanes)]


async def play(
    dut: Any, cycles: int, present: Callable[[int], Mapping[str, int] | None], observe: Callable[[int], None]
) -> None:
    """In each cycle: `observe` outputs, then `present` inputs for its end. Ports named *_valid or valid fall when
    `present` says nothing.

    All happens at the falling edge, so an output LATENCY cycles behind an input presented in cycle c is observed in
    cycle c + LATENCY.
    """
    await start(dut)
    valids = [handle for handle in dut if handle._name.endswith("valid") and not handle._name.startswith("out")]
    for handle in valids:
        handle.value = 0
    for _ in range(2):
        await FallingEdge(dut.clk)
    for cycle in range(cycles):
        await FallingEdge(dut.clk)
        observe(cycle)
        inputs = dict(present(cycle) or {})
        for handle in valids:
            handle.value = inputs.pop(handle._name, 0)
        for name, value in inputs.items():
            getattr(dut, name).value = value
