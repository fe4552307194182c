# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a configuration and its float32 tensors in one safetensors file. Needs no PyTorch.

The configuration is JSON in the file's metadata under "config"; a calibration, if there is one, is JSON under "calibration".
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from .config import ModelConfig
from .errors import EdgemoeError
from .files import write_whole

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass
class Checkpoint:
    """config, its tensors (float32, names and shapes as `expected_tensors` says) and an optional calibration.

    The calibration is a dictionary that JSON can hold; this package does not look into it.
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray] = field(repr=False)
    calibration: dict[str, Any] | None = field(default=None, repr=False)


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, in the order of execution. Trunk names are timm's.

    Matrices are [outputs, inputs], but for the routers, which are [inputs, experts]. Row 0 of `pos_embed` is the CLS row with
    the CLS token already added.
    """
    width = config.width
    shapes: dict[str, tuple[int, ...]] = {}

    def affine(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (width,)
        shapes[f"{name}.bias"] = (width,)

    shapes["patch_embed.proj.weight"] = (width, config.image_channels, config.patch, config.patch)
    shapes["patch_embed.proj.bias"] = (width,)
    shapes["pos_embed"] = (config.tokens, width)
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        norm(f"{block}.norm1")
        affine(f"{block}.attn.qkv", 3 * width, width)
        affine(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2")
        if config.is_moe(layer):
            for index in range(len(config.tasks)):
                shapes[f"{block}.mlp.gate.{index}.w_gate"] = (width, config.experts)
            shapes[f"{block}.mlp.experts.htoh4.weight"] = (config.experts, config.expert_hidden, width)
            shapes[f"{block}.mlp.experts.htoh4.bias"] = (config.experts, config.expert_hidden)
            shapes[f"{block}.mlp.experts.h4toh.weight"] = (config.experts, width, config.expert_hidden)
            shapes[f"{block}.mlp.experts.h4toh.bias"] = (config.experts, width)
        else:
            affine(f"{block}.mlp.fc1", config.hidden, width)
            affine(f"{block}.mlp.fc2", width, config.hidden)
    for task in config.tasks:
        if task.head_outputs:
            norm(f"heads.{task.name}.norm")
            affine(f"heads.{task.name}.proj", task.head_outputs, width)
    return shapes


def check_tensors(config: ModelConfig, tensors: dict[str, np.ndarray], source: str) -> None:
    """Raises one EdgemoeError that names every missing, unexpected, misshapen, non-float32 or non-finite tensor."""
    shapes = expected_tensors(config)
    faults = [f"{name} is missing" for name in shapes if name not in tensors]
    faults += [f"{name} does not belong to the model" for name in sorted(tensors) if name not in shapes]
    for name, shape in shapes.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        if tensor.shape != shape:
            faults.append(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
        elif tensor.dtype != np.float32:
            faults.append(f"{name} is {tensor.dtype}, expected float32")
        elif not np.isfinite(tensor).all():
            faults.append(f"{name} has {int((~np.isfinite(tensor)).sum())} values that are NaN or infinite")
    if faults:
        raise EdgemoeError(f"{source} does not hold model {config.name}: {'; '.join(faults)}. Export the checkpoint again.")


def known() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint given by name (of one that comes with the package) or by path."""
    text = os.fspath(name_or_path)
    path = Path(text)
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise EdgemoeError(f"no checkpoint file {text}; give the path of a .safetensors file or one of the names {', '.join(known())}")
    if text in known():
        return CHECKPOINTS / f"{text}.safetensors"
    raise EdgemoeError(f"no checkpoint named {text!r}; known are {', '.join(known()) or 'none'}, or give the path of a .safetensors file")


def load(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Reads and checks a checkpoint."""
    path = resolve(name_or_path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise EdgemoeError(f"{path} is no readable safetensors file ({error}); copy or download it again") from error
    if "config" not in metadata:
        raise EdgemoeError(f"{path} has no 'config' in its metadata; expected a checkpoint that edgemoe.models.checkpoint.save wrote")
    try:
        config = ModelConfig.from_json(metadata["config"])
        calibration = json.loads(metadata["calibration"]) if "calibration" in metadata else None
    except EdgemoeError as error:
        raise EdgemoeError(f"{path}: {error}") from error
    except ValueError as error:
        raise EdgemoeError(f"{path}: its calibration is no valid JSON ({error}); calibrate and save it again") from error
    check_tensors(config, tensors, str(path))
    return Checkpoint(config, tensors, calibration)


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> Path:
    """Checks and writes a checkpoint; the file appears whole or not at all."""
    path = Path(path)
    check_tensors(checkpoint.config, checkpoint.tensors, "the checkpoint to be saved")
    metadata = {"config": checkpoint.config.to_json()}
    if checkpoint.calibration is not None:
        metadata["calibration"] = json.dumps(checkpoint.calibration)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgemoeError(f"cannot write {path} ({error}); choose a folder that can be written to") from error
    # safetensors writes a non-contiguous array's memory in its own order, so make every array contiguous.
    write_whole(path, serialise({name: np.ascontiguousarray(tensor) for name, tensor in checkpoint.tensors.items()}, metadata))
    return path
