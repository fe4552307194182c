# SPDX-License-Identifier: Apache-2.0
"""Sizes that are accepted work: patch sides in the whole core, either end of every field, builds drawn at random."""

import dataclasses

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.runtime.program import Stream
from edgemoe.hw.contract.config import CHOICES, RANGES, HardwareConfig, preset
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.activation import ACTIVATIONS
from edgemoe.models.numbers.quantise import quantise

from .models import random_weights
from .programs import random_program
from .test_models import compare, compare_program
from .test_programs import check

#: One of everything that may be one, and patch rows that just hold the largest patch of one channel: 63 x 63.
LEAST = HardwareConfig(
    "least",
    lanes=4,
    rows=5,
    tokens=5,
    width=1,
    hidden=63 * 63,
    experts=1,
    top_k=1,
    prefetch_beats=64,
    burst_beats=16,
    outstanding=1,
)
TINY = preset("tiny")
#: Both ends of each field, as far as they go with four lanes and little memory.
ENDS = {
    "rows": (20, 4096),
    "tokens": (2, 40),
    "width": (1, 32),
    "hidden": (1, 4092),
    "experts": RANGES["experts"],
    "top_k": RANGES["top_k"],
    "prefetch_beats": (64, 2048),
    "burst_beats": (16, 256),
    "outstanding": RANGES["outstanding"],
    "data_bits": (64, 128),
    "masters": (1, 2, 4),
}


def plain(patch: int, channels: int = 1, across: int = 2, down: int = 2, **sizes: int) -> ModelConfig:
    """A small Vision Transformer with patches of this side."""
    given = {"width": 1, "heads": 1, "layers": 1, "hidden": 3, **sizes}
    return ModelConfig(
        name=f"patch {patch}",
        image_height=down * patch,
        image_width=across * patch,
        image_channels=channels,
        patch=patch,
        experts=0,
        expert_hidden=0,
        top_k=0,
        moe_layers=(),
        tasks=(TaskConfig(name="bare", kind="tokens"),),
        **given,
    )


def run(hardware: HardwareConfig, config: ModelConfig, bits: str = "16") -> None:
    rng = np.random.default_rng(config.patch)
    model = quantise(random_weights(config, rng), bits)
    program = compiler.compile(model, [Stream(0, 0)], hardware, trace=True, save_tokens=True)
    shape = (config.image_channels, config.image_height, config.image_width)
    assert compare_program(hardware, program, [rng.integers(0, 256, shape, np.uint8)], config.patch)


def patch_sides(lanes: int) -> None:
    """All sides that people use, and the extremes: square and rectangular pictures, one channel and several, whole and
    in strips.
    """
    hardware = dataclasses.replace(LEAST, lanes=lanes, width=1, prefetch_beats=8 * lanes + 64)
    room = hardware.words(hardware.hidden)
    for patch in (1, 2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 20, 24, 28, 32, 63):
        run(hardware, plain(patch))
        run(hardware, plain(patch, across=3, down=1))
        if hardware.words(3 * patch**2) <= room:
            run(hardware, plain(patch, 3, across=1, down=4))


def test_patch_sides_on_the_least_build():
    patch_sides(4)


@pytest.mark.full
@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_patch_sides(lanes):
    patch_sides(lanes)


@pytest.mark.full
def test_dinov2_patches():
    """DINOv2's small model on 224 x 224 pixels, one layer of it: 256 patches of 14 x 14 on 16 lanes."""
    hardware = HardwareConfig("dinov2", lanes=16, rows=257, tokens=257, width=384, hidden=1536)
    config = plain(14, 3, across=16, down=16, width=384, heads=6, hidden=1536)
    assert config.tokens == 257
    run(hardware, config)


@pytest.mark.full
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ENDS.items() for value in values])
def test_ends_of_a_field(name, value):
    others = {
        "rows": {"width": 4, "hidden": 16},
        "tokens": {"rows": 40},
        "burst_beats": {"prefetch_beats": 1024},
        "masters": {"data_bits": 64, "lanes": 8},
    }
    hardware = dataclasses.replace(TINY, **{"name": f"{name} {value}", **others.get(name, {}), name: value})
    for seed in range(4):
        compare(hardware, seed)


def some_functions(seed: int) -> str:
    rng = np.random.default_rng([seed, 6])
    return ",".join(rng.permutation(ACTIVATIONS)[: int(rng.integers(1, len(ACTIVATIONS) + 1))])


def random_hardware(seed: int) -> HardwareConfig:
    """The first accepted build of a seed that is no larger than a few thousand words."""
    rng = np.random.default_rng([seed, 5])

    def among(*values: int) -> int:
        return int(values[int(rng.integers(len(values)))])

    def up_to(most: int) -> int:
        return int(min(most, np.ceil(2 ** rng.uniform(0, np.log2(most)))))

    while True:
        fields = {
            "lanes": among(4, 4, 8),
            "masters": among(*CHOICES["masters"]),  # type: ignore[arg-type]
            "data_bits": among(*CHOICES["data_bits"]),  # type: ignore[arg-type]
            "rows": up_to(200),
            "tokens": up_to(60),
            "width": up_to(60),
            "hidden": up_to(500),
            "prefetch_beats": int(rng.integers(64, 600)),
            "burst_beats": int(rng.integers(16, 100)),
            **{name: up_to(RANGES[name][1]) for name in ("experts", "top_k", "outstanding")},
        }
        fields["array_rows"] = among(1, 2) * fields["lanes"]
        try:
            built = {"name": f"random {seed}", "activations": some_functions(seed)}
            hardware = HardwareConfig.from_fields(built | fields)
        except EdgemoeError:
            continue
        if hardware.tokens > 1:  # a picture has two tokens at least
            return hardware


def random_build(seed: int) -> None:
    hardware = random_hardware(seed)
    for number in range(5):
        compare(hardware, 100 * seed + number)
        check(random_program(hardware, 100 * seed + number, 30), number)


def test_a_random_build():
    random_build(1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 12))
def test_random_builds(seed):
    random_build(seed)


@pytest.mark.full
def test_one_row():
    """No picture has a single token, but programs may run on a build for one."""
    hardware = dataclasses.replace(LEAST, rows=1, tokens=1, hidden=16)
    for seed in range(20):
        check(random_program(hardware, seed, 20), seed)
