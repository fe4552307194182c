# SPDX-License-Identifier: Apache-2.0
"""Options of the whole suite."""

from __future__ import annotations

import os

import pytest
from edgemoe.models import console

# Two processes test at once: more threads in each (of NumPy, of PyTorch, of what the tests start) would only wait for
# one another.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


console.talk()  # as the command line does, most of which is tested inside this process


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--full`` adds the long tests; ``--update-cycles`` writes the cycle counts that are found into
    tests/top/cycles.json.
    """
    parser.addoption("--full", action="store_true", help="also run the tests marked full")
    parser.addoption(
        "--update-cycles", action="store_true", help="commit the cycle counts of this run instead of comparing them"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without it they are skipped, and say so."""
    if config.getoption("--full"):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="long: runs with --full"))
