# SPDX-License-Identifier: Apache-2.0
"""Reads the folder of raw float32 files in which Edge-MoE publishes its M3ViT (model m3vit-t). Needs no PyTorch.

Every file is `NAME.float32.bin`: little-endian, C order, one tensor. Routers are stored as [experts, width]. The folder
is `weights` of https://github.com/sharc-lab/Edge-MoE, in which the weights of the experts (l*_htoh4_weight,
l*_h4toh_weight) are missing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..checkpoint import Checkpoint, expected_tensors
from ..config import PRESETS
from ..errors import EdgemoeError, brief, listing

CONFIG = PRESETS["m3vit-t"]


def _file_name(tensor: str) -> str:
    """The file of a tensor, from the tensor's name in our checkpoints."""
    parts = tensor.split(".")
    if parts[0] != "blocks":
        return {"patch_embed.proj.weight": "patch_embed_weight", "patch_embed.proj.bias": "patch_embed_bias"}.get(
            tensor, tensor
        )
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
    except OSError as error:
        faults.append(
            f"{path.name} {'cannot be read' if path.exists() else 'is missing'}"
            + ("" if not path.exists() else f" ({error.strerror})")
        )
        return None
    if len(data) != size:
        faults.append(f"{path.name} has {len(data)} bytes, expected {size} for {'x'.join(map(str, shape))}")
        return None
    array = np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        faults.append(f"{path.name} has values that are NaN or infinite")
        return None
    return array


def is_folder(path: Path) -> bool:
    """Whether there are such files in it."""
    return path.is_dir() and next(path.glob("*.float32.bin"), None) is not None


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise EdgemoeError(
            f"{brief(folder, 80)} is no folder; give the folder that holds Edge-MoE's *.float32.bin files"
        )


def _fail(folder: Path, faults: list[str], advice: str = "") -> None:
    raise EdgemoeError(
        f"{brief(folder, 80)} is no complete set of Edge-MoE's files: {listing(faults, '; ')}. Fetch them again{advice}"
    )


def stand_ins(tensors: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Experts' weights of all MoE layers, float32, made from the dense MLP one layer below each; the same seed gives
    the same ones.

    An expert takes `expert_hidden` of the dense `hidden` units in random order; the first matrix's rows get a gain of
    N(1, 0.25) each; the second matrix is scaled by 1.6, as half the units are gone. So they have real weights'
    distribution, but no training.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for layer in CONFIG.moe_layers:
        first, second = (tensors[f"blocks.{layer - 1}.mlp.{name}.weight"] for name in ("fc1", "fc2"))
        pairs = []
        for _ in range(CONFIG.experts):
            units = rng.permutation(CONFIG.hidden)[: CONFIG.expert_hidden]
            gain = rng.normal(1, 0.25, (CONFIG.expert_hidden, 1)).astype(np.float32)
            pairs.append((first[units] * gain, second[:, units] * np.float32(1.6)))
        for name, matrices in zip(("htoh4", "h4toh"), zip(*pairs, strict=True), strict=True):
            made[f"blocks.{layer}.mlp.experts.{name}.weight"] = np.stack(matrices)
    return made


def load_folder(folder: str | os.PathLike[str], fill_missing: int | None = None) -> tuple[Checkpoint, list[str]]:
    """(the whole model m3vit-t, names of the tensors that were filled); one EdgemoeError names files that are missing
    or wrong.

    fill_missing: a seed; experts' weights whose file is missing then come from `stand_ins`.
    """
    folder = Path(folder)
    _check_folder(folder)
    faults: list[str] = []
    absent: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    for name, shape in expected_tensors(CONFIG).items():
        if (
            ".experts." in name
            and name.endswith("weight")
            and not (folder / f"{_file_name(name)}.float32.bin").exists()
        ):
            absent.append(name)
            continue
        router = ".gate." in name
        array = _read(folder, _file_name(name), shape[::-1] if router else shape, faults)
        if array is not None:
            tensors[name] = np.ascontiguousarray(array.T) if router else array
    if fill_missing is None:
        faults += [f"{_file_name(name)}.float32.bin is missing" for name in absent]
    if faults:
        _fail(
            folder,
            faults,
            ", or let --fill-missing SEED stand in for the experts" if absent and fill_missing is None else "",
        )
    if absent:
        assert fill_missing is not None
        made = stand_ins(tensors, fill_missing)
        tensors |= {name: made[name] for name in absent}
    return Checkpoint(CONFIG, {name: tensors[name] for name in expected_tensors(CONFIG)}), absent


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
        raise EdgemoeError(
            f"{folder / 'image.float32.bin'} is no 8-bit image: expected values k / 256 with k from 0 to 255"
        )
    return pixels.astype(np.uint8)
