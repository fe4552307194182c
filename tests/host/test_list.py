# SPDX-License-Identifier: Apache-2.0
"""What comes along by name, and a shell's completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from edgemoe.boards.facts import BOARDS
from edgemoe.hw.contract.config import PRESETS
from edgemoe.models.checkpoint import known
from edgemoe.models.config import PRESETS as MODELS

from .conftest import Command, refused


def test_everything_by_name(edgemoe: Command) -> None:
    code, text, errors = edgemoe("list", "--json")
    assert code == 0, errors
    found = {what: [entry["name"] for entry in entries] for what, entries in json.loads(text).items()}
    assert found["presets"] == list(PRESETS) and found["boards"] == list(BOARDS) and found["models"] == list(MODELS)
    assert found["checkpoints"] == known() and {"m3vit-micro", "m3vit-nano"} <= set(known())
    tasks = {entry["name"]: entry["tasks"] for entry in json.loads(text)["checkpoints"]}
    assert tasks["m3vit-micro"] == ["segmentation", "depth"]


def test_one_of_them_as_a_table(edgemoe: Command) -> None:
    code, text, errors = edgemoe("list", "boards")
    assert code == 0 and "TUL PYNQ-Z2" in text and "m3vit-t" not in text, errors
    refused(edgemoe("list", "fruits"), "no 'fruits' to list: choose one of presets, boards, models, checkpoints")


@pytest.mark.parametrize("words, expected", [("edgemoe inf", ["infer"]), ("edgemoe comp", ["compile"])])
def test_a_shell_completes(words: str, expected: list[str]) -> None:
    """As what `--install-completion` installs asks."""
    asked = {"_EDGEMOE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "edgemoe.host.cli"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, expected, "")
