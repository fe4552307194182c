# SPDX-License-Identifier: Apache-2.0
"""What the benches of the nonlinear units share. A step is one clock cycle:
inputs are set and outputs read at the falling edge.
"""

import random
from dataclasses import replace

import numpy as np
from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.sim.bench import start
from edgemoe.sim.rtl import rtl

GAPS = {"back to back": 0.0, "gaps": 0.4}  # share of idle cycles


def config_of(lanes: int) -> HardwareConfig:
    """Small tables for 4 lanes, those of the base build for 16."""
    return preset("tiny") if lanes == 4 else replace(preset("base"), lanes=lanes)


def vector(values, bits: int) -> int:
    """A packed array port: element 0 in the low bits."""
    mask = (1 << bits) - 1
    return sum((int(value) & mask) << bits * k for k, value in enumerate(values))


def elements(value: int, bits: int, count: int) -> list[int]:
    return [value >> bits * k & ((1 << bits) - 1) for k in range(count)]


def padded(rows: np.ndarray, lanes: int) -> np.ndarray:
    """[rows, elements] -> [rows, words, lanes], the padding filled with zeros."""
    words = -(-rows.shape[1] // lanes)
    return np.pad(rows, ((0, 0), (0, words * lanes - rows.shape[1]))).reshape(len(rows), words, lanes)


class Bench:
    """A component whose inputs are set by name; `cycle` counts, and `each_cycle` functions run before every step."""

    def __init__(self, dut, gap: float = 0.0, seed: int = 1):
        self.dut, self.gap, self.random, self.cycle, self.each_cycle = dut, gap, random.Random(seed), 0, []
        self.ports = {handle._name: handle for handle in dut}
        self.edge = FallingEdge(dut.clk)
        self.visits: dict[tuple[str, int], int] = {}  # valid, row -> cycle

    async def begin(self) -> None:
        for name, handle in self.ports.items():
            if name not in ("clk", "rst") and not handle.is_const:
                handle.value = 0
        await start(self.dut)
        await self.edge

    def set(self, **values) -> None:
        for name, value in values.items():
            self.ports[name].value = int(value)

    def get(self, name: str) -> int:
        return int(self.ports[name].value)

    async def step(self, cycles: int = 1) -> None:
        for _ in range(cycles):
            for function in self.each_cycle:
                function()
            await self.edge
            self.cycle += 1

    async def send(self, valid: str = "valid", apart: tuple[int, int] = (0, 0), **values) -> None:
        """One valid cycle, after idle ones in which the inputs hold something else. apart: (row, cycles); so many
        behind the last one of that row.
        """
        row, cycles = apart
        while self.random.random() < self.gap or self.cycle < self.visits.get((valid, row), -cycles) + cycles:
            self.set(**{valid: 0}, **{name: self.random.getrandbits(len(self.ports[name])) for name in values})
            await self.step()
        self.visits[valid, row] = self.cycle
        self.set(**{valid: 1}, **values)
        await self.step()


class Copies(wiring.Component):
    """Several copies of a unit (valid, value -> out_valid, mantissa, exponent) side by side:
    exhaustive tests in fewer cycles.
    """

    def __init__(self, unit: type, copies: int):
        self.units = [unit() for _ in range(copies)]
        self.LATENCY, self.INTERVAL = unit.LATENCY, unit.INTERVAL
        ports = {"value": In(unit.VALUE_BITS), "mantissa": Out(16), "exponent": Out(5)}
        arrays = {name: wiring.Member(port.flow, data.ArrayLayout(port.shape, copies)) for name, port in ports.items()}
        super().__init__({"valid": In(1), "out_valid": Out(1), **arrays})

    def elaborate(self, platform):
        m = Module()
        for k, unit in enumerate(self.units):
            m.submodules[f"unit_{k}"] = unit
            m.d.comb += [unit.valid.eq(self.valid), unit.value.eq(self.value[k])]
            m.d.comb += [self.mantissa[k].eq(unit.mantissa), self.exponent[k].eq(unit.exponent)]
        m.d.comb += self.out_valid.eq(self.units[0].out_valid)
        return m


def by_copies(unit: type, values: np.ndarray, stalls: float, copies: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """(mantissas, exponents) of values, through several copies of a unit."""
    words = np.pad(values, (0, -len(values) % copies), constant_values=1).reshape(-1, copies)
    out = rtl(Copies(unit, copies), {"value": words}, stalls=stalls, holds=("mantissa", "exponent"))
    return out["mantissa"].ravel()[: len(values)], out["exponent"].ravel()[: len(values)]


def spread(bits: int) -> np.ndarray:
    """Powers of two below 2^bits, their neighbours, and random numbers of every size."""
    powers = 2 ** np.arange(bits)
    random = np.exp2(np.random.default_rng(1).uniform(0, bits - 0.01, 20000)).astype(np.int64)
    return np.concatenate(
        [powers, np.maximum(1, powers - 1), np.minimum(powers + 1, 2 * powers - 1), 2 * powers - 1, random]
    )
