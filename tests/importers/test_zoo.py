# SPDX-License-Identifier: Apache-2.0
"""The table of what people can bring is the one that was measured, and its cycles are still the plan's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from . import zoo

ROOT = Path(__file__).resolve().parents[2]
MEASURED = json.loads(zoo.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["README.md", "docs/own-model.md"])
def test_pages_show_what_was_measured(page: str) -> None:
    assert "\n".join(zoo.table(MEASURED)) in (ROOT / page).read_text(encoding="utf-8")
    assert list(MEASURED) == list(zoo.ZOO) and len(MEASURED) >= 8
    assert all(row["db"] > 50 for row in MEASURED.values())


@pytest.mark.parametrize("name", ["DeiT-Ti/16 (timm)", "M3ViT-S, NYUD, 16 experts, top 4"])
def test_cycles_are_the_plans(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = zoo.NYUD if name.startswith("M3ViT-S") else zoo.ZOO[name](tmp_path).config
    found = zoo.planned(config)
    assert found.cycles == MEASURED[name]["cycles"]
    assert bool(found.split) == bool(MEASURED[name]["split"])
