# SPDX-License-Identifier: Apache-2.0
"""A small model of every kind of attention on the RTL: the emulator's to the last bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from edgemoe.host import compiler
from edgemoe.hw.contract.config import preset
from edgemoe.models.config import ATTENTION_KINDS
from edgemoe.sim.device import Dram

from .support import NANO, quantised
from .test_small_models import compare

FAMILY = replace(preset("tiny"), rows=60, attention=preset("family").attention, head_norms=1)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_equals_the_emulator(kind: str) -> None:
    config = replace(NANO, name=kind, attention=kind, features=18 if kind == "performer" else 0)
    program = compiler.compile(quantised(config), ((0, 0), (0, 1)), FAMILY, trace=True, save_tokens=True)
    compare(program, 1, Dram())


def test_landmarks_that_fill_no_words() -> None:
    """Three of 3 x 6 patches, a row of which has no partner; 5 channels a head."""
    config = replace(NANO, name="three landmarks", attention="soft", image_height=12, image_width=24, width=20, heads=4)
    program = compiler.compile(quantised(config, "8"), ((0, 0), (0, 1)), FAMILY, trace=True, save_tokens=True)
    compare(program, 1, Dram())


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_queries_and_keys_of_eight_bits(kind: str) -> None:
    config = replace(NANO, name=f"8 bits {kind}", attention=kind)
    compare(compiler.compile(quantised(config, "sage"), ((0, 0), (0, 1)), FAMILY, trace=True), 1, Dram())


@pytest.mark.parametrize("kind, qk_norm", [("softmax", "layer"), ("sigmoid", "rms")])
def test_normalised_queries_and_keys(kind: str, qk_norm: str) -> None:
    config = replace(NANO, name=f"normed {kind}", attention=kind, qk_norm=qk_norm)
    program = compiler.compile(quantised(config, "8"), ((0, 0), (0, 1)), FAMILY, trace=True, save_tokens=True)
    compare(program, 1, Dram())
