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

    async def send(self, valid: str = "valid", **values) -> None:
        """One valid cycle, after idle ones in which the inputs hold something else."""
        while self.random.random() < self.gap:
            self.set(**{valid: 0}, **{name: self.random.getrandbits(len(self.ports[name])) for name in values})
            await self.step()
        self.set(**{valid: 1}, **values)
        await self.step()


class Copies(wiring.Component):
    """Several copies of a unit (valid, value -> out_valid, mantissa, exponent) side by side:
    exhaustive tests in fewer cycles.
    """

    def __init__(self, unit: type, copies: int):
        self.units = [unit() for _ in range(copies)]
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


async def reciprocals(dut, unit: type, values: np.ndarray, copies: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """(mantissas, exponents) of `Copies(unit, copies)`."""
    words = np.pad(values, (0, -len(values) % copies), constant_values=1).reshape(-1, copies)
    results = await pipeline(
        dut, [{"value": vector(w, unit.VALUE_BITS)} for w in words], ("mantissa", "exponent"), unit.LATENCY, gap
    )
    mantissas = np.array([elements(mantissa, 16, copies) for mantissa, _ in results])
    exponents = np.array([elements(exponent, 5, copies) for _, exponent in results])
    return mantissas.ravel()[: len(values)], exponents.ravel()[: len(values)]


async def pipeline(
    dut, inputs: list[dict[str, int]], outputs: tuple[str, ...], latency: int, gap: float
) -> list[tuple[int, ...]]:
    """Results of a fixed-latency unit; out_valid must be high exactly `latency` cycles after each valid, and outputs
    hold in between.
    """
    bench = Bench(dut, gap)
    results: list[tuple[int, ...]] = []
    due: set[int] = set()

    def watch() -> None:
        valid, values = bool(bench.get("out_valid")), tuple(bench.get(name) for name in outputs)
        assert valid == (bench.cycle in due), f"out_valid is {valid} in cycle {bench.cycle}"
        if valid:
            results.append(values)
        elif results:
            assert values == results[-1], "outputs hold until the next result"

    await bench.begin()
    bench.each_cycle.append(watch)
    for values in inputs:
        await bench.send(**values)
        due.add(bench.cycle - 1 + latency)  # the valid cycle is the one that send() has just ended
    bench.set(valid=0)
    await bench.step(latency + 2)
    return results
