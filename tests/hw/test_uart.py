# SPDX-License-Identifier: Apache-2.0
"""UART: every byte at every offset of the sender's clock that is allowed;
broken bytes, gaps, bytes that nobody takes.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from edgemoe.hw.periphery.uart import UartReceiver, UartTransmitter


def simulate(design: Any, *testbenches: Any, background: tuple[Any, ...] = ()) -> None:
    simulator = Simulator(design)
    simulator.add_clock(1)
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    for testbench in background:
        simulator.add_testbench(testbench, background=True)
    simulator.run()


def levels(data: list[int], cycles: float, *, stop: int = 1, gap: int = 0) -> list[int]:
    """The line, a value a cycle; `cycles` a bit need not be whole."""
    bits = []
    for byte in data:
        bits += [0, *(byte >> i & 1 for i in range(8)), stop, *[1] * gap]
    return [bits[int(i / cycles)] for i in range(int(len(bits) * cycles))]


def received(cycles: int, line: list[int], *, takes: bool = True) -> tuple[list[int], int]:
    """(bytes, overruns)."""
    dut = UartReceiver(cycles)
    found: list[int] = []
    overruns = 0

    async def run(ctx: Any) -> None:
        nonlocal overruns
        ctx.set(dut.bytes.ready, int(takes))
        for level in [1] * 3 + line + [1] * (12 * cycles):
            ctx.set(dut.line, level)
            if ctx.get(dut.bytes.valid) and takes:
                found.append(ctx.get(dut.bytes.payload))
            overruns += ctx.get(dut.overrun)
            await ctx.tick()
        if not takes:
            found.append(ctx.get(dut.bytes.payload))

    simulate(dut, run)
    return found, overruns


@pytest.mark.parametrize("cycles, error", [(4, 0.0), (4, 0.02), (4, -0.02), (5, 0.03), (20, 0.04), (20, -0.04)])
def test_receives_every_byte(cycles: int, error: float) -> None:
    data = [*range(0, 256, 5), 0xFF, 0x00, 0x55, 0xAA]
    found, overruns = received(cycles, levels(data, cycles * (1 + error)))
    assert found == data and overruns == 0


def test_a_byte_without_stop_bit_is_dropped() -> None:
    """However long the line stays low: the next byte begins when it was high again."""
    lows = range(0, 48, 3)
    line = levels([0x12], 4)
    for low in lows:
        line += levels([0x34], 4, stop=0) + [0] * low + [1] * 4 + levels([0x80 + low], 4)
    assert received(4, line) == ([0x12, *(0x80 + low for low in lows)], 0)


def test_a_byte_that_nobody_takes_stays() -> None:
    assert received(4, levels([0x12, 0x34, 0x56], 4), takes=False) == ([0x12], 2)


@pytest.mark.parametrize("cycles", [4, 7])
@pytest.mark.parametrize("idle", [0.0, 0.9])
def test_transmitter_to_receiver(cycles: int, idle: float) -> None:
    """Back to back a byte takes ten bits exactly."""
    m = Module()
    m.submodules.sender = sender = UartTransmitter(cycles)
    m.submodules.receiver = receiver = UartReceiver(cycles)
    m.d.comb += receiver.line.eq(sender.line)
    generator = random.Random(1)
    data = [generator.randrange(256) for _ in range(40)]
    starts: list[int] = []
    found: list[int] = []

    async def send(ctx: Any) -> None:
        for byte in data:
            while generator.random() < idle:
                await ctx.tick().repeat(cycles)
            ctx.set(sender.bytes.payload, byte)
            ctx.set(sender.bytes.valid, 1)
            await ctx.tick().until(sender.bytes.ready)
            ctx.set(sender.bytes.valid, 0)

    async def receive(ctx: Any) -> None:
        ctx.set(receiver.bytes.ready, 1)
        for cycle in range(1_000_000):
            if ctx.get(receiver.bytes.valid):
                found.append(ctx.get(receiver.bytes.payload))
                starts.append(cycle)
            if len(found) == len(data):
                break
            await ctx.tick()

    simulate(m, send, receive)
    assert found == data
    if not idle:
        assert {b - a for a, b in zip(starts, starts[1:], strict=False)} == {10 * cycles}


def test_too_short_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 cycles, not 3"):
        UartReceiver(3)
