# SPDX-License-Identifier: Apache-2.0
"""``edgemoe test``: lint, types, and the tests, in the clone that this package was installed from."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from edgemoe.boards.kit import PACKAGES
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError

ROOT = Path(__file__).resolve().parents[2]


def run(*, full: bool, arguments: list[str], whole: bool = True) -> int:
    """Run everything even if an early part fails; return the exit code. whole: off, pytest alone."""
    if not (ROOT / "tests").is_dir():
        raise EdgemoeError("the tests are run from a clone of the repository: ./edgemoe test")
    missing = [name for name in ("pytest", "xdist", "ruff", "mypy", "cocotb") if importlib.util.find_spec(name) is None]
    if missing:
        raise EdgemoeError(
            f"the tests need {', '.join(missing)}; ./edgemoe test brings them, or {extras.remedy('dev')}"
        )
    failed = []
    for task in ("check", "format --check") if whole else ():
        if _step(f"ruff {task}", ["ruff", *task.split(), "--quiet", *PACKAGES, "tests", "examples", "docs"]):
            failed.append(f"ruff {task}")
    if whole and _types():
        failed.append("mypy")
    # Two workers, as many as the smallest machine has cores: more would only share its memory.
    command = ["pytest", "-n", "2", "--dist", "worksteal", *(["--full"] if full else []), *arguments]
    if _step("pytest", command):
        failed.append("pytest")
    if failed:
        print(f"edgemoe test: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _step(name: str, module: list[str], **environment: str) -> int:
    print(f"edgemoe test: {name}", file=sys.stderr, flush=True)
    return subprocess.run(
        [sys.executable, "-I", "-m", *module], cwd=ROOT, env={**os.environ, **environment}, check=False
    ).returncode


def _types() -> int:
    # mypy cannot follow an editable install whose packages have other names than their folders: show it the names as
    # links.
    with tempfile.TemporaryDirectory(prefix="edgemoe-types-") as folder:
        package = Path(folder) / "edgemoe"
        package.mkdir()
        for part in (ROOT / "host" / "front").glob("*.py"):
            (package / part.name).symlink_to(part)
        for name in PACKAGES:
            (package / name).symlink_to(ROOT / name)
        return _step("mypy", ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "edgemoe"], MYPYPATH=folder)
