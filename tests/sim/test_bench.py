# SPDX-License-Identifier: Apache-2.0
"""The bench tools, proven with a trivial component: a buffer of one entry that adds a constant."""

from __future__ import annotations

import inspect
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

import cocotb
import pytest
import pywellen
from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import bench_simulator
from edgemoe.sim.bench import (
    BenchFailure,
    StreamDriver,
    StreamMonitor,
    flat_ports,
    pack,
    parameters,
    run_bench,
    start,
    to_verilog,
    unpack,
)

from ..programs import needed

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
            m.d.sync += [
                self.o.payload.value.eq(self.i.payload.value + self.amount),
                self.o.payload.last.eq(self.i.payload.last),
            ]
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


@cocotb.test()
async def chatters(dut: Any) -> None:
    for line in range(3000):
        dut._log.info(f"line {line} of much")
    raise AssertionError("another")


@cocotb.test()
async def dies(dut: Any) -> None:
    print("the last words", flush=True)
    os.abort()


@pytest.mark.parametrize("idle, stall", list(product((0.0, 0.4), (0.0, 0.4))))
def test_streams(idle: float, stall: float) -> None:
    run_bench(Adder(3), __name__, testcase="adds", parameters={"amount": 3, "idle": idle, "stall": stall})


@pytest.mark.parametrize("simulator", bench_simulator.SIMULATORS)
def test_either_simulator_leaves_waveforms(simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bench, unchanged; each run's waveforms under the test's name."""
    if simulator == "icarus":
        needed("iverilog", "vvp")
    monkeypatch.setattr(bench_simulator, "chosen", bench_simulator.Choice(simulator, tmp_path / "waves"))
    for idle in (0.0, 0.4):
        run_bench(Adder(3), __name__, testcase="adds", parameters={"amount": 3, "idle": idle, "stall": 0.4})
    files = sorted((tmp_path / "waves").iterdir())
    name = f"test_bench-test_either_simulator_leaves_waveforms-{simulator}--adder"
    suffix = ".vcd" if simulator == "verilator" else ".fst"
    assert [file.name for file in files] == [f"{name}-2{suffix}", f"{name}{suffix}"]
    for file in files:
        waveform = pywellen.Waveform(str(file))
        taken = next(var for var in waveform.all_vars() if var.full_name.endswith("adder.o_payload"))
        assert len(taken.signal) > 190


def test_an_unknown_simulator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_simulator, "chosen", bench_simulator.Choice("questa"))
    with pytest.raises(EdgemoeError, match="unknown simulator 'questa': choose one of verilator, icarus"):
        run_bench(Adder(3), __name__, testcase="adds")


def test_broken_contract_is_found() -> None:
    with pytest.raises(BenchFailure, match="valid fell before the payload was taken"):
        run_bench(
            Adder(3, forgetful=True), __name__, testcase="adds", parameters={"amount": 3, "idle": 0.4, "stall": 0.4}
        )


def failure(testcase: str | list[str] | None, module: str = __name__) -> tuple[str, str, str]:
    """Of a bench that must fail: the first line, all of it, and the log that it names."""
    with pytest.raises(BenchFailure) as stop:
        run_bench(Adder(3), module, testcase=testcase)
    message = str(stop.value)
    log = Path(message.rsplit("The whole log: ", 1)[1])
    return message.splitlines()[0], message, log.read_text()


def test_a_failure_is_told_whole() -> None:
    """The first line says which test failed, how and where;
    the first failure is whole, however much was logged behind it.
    """
    heading, message, log = failure(["fails", "chatters"])
    own, line = inspect.getsourcelines(inspect.getmodule(failure))[0], 'raise AssertionError("as it should")'
    number = next(n for n, text in enumerate(own, 1) if text.strip() == line)
    assert (
        heading
        == f"adder: {__name__}.fails failed: AssertionError: as it should (test_bench.py:{number}; 2 of 2 tests failed)"
    )
    assert line in message and "in fails" in message and "another" not in message
    assert "AssertionError: as it should" in log and "line 2999 of much" in log and len(log) > 100_000


def test_what_did_not_run_is_told() -> None:
    assert failure("absent")[0].startswith("adder: no test ran: No tests left after filtering")
    assert (
        failure(None, "no_such_bench")[0]
        == "adder: the bench did not begin: ModuleNotFoundError: No module named 'no_such_bench'"
    )
    heading, message, _ = failure("dies")
    assert heading.startswith(f"adder: the simulation died in {__name__}.dies: ") and "the last words" in message


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
