# SPDX-License-Identifier: Apache-2.0
"""ImagePixels: every patch side on every array side, against the emulator's IMAGE."""

import random

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge
from edgemoe.hw.contract.config import PRESETS, HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME
from edgemoe.hw.memory.image import MOST_PIXELS, ImagePixels
from edgemoe.models.numbers.twins import image_patches
from edgemoe.sim.bench import parameters, run_bench, start

#: Every array side, and every relation between a word, a beat and MOST_PIXELS.
CONFIGS = {c.name: c for c in (PRESETS[name] for name in ("tiny", "ulx3s", "small", "base", "zcu102"))}
CONFIGS["narrow"] = HardwareConfig("narrow", lanes=32, data_bits=64)
SIDES = range(1, BY_NAME["patch"].limit + 1)


def shape_of(patch: int) -> tuple[int, int, int]:
    """(channels, patches down, patches across) of a picture that takes a few thousand cycles at most."""
    return (3, 2, 3) if patch < 8 else (2, 1, 2) if patch < 24 else (1, 1, 2) if patch < 48 else (1, 1, 1)


async def walk(dut, config: HardwareConfig, patch: int, shape: tuple[int, int, int], rng: random.Random) -> None:
    """One picture through the unit, with gaps between its beats;
    what is written is the emulator's, and at the promised rate.
    """
    channels, down, across = shape
    picture = np.frombuffer(rng.randbytes(channels * down * across * patch**2), np.uint8)
    picture = picture.reshape(channels, down * patch, across * patch)
    filled = picture.tobytes() + rng.randbytes(-picture.size % config.bus_bytes)
    beats = [filled[i : i + config.bus_bytes] for i in range(0, len(filled), config.bus_bytes)]
    group = min(patch & -patch, config.lanes, config.bus_bytes, MOST_PIXELS)
    words = config.words(channels * patch**2)
    written = np.full((down * across, words * config.lanes), -1)

    dut.across.value, dut.down.value, dut.channels.value, dut.patch.value = across, down, channels, patch
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await RisingEdge(dut.clk)
    taken = turns = 0
    places, ended = [None] * ImagePixels.LATENCY, False  # of the pixels on their way, the next ones first
    dut.data.value = int.from_bytes(beats[0], "little")
    dut.data_valid.value = 1
    while not ended or any(places):
        await RisingEdge(dut.clk)
        if place := places.pop(0):
            lanes, pixels = int(dut.lanes.value), int(dut.pixels.value)
            meant = [i for i in range(config.lanes) if lanes >> i & 1]
            assert len(meant) == group
            for lane in meant:
                at = place[0], place[1] * config.lanes + lane
                assert written[at] == -1, f"side {patch}: written twice, {at}"
                written[at] = pixels >> 8 * lane & 0xFF
        places.append(None)
        if dut.data_valid.value:
            assert dut.valid.value
            places[-1] = int(dut.token.value), int(dut.word.value)
            ended, turns = bool(dut.last.value), turns + 1
            if dut.data_taken.value:
                taken += 1
                dut.data.value = int.from_bytes(beats[taken], "little") if taken < len(beats) else 0
            dut.data_valid.value = int(not ended and rng.random() > 0.1)
        else:
            assert not dut.valid.value and not dut.data_taken.value
            dut.data_valid.value = int(not ended)
    assert taken == picture.size // config.bus_bytes and turns * group == picture.size
    wanted = image_patches(picture, patch)
    assert np.array_equal(written[:, : wanted.shape[1]], wanted), f"side {patch}"
    assert (written[:, wanted.shape[1] :] == -1).all(), f"side {patch}: written beyond the patch"


@cocotb.test()
async def sides(dut):
    given = parameters()
    config = CONFIGS[given["config"]]
    rng = random.Random(given["config"])
    dut.start.value, dut.data_valid.value = 0, 0
    await start(dut)
    for patch in rng.sample(SIDES, len(SIDES)):
        await walk(dut, config, patch, shape_of(patch), rng)


@cocotb.test()
async def pictures_of_many_patches(dut):
    """Rectangular, many patches, all channels, and as wide as the counters reach."""
    config = CONFIGS[parameters()["config"]]
    rng = random.Random(2)
    dut.start.value, dut.data_valid.value = 0, 0
    await start(dut)
    for patch, shape in (
        (1, (1, 1, 1)),
        (1, (1, 2, 1023)),
        (1, (1, 1023, 1)),
        (2, (15, 3, 4)),
        (14, (3, 2, 3)),
        (16, (3, 3, 2)),
    ):
        await walk(dut, config, patch, shape, rng)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_side(config):
    run_bench(ImagePixels(CONFIGS[config]), __name__, parameters={"config": config}, name=f"image_{config}")
