# SPDX-License-Identifier: Apache-2.0
"""A model of every family that can be imported, on the RTL of the smallest core: cut to its size, equal to the emulator
in every value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgemoe.host import inference
from edgemoe.hw.contract.config import preset
from edgemoe.models.importers import layouts, sources
from edgemoe.models.importers.vit import Options
from edgemoe.models.numbers.calibrate import calibrate

from .libraries import libraries, picture, scaled, shaken
from .test_decoders import HEADS, HEIGHT, saved, training
from .test_decoders import WIDTH as PICTURE

SIDE, WIDTH = 32, 48


def timm(folder: Path) -> Path:
    model = libraries().Distilled(
        img_size=SIDE, patch_size=8, embed_dim=WIDTH, num_heads=3, depth=2, num_classes=10, init_values=0.5
    )
    torch.save(shaken(model).state_dict(), folder / "deit.pth")
    return folder / "deit.pth"


def normed(folder: Path) -> Path:
    model = libraries().Vit(
        img_size=SIDE, patch_size=8, embed_dim=WIDTH, num_heads=3, depth=2, num_classes=10, qk_norm=True
    )
    torch.save(shaken(model).state_dict(), folder / "normed.pth")
    return folder / "normed.pth"


def torchvision(folder: Path) -> Path:
    torch.save(
        shaken(libraries().Torchvision(SIDE, 8, 2, 3, WIDTH, 96, num_classes=10)).state_dict(), folder / "vit.pth"
    )
    return folder / "vit.pth"


def transformer(kind: str) -> torch.nn.Module:
    """A class of Hugging Face's."""
    import transformers

    family = kind.removesuffix("Model").partition("For")[0]
    fields: dict[str, Any] = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE)
    fields |= dict(patch_size=8) if family.startswith("Dinov2") else dict(patch_size=8, intermediate_size=96)
    return shaken(getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**fields)))


def huggingface(kind: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        transformer(kind).save_pretrained(folder)  # type: ignore[operator]
        return folder

    return save


def onnx(folder: Path) -> Path:
    values = scaled(picture(SIDE))
    torch.onnx.export(transformer("Dinov2Model"), (values,), folder / "model.onnx", dynamo=False, verbose=False)
    return folder / "model.onnx"


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "timm": timm,
    "timm, queries and keys normalised": normed,
    "torchvision": torchvision,
    "ViT": huggingface("ViTForImageClassification"),
    "DINOv2 with registers": huggingface("Dinov2WithRegistersModel"),
    "CLIP": huggingface("CLIPVisionModel"),
    "ONNX": onnx,
    "M3ViT": lambda folder: saved(training(1), folder),
    "M3ViT, noisy gates that see the task": lambda folder: saved(training(1, noisy=True, represented=5), folder),
}


@pytest.mark.filterwarnings("ignore")  # what exporting warns of is PyTorch's matter
@pytest.mark.parametrize("family", FAMILIES)
def test_rtl_equals_the_emulator(family: str, tmp_path: Path) -> None:
    source = sources.read(FAMILIES[family](tmp_path))
    options = dict(heads=HEADS, image_size=(HEIGHT, PICTURE)) if family.startswith("M3ViT") else dict(heads=3)
    checkpoint = layouts.recognise(source)[0].convert(source).to_checkpoint(Options(**options))  # type: ignore[arg-type]
    config = checkpoint.config
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, config.image_channels, config.image_height, config.image_width), np.uint8)
    checkpoint = replace(checkpoint, calibration=calibrate(checkpoint, images[1:], error_aware=()))
    hardware = replace(preset("tiny"), head_norms=int(bool(config.qk_norm)))
    first, second = (
        inference.infer(checkpoint, [images[0]], hardware=hardware, device=device, save_tokens=True, tasks=[0])
        for device in ("emulator", "verilator")
    )
    assert first.tokens[0] is not None and np.array_equal(first.tokens[0], second.tokens[0])
    assert all(a is None if b is None else np.array_equal(a, b) for a, b in zip(first.heads, second.heads, strict=True))
