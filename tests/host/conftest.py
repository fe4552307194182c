# SPDX-License-Identifier: Apache-2.0
"""The command line within this process."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edgemoe.host.cli import start

Command = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """The command said in one line, of which these are parts, why it did nothing."""
    code, text, errors = result
    assert code == 2 and text == "", errors
    assert errors.startswith("edgemoe: error: ") and len(errors.splitlines()) == 1 and len(errors) <= 420, errors
    for part in parts:
        assert part in errors, errors


def readable(text: str) -> None:
    """A table for people shows no value as Python writes it, and no number with more digits than anybody reads."""
    cells = (cell.strip() for line in text.splitlines() if line.startswith("│") for cell in line.split("│"))
    wrong = [cell for cell in cells if re.search(r"[\[{]'|[\[{]\d+[,:]|^None$|\d\.\d{6}", cell)]
    assert not wrong, wrong


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that is run in this process takes over its signals: they are given back."""
    answers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, answer in answers.items():
        signal.signal(number, answer)


@pytest.fixture
def edgemoe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgemoe", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            start.main()
        code = stop.value.code
        assert isinstance(code, int)
        text, errors = capsys.readouterr()
        readable(text)
        return code, text, errors

    return run
