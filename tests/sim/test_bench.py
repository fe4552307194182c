# SPDX-License-Identifier: Apache-2.0
"""The bench tools, proven with a trivial component: a buffer of one entry that adds a constant."""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.sim.bench import StreamDriver, StreamMonitor, flat_ports, pack, parameters, run_bench, start, to_verilog, unpack

PAIR = data.StructLayout({"value": signed(8), "last": 1})


class Adder(wiring.Component):
    """One register stage; ``forgetful`` drops a payload that is not taken at once, which the monitor must notice."""

    def __init__(self, amount: int, *, forgetful: bool = False):
        self.amount, self.forgetful = amount, forgetful
        super().__init__({"i": In(stream.Signature(PAIR)), "o": Out(stream.Signature(PAIR))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
            m.d.sync += [self.o.payload.value.eq(self.i.payload.value + self.amount), self.o.payload.last.eq(self.i.payload.last)]
        if self.forgetful:
            with m.Elif(self.o.valid):
                m.d.sync += self.o.valid.eq(0)
        return m


@cocotb.test()
async def adds(dut: Any) -> None:
    given = parameters()
    await start(dut)
    driver = StreamDriver(dut, "i", idle=given["idle"])
    monitor = StreamMonitor(dut, "o", stall=given["stall"])
    values = list(range(-100, 100))
    task = cocotb.start_soon(driver.send(pack(PAIR, {"value": value, "last": value == 99}) for value in values))
    received = [unpack(PAIR, bits) for bits in await monitor.receive(len(values))]
    await task
    assert [pair.value for pair in received] == [value + given["amount"] for value in values]
    assert [pair.last for pair in received] == [value == 99 for value in values]
    if not given["idle"] and not given["stall"]:
        steps = {after - before for before, after in zip(monitor.cycles, monitor.cycles[1:], strict=False)}
        assert steps == {1}, "one payload a cycle"


@cocotb.test()
async def fails(dut: Any) -> None:
    await start(dut)
    raise AssertionError("as it should")


@pytest.mark.parametrize("idle, stall", list(product((0.0, 0.4), (0.0, 0.4))))
def test_streams(idle: float, stall: float) -> None:
    run_bench(Adder(3), __name__, testcase="adds", parameters={"amount": 3, "idle": idle, "stall": stall})


def test_broken_contract_is_found() -> None:
    with pytest.raises(AssertionError, match="valid fell before the payload was taken"):
        run_bench(Adder(3, forgetful=True), __name__, testcase="adds", parameters={"amount": 3, "idle": 0.4, "stall": 0.4})


def test_failures_and_empty_runs_fail() -> None:
    with pytest.raises(AssertionError, match="as it should"):
        run_bench(Adder(3), __name__, testcase="fails")
    with pytest.raises(AssertionError):
        run_bench(Adder(3), __name__, testcase="absent")


def test_second_conversion_comes_from_the_cache() -> None:
    first = to_verilog(Adder(7), "adder")
    begun = time.monotonic()
    assert to_verilog(Adder(7), "adder") == first
    assert time.monotonic() - begun < 0.5
    assert "input [8:0] i_payload" in first


def test_clashing_port_names() -> None:
    interface = wiring.Signature({"a_b": In(1), "a": In(wiring.Signature({"b": In(1)}))}).create()
    with pytest.raises(ValueError, match="'a_b' is taken"):
        flat_ports(interface)
