# SPDX-License-Identifier: Apache-2.0
"""A compiled program as a file (.emoe): all that a device needs, and what becomes of its results; no checkpoint.

It is a safetensors file, so any reader of that format opens it, and one for what is needed here fits on a page of C
(examples/c/program.c). All numbers are little-endian. Its tensors:

`memory`   U8 [bytes]: what device memory begins with: instructions, constants, weights in the order of their use
`program`  U64 [11], by the names in PROGRAM:
           version          of this layout, 1
           config_hash      of the hardware it is for: what register CONFIG_HASH must show
           memory_bytes     of the whole layout in device memory; what `memory` does not cover need not be written
           start            offset of the first instruction, for register PROGRAM
           instructions     how many there are
           images           how many pictures a run takes
           channels, height, width   of each: bytes, channel by channel
           memory_crc, tables_crc    CRC-32 of `memory`; of `pieces` and behind it `results`
`pieces`   U64 [n, 6], by the names in PIECE: the rectangle top, left, height, width of picture `image` goes to
           `offset`, channel by channel, row by row
`results`  I64 [n, 9], by the names in RESULT: what lies at `offset` behind a run: `rows` rows of `words` x `lanes`
           numbers of 16 bits, signed, of which the first `outputs` count; value = number x 2^-exponent. `tokens` is 0
           for what the head of task number `task` gave of picture `image`, 1 for the encoder's final tokens
others     by their names in the checkpoint: tensors of decoders that the host computes

Metadata: `format` "edgemoe program"; `model`, `hardware`, `program` as JSON: the model's configuration, the fields of
the hardware's, labels of the instructions and other facts for people; `crc32` as JSON: of every tensor, by its name.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.runtime.program import Buffer, CompiledProgram, ImagePiece, Stream, StreamResult
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError, brief
from edgemoe.models.files import write_whole
from edgemoe.models.graph import graph
from edgemoe.models.numbers.quantise import quantise
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

SUFFIX = ".emoe"
FORMAT, VERSION = "edgemoe program", 1
PROGRAM = (
    *("version", "config_hash", "memory_bytes", "start", "instructions", "images", "channels", "height", "width"),
    *("memory_crc", "tables_crc"),
)
PIECE = ("image", *(field.name for field in fields(ImagePiece)))
RESULT = ("image", "task", "tokens", *(field.name for field in fields(Buffer)))
_OWN = ("memory", "program", "pieces", "results")


def compiled(
    checkpoint: Checkpoint,
    streams: Sequence[tuple[int, int]],
    hardware: HardwareConfig,
    weight_bits: str,
    *,
    save_tokens: bool = False,
) -> CompiledProgram:
    """A program for (image, task) streams of a checkpoint."""
    return compiler.compile(quantise(checkpoint, weight_bits), streams, hardware, save_tokens=save_tokens)


def crc32(data: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(data).tobytes())


def save(program: CompiledProgram, checkpoint: Checkpoint, path: str | os.PathLike[str]) -> Path:
    """Write a program with what the host needs of its checkpoint behind it; whole or not at all."""
    target = Path(path)
    if target.suffix != SUFFIX:
        raise EdgemoeError(f"{target}: the name of a program must end in {SUFFIX}")
    if program.traces:
        raise EdgemoeError("a program that stores traces is for check, not for a file: compile it without")
    c = program.config
    pieces = [(image, *asdict(piece).values()) for image, all_ in enumerate(program.images) for piece in all_]
    results = [
        (result.stream.image, result.stream.task, tokens, *asdict(buffer).values())
        for result in program.results
        for tokens, buffer in enumerate((result.head, result.tokens))
        if buffer
    ]
    tables = {
        "pieces": np.array(pieces, np.uint64).reshape(-1, len(PIECE)),
        "results": np.array(results, np.int64).reshape(-1, len(RESULT)),
    }
    facts = {
        "version": VERSION,
        "config_hash": program.hardware_hash,
        "memory_bytes": program.memory_size,
        "start": program.program,
        "instructions": len(program.instructions),
        "images": len(program.images),
        "channels": c.image_channels,
        "height": c.image_height,
        "width": c.image_width,
        "memory_crc": crc32(program.memory),
        "tables_crc": zlib.crc32(tables["results"].tobytes(), crc32(tables["pieces"])),
    }
    described = {
        "weight_bits": program.weight_bits,
        "streams": [asdict(stream) for stream in program.streams],
        "labels": program.labels,
        "macs": program.macs,
        "weight_bytes": program.weight_bytes,
        "image_bytes": program.image_bytes,
        "slots": program.slots,
        "origins": program.origins,
        "split": program.split,
    }
    used = {c.tasks[stream.task].name for stream in program.streams}
    tensors: dict[str, NDArray[Any]] = {
        "memory": program.memory,
        "program": np.array([facts[name] for name in PROGRAM], np.uint64),
        **tables,
        **{name: np.ascontiguousarray(checkpoint.tensors[name]) for name in _host_tensors(c, used)},
        **{f"heads.{task}.graph": np.frombuffer(data, np.uint8) for task, data in checkpoint.graphs.items()},
    }
    metadata = {
        "format": FORMAT,
        "model": c.to_json(),
        "hardware": json.dumps(asdict(program.hardware)),
        "program": json.dumps(described),
        "crc32": json.dumps({name: crc32(tensor) for name, tensor in tensors.items()}),
    }
    write_whole(target, serialise(tensors, metadata))
    return target


def _host_tensors(config: ModelConfig, tasks: set[str]) -> list[str]:
    """Names of the tensors that the host needs behind a run of these tasks."""
    heads = graph(config).host_heads.items()
    return [name for task, head in heads if task in tasks for name in head.tensors()]


def load(path: str | os.PathLike[str]) -> tuple[CompiledProgram, Checkpoint]:
    """A program, ready to run, and a checkpoint that holds what the host needs behind it, and no more.

    EdgemoeError if the file is none, of another version, or damaged.
    """
    shown = brief(os.fspath(path), 80)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise EdgemoeError(f"{shown} is no program: expected a file that `edgemoe compile` wrote")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise EdgemoeError(f"{shown} is no readable program ({brief(error, 120)}); compile it again") from error
    facts = dict(zip(PROGRAM, (int(value) for value in tensors["program"]), strict=False))
    if facts.get("version") != VERSION:
        raise EdgemoeError(
            f"{shown} is a program of version {facts.get('version')}, this edgemoe reads version {VERSION}: compile it "
            f"again"
        )
    sums = json.loads(metadata.get("crc32", "{}"))
    found = {name: crc32(tensor) for name, tensor in tensors.items()}
    if wrong := sorted(name for name in found.keys() | sums.keys() if found.get(name) != sums.get(name)):
        raise EdgemoeError(f"{shown} is damaged: {', '.join(wrong)} is not as it was written; copy or compile it again")
    config = ModelConfig.from_json(metadata["model"])
    hardware = HardwareConfig.from_fields(json.loads(metadata["hardware"]))
    if hardware.hash != facts["config_hash"]:
        raise EdgemoeError(
            f"{shown} was compiled by another release of edgemoe: the hardware in it has hash {hardware.hash:#010x} "
            f"here, {facts['config_hash']:#010x} there; compile it again"
        )
    return _program(config, hardware, facts, tensors, json.loads(metadata["program"])), _checkpoint(config, tensors)


def _program(
    config: ModelConfig,
    hardware: HardwareConfig,
    facts: Mapping[str, int],
    tensors: Mapping[str, NDArray[Any]],
    described: Mapping[str, Any],
) -> CompiledProgram:
    pieces = [dict(zip(PIECE, row, strict=True)) for row in tensors["pieces"].tolist()]
    buffers = {(image, task, tokens): Buffer(*numbers) for image, task, tokens, *numbers in tensors["results"].tolist()}
    streams = [Stream(**stream) for stream in described["streams"]]
    code = tensors["memory"][facts["start"] :].tobytes()
    labels = described["labels"]
    return CompiledProgram(
        config=config,
        hardware=hardware,
        weight_bits=described["weight_bits"],
        streams=streams,
        memory=tensors["memory"],
        memory_size=facts["memory_bytes"],
        program=facts["start"],
        instructions=[
            Instruction.decode(code[at : at + INSTRUCTION_BYTES], label)
            for at, label in zip(range(0, len(code), INSTRUCTION_BYTES), labels, strict=False)
        ],
        keys=[None] * len(labels),
        images=[
            tuple(
                ImagePiece(**{name: value for name, value in piece.items() if name != "image"})
                for piece in pieces
                if piece["image"] == image
            )
            for image in range(facts["images"])
        ],
        image_bytes=described["image_bytes"],
        results=[
            StreamResult(s, buffers.get((s.image, s.task, 0)), buffers.get((s.image, s.task, 1))) for s in streams
        ],
        traces=[],
        macs=described["macs"],
        weight_bytes=described["weight_bytes"],
        exponents={},
        slots=described["slots"],
        origins=described["origins"],
        split=described["split"],
    )


def _checkpoint(config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> Checkpoint:
    graphs = {
        task.name: tensors[name].tobytes() for task in config.tasks if (name := f"heads.{task.name}.graph") in tensors
    }
    own = {name: tensor for name, tensor in tensors.items() if name not in _OWN and not name.endswith(".graph")}
    return Checkpoint(config, own, None, graphs)
