# SPDX-License-Identifier: Apache-2.0
"""A unit of the hardware as a function of its rows, run by Verilator::

    out = rtl(Reciprocal(), {"value": x}, stalls=0.4)
    assert_array_equal(out["mantissa"], reciprocal(x)[0])

The table of inputs is played and all outputs are kept, cycle by cycle; what they mean is decided here, in NumPy.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data, stream, wiring
from edgemoe.sim.bench import StreamDriver, StreamMonitor, inputs, parameters, run_bench, start

QUIET = 64  # cycles without a payload, after which no more are awaited

Columns = Mapping[str, Any]


def rtl(
    unit: Any,
    rows: Columns | Sequence[Columns],
    *,
    stalls: float = 0.0,
    latency: Mapping[str, int] | None = None,
    holds: Sequence[str] = (),
    seed: int = 1,
) -> dict[str, Any]:
    """What a pipeline makes of its rows: arrays [rows, lanes] in and out, by the names of the ports.

    rows: a column for each input, or a list of rows, in which what is not named is 0. Structures are dictionaries of
    columns; of a group of ports, `a.b` is `a_b`. A row enters every INTERVAL = 1 cycles, with rubbish between rows in a
    fraction `stalls` of the cycles. Row r of a result stands at the output LATENCY cycles after row r at the inputs
    (`latency`: of outputs that differ), and `out_valid` then and only then, if the unit has it: these attributes are
    held to what the unit does. With a column `valid` the rows are the caller's schedule, and so is what `out_valid`
    says of them.
    holds: outputs that keep their value until the next `out_valid`.

    A column by the name of a stream is what it is given; then every result is what one of the unit's streams gave, as
    long as something came, and `stalls` is the fraction of cycles without valid, and of those without ready.
    """
    columns = dict(rows) if isinstance(rows, Mapping) else _columns(rows)
    members = unit.signature.members
    if any(_is_stream(members[name]) for name in columns.keys() & members.keys()):
        return _streams(unit, columns, stalls, seed)
    inputs, outputs = _ports(unit, wiring.In), _ports(unit, wiring.Out)
    assert columns.keys() <= inputs.keys(), f"no inputs: {sorted(columns.keys() - inputs.keys())}"
    given = {name: encode(inputs[name], column) for name, column in columns.items()}
    count = len(next(iter(given.values())))
    assert all(len(column) == count for column in given.values()), "columns of different lengths"
    planned = "valid" in given or "valid" not in inputs
    if not planned:
        assert unit.INTERVAL == 1, "a pipeline takes a row every cycle"
        given["valid"] = [1] * count

    random = np.random.default_rng(seed)
    at = np.arange(count) + np.cumsum(random.geometric(1 - stalls, count) - 1)  # the cycle of each row
    later = {name: latency[name] if latency and name in latency else unit.LATENCY for name in outputs}
    cycles = int(at[-1]) + 1 + max(later.values())
    table = {}
    for name, column in given.items():
        bits = 0 if name.endswith("valid") else Shape.cast(inputs[name]).width
        rubbish = (int.from_bytes(random.bytes(bits // 8 + 1), "little") for _ in range(cycles))
        table[name] = [value & ((1 << bits) - 1) for value in rubbish]
        for cycle, value in zip(at.tolist(), column, strict=True):
            table[name][cycle] = value
    trace = _run(unit, "play", {"table": table, "outputs": list(outputs), "cycles": cycles}, seed)

    if "out_valid" in outputs:
        valid, seen = np.zeros(cycles, bool), np.array(trace["out_valid"], bool)
        valid[at + unit.LATENCY] = True
        wrong = [] if planned else np.flatnonzero(seen != valid).tolist()
        assert not wrong, f"out_valid is {seen[wrong[0]]} in cycle {wrong[0]}, with a LATENCY of {unit.LATENCY}"
        after = np.flatnonzero(~seen & seen.cumsum().astype(bool)).tolist()  # cycles between results
        changes = {name: [cycle for cycle in after if trace[name][cycle] != trace[name][cycle - 1]] for name in holds}
        assert not any(changes.values()), f"outputs change before the next out_valid, in cycles {changes}"
    return {
        name: decode(shape, [trace[name][cycle] for cycle in (at + later[name]).tolist()])
        for name, shape in outputs.items()
    }


def _streams(unit: Any, columns: Columns, stalls: float, seed: int) -> dict[str, Any]:
    members = {name: member for name, member in unit.signature.members.items() if _is_stream(member)}
    shapes = {name: member.signature.members["payload"].shape for name, member in members.items()}
    sent = {name: encode(shapes[name], column) for name, column in columns.items()}
    received = [name for name, member in members.items() if member.flow == wiring.Out]
    trace = _run(unit, "streams", {"sent": sent, "received": received, "stalls": stalls, "seed": seed}, seed)
    return {name: decode(shapes[name], trace[name]) for name in received}


def _is_stream(member: wiring.Member) -> bool:
    return member.is_signature and isinstance(member.signature, stream.Signature)


def _ports(unit: Any, flow: Any) -> dict[str, Any]:
    """Shapes of the ports of a direction, by their names in the Verilog."""
    flat = unit.signature.flatten(unit)
    return {"_".join(map(str, path)): member.shape for path, member, _ in flat if member.flow == flow}


def _columns(rows: Sequence[Columns]) -> dict[str, Any]:
    """A column for each name in any of the rows."""
    examples = {name: value for row in rows for name, value in row.items()}
    return {
        name: _columns([row.get(name, {}) for row in rows])
        if isinstance(value, Mapping)
        else np.array([row.get(name, np.zeros_like(value)) for row in rows])
        for name, value in examples.items()
    }


def _layout(shape: Any) -> data.Layout | None:
    try:
        return data.Layout.cast(shape)
    except TypeError:
        return None


def encode(shape: Any, values: Any) -> list[int]:
    """The bits of a column of values of `shape`: numbers, [rows, elements] of an array, a dictionary of a structure's
    columns (those not in it are 0).
    """
    layout = _layout(shape)
    if layout is None:
        mask = (1 << Shape.cast(shape).width) - 1
        return [int(value) & mask for value in values]
    names = values.keys() if isinstance(values, Mapping) else [key for key, _ in layout]
    columns = [values[name] if isinstance(values, Mapping) else np.asarray(values)[:, name] for name in names]
    fields = [
        (layout[name].offset, encode(layout[name].shape, column)) for name, column in zip(names, columns, strict=True)
    ]
    return [sum(part) for part in zip(*([bits << offset for bits in column] for offset, column in fields), strict=True)]


def decode(shape: Any, column: Sequence[int]) -> Any:
    """The values of a column of bits, as `encode` takes them."""
    layout = _layout(shape)
    if layout is None:
        width, signed = Shape.cast(shape).width, Shape.cast(shape).signed
        half = 1 << width - 1 if signed else 0
        return np.array([(bits ^ half) - half for bits in column], np.int64 if width < 64 else object)
    fields = {
        key: decode(field.shape, [bits >> field.offset & ((1 << field.width) - 1) for bits in column])
        for key, field in layout
    }
    return np.stack(list(fields.values()), 1) if isinstance(layout, data.ArrayLayout) else fields


def _run(unit: Any, testcase: str, given: Mapping[str, Any], seed: int) -> dict[str, list[int]]:
    with tempfile.TemporaryDirectory(prefix="edgemoe-rtl-") as folder:
        (Path(folder) / "given.json").write_text(json.dumps(given))
        run_bench(unit, __name__, testcase=testcase, parameters={"folder": folder}, seed=seed)
        result: dict[str, list[int]] = json.loads((Path(folder) / "result.json").read_text())
        return result


# ---------------------------------------------------------------------------------------------------------- cocotb side


def _given() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(parameters()["folder"]) / "given.json").read_text())
    return result


def _keep(result: Mapping[str, Sequence[int]]) -> None:
    (Path(parameters()["folder"]) / "result.json").write_text(json.dumps(result))


def _zero(dut: Any) -> None:
    for handle in inputs(dut):
        if handle._name not in ("clk", "rst"):
            handle.value = 0


@cocotb.test()
async def play(dut: Any) -> None:
    """Inputs change behind an edge, and outputs are read at the next one, before it acts: a combinational output is
    that of the same cycle.
    """
    from cocotb.triggers import RisingEdge

    given = _given()
    _zero(dut)
    await start(dut)
    edge = RisingEdge(dut.clk)
    inputs = [(getattr(dut, name), values) for name, values in given["table"].items()]
    outputs = [(getattr(dut, name), name) for name in given["outputs"]]
    trace: dict[str, list[int]] = {name: [] for name in given["outputs"]}
    for cycle in range(given["cycles"]):
        for handle, values in inputs:
            handle.value = values[cycle]
        await edge
        for handle, name in outputs:
            # What is not known yet (Icarus) may not matter: a result that is read below as zeros would be found wrong.
            trace[name].append(int(handle.value.resolve("zeros")))
    _keep(trace)


@cocotb.test()
async def streams(dut: Any) -> None:
    from cocotb.triggers import RisingEdge

    given = _given()
    stalls, seed = given["stalls"], given["seed"]
    _zero(dut)
    await start(dut)
    monitors = {
        name: StreamMonitor(dut, name, stall=stalls, seed=seed + 100 + i) for i, name in enumerate(given["received"])
    }
    drivers = [StreamDriver(dut, name, idle=stalls, seed=seed + i) for i, name in enumerate(given["sent"])]
    tasks = [cocotb.start_soon(d.send(values)) for d, values in zip(drivers, given["sent"].values(), strict=True)]
    before, quiet = -1, 0
    while quiet < QUIET:
        await RisingEdge(dut.clk)
        after = sum(len(monitor.values) for monitor in monitors.values()) + sum(task.done() for task in tasks)
        before, quiet = after, quiet + 1 if after == before else 0
    assert all(task.done() for task in tasks), "an input stream is not taken"
    _keep({name: monitor.values for name, monitor in monitors.items()})
