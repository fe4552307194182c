# SPDX-License-Identifier: Apache-2.0
"""The texts of a board's folder: files of `boards/templates`, in which every @WORD@ is filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files


def text(flow: str, file: str) -> str:
    """A file that a flow's folders hold as it is."""
    return (files("edgemoe.boards") / "templates" / flow / file).read_text(encoding="utf-8")


def filled(flow: str, file: str, words: Mapping[str, object]) -> str:
    """A template with every @WORD@ replaced; an unknown one is a mistake of ours."""
    return re.sub(r"@([A-Z_]+)@", lambda found: str(words[found[1]]), text(flow, f"{file}.in"))
