# SPDX-License-Identifier: Apache-2.0
"""The libraries that people's models come from, as references that nobody here wrote."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Operators of torchvision's compiled part. That part does not load beside a PyTorch for CPUs, and without a declaration
# of these torchvision, and timm and transformers with it, cannot even be imported. No model here calls them.
OPERATORS = ("nms", "qnms")
for _name in OPERATORS:
    if not hasattr(torch.ops.torchvision, _name):
        torch.library.define(f"torchvision::{_name}", "(Tensor x) -> Tensor")


def libraries() -> Any:
    """timm's and torchvision's classes."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
    from torchvision.models import VisionTransformer as TorchvisionTransformer

    return SimpleNamespace(
        Vit=VisionTransformer,
        Distilled=VisionTransformerDistilled,
        Torchvision=TorchvisionTransformer,
        resize=checkpoint_filter_fn,
    )


def shaken(model: torch.nn.Module, seed: int = 0, spread: float = 0.02) -> torch.nn.Module:
    """The model with every parameter moved at random: libraries begin with zeros and ones, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = spread if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return model.eval()


def picture(side: int, seed: int = 0) -> np.ndarray:
    """uint8 [3, side, side] with soft shapes in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((3, side // 8, side // 8)).repeat(8, 1).repeat(8, 2)
    return np.clip((0.8 * coarse + 0.2 * rng.random((3, side, side))) * 255, 0, 255).astype(np.uint8)


def scaled(
    image: np.ndarray, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> torch.Tensor:
    """What the libraries' models take, [1, 3, H, W]."""
    values = (image / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    return torch.from_numpy(values[None]).float()


def output(model: torch.nn.Module, values: torch.Tensor) -> np.ndarray:
    """Logits [classes] or final tokens [tokens, width] of a model."""
    with torch.no_grad():
        # timm's models without a head pool; what is looked at is before that.
        given = model.forward_features(values) if getattr(model, "num_classes", 1) == 0 else model(values)
    given = getattr(given, "logits", getattr(given, "last_hidden_state", given))
    return given[0].numpy()
