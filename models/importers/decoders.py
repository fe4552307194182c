# SPDX-License-Identifier: Apache-2.0
"""M3ViT's decoders: "progressive upsampling", a norm and five convolutions, whose batch norms are folded."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..config import TaskConfig
from ..errors import EdgemoeError, brief, listing
from ..operations.pup import CONVOLUTIONS, decoder_tensors
from .sources import Tensors

EPS = 1e-5  # of batch norms, as PyTorch's
CLASSES = ("semseg", "human_parts")  # tasks whose channels are classes


def is_pup(tensors: Tensors) -> bool:
    """By its first and last convolution."""
    return "norm.weight" in tensors and "conv_0.weight" in tensors and f"conv_{CONVOLUTIONS}.weight" in tensors


def pup(name: str, kind: str, tensors: Tensors, width: int) -> tuple[TaskConfig, Tensors]:
    """The task `name`, of M3ViT's task `kind`, and its head's tensors."""
    found: Tensors = {}
    rest = dict(tensors)

    def take(source: str) -> np.ndarray:
        if source not in rest:
            raise EdgemoeError(f"the decoder of task {kind} lacks {brief(source)}")
        return rest.pop(source).astype(np.float64)

    head = f"heads.{name}"
    for part in ("weight", "bias"):
        found[f"{head}.norm.{part}"] = take(f"norm.{part}")
    for number in range(CONVOLUTIONS + 1):
        weight, bias = take(f"conv_{number}.weight"), take(f"conv_{number}.bias")
        if number < CONVOLUTIONS:
            gamma, beta, mean, variance = (
                take(f"syncbn_fc_{number}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
            )
            if not len(weight) == len(bias) == len(gamma) == len(beta) == len(mean) == len(variance):
                raise EdgemoeError(f"the decoder of task {kind}: conv_{number} and its batch norm differ in channels")
            scale = gamma / np.sqrt(variance + EPS)
            weight, bias = weight * scale.reshape(-1, 1, 1, 1), (bias - mean) * scale + beta
        found[f"{head}.conv{number}.weight"], found[f"{head}.conv{number}.bias"] = weight, bias
    if rest:
        raise EdgemoeError(f"the decoder of task {kind}: {listing(sorted(rest))} have no place in it")
    inner, channels = len(found[f"{head}.conv0.weight"]), len(found[f"{head}.conv{CONVOLUTIONS}.weight"])
    for tensor, shape in decoder_tensors(head, width, inner, channels).items():
        if found[tensor].shape != shape:
            given = list(found[tensor].shape)
            raise EdgemoeError(f"the decoder of task {kind}: {tensor} has shape {given}, expected {list(shape)}")
    meaning: Literal["segmentation", "map"] = "segmentation" if kind in CLASSES else "map"
    task = TaskConfig(name=name, kind=meaning, channels=channels, decoder="pup", decoder_width=inner)
    return task, {name: tensor.astype(np.float32) for name, tensor in found.items()}
