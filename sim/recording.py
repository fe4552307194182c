# SPDX-License-Identifier: Apache-2.0
"""Which waveforms of a run are kept, and where; `waves` keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgemoe.models.errors import EdgemoeError

LAST = 2**32 - 1


@dataclass(frozen=True)
class Recording:
    """What is to be kept, and where. first, last: numbers of instructions."""

    path: Path
    first: int = 0
    last: int = LAST

    @classmethod
    def of(cls, path: Path | None, instructions: str | None) -> Recording | None:
        """From the options --trace and --instructions."""
        if path is None:
            if instructions is not None:
                raise EdgemoeError("--instructions is for --trace: name the file, --trace FILE.fst")
            return None
        if path.suffix.lower() != ".fst":
            raise EdgemoeError(f"--trace {path}: waveforms are written as FST: the name must end in .fst")
        if instructions is None:
            return cls(path)
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", instructions)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise EdgemoeError(
                f"--instructions {instructions}: expected the numbers of a first and a last instruction, such as 10..12"
            )
        return cls(path, first, last)

    def companion(self, ending: str) -> Path:
        """A file beside it."""
        return self.path.with_name(self.path.stem + ending)
