# SPDX-License-Identifier: Apache-2.0
"""A model of one's own: sizes and tasks, weights, calibration, a checkpoint, a picture through it.

The weights here are random, so the map means nothing; those of a training take their place under the names that
`expected_tensors` gives (the trunk's are timm's).

    python examples/own_model.py [FILE.safetensors]
"""

from __future__ import annotations

import sys
from pathlib import Path

import edgemoe
import numpy as np
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.numbers.calibrate import calibrate, default_images

# Twelve patches of 16 x 16 pixels; the second of two layers has six experts, of which a token takes two.
MODEL = ModelConfig(
    name="roads",
    image_height=48,
    image_width=64,
    width=32,
    heads=2,
    layers=2,
    hidden=64,
    experts=6,
    expert_hidden=32,
    top_k=2,
    moe_layers=(1,),
    tasks=(
        TaskConfig(name="road", kind="segmentation", channels=2, grid=4),  # 4 x 4 cells a patch, two classes
        TaskConfig(name="distance", kind="depth", channels=1, grid=4),
    ),
)


def weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor that the configuration asks for, at random: norms near 1, matrices with the usual spread."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in checkpoints.expected_tensors(config).items():
        spread = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = (centre + spread * rng.standard_normal(shape)).astype(np.float32)
    return tensors


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    path = Path(given[0] if given else "roads.safetensors")
    model = edgemoe.Checkpoint(MODEL, weights(MODEL))
    # Calibration fixes the position of every tensor's binary point. Pictures like those to come serve it best.
    model.calibration = calibrate(model, default_images(MODEL, 4))
    checkpoints.save(model, path)

    picture = np.random.default_rng(1).integers(0, 256, (MODEL.image_height, MODEL.image_width, 3), np.uint8)
    with edgemoe.open(edgemoe.load(path), device="emulator", hardware="small") as session:
        [result] = session.infer([picture])
    for task, prediction in result.items():
        print(f"{task}: {prediction.kind} of {prediction.map.shape[0]} x {prediction.map.shape[1]}")
    print(f"the checkpoint is {path}: edgemoe infer PICTURE --checkpoint {path} runs it, too")


if __name__ == "__main__":
    main()
