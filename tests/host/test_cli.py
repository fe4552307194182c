# SPDX-License-Identifier: Apache-2.0
"""The command line's manners: exit codes, one-line errors, clean JSON, a launcher that says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from edgemoe.host import cli
from edgemoe.models.errors import EdgemoeError

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgemoe.host.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.parametrize("arguments", [("infer",), ("fly",), ("doctor", "--fast"), ("infer", "x.png", "--device", "abacus")])
def test_wrong_usage_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("edgemoe: error: ") and len(done.stderr.splitlines()) == 1


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(**_: object) -> None:
        raise EdgemoeError("no such thing:\n  x")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "edgemoe: error: no such thing: x\n")


def test_doctor_prints_json_only() -> None:
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == ""
    assert found["python"]["present"] and {"verilator", "C++ compiler", "torch", "build cache"} <= set(found)


def test_doctor_names_an_unusable_compiler() -> None:
    done = run("doctor", "--json", EDGEMOE_CXX="no-such-compiler")
    assert done.returncode == 1 and json.loads(done.stdout)["C++ compiler"]["present"] is False


def launch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The launcher, copied to a folder of its own so that it finds no environment."""
    folder.mkdir(exist_ok=True)
    (folder / "edgemoe").write_text((ROOT / "edgemoe").read_text())
    (folder / "pyproject.toml").write_text("")
    return subprocess.run(["/bin/sh", str(folder / "edgemoe"), *arguments], capture_output=True, text=True, check=False, env=environment)


def tools(folder: Path, python: str) -> str:
    """A PATH with the few programs that the launcher uses and a Python of our making."""
    folder.mkdir()
    for name in ("cksum", "cat", "dirname", "readlink"):
        found = next(Path(place) / name for place in ("/usr/bin", "/bin") if (Path(place) / name).exists())
        (folder / name).symlink_to(found)
    (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python3").chmod(0o755)
    return str(folder)


def test_launcher_refuses_an_old_python(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi')
    done = launch(tmp_path / "clone", "doctor", PATH=path)
    assert done.returncode == 2
    assert done.stderr == "edgemoe: error: needs Python 3.10 or newer; found python3 is Python 3.9.2 (EDGEMOE_PYTHON names another)\n"


def test_launcher_without_ensurepip(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    done = launch(tmp_path / "clone", "doctor", PATH=path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "venv and ensurepip are missing" in done.stderr


def test_launcher_installs_once(tmp_path: Path) -> None:
    """With a matching stamp it hands over at once, whatever Python is around."""
    clone = tmp_path / "clone"
    launch(clone, PATH=tools(tmp_path / "bin", "exit 1"))
    environment = clone / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text('#!/bin/sh\necho handed over: "$@"\n')
    (environment / "bin" / "python").chmod(0o755)
    sum_ = subprocess.run(["cksum"], input="", capture_output=True, text=True, check=True).stdout.strip()
    (environment / "edgemoe-dev").write_text(f"{clone.resolve()} {sum_}\n")
    done = launch(clone, "infer", "a b.png", PATH=str(tmp_path / "bin"))
    assert done.stdout == "handed over: -m edgemoe.host.cli infer a b.png\n"
