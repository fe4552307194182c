# SPDX-License-Identifier: Apache-2.0
"""Models that are larger than the chip: RTL equals emulator at every MATMUL, and both give, to the last bit, what a
larger chip gives, on which they fit in one piece.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.studies.checking import trunk_residuals
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.numbers.forward import forward
from edgemoe.sim.device import Dram

from .support import (
    NANO,
    PLAIN,
    check_counters,
    check_equal,
    check_guards,
    check_plan,
    checkpoint_of,
    core,
    emulated,
    fill,
    images_of,
    quantised,
)

TINY = preset("tiny")
ROOMY = replace(TINY, name="roomy", rows=400, tokens=100, width=128, hidden=512)  # everything in one piece
CLASSES = (TaskConfig(name="classes", kind="classification", channels=5, pool="mean"),)
CASES = {
    "more tokens than rows, two tasks that part": (replace(NANO, image_height=32, image_width=32), ((0, 0), (0, 1))),
    "wider rows, more of them than fit in a tile": (
        replace(NANO, width=64, hidden=160, expert_hidden=96), ((0, 1), (1, 0))
    ),
    "keys of a head in parts": (
        replace(NANO, width=96, heads=2, image_height=24, image_width=32, patch=4), ((0, 0), (0, 1))
    ),
    "classes, no CLS token, two pictures": (
        replace(PLAIN, image_height=20, image_width=24, prefix=0, tasks=CLASSES), ((0, 0), (1, 0))
    ),
    "registers beyond a tile": (replace(NANO, prefix=18, tasks=CLASSES), ((0, 0),)),
}  # fmt: skip


def built(config: ModelConfig, streams, hardware: HardwareConfig, trace: bool = False):
    return compiler.compile(quantised(config), streams, hardware, trace=trace, save_tokens=True)


@pytest.mark.parametrize("case", CASES)
def test_in_tiles_as_in_one_piece(case: str) -> None:
    config, streams = CASES[case]
    config = replace(config, name="split")
    outline = compiler.outline(quantised(config), streams, TINY)
    assert outline.split and compiler.outline(quantised(config), streams, ROOMY).split is None
    assert outline.split.parted == ("in parts" in case)
    images = images_of(config, 1 + max(image for image, _ in streams))
    tiles, whole = (emulated(built(config, streams, hardware), images) for hardware in (TINY, ROOMY))
    for mine, theirs in ((tiles.heads, whole.heads), (tiles.tokens, whole.tokens)):
        assert all(a is None if b is None else np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert tiles.program.macs >= whole.program.macs


def test_gated_results_in_tiles() -> None:
    """Results of all heads are there again in the tile that gates them, row by row."""
    config = replace(CASES["more tokens than rows, two tasks that part"][0], name="split", attention="rela")
    tiny, roomy = (replace(hardware, attention="softmax,rela") for hardware in (TINY, ROOMY))
    programs = [built(config, ((0, 0), (0, 1)), hardware) for hardware in (tiny, roomy)]
    assert programs[0].split and not programs[1].split
    tiles, whole = (emulated(program, images_of(config, 1)) for program in programs)
    assert all(np.array_equal(a, b) for a, b in zip(tiles.tokens, whole.tokens, strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dram", [Dram(), Dram.hostile()], ids=["steady", "hostile"])
def test_rtl_equals_the_emulator(case: str, dram: Dram) -> None:
    config, streams = CASES[case]
    config = replace(config, name="split", layers=2)
    program = built(config, streams, TINY, trace=dram != Dram())
    images = images_of(config, 1 + max(image for image, _ in streams))
    reference = emulated(program, images)
    with core(TINY, program.memory_size, dram) as (device, driver):
        expected = fill(device, program, images)
        run = driver.run(program, images)
        check_equal(reference, run)
        check_guards(device, program, expected)
        check_counters(run)
    if dram == Dram():
        check_plan(reference, run, close=0.03)


def test_residuals_of_tiles() -> None:
    """What `check` shows of every operation, put together from the traces of all tiles: close to the float model's."""
    config = replace(NANO, name="split", image_height=32, image_width=32)
    model, checkpoint = quantised(config), checkpoint_of(config)
    image = images_of(config, 1)[0]
    for hardware in (TINY, ROOMY):
        run = emulated(built(config, ((0, 1), (0, 0)), hardware, trace=True), [image])
        found = trunk_residuals(run, config, model.exponents)
        if hardware is TINY:
            tiled = found
    assert all(np.array_equal(a, b) for a, b in zip(tiled, found, strict=True))
    first = forward(checkpoint, image, 1).layers[0][0]  # the layer before the routers
    assert np.abs(found[2][: config.tokens] - first).max() < 0.02 * np.abs(first).max()
