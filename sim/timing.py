# SPDX-License-Identifier: Apache-2.0
"""The deepest paths of the core, in LUT levels (`edgemoe.sim.netlist`).

Paths that cross modules are joined port by port: the deepest bit of a port stands for all of its bits, so they are
never underestimated.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.sim.modules import instances, unit_of
from edgemoe.sim.synthesis import results_of


@dataclass(frozen=True)
class LongPath:
    """A combinational path from register to register. unit: where it ends; several modules: what it passes."""

    levels: float
    unit: str
    start: str
    end: str


def timing(config: HardwareConfig, most: int = 8) -> dict[str, list[LongPath]]:
    """Unit -> its deepest paths, deepest first: those inside a module, and those across modules where they end."""
    modules, results = results_of(config, "arcs")
    units: dict[str, list[LongPath]] = defaultdict(list)
    edges: dict[tuple[str, str], list[tuple[tuple[str, str], float]]] = defaultdict(list)
    starts: dict[tuple[str, str], tuple[float, str]] = {}
    ends: list[tuple[tuple[str, str], float, str]] = []
    for path, name in instances(modules):
        children = dict(modules[name].children)

        def node(port: str, path: str = path, children: Mapping[str, str] = children) -> tuple[str, str]:
            instance, _, inner = port.rpartition(":")
            if not instance:
                return path, port
            assert instance in children
            return (f"{path}.{instance}" if path else instance), inner

        entry = results[name]
        where = path or "top"
        for levels, begin, end in entry["worst"]:
            units[unit_of(path)].append(LongPath(levels, unit_of(path), f"{where}.{begin}", f"{where}.{end}"))
        for source, sink, levels, begin, end in entry["arcs"]:
            if source == "reg" and sink != "reg":
                here = node(sink)
                if here not in starts or levels > starts[here][0]:
                    starts[here] = (levels, f"{where}.{begin}")
            elif source != "reg" and sink == "reg":
                ends.append((node(source), levels, f"{where}.{end}"))
            elif source != "reg":
                edges[node(sink)].append((node(source), levels))

    arrival: dict[tuple[str, str], tuple[float, str]] = {}
    busy: set[tuple[str, str]] = set()

    def arrive(at: tuple[str, str]) -> tuple[float, str]:
        if at in arrival or at in busy:  # a loop of ports is none of bits: it is cut where it closes
            return arrival.get(at, (0.0, "?"))
        busy.add(at)
        found = starts.get(at, (-1.0, "?"))
        for before, levels in edges.get(at, ()):
            so_far, begin = arrive(before)
            if begin != "?" and so_far + levels > found[0]:
                found = (so_far + levels, begin)
        busy.discard(at)
        arrival[at] = found
        return found

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 20_000))
    for at, levels, end in ends:
        so_far, begin = arrive(at)
        if begin != "?":
            unit = unit_of(at[0])
            units[unit].append(LongPath(round(so_far + levels, 2), unit, begin, end))
    return {unit: sorted(paths, key=lambda p: -p.levels)[:most] for unit, paths in units.items()}
