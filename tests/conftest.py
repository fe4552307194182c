# SPDX-License-Identifier: Apache-2.0
"""Options of the whole suite."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from edgemoe.hw.contract.config import PRESETS
from edgemoe.hw.contract.hardware_option import changed
from edgemoe.models import console
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import bench_simulator

# Two processes test at once: more threads in each (of NumPy, of PyTorch, of what the tests start) would only wait for
# one another.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


console.talk()  # as the command line does, most of which is tested inside this process


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--full`` adds the long tests; ``--update-cycles`` writes the cycle counts that are found into
    tests/top/cycles.json. ``--waves``, ``--simulator``, ``--set``: how units are looked into, one bench at a time.
    """
    parser.addoption("--waves", metavar="DIR", help="benches leave their waveforms in this folder")
    parser.addoption("--simulator", choices=bench_simulator.SIMULATORS, default="verilator", help="what benches run in")
    parser.addoption("--set", action="append", metavar="FIELD=VALUE", help="change a field of all presets that take it")
    parser.addoption("--full", action="store_true", help="also run the tests marked full")
    parser.addoption(
        "--update-cycles", action="store_true", help="commit the cycle counts of this run instead of comparing them"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test asks for a preset."""
    waves = config.getoption("--waves")
    bench_simulator.chosen.waves = Path(waves) if waves else None
    bench_simulator.chosen.simulator = config.getoption("--simulator")
    try:
        change_presets(config.getoption("--set") or [])
    except EdgemoeError as error:
        raise pytest.UsageError(str(error)) from error


def change_presets(changes: list[str]) -> None:
    """Every preset that can be built with the changes has them; EdgemoeError if none can."""
    refused: list[EdgemoeError] = []
    for name, base in PRESETS.items() if changes else ():
        try:
            PRESETS[name] = replace(changed(base, changes), name=name)
        except EdgemoeError as error:
            refused.append(error)
    if changes and len(refused) == len(PRESETS):
        raise refused[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without it they are skipped, and say so."""
    if config.getoption("--full"):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="long: runs with --full"))
