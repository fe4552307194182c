# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, for the tests of this folder."""

import numpy as np
from edgemoe.models.checkpoint import Checkpoint, expected_tensors
from edgemoe.models.config import ModelConfig, TaskConfig

SMALL = ModelConfig(
    name="small",
    image_height=8,
    image_width=12,
    patch=4,
    width=16,
    heads=2,
    layers=3,
    hidden=24,
    experts=5,
    expert_hidden=12,
    top_k=2,
    moe_layers=(0, 2),
    tasks=(
        TaskConfig(name="segmentation", kind="segmentation", channels=7, grid=2),
        TaskConfig(name="depth", kind="depth", channels=1, grid=4),
        TaskConfig(name="bare", kind="tokens"),
    ),
)
PLAIN = ModelConfig(
    name="plain",
    image_height=8,
    image_width=8,
    image_channels=1,
    patch=4,
    width=12,
    heads=3,
    layers=2,
    hidden=20,
    experts=0,
    expert_hidden=0,
    top_k=0,
    moe_layers=(),
    tasks=(TaskConfig(name="bare", kind="tokens"),),
)


def random_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_tensors(config).items():
        scale = 0.1 if len(shape) == 1 else (1.0 / shape[-1]) ** 0.5
        tensors[name] = (
            rng.standard_normal(shape) * scale + (1.0 if "norm" in name and "weight" in name else 0.0)
        ).astype(np.float32)
    return Checkpoint(config, tensors)


def random_images(config: ModelConfig, batch: int, seed: int = 0) -> np.ndarray:
    shape = (batch, config.image_channels, config.image_height, config.image_width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
