# SPDX-License-Identifier: Apache-2.0
"""Options by which a unit is looked into: `./edgemoe test --only`, with `--set`, `--waves`, `--simulator`."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from edgemoe.host.cli import maintain
from edgemoe.host.studies import suite
from edgemoe.hw.contract.config import PRESETS
from edgemoe.models.errors import EdgemoeError

from .conftest import change_presets


def test_only_runs_neither_lint_nor_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps: list[list[str]] = []
    monkeypatch.setattr(suite, "_step", lambda name, module, **environment: steps.append(module) or 0)
    with pytest.raises(typer.Exit) as stop:
        maintain.test(only=["tests/hw/test_activation.py"], waves=tmp_path, simulator="icarus", changes=["lanes=8"])
    assert stop.value.exit_code == 0
    chosen = ["--set=lanes=8", f"--waves={tmp_path}", "--simulator=icarus", "tests/hw/test_activation.py"]
    assert [step[0] for step in steps] == ["pytest"] and steps[0][-4:] == chosen
    steps.clear()
    with pytest.raises(typer.Exit):
        maintain.test()
    assert [step[0] for step in steps] == ["ruff", "ruff", "mypy", "pytest"]


def test_sizes_are_for_some_tests_only() -> None:
    with pytest.raises(EdgemoeError, match="--set is for --only"):
        maintain.test(changes=["lanes=8"])


def test_presets_take_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(PRESETS)
    try:
        change_presets(["lanes=8"])
        assert PRESETS["tiny"].lanes == 8 and PRESETS["tiny"].name == "tiny" and PRESETS["tiny"] != before["tiny"]
        with pytest.raises(EdgemoeError, match="lanes must be"):
            change_presets(["lanes=5"])
    finally:
        PRESETS.update(before)
