# SPDX-License-Identifier: Apache-2.0
"""What a bench runs in: Verilator, or Icarus Verilog, which knows unknown values and needs no compiler; with waveforms
or without.

`chosen` holds for every bench of this process; the suite sets it from its options.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build

SIMULATORS = ("verilator", "icarus")
_DUMP = 'module dump;\n  initial begin\n    $dumpfile("dump.fst");\n    $dumpvars(0, {name});\n  end\nendmodule\n'


@dataclass
class Choice:
    """simulator: one of SIMULATORS. waves: the folder in which every bench leaves its waveforms, or None."""

    simulator: str = "verilator"
    waves: Path | None = None


chosen = Choice()


def built(verilog: str, name: str, ports: Sequence[str]) -> Path:
    """The folder that holds the simulation of a module, where cocotb's runner looks for it."""
    waves = chosen.waves is not None
    if chosen.simulator == "verilator":
        return build.build_cocotb(verilog, name, list(ports), waves=waves)
    if chosen.simulator != "icarus":
        raise EdgemoeError(f"unknown simulator {chosen.simulator!r}: choose one of {', '.join(SIMULATORS)}")
    if shutil.which("iverilog") is None:
        raise EdgemoeError("the simulator icarus needs Icarus Verilog (Debian, Ubuntu: apt install iverilog)")
    version = subprocess.run(["iverilog", "-V"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]

    def make(folder: Path) -> None:
        sources = {"top.v": "`timescale 1ns/1ps\n" + verilog, **({"dump.v": _DUMP.format(name=name)} if waves else {})}
        for file, text in sources.items():
            (folder / file).write_text(text)
        roots = [part for top in (name, *(["dump"] if waves else [])) for part in ("-s", top)]
        build.run(
            ["iverilog", "-g2012", *roots, "-o", folder / "sim.vvp", *(folder / file for file in sources)], "iverilog"
        )

    return build.cached("icarus", build.digest(verilog, name, waves, version), make)


def inputs(verilog: str, name: str) -> list[str]:
    """Names of a module's inputs."""
    body = re.search(rf"^module {name}\b.*?^endmodule", verilog, re.M | re.S)
    return re.findall(r"^\s*input (?:wire )?(?:\[\d+:\d+\] )?(\w+)", body[0] if body else "", re.M)


def keep_waves(folder: Path, bench: str) -> Path | None:
    """Move what a bench that ran in a folder has dumped to where waveforms are kept, under the name of the test that
    runs; returns the path."""
    dumped = next(folder.glob("dump.*"), None)
    if chosen.waves is None or dumped is None:
        return None
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("/")[2].removesuffix(" (call)")
    stem = re.sub(r"[^\w.=+-]+", "-", f"{test.replace('.py::', '-')}-{bench}").strip("-")
    chosen.waves.mkdir(parents=True, exist_ok=True)
    number, place = 1, chosen.waves / f"{stem}{dumped.suffix}"
    while place.exists():  # a test may run several benches
        number += 1
        place = chosen.waves / f"{stem}-{number}{dumped.suffix}"
    shutil.move(dumped, place)
    return place
