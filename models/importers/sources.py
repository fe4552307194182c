# SPDX-License-Identifier: Apache-2.0
"""What people's files hold: named tensors, and what stands beside them in other files.

Formats: safetensors; PyTorch's (.pth, .pt, .bin, .tar), of which only tensors and harmless numbers are read, never a
whole pickle; M3ViT's folder of rank files; Hugging Face's folders; ONNX. Half, bfloat16 and double become float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from .. import extras
from ..checkpoint import as_float32
from ..errors import EdgemoeError, brief

Tensors = dict[str, NDArray[np.float32]]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
# Where training scripts put a model's tensors beside their optimizer's.
INSIDE = ("state_dict", "model_state_dict", "model", "net", "teacher")
LARGEST_TEXT = 16 << 20  # bytes of a configuration that is read


@dataclass
class Source:
    """tensors: by the names in the file, float32; config, preprocessor: of Hugging Face's folders, else empty; graph:
    of an ONNX file.
    """

    path: Path
    tensors: Tensors = field(repr=False)
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    graph: Any = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """Its path for messages."""
        return brief(self.path, 80)


def read(path: Path) -> Source:
    """Whatever there is; EdgemoeError in one line if it cannot be read or is none of the formats."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise EdgemoeError(
            f"no such file or folder: {brief(path, 80)} (a model is read from what its library saves: "
            "torch.save(model.state_dict(), FILE), model.save_pretrained(FOLDER), or an ONNX file)"
        )
    if path.suffix == ".safetensors":
        return Source(path, _safetensors(path), *_beside(path.parent), kind="safetensors")
    if path.suffix == ".onnx":
        from .onnx_graph import read_onnx

        tensors, facts, graph = read_onnx(path)
        return Source(path, tensors, facts, kind="onnx", graph=graph)
    if path.suffix in TORCH_SUFFIXES:
        return Source(path, _torch(path), *_beside(path.parent), kind="torch")
    raise EdgemoeError(
        f"{brief(path, 80)} is of no known kind: expected .safetensors, .onnx, {', '.join(TORCH_SUFFIXES)} or a folder"
    )


def _folder(path: Path) -> Source:
    ranks = sorted(path.glob("[0-9]*.pth"), key=lambda p: int(p.stem) if p.stem.isdigit() else -1)
    if ranks and ranks[0].name == "0.pth":
        return Source(path, _ranks(ranks), kind="torch")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({str(name) for name in _json(index).get("weight_map", {}).values()})
        tensors: Tensors = {}
        for name in shards:
            if Path(name).name != name:
                raise EdgemoeError(f"{brief(index, 80)} names {brief(name)}, which is no file beside it")
            tensors |= _safetensors(path / name)
        return Source(path, tensors, *_beside(path), kind="safetensors")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return Source(path, read(path / name).tensors, *_beside(path), kind="safetensors")
    raise EdgemoeError(
        f"{brief(path, 80)} holds no model: expected model.safetensors or pytorch_model.bin (Hugging Face), 0.pth, "
        "1.pth, ... (M3ViT), or *.float32.bin (Edge-MoE)"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise EdgemoeError(f"{brief(path, 80)} is too large for a configuration")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise EdgemoeError(f"{brief(path, 80)} cannot be read as JSON: {brief(error, 100)}") from error
    if not isinstance(value, dict):
        raise EdgemoeError(f"{brief(path, 80)} holds no JSON object")
    return value


def _beside(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json, preprocessor_config.json) of a folder; empty where there is none."""
    found = [folder / name for name in ("config.json", "preprocessor_config.json")]
    config, preprocessor = (_json(path) if path.is_file() else {} for path in found)
    return config, preprocessor


def _safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="numpy") as file:
            ours = "config" in (file.metadata() or {})
        stored = deserialize(path.read_bytes())
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise EdgemoeError(
            f"{brief(path, 80)} is no readable safetensors file ({brief(error, 120)}); download it again"
        ) from error
    if ours:
        raise EdgemoeError(f"{brief(path, 80)} is a checkpoint of edgemoe already: --checkpoint takes it as it is")
    # Counters and indices, which some models keep among their tensors, are no weights.
    return {
        name: as_float32(name, info["dtype"], info["shape"], info["data"])
        for name, info in stored
        if info["dtype"] not in ("I64", "I32", "I16", "I8", "U8", "BOOL")
    }


def _torch(path: Path) -> Tensors:
    """Tensors of a file that torch.save wrote."""
    try:
        import torch
    except ImportError as error:
        raise extras.missing("torch", f"reading {path.suffix} files") from error
    from numpy._core.multiarray import scalar  # a name that NumPy's own pickles hold

    harmless: list[Any] = [scalar, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    harmless += [(scalar, "numpy.core.multiarray.scalar")]  # the same, as NumPy before 2 called it
    try:
        with torch.serialization.safe_globals(harmless):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file leads its reader to
        if "Weights only" in str(error):
            raise EdgemoeError(
                f"{brief(path, 80)} holds objects, whose programs would have to be run; only tensors and plain numbers "
                "are read: save model.state_dict()"
            ) from error
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EdgemoeError(f"{brief(path, 80)} cannot be read as tensors ({brief(first, 120)})") from error
    while isinstance(stored, Mapping) and (
        inner := next((n for n in INSIDE if isinstance(stored.get(n), Mapping)), "")
    ):
        stored = stored[inner]
    if not isinstance(stored, Mapping) or not any(isinstance(value, torch.Tensor) for value in stored.values()):
        raise EdgemoeError(f"{brief(path, 80)} holds no tensors by name")
    return {
        str(name): value.detach().float().contiguous().numpy()
        for name, value in stored.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def _ranks(paths: list[Path]) -> Tensors:
    """0.pth ... R-1.pth: the first holds everything, all of them their part of the experts, joined along axis 0."""
    numbers = [int(path.stem) for path in paths]
    if numbers != list(range(len(paths))):
        lacking = sorted(set(range(max(numbers) + 1)) - set(numbers))
        raise EdgemoeError(f"{brief(paths[0].parent, 80)}: rank file {lacking[0]}.pth is missing")
    parts = [_torch(path) for path in paths]
    tensors = dict(parts[0])
    for name in parts[0]:
        if ".experts." in name:
            slices = [part.get(name) for part in parts]
            absent = [path.name for path, piece in zip(paths, slices, strict=True) if piece is None]
            if absent:
                raise EdgemoeError(f"{brief(paths[0].parent, 80)}: {absent[0]} has no {brief(name)}")
            tensors[name] = np.concatenate([piece for piece in slices if piece is not None])
    return tensors
