# SPDX-License-Identifier: Apache-2.0
"""The command line within this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edgemoe.host.cli import start

Command = Callable[..., tuple[int, str, str]]


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
        return code, *capsys.readouterr()

    return run
