# SPDX-License-Identifier: Apache-2.0
"""Dependencies point one way, the runtime stands alone, and the base install is enough for the host."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# Every room, from the lowest to the highest, and the rooms that its files may import besides their own. A room is its
# folder without the rooms listed inside it; the packages' own `__init__` count as files of the room.
USES = {
    "models/street": "",
    "models": "models/street",
    "hw/contract": "models",
    "hw/memory": "models hw/contract",
    "hw/compute": "models hw/contract hw/memory",
    "hw/control": "models hw/contract hw/memory hw/compute",
    "hw/periphery": "models hw/contract hw/memory hw/control",
    "hw": "models hw/contract hw/memory hw/compute hw/control hw/periphery",
    "host/runtime": "models hw/contract",  # all that the processor beside an FPGA needs: it stands alone
    "sim": "models hw/contract hw/memory hw/periphery hw",
    "boards": "models hw/contract hw/memory hw sim",
    "host/compiler": "models hw/contract host/runtime",
    "host": "models hw/contract sim host/runtime host/compiler",
    "host/studies": "models hw/contract hw/memory sim boards host/runtime host/compiler host",
    "host/cli": "models hw/contract hw sim boards host host/studies",
}


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
    return max((r for r in USES if path == r or path.startswith(f"{r}/")), key=len, default=None)


@pytest.mark.parametrize("own", USES)
def test_dependencies_point_one_way(own: str) -> None:
    allowed = USES[own].split()
    assert set(allowed) < set(list(USES)[: list(USES).index(own)]) | {""}, "only rooms before its own"
    wrong = []
    for path in sorted((ROOT / own.partition("/")[0]).rglob("*.py")):
        if room(".".join(path.relative_to(ROOT).with_suffix("").parts)) != own:
            continue
        for name in imported(path):
            if name.startswith("edgemoe.") and room(name) not in (own, None, *allowed):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def modules(folder: str) -> list[str]:
    """Names of all modules below a folder."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [".".join(("edgemoe", *path.parts)) for path in paths if path.stem not in ("__init__", "__main__")]


def base_install() -> set[str]:
    """Modules of the packages that the base install brings: what edgemoe requires without an extra, and what that
    requires.
    """
    wanted, found = ["edgemoe"], set[str]()
    while wanted:
        name = wanted.pop()
        found.add(name)
        for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
            if not (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                wanted += {canonicalize_name(requirement.name)} - found
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if found & {canonicalize_name(name) for name in names}}


def run_with(packages: set[str], script: str) -> None:
    """Run a script in a process in which other packages than these cannot be found."""
    hide = f"""
import importlib.machinery, sys
real = importlib.machinery.PathFinder.find_spec
hidden = {set(importlib.metadata.packages_distributions()) - packages - {"edgemoe"}!r}
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else real(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""
    command = [sys.executable, "-I", "-c", hide + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_runtime_stands_alone() -> None:
    """With NumPy alone, and nothing of ours but itself, the contract with the hardware, and a few modules of models."""
    script = f"""
import importlib
for name in {modules("host/runtime")!r}: importlib.import_module(name)
ours = [name for name in sys.modules if name.startswith("edgemoe.") and name.count(".") > 1]
rooms = ("edgemoe.host.runtime", "edgemoe.hw.contract", "edgemoe.models")
print(*(name for name in ours if not name.startswith(rooms)), file=sys.stderr)
sys.exit(any(not name.startswith(rooms) for name in ours))
"""
    run_with({"numpy"}, script)


def test_the_base_install_is_enough() -> None:
    """Every module of the host is imported, and a picture goes through the driver on the emulator, in a process with
    nothing but the base install's packages.
    """
    base = base_install()
    assert {"numpy", "PIL", "typer"} <= base and not base & {"torch", "amaranth", "serial", "matplotlib"}
    script = f"""
import importlib
for name in {modules("host")!r}: importlib.import_module(name)
import edgemoe, numpy
with edgemoe.open("m3vit-nano", device="emulator", hardware="schoko") as session:
    [found] = session.infer([numpy.zeros((112, 112, 3), numpy.uint8)], tasks=["depth"])
assert found["depth"].map.shape == (112, 112)
"""
    run_with(base, script)
