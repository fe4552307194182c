# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a configuration and its tensors in one safetensors file. Needs no PyTorch.

The configuration is JSON in the file's metadata under "config"; a calibration, if there is one, is JSON under
"calibration". Tensors are float32; a file may also hold bfloat16 and float16, which float32 holds exactly, and float64,
which is rounded, with a notice. A decoder that is an ONNX graph is a tensor of bytes, `heads.TASK.graph`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save as serialise

from .config import ModelConfig
from .errors import EdgemoeError, brief, listing, notice
from .files import write_whole
from .graph import graph
from .numbers.calibrated import check_calibration
from .numbers.calibration import Calibration

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass
class Checkpoint:
    """config, its tensors (float32, names and shapes as `expected_tensors` says), an optional calibration, and by task
    the ONNX graphs of those whose decoder is one.

    `calibrate.calibrate` makes the calibration; one from a file is checked (`calibrated.check_calibration`).
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray] = field(repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    graphs: dict[str, bytes] = field(default_factory=dict, repr=False)


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model, in the order of execution. Trunk names are timm's.

    Matrices are [outputs, inputs], but for the routers, which are [inputs, experts]. Row 0 of `pos_embed` is the CLS
    row with the CLS token already added.
    """
    model = graph(config)
    found = {name: shape for operation in model.operations for name, shape in operation.tensors().items()}
    for head in model.host_heads.values():
        found |= head.tensors()
    return found


def check_tensors(config: ModelConfig, tensors: dict[str, np.ndarray], source: str) -> None:
    """Raises one EdgemoeError that names missing, unexpected, misshapen, non-float32 or non-finite tensors:
    five, and how many more.
    """
    shapes = expected_tensors(config)
    missing = [f"{name} is missing" for name in shapes if name not in tensors]
    foreign = [f"{brief(name)} does not belong to the model" for name in sorted(tensors) if name not in shapes]
    broken = []
    for name, shape in shapes.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        if tensor.shape != shape:
            broken.append(f"{name} has shape {brief(list(tensor.shape), 40)}, expected {list(shape)}")
        elif tensor.dtype != np.float32:
            broken.append(f"{name} is {tensor.dtype}, expected float32")
        elif not np.isfinite(tensor).all():
            broken.append(f"{name} has {int((~np.isfinite(tensor)).sum())} values that are NaN or infinite")
    # In turn, so that what stands for all of one kind does not hide the others.
    faults = [fault for turn in zip_longest(missing, foreign, broken) for fault in turn if fault is not None]
    if faults:
        named = listing(faults, "; ")
        raise EdgemoeError(
            f"{brief(source, 80)} does not hold model {config.name}: {named}. Export the checkpoint again."
        )


def _graph_name(task: str) -> str:
    return f"heads.{task}.graph"


def _check_graphs(config: ModelConfig, names: Iterable[str], source: str) -> None:
    """Of every task whose decoder is a graph there is one, and no other."""
    wanted, given = {_graph_name(task.name) for task in config.tasks if task.decoder == "onnx"}, set(names)
    faults = [f"{name} is missing" for name in sorted(wanted - given)]
    faults += [f"{brief(name)} does not belong to the model" for name in sorted(given - wanted)]
    if faults:
        raise EdgemoeError(f"{brief(source, 80)} does not hold model {config.name}: {listing(faults, '; ')}")


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
        raise EdgemoeError(
            f"no checkpoint file {text}; give the path of a .safetensors file or one of the names {', '.join(known())}"
        )
    if text in known():
        return CHECKPOINTS / f"{text}.safetensors"
    raise EdgemoeError(
        f"no checkpoint named {text!r}; known are {', '.join(known()) or 'none'}, or give the path of a .safetensors "
        f"file"
    )


