# SPDX-License-Identifier: Apache-2.0
"""Reads the folder of raw float32 files in which Edge-MoE publishes its M3ViT (model m3vit-t). Needs no PyTorch.

Every file is `NAME.float32.bin`: little-endian, C order, one tensor. Routers are stored as [experts, width].
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint, expected_tensors
from .config import PRESETS
from .errors import EdgemoeError

CONFIG = PRESETS["m3vit-t"]


def _file_name(tensor: str) -> str:
    """The file of a tensor, from the tensor's name in our checkpoints."""
    parts = tensor.split(".")
    if parts[0] != "blocks":
        return {"patch_embed.proj.weight": "patch_embed_weight", "patch_embed.proj.bias": "patch_embed_bias"}.get(tensor, tensor)
    layer, rest = parts[1], parts[2:]
    if rest[:2] == ["mlp", "gate"]:
        return f"l{layer}_w_gate_T_task{rest[2]}"
    name = "_".join(part for part in rest if part not in ("mlp", "experts"))
    return f"l{layer}_" + name.replace("attn_qkv", "qkv")


def _read(folder: Path, name: str, shape: tuple[int, ...], faults: list[str]) -> np.ndarray | None:
    path = folder / f"{name}.float32.bin"
    size = 4 * int(np.prod(shape))
    try:
        data = path.read_bytes()
    except OSError:
        faults.append(f"{path.name} is missing or cannot be read")
        return None
    if len(data) != size:
        faults.append(f"{path.name} has {len(data)} bytes, expected {size} for {'x'.join(map(str, shape))}")
        return None
    array = np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        faults.append(f"{path.name} has values that are NaN or infinite")
        return None
    return array


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise EdgemoeError(f"{folder} is no folder; give the folder that holds Edge-MoE's *.float32.bin files")


def _fail(folder: Path, faults: list[str]) -> None:
    raise EdgemoeError(f"{folder} is no complete set of Edge-MoE's files: {'; '.join(faults)}. Fetch these files again.")


def load_folder(folder: str | os.PathLike[str]) -> Checkpoint:
    """The whole model m3vit-t from a folder; one EdgemoeError names every file that is missing or has the wrong size."""
    folder = Path(folder)
    _check_folder(folder)
    faults: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    for name, shape in expected_tensors(CONFIG).items():
        router = ".gate." in name
        array = _read(folder, _file_name(name), shape[::-1] if router else shape, faults)
        if array is not None:
            tensors[name] = np.ascontiguousarray(array.T) if router else array
    if faults:
        _fail(folder, faults)
    return Checkpoint(CONFIG, tensors)


def folder_image(folder: str | os.PathLike[str]) -> np.ndarray:
    """The folder's image, uint8 [3, 128, 256]. The file holds k / 256 for a pixel of value k."""
    folder = Path(folder)
    _check_folder(folder)
    faults: list[str] = []
    image = _read(folder, "image", (CONFIG.image_channels, CONFIG.image_height, CONFIG.image_width), faults)
    if image is None:
        _fail(folder, faults)
    pixels = np.asarray(image) * 256
    if not np.array_equal(pixels, pixels.astype(np.uint8)):
        raise EdgemoeError(f"{folder / 'image.float32.bin'} is no 8-bit image: expected values k / 256 with k from 0 to 255")
    return pixels.astype(np.uint8)
