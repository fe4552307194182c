# SPDX-License-Identifier: Apache-2.0
"""Random model shapes through compiler, driver and RTL: equal to the emulator at every traced instruction."""

import dataclasses

import numpy as np
import pytest
from edgemoe.host.runtime.driver import Driver
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.host.studies.benchmark import floor_of, queue_lengths
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models.numbers.activation import ACTIVATIONS
from edgemoe.sim.emulator_device import EmulatorDevice
from edgemoe.sim.simulator import open_verilator
from numpy.typing import NDArray

from .models import random_model
from .support import dram_of

FAMILY = dataclasses.replace(preset("tiny"), attention=preset("family").attention)
#: Every activation function: some fall below zero.
PACKED = dataclasses.replace(preset("tiny"), packed=1, activations=",".join(ACTIVATIONS))
#: Eight lanes on two masters: striping, an array that is not the smallest, a bus as wide as a word.
WIDER = dataclasses.replace(preset("tiny"), name="wider", lanes=8, masters=2, data_bits=64, width=40, hidden=72)
#: The same on four: a bus as wide as two words; and rows for narrow models only.
WIDEST = dataclasses.replace(WIDER, name="widest", masters=4, rows=60, full_rows=30)
#: Two words of a row enter the array at a time.
DEEP = dataclasses.replace(preset("tiny"), name="deep", array_rows=8, packed=1)


def compare(hardware: HardwareConfig, seed: int, cut: bool = False) -> int:
    """Traced instructions compared, of the seed's model."""
    return compare_program(hardware, *random_model(hardware, seed, cut=cut), seed)


def compare_program(
    hardware: HardwareConfig, program: CompiledProgram, images: list[NDArray[np.uint8]], seed: int
) -> int:
    """Traced instructions compared, over the memory of the seed."""
    runs = []
    for device in (
        EmulatorDevice(hardware, program.memory_size),
        open_verilator(hardware, program.memory_size, dram_of(seed)),
    ):
        driver = Driver(device, hardware)
        driver.load(program)
        runs.append(driver.run(program, images))
        device.close()
    emulated, simulated = runs
    shape = f"seed {seed}: {program.config}, streams {program.streams}, {program.weight_bits} bits"
    for trace, a, b in zip(program.traces, emulated.traces, simulated.traces, strict=True):
        assert np.array_equal(a, b), f"{trace.label}; {shape}"
    for what in ("heads", "tokens"):
        for a, b in zip(getattr(emulated, what), getattr(simulated, what), strict=True):
            assert (a is None) == (b is None) and (a is None or np.array_equal(a, b)), f"{what}; {shape}"
    for counter in ("INSTRUCTIONS", "WRITE_BEATS"):
        assert emulated.counters[counter] == simulated.counters[counter], f"{counter}; {shape}"
    queues = queue_lengths(emulated)
    assert simulated.cycles >= floor_of(simulated, queues), shape
    return len(program.traces)


@pytest.mark.parametrize("first", [0, 37])
def test_random_shapes(first):
    """Among them equal logits everywhere, inputs that never vary, and followers of several images."""
    assert sum(compare(preset("tiny"), seed) for seed in range(first, first + 7)) > 50


@pytest.mark.parametrize(
    "seeds", [(0, 1, 2, 4, 6, 9, 10, 12, 26, 44), pytest.param(range(100, 160), marks=pytest.mark.full)]
)
def test_random_shapes_with_every_kind_of_attention(seeds):
    models = {seed: random_model(FAMILY, seed) for seed in seeds}
    assert {program.config.attention for program, _ in models.values()} == {*FAMILY.weighings}
    for seed, (program, images) in models.items():
        compare_program(FAMILY, program, images, seed)


@pytest.mark.parametrize("hardware", [preset("tiny"), WIDER, DEEP], ids=lambda hardware: hardware.name)
@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(100, 120), marks=pytest.mark.full)])
def test_random_shapes_with_landmarks(hardware, seeds):
    """Builds of softmax alone, whatever their array."""
    for seed in seeds:
        program, images = random_model(hardware, seed, attention="soft")
        compare_program(hardware, program, images, seed)


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(100, 140), marks=pytest.mark.full)])
def test_random_shapes_with_norms_of_heads(seeds):
    normed = dataclasses.replace(preset("tiny"), head_norms=1)
    models = {seed: random_model(normed, seed, cut=seed % 3 == 2) for seed in seeds}
    assert {program.config.qk_norm for program, _ in models.values()} == {"", "layer", "rms"}
    for seed, (program, images) in models.items():
        compare_program(normed, program, images, seed)


@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.full)])
def test_random_shapes_that_are_cut(first):
    """Models that do not fit in one piece: tiles, groups of heads, keys in parts."""
    for seed in range(first, first + (20 if first else 4)):
        compare(preset("tiny"), seed, cut=True)


@pytest.mark.parametrize("seeds", [(0, 1, 2, 3, 5, 8), pytest.param(range(100, 160), marks=pytest.mark.full)])
def test_random_shapes_with_packed_products(seeds):
    """In the formats that only such a build runs, with every activation function: one that needs no sign among them."""
    models = {seed: random_model(PACKED, seed) for seed in seeds}
    assert {str(program.weight_bits) for program, _ in models.values()} == {"fast", "fast-trunk"}
    packed = [i for program, _ in models.values() for i in program.instructions if PACKED.packs(i)]
    assert {i.unsigned for i in packed} == {i.raised for i in packed if i.activation} == {0, 1}
    assert len({i.activation for i in packed if i.raised}) > 1
    for seed, (program, images) in models.items():
        compare_program(PACKED, program, images, seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 300, 20))
def test_many_random_shapes(first):
    for seed in range(first, first + 20):
        compare(preset("tiny"), seed)


def test_random_shapes_with_more_rows_than_columns():
    for seed in range(4):
        compare(DEEP, seed)


@pytest.mark.full
@pytest.mark.parametrize("hardware", [WIDER, WIDEST, DEEP], ids=lambda hardware: hardware.name)
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_shapes_on_several_masters(first, hardware):
    for seed in range(first, first + 20):
        compare(hardware, seed)


def test_random_shapes_on_four_masters():
    for seed in range(3):
        compare(WIDEST, seed)