def as_float32(name: str, kind: str, shape: list[int], data: bytes) -> NDArray[np.float32]:
    """A tensor of a safetensors file, [shape], as float32."""
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    types = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    if kind not in types:
        raise EdgemoeError(f"{brief(name)} is {kind}, expected F32 (or F16, BF16, F64)")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is told with the tensor's name
        return np.frombuffer(data, types[kind]).reshape(shape).astype(np.float32)


def _without_prefix(
    tensors: dict[str, NDArray[np.float32]], config: ModelConfig
) -> tuple[dict[str, NDArray[np.float32]], str]:
    """The tensors without what wrappers put before all their names (`module.`, `model.`, `_orig_mod.`), and that
    prefix.
    """
    roots = {name.split(".")[0] for name in expected_tensors(config)}
    prefix = ""
    while tensors:
        first = next(iter(tensors)).split(".")[0]
        if first in roots or not all(name.startswith(f"{first}.") for name in tensors):
            break
        prefix += f"{first}."
        tensors = {name[len(first) + 1 :]: tensor for name, tensor in tensors.items()}
    return tensors, prefix


def _is_graph(name: str, kind: str) -> bool:
    return kind == "U8" and name.endswith(".graph")


def load(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Reads and checks a checkpoint."""
    path = resolve(name_or_path)
    shown = brief(path, 80)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        stored = deserialize(path.read_bytes())
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise EdgemoeError(
            f"{shown} is no readable safetensors file ({brief(error, 120)}); copy or download it again"
        ) from error
    if "config" not in metadata:
        raise EdgemoeError(
            f"{shown} has no 'config' in its metadata; expected a checkpoint that edgemoe.models.checkpoint.save wrote"
        )
    try:
        config = ModelConfig.from_json(metadata["config"])
        graphs = {name: bytes(info["data"]) for name, info in stored if _is_graph(name, info["dtype"])}
        tensors = {
            name: as_float32(name, info["dtype"], info["shape"], info["data"])
            for name, info in stored
            if name not in graphs
        }
        stored_calibration = json.loads(metadata["calibration"]) if "calibration" in metadata else None
    except EdgemoeError as error:
        raise EdgemoeError(f"{shown}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise EdgemoeError(
            f"{shown}: its calibration is no valid JSON ({brief(error)}); calibrate and save it again"
        ) from error
    tensors, prefix = _without_prefix(tensors, config)
    graphs = {name.removeprefix(prefix): data for name, data in graphs.items()}
    check_tensors(config, tensors, str(path))
    _check_graphs(config, graphs, str(path))
    calibration = None
    if stored_calibration is not None:
        check_calibration(config, stored_calibration, shown)
        calibration = Calibration.from_json(stored_calibration)
    if prefix:
        notice(f"{shown}: {brief(prefix)!r} taken off the names of all tensors")
    rounded = [name for name, info in stored if info["dtype"] == "F64"]
    if rounded:
        notice(f"{shown}: {len(rounded)} of {len(stored)} tensors are float64 and were rounded to float32")
    decoders = {task.name: graphs[_graph_name(task.name)] for task in config.tasks if task.decoder == "onnx"}
    return Checkpoint(config, tensors, calibration, decoders)


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> Path:
    """Checks and writes a checkpoint; the file appears whole or not at all."""
    path = Path(path)
    check_tensors(checkpoint.config, checkpoint.tensors, "the checkpoint to be saved")
    graphs = {_graph_name(task): np.frombuffer(data, np.uint8) for task, data in checkpoint.graphs.items()}
    _check_graphs(checkpoint.config, graphs, "the checkpoint to be saved")
    metadata = {"config": checkpoint.config.to_json()}
    if checkpoint.calibration is not None:
        metadata["calibration"] = json.dumps(checkpoint.calibration.to_json())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgemoeError(f"cannot write {path} ({error}); choose a folder that can be written to") from error
    # safetensors writes a non-contiguous array's memory in its own order, so make every array contiguous.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in (checkpoint.tensors | graphs).items()}
    write_whole(path, serialise(tensors, metadata))
    return path
