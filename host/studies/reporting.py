# SPDX-License-Identifier: Apache-2.0
"""What Yosys says about a configuration: resources by unit, and how long its logic takes between two registers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgemoe.hw.contract.config import HardwareConfig

# What stands in the core and in the engine, by the room of its file; the rest is control.
ROOMS = {
    "compute": ("accumulator", "array", "epilogue", "layernorm", "router", "softmax"),
    "memory": ("dma", "memories", "reader", "weights", "writer"),
}
OTHERS = "control"
DELAYS = (
    "Artix-7 logic delays from Yosys' library; no wires, no clock skew; nothing for pins of which it says nothing "
    "(enables and operation modes of DSP slices, enables of block RAM)"
)


def timing(hardware: HardwareConfig) -> dict[str, Any]:
    """units: unit -> ns of its slowest path, placed and mapped, and its slowest paths; offenders: those of them that
    exceed the limit, slowest first.
    """
    from edgemoe.sim import timing  # needs Amaranth, which is not on every host

    units = timing.timing(hardware)
    offenders = [
        {"unit": unit, **path} for unit, entry in units.items() for path in entry["paths"] if path["ns"] > timing.LIMIT
    ]
    return {
        "hardware": hardware.name,
        "delays": DELAYS,
        "ns": max(entry["ns"] for entry in units.values()),
        "limit": timing.LIMIT,
        "units": units,
        "offenders": sorted(offenders, key=lambda p: -p["ns"]),
    }


def resources(
    hardware: HardwareConfig,
    adjust: Callable[[dict[str, dict[str, float]]], None] | None = None,
    family: str = "xcup",
) -> dict[str, Any]:
    """units: unit -> LUTs, flip-flops, DSP slices, block RAMs (halves rounded up), UltraRAMs; total: their sums.

    adjust: changes the exact counts of the units in place, before they are rounded. family: of devices, as Yosys calls
    it.
    """
    from edgemoe.sim import synthesis

    exact = synthesis.resources(hardware, family)
    if adjust is not None:
        adjust(exact)
    units = {unit: {kind: math.ceil(count) for kind, count in entry.items()} for unit, entry in exact.items()}
    total = {kind: sum(unit[kind] for unit in units.values()) for kind in synthesis.KINDS}
    return {"hardware": hardware.name, "units": units, "total": total}


def tree(units: Mapping[str, Mapping[str, int]]) -> list[tuple[str, dict[str, int]]]:
    """(line of a tree, resources): each room with its sum, below it its units, the largest first; without what only
    holds others."""
    rooms: dict[str, dict[str, Mapping[str, int]]] = {room: {} for room in (*ROOMS, OTHERS)}
    for unit, counts in units.items():
        if any(counts.values()):
            rooms[next((room for room, members in ROOMS.items() if unit in members), OTHERS)][unit] = counts
    rows: list[tuple[str, dict[str, int]]] = []
    for room, members in rooms.items():
        if not members:
            continue
        kinds = next(iter(members.values()))
        rows.append((room, {kind: sum(counts[kind] for counts in members.values()) for kind in kinds}))
        ordered = sorted(members.items(), key=lambda item: tuple(-count for count in item[1].values()))
        for number, (unit, counts) in enumerate(ordered, 1):
            rows.append((f"{'└' if number == len(ordered) else '├'} {unit}", dict(counts)))
    return rows


def show(resource_report: dict[str, Any] | None, timing_report: dict[str, Any] | None) -> None:
    """Tables on standard output."""
    from edgemoe.models.console import show_table

    if resource_report:
        kinds = list(resource_report["total"])
        counted = [*tree(resource_report["units"]), ("total", resource_report["total"])]
        rows = [(unit, *(f"{counts[kind]:,}" for kind in kinds)) for unit, counts in counted]
        show_table(
            f"Resources of {resource_report['hardware']} (Yosys, xcup)",
            rows,
            ("unit", *(kind.upper() for kind in kinds)),
        )
    if timing_report:
        slowest = [(unit, entry, entry["paths"][0]) for unit, entry in timing_report["units"].items()]
        shown = [
            (unit, f"{entry['ns']:.2f}", f"{entry['mapped_ns']:.2f}", path["from"], path["to"])
            for unit, entry, path in slowest
        ]
        show_table(
            f"Slowest paths of {timing_report['hardware']}, ns of logic",
            shown,
            ("unit", "placed", "mapped", "from", "to"),
        )
        print(f"{timing_report['delays']}.")
        print(
            "mapped: as Yosys leaves it; placed: late inputs on a LUT's fast pins, flip-flops beside a DSP slice in it."
        )
        limit, offenders = timing_report["limit"], timing_report["offenders"]
        if offenders:
            print(f"Of the slowest {len(offenders)} take longer than {limit} ns:")
            for path in offenders:
                print(f"  {path['ns']:.2f}  {path['from']} -> {path['to']}: {', '.join(path['through'])}")
        else:
            print(f"no path takes longer than {limit} ns")
