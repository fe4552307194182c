# SPDX-License-Identifier: Apache-2.0
"""Scripts that drive a board go on working under the names that modules had before there were rooms."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from edgemoe.former import NOW

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("former", NOW)
def test_a_former_name_is_the_module(former: str) -> None:
    """The same module, not a second one; it says where it is now."""
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {NOW[former]}"):
        module = importlib.import_module(former)
    assert module is importlib.import_module(NOW[former]) and module.__name__ == NOW[former]


def test_both_ways_to_import() -> None:
    script = (
        "from edgemoe.host import fpga\nfrom edgemoe.host.driver import Driver\nimport edgemoe.hw.registers as r\n"
        "from edgemoe.host.runtime import driver, fpga as now\n"
        "assert fpga is now and Driver is driver.Driver and r.__name__ == 'edgemoe.hw.contract.registers'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.count("DeprecationWarning") == 3, done.stderr  # of a script itself


def test_nothing_here_uses_them() -> None:
    names = re.compile("|".join(rf"{re.escape(name)}\\b" for name in NOW))
    rooms = ("models", "hw", "sim", "boards", "host", "examples")
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py") if path.name != "former.py"]
    assert not [str(path) for path in paths if names.search(path.read_text())]
