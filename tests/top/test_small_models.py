# SPDX-License-Identifier: Apache-2.0
"""Small models on the smallest core: RTL equals emulator at every MATMUL, whatever the memory does, and leaves all
other bytes alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.hw.contract.config import preset
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.numbers.activation import ACTIVATIONS
from edgemoe.sim.device import Dram

from ..models.support import ODD, TINY
from .support import (
    NANO,
    PLAIN,
    STRIPS,
    check_counters,
    check_equal,
    check_guards,
    check_kinds,
    check_plan,
    core,
    emulated,
    fill,
    images_of,
    quantised,
    tiny_program,
)

REGISTERS = replace(
    NANO,
    name="registers",
    prefix=3,
    tasks=(
        TaskConfig(name="both", kind="classification", channels=5, pool="cls+mean"),
        TaskConfig(name="two", kind="classification", channels=3, pool="distilled"),
    ),
)
BARE = replace(
    NANO,
    name="bare",
    prefix=0,
    tasks=(
        TaskConfig(name="mean", kind="classification", channels=5, pool="mean"),
        TaskConfig(name="features", kind="features"),
    ),
)
DRAMS = {"steady": Dram(), "hostile": Dram.hostile(), "slow": Dram(latency=100, bandwidth=0.5, outstanding=1)}
CASES = {
    "both tasks": (NANO, ((0, 0), (0, 1))),
    "one task": (NANO, ((0, 1),)),
    "two images": (NANO, ((0, 0), (1, 1))),
    "odd widths": (TINY, ((0, 1), (0, 0))),
    "a picture in strips": (STRIPS, ((0, 1), (1, 0))),
    "RMSNorm": (replace(NANO, name="rms", norm="rms"), ((0, 0), (1, 1))),
    "registers, classes by CLS token and patches": (REGISTERS, ((0, 0), (1, 1))),
    "no CLS token, classes by patches": (BARE, ((0, 1), (0, 0))),
    "a norm before the layers": (replace(NANO, name="pre-norm", pre_norm=True), ((0, 0), (1, 1))),
    "gates that choose before they weigh": (
        replace(NANO, name="chosen", gate="top-k", gate_bias=True, top_k=3),
        ((0, 0), (0, 1)),
    ),
    "no experts": (PLAIN, ((0, 0), (1, 0), (0, 1))),
}
# Two products a multiplier; the last two have odd numbers of words, and products of a single chunk.
PACKED = {
    "both tasks": (NANO, ((0, 0), (0, 1)), "fast"),
    "experts apart": (NANO, ((0, 0), (1, 1)), "fast-trunk"),
    "odd widths": (TINY, ((0, 1), (0, 0)), "fast"),
    "odd widths, two images": (ODD, ((0, 0), (1, 1)), "fast"),
}


def compare(program: CompiledProgram, count: int, dram: Dram) -> None:
    """Two runs of one load: both equal the emulator; on a steady memory they take the same time, too."""
    images = images_of(program.config, count)
    reference = emulated(program, images)
    with core(program.hardware, program.memory_size, dram) as (device, driver):
        expected = fill(device, program, images)
        driver.load(program)
        runs = []
        for _ in range(2):
            before = device.counters()
            run = driver.run(program, images)
            after = device.counters()
            check_equal(reference, run)
            check_counters(run)
            check_kinds(driver)
            check_guards(device, program, expected)
            written = sum(b.write_beats - a.write_beats for a, b in zip(before, after, strict=True))
            read = sum(b.read_beats - a.read_beats for a, b in zip(before, after, strict=True))
            assert run.counters["WRITE_BEATS"] * program.hardware.masters == written
            # Instructions fetched ahead of END may still be on their way when the run is over.
            ahead = 16 * 64 // program.hardware.bus_bytes
            assert 0 <= read - run.counters["READ_BEATS"] * program.hardware.masters <= ahead * program.hardware.masters
            runs.append(run)
        assert not any(counters.address_errors for counters in device.counters())
        if not dram.stall_r and not dram.bandwidth:
            assert runs[0].counters == runs[1].counters
        if dram == Dram():
            check_plan(reference, runs[0])


@pytest.mark.parametrize("dram", DRAMS)
@pytest.mark.parametrize("weight_bits", ["16", "8", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_emulator(case: str, weight_bits: str, dram: str) -> None:
    config, streams = CASES[case]
    compare(tiny_program(config, streams, weight_bits), len({image for image, _ in streams}), DRAMS[dram])


@pytest.mark.parametrize("dram", [*DRAMS])
@pytest.mark.parametrize("case", PACKED)
def test_packed_products_equal_the_emulator(case: str, dram: str) -> None:
    config, streams, weight_bits = PACKED[case]
    hardware = replace(preset("tiny"), packed=1)
    program = compiler.compile(quantised(config, weight_bits), streams, hardware, trace=True, save_tokens=True)
    assert any(map(hardware.packs, program.instructions))
    compare(program, len({image for image, _ in streams}), DRAMS[dram])


def test_packed_products_of_more_rows_than_columns() -> None:
    """The program of the square array, and its results."""
    config, streams, weight_bits = next(iter(PACKED.values()))
    square, deep = (replace(preset("tiny"), packed=1, array_rows=rows) for rows in (4, 8))
    same, program = (
        compiler.compile(quantised(config, weight_bits), streams, hardware, trace=True, save_tokens=True)
        for hardware in (square, deep)
    )
    assert np.array_equal(same.memory, program.memory)
    compare(program, len({image for image, _ in streams}), DRAMS["hostile"])


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != NANO.activation])
def test_activation_functions(activation: str) -> None:
    """In the MLP and in the experts."""
    config = replace(NANO, name=activation, activation=activation)
    compare(tiny_program(config, ((0, 0),)), 1, DRAMS["hostile"])


def test_strips_change_no_bit() -> None:
    """A picture that comes in strips gives what it gives in one piece."""
    images = images_of(STRIPS, 1)
    strips = tiny_program(STRIPS)
    roomy = replace(preset("tiny"), name="roomy", hidden=192)
    whole = compiler.compile(quantised(STRIPS), ((0, 0), (0, 1)), roomy, save_tokens=True)
    assert [len(program.images[0]) for program in (strips, whole)] == [2, 1]
    mine, theirs = emulated(strips, images), emulated(whole, images)
    assert all(
        np.array_equal(a, b) for a, b in zip(mine.tokens + mine.heads, theirs.tokens + theirs.heads, strict=True)
    )


@pytest.mark.parametrize("weight_bits", ["16", "8"])
def test_odd_sizes_on_the_default_core(weight_bits: str) -> None:
    """Width 40, heads of 20, three experts, one colour, on 16 lanes; four streams."""
    streams = ((0, 0), (0, 1), (1, 0), (1, 1))
    program = compiler.compile(quantised(ODD, weight_bits), streams, preset("base"), trace=True, save_tokens=True)
    compare(program, 2, Dram.hostile(seed=5))


@pytest.mark.parametrize("seed", range(4))
def test_hostile_memory_of_many_kinds(seed: int) -> None:
    """Other random stalls, other latencies, other alignments between fetch, weights and results."""
    dram = Dram.hostile(seed=seed + 10, stalls=(0.05, 0.5, 0.7, 0.3)[seed], latency=(0, 3, 64, 200)[seed])
    compare(tiny_program(NANO, ((0, seed % 2),), "mixed"), 1, dram)


def test_results_do_not_depend_on_company() -> None:
    """A stream alone and beside others: the same integers."""
    alone, together = tiny_program(NANO, ((0, 1),)), tiny_program(NANO, ((0, 0), (0, 1)))
    images = images_of(NANO, 1)
    assert (emulated(alone, images).tokens[0] == emulated(together, images).tokens[1]).all()  # type: ignore[union-attr]


def test_one_program_runs_on_many_images() -> None:
    """Loaded once, run with other pictures: each time that picture's results, nothing left of the one before."""
    config: ModelConfig = NANO
    program = tiny_program(config, ((0, 0), (0, 1)))
    with core(program.hardware, program.memory_size) as (_, driver):
        driver.load(program)
        for image in images_of(config, 4):
            check_equal(emulated(program, [image]), driver.run(program, [image]))
