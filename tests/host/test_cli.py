# SPDX-License-Identifier: Apache-2.0
"""The command line's manners: exit codes, one-line errors, clean JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgemoe.host.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "arguments", [("infer",), ("fly",), ("doctor", "--fast"), ("infer", "x.png", "--device", "abacus")]
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("edgemoe: error: ") and len(done.stderr.splitlines()) == 1


def test_doctor_prints_json_only() -> None:
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == ""
    assert found["python"]["present"] and {"verilator", "C++ compiler", "torch", "build cache"} <= set(found)


def test_doctor_names_an_unusable_compiler() -> None:
    done = run("doctor", "--json", EDGEMOE_CXX="no-such-compiler")
    assert done.returncode == 2 and json.loads(done.stdout)["C++ compiler"]["present"] is False
    told = "C++ compiler is missing or cannot be used (the simulator): "
    told += "EDGEMOE_CXX names 'no-such-compiler', which does not run"
    assert done.stderr == f"edgemoe: error: {told}\n"


@pytest.mark.parametrize(
    "arguments", [("--help",), ("-h",), ("infer", "-h"), ("import", "edge-moe", "--help"), ("--version",)]
)
def test_help_is_plain_text(arguments: tuple[str, ...]) -> None:
    """No frames, so that it is whole in a narrow console and one without Unicode."""
    done = run(*arguments)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.isascii() and "edgemoe" in done.stdout
