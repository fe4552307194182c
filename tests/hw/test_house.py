# SPDX-License-Identifier: Apache-2.0
"""What every file of the hardware keeps to: functions short enough to be seen whole, one door to Amaranth's privacy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = 80  # of a function
PRIVATE = ROOT / "hw" / "amaranth_private.py"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_of_the_hardware_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}::{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sorted((ROOT / "hw").rglob("*.py"))
        for node in functions(path)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > LINES}


def private_names(source: str) -> list[str]:
    """The names with a leading underscore that a source takes from Amaranth, by import or through a module of it."""
    tree, ours, found = ast.parse(source), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "amaranth":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            ours |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "amaranth"]
            ours |= {alias.asname or alias.name.split(".")[0] for alias in node.names if alias.name in names}
        else:
            continue
        found += [name for name in names if "._" in name]
    for node in ast.walk(tree):
        path, inner = [], node
        while isinstance(inner, ast.Attribute):
            path.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in ours and any(n[0] == "_" and n[1] != "_" for n in path):
            found.append(".".join([inner.id, *reversed(path)]))
    return found


def test_private_names_are_found() -> None:
    assert private_names("from amaranth.hdl._ir import Fragment") == ["amaranth.hdl._ir.Fragment"]
    assert private_names("from amaranth.back.verilog import _convert") == ["amaranth.back.verilog._convert"]
    assert private_names("import amaranth.lib._x as x") == ["amaranth.lib._x"]
    assert private_names("from amaranth import hdl\nhdl._ast.Signal()") == ["hdl._ast.Signal", "hdl._ast"]
    assert not private_names("from amaranth.lib import wiring\nself._own(wiring.__file__)")


def test_one_file_uses_what_amaranth_keeps_private() -> None:
    used = {
        path.relative_to(ROOT): names
        for room in ("models", "hw", "sim", "boards", "host", "tests")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path != PRIVATE and (names := private_names(path.read_text()))
    }
    assert not used
    assert private_names(PRIVATE.read_text())
