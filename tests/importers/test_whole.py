# SPDX-License-Identifier: Apache-2.0
"""Models larger than the chip, at their full size, through all their tiles on the RTL: the emulator's integers, and the
plan's cycles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edgemoe.host import inference
from edgemoe.host.importing import pictures
from edgemoe.host.studies import plan as study
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.numbers.calibrate import calibrate
from edgemoe.models.numbers.sketch import sketch

from . import zoo

pytestmark = pytest.mark.full


def brought(name: str, folder: Path) -> Checkpoint:
    """A shipped model, or one of the table with the weights with which its library begins."""
    if name not in zoo.ZOO:
        return checkpoints.load(name)
    torch.manual_seed(0)
    checkpoint = zoo.ZOO[name](folder)
    given, _ = pictures(checkpoint.config, [], "crop")
    return replace(checkpoint, calibration=calibrate(checkpoint, given[:2], error_aware=()))


@pytest.mark.parametrize(
    "name, hardware",
    [
        ("m3vit-micro", "tiny"),  # 1 minute: 17 tiles
        ("ViT-B/16 (timm)", "zcu102"),  # 4 minutes: 768 channels, 2 tiles
        ("M3ViT-S, NYUD, 16 experts, top 4", "zcu102"),  # 10 minutes: 1,201 tokens, 5 tiles
    ],
)
def test_in_tiles_on_rtl(name: str, hardware: str, tmp_path: Path) -> None:
    checkpoint, build = brought(name, tmp_path), preset(hardware)
    picture = pictures(checkpoint.config, [], "crop")[0][6]
    emulated, simulated = (
        inference.infer(checkpoint, [picture], hardware=build, device=device, tasks=[0], weight_bits="16",
                        save_tokens=True)
        for device in ("emulator", "verilator")
    )  # fmt: skip
    assert np.array_equal(emulated.tokens[0], simulated.tokens[0])
    planned = study.plan(sketch(checkpoint.config), build, tasks=[0], routes=study.emulated(emulated.runs))
    assert planned.split and planned.cycles == pytest.approx(simulated.totals().cycles, rel=0.05)
