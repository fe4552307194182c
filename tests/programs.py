# SPDX-License-Identifier: Apache-2.0
"""Programs that some tests need and that no Python package brings."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "iverilog": "iverilog",
    "vvp": "iverilog",
    "dtc": "device-tree-compiler",
    "make": "make",
    "chromium": "chromium",
}


LARGE = {"chromium"}  # not to be had everywhere


def needed(*programs: str) -> None:
    """Skip the calling test where a program is missing; where CI=true, fail it, unless the program is a large one."""
    missing = sorted({PACKAGES[name] for name in programs if shutil.which(name) is None})
    if missing:
        message = f"needs {', '.join(missing)} (Debian, Ubuntu: apt install {' '.join(missing)})"
        if os.environ.get("CI") == "true" and not LARGE & set(missing):
            pytest.fail(message)
        pytest.skip(message)
