# SPDX-License-Identifier: Apache-2.0
"""Random model shapes that fit a build, with random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.runtime.program import CompiledProgram, Stream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.checkpoint import Checkpoint, expected_tensors
from edgemoe.models.config import GATES, NORM_KINDS, ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import quantise
from numpy.typing import NDArray

MOST_INSTRUCTIONS = 2000  # of a program in tiles
KINDS = (("segmentation", 3), ("segmentation", 7), ("depth", 1), ("tokens", 0), ("features", 0), ("classification", 5))


def random_config(hardware: HardwareConfig, rng: np.random.Generator) -> ModelConfig:
    """Any shape whose tokens fit; the rest may be too much for the build."""

    def among(*values):
        return values[int(rng.integers(len(values)))]

    patch = among(hardware.lanes, int(rng.integers(1, 9)), int(rng.integers(1, 64)))
    across = int(rng.integers(1, 5))
    down = int(rng.integers(1, max(2, (hardware.tokens - 3) // across + 1)))
    heads = among(1, 1, 2, 3, 4)
    width = heads * int(rng.integers(1, max(2, hardware.width // heads + 1)))
    layers = int(rng.integers(1, 4))
    moe = tuple(n for n in range(layers) if rng.random() < 0.6)
    experts = int(rng.integers(1, hardware.experts + 1)) if moe else 0
    top_k = int(rng.integers(1, min(experts, hardware.top_k) + 1)) if moe else 0
    prefix = among(1, 1, int(rng.integers(0, 4)))
    tasks = []
    for number in range(int(rng.integers(1, 4))):
        kind, channels = among(*KINDS)
        grid = {"channels": channels, "grid": among(1, min(2, patch), patch)} if channels else {}
        if kind == "classification":
            grid = {
                "channels": channels,
                "pool": among("mean", "mean-first", *("cls", "cls+mean")[: 2 * min(prefix, 1)]),
            }
        tasks.append(TaskConfig(name=f"task{number}", kind=kind, **grid))
    return ModelConfig(
        name="random",
        image_height=down * patch,
        image_width=across * patch,
        image_channels=among(1, 1, 3),
        patch=patch,
        width=width,
        heads=heads,
        layers=layers,
        hidden=int(rng.integers(1, hardware.hidden + 1)),
        experts=experts,
        expert_hidden=int(rng.integers(1, hardware.hidden + 1)) if moe else 0,
        top_k=top_k,
        moe_layers=moe,
        tasks=tuple(tasks),
        norm=among("layer", "layer", "rms"),
        activation=among(*hardware.activations.split(",")),
        gate=among(*GATES),
        pre_norm=among(False, False, True),
        gate_bias=bool(moe) and among(False, True),
        prefix=prefix,
        attention=among(*hardware.weighings) if len(hardware.weighings) > 1 else "softmax",
        qk_norm=among("", *NORM_KINDS) if hardware.head_norms else "",
    )


def random_weights(config: ModelConfig, rng: np.random.Generator) -> Checkpoint:
    """Weights of the usual spread; now and then a router that sends every token to the same experts."""
    tensors = {}
    one_sided = rng.random() < 0.3
    for name, shape in expected_tensors(config).items():
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "norm_pre.weight")):
            value = rng.normal(1, 0.2, shape)
        elif name.endswith("bias"):
            value = rng.normal(0, 0.1, shape)
        elif "w_gate" in name and one_sided:
            value = np.zeros(shape)  # equal logits: ties go to the lowest experts
        else:
            value = rng.normal(0, 1.2 / np.sqrt(max(1, shape[-1])), shape)
        tensors[name] = value.astype(np.float32)
    return Checkpoint(config, tensors)


def random_model(
    hardware: HardwareConfig, seed: int, trace: bool = True, cut: bool = False, attention: str = ""
) -> tuple[CompiledProgram, list[NDArray[np.uint8]]]:
    """A compiled program, traced, of the first shape of the seed that fits the build, and its images.

    cut: of the first that does not fit in one piece. attention: with this kind, if it is not one of the build's units.
    """
    rng = np.random.default_rng([seed, 17, int(cut)] if cut else [seed, 17])
    larger = replace(hardware, rows=3 * hardware.rows, tokens=3 * hardware.tokens, width=3 * hardware.width)
    while True:
        config = random_config(larger if cut else hardware, rng)
        if attention:
            if not config.landmarks:
                continue
            config = replace(config, attention=attention, qk_norm="")
        room = hardware.rows // config.tokens
        # The least of a picture that is on chip at once: a row of patches beside the residual's copy.
        row_of_patches = (1 + config.patches_per_row) * hardware.words(config.patch_size_words)
        least = row_of_patches + config.tokens * hardware.words(config.width)
        if (room < 1 or least > hardware.activation_words) and not cut:
            continue
        streams = [
            Stream(image, task)
            for image in range(int(rng.integers(1, 4)))
            for task in range(len(config.tasks))
            if rng.random() < 0.8
        ][: 2 if cut else max(1, room)]
        if not streams:
            continue
        # Images are numbered without gaps.
        numbers = {old: new for new, old in enumerate(sorted({s.image for s in streams}))}
        streams = [Stream(numbers[s.image], s.task) for s in streams]
        formats = [each for each in WeightFormat if each.fast == bool(hardware.packed)]
        formats = [WeightFormat.SIXTEEN, WeightFormat.EIGHT] if attention else formats
        bits = formats[int(rng.integers(len(formats)))]
        try:
            program = compiler.compile(
                quantise(random_weights(config, rng), bits), streams, hardware, trace=trace, save_tokens=True
            )
        except EdgemoeError as error:
            if "does not fit" not in str(error):
                raise
            continue
        if cut and (not program.split or len(program.instructions) > MOST_INSTRUCTIONS):
            continue
        shape = (config.image_channels, config.image_height, config.image_width)
        return program, [rng.integers(0, 256, shape, np.uint8) for _ in range(len(numbers))]
