# SPDX-License-Identifier: Apache-2.0
"""Committed cycle counts: a change that moves one has to say so, by committing the new number."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("cycles.json")
UPDATE = "--update-cycles"


def check_cycles(config: pytest.Config, name: str, cycles: int) -> None:
    """Exactly the committed number; with --update-cycles it becomes that."""
    if config.getoption(UPDATE):
        with FILE.open("r+") as file:  # tests run in parallel
            fcntl.flock(file, fcntl.LOCK_EX)
            known = json.load(file) | {name: cycles}
            file.seek(0)
            file.truncate()
            file.write(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        return
    expected = json.loads(FILE.read_text()).get(name)
    assert cycles == expected, (
        f"{name}: {cycles} cycles, {expected} are committed; if the change is meant, update tests/top/cycles.json with "
        f"`./edgemoe test -- tests/top/test_models.py {UPDATE}` and commit it"
    )
