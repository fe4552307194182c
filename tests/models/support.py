# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, and a disk that is soon full, for tests."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from edgemoe.models.checkpoint import Checkpoint, expected_tensors
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.numbers import calibrate

TASKS = (
    TaskConfig(name="seg", kind="segmentation", channels=3, grid=2),
    TaskConfig(name="dep", kind="depth", channels=1, grid=2),
)
#: Sizes that fit no array: width 40, heads of 20, three experts, one colour.
ODD = ModelConfig(
    name="odd", image_height=16, image_width=24, image_channels=1, patch=8, width=40, heads=2, layers=4, hidden=56,
    experts=3, expert_hidden=24, top_k=2, moe_layers=(1, 3), tasks=TASKS,
)  # fmt: skip
#: Fits the preset "tiny", twice.
TINY = ModelConfig(
    name="tiny-model", image_height=16, image_width=16, patch=4, width=24, heads=2, layers=2, hidden=48,
    experts=6, expert_hidden=24, top_k=3, moe_layers=(1,), tasks=TASKS,
)  # fmt: skip
PLAIN = ModelConfig(
    name="plain", image_height=16, image_width=16, patch=8, width=32, heads=4, layers=2, hidden=64,
    experts=0, expert_hidden=0, top_k=0, moe_layers=(), tasks=TASKS,
)  # fmt: skip


def random_checkpoint(config: ModelConfig, seed: int = 0, calibrated: bool = True) -> Checkpoint:
    """Weights of the usual spread, LayerNorms and biases that are not trivial."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_tensors(config).items():
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "norm_pre.weight")):
            value = rng.normal(1, 0.2, shape)
        elif name.endswith("bias"):
            value = rng.normal(0, 0.1, shape)
        elif name == "pos_embed":
            value = rng.normal(0, 0.5, shape)
        else:
            inputs = np.prod(shape[1:]) if name.startswith("patch") else shape[0] if "w_gate" in name else shape[-1]
            value = rng.normal(0, 1 / np.sqrt(inputs), shape)
        tensors[name] = value.astype(np.float32)
    checkpoint = Checkpoint(config, tensors)
    if calibrated:
        checkpoint.calibration = calibrate.calibrate(checkpoint, calibrate.default_images(config, 3))
    return checkpoint


def sqnr(reference: np.ndarray, value: np.ndarray) -> float:
    """Signal to quantisation noise, decibels."""
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - value).sum()))


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes: writing on fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
