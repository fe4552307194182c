# SPDX-License-Identifier: Apache-2.0
"""A compiled program: what a device needs to run it, where its results lie, and how two runs of it differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Memory, Opcode, Scale, Stationary
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.keys import Key
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stream:
    """One task on one image (an index into the images given to the run)."""

    image: int
    task: int


@dataclass(frozen=True)
class Buffer:
    """A matrix of 16-bit integers in device memory: rows x words of `lanes`, `outputs` values a row;
    value = integer * 2^-exponent.
    """

    offset: int
    rows: int
    words: int
    lanes: int
    outputs: int
    exponent: int

    @property
    def size(self) -> int:
        return self.rows * self.words * self.lanes * 2

    def integers(self, data: NDArray[np.uint8]) -> NDArray[np.int16]:
        """[rows, outputs] from the buffer's bytes."""
        return data[: self.size].view("<i2").reshape(self.rows, -1)[:, : self.outputs]

    def values(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        return (self.integers(data) * 2.0**-self.exponent).astype(np.float32)


@dataclass(frozen=True)
class StreamResult:
    """Where a stream's outputs are: head [patches, outputs] and final tokens [tokens, width];
    None if they were not asked for.
    """

    stream: Stream
    head: Buffer | None
    tokens: Buffer | None


@dataclass(frozen=True)
class Trace:
    """The stored destination of one MATMUL: `size` bytes at `offset`;
    inside EXPERTS one copy per expert, zero where no token came.
    """

    instruction: int
    label: str
    key: Key | None  # the matrix; None for scores and values
    offset: int
    size: int


@dataclass(frozen=True)
class ImagePiece:
    """A rectangle of a picture, in pixels: written to `offset` as CHW bytes."""

    offset: int
    top: int
    left: int
    height: int
    width: int


@dataclass
class CompiledProgram:
    """All that a device needs.

    memory        the constant part of the memory image, from offset 0: program, constants, weights
    memory_size   bytes of the whole layout
    instructions  with labels, in program order
    keys          for each of them the matrix that it is about, if there is one (ROUTE: the router's)
    images        of each image the pieces that it is written in
    slots         of each stream: its token rows are slot * tokens and following
    origins       of each instruction the token row that row 0 on chip is; not 0 only where rows come in tiles
    split         how the model is cut, as people are told, if it does not fit in one piece
    macs          multiplications that the mathematics asks for, without padding
    weight_bytes  of all weight streams, each counted once; `bytes` fetched can be less (experts without tokens)
    """

    config: ModelConfig
    hardware: HardwareConfig
    weight_bits: str
    streams: list[Stream]
    memory: NDArray[np.uint8]
    memory_size: int
    program: int
    instructions: list[Instruction]
    keys: list[Key | None]
    images: list[tuple[ImagePiece, ...]]
    image_bytes: int
    results: list[StreamResult]
    traces: list[Trace]
    macs: int
    weight_bytes: int
    exponents: dict[Key, int]
    slots: list[int]
    origins: list[int]
    split: str = ""

    @property
    def hardware_hash(self) -> int:
        return self.hardware.hash

    @property
    def labels(self) -> list[str]:
        return [i.label for i in self.instructions]


def image_buffers(
    compiled: CompiledProgram, number: int, image: NDArray[np.uint8]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(offset, bytes) of each piece of an image; uint8 CHW of the model's size."""
    c = compiled.config
    expected = (c.image_channels, c.image_height, c.image_width)
    if image.dtype != np.uint8 or image.shape != expected:
        raise EdgemoeError(
            f"image is {image.dtype} {list(image.shape)}, expected uint8 {list(expected)}; convert or resize it"
        )
    for piece in compiled.images[number]:
        rows, columns = slice(piece.top, piece.top + piece.height), slice(piece.left, piece.left + piece.width)
        yield piece.offset, np.ascontiguousarray(image[:, rows, columns]).reshape(-1)


def memory_image(compiled: CompiledProgram, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The whole memory before a run: constants, the images in their buffers, zeros elsewhere."""
    if len(images) != len(compiled.images):
        raise EdgemoeError(f"the program is for {len(compiled.images)} images, got {len(images)}")
    memory = np.zeros(compiled.memory_size, np.uint8)
    memory[: compiled.memory.size] = compiled.memory
    for number, image in enumerate(images):
        for offset, strip in image_buffers(compiled, number, image):
            memory[offset : offset + strip.size] = strip
    return memory


@dataclass(frozen=True)
class Mismatch:
    """An instruction whose results differ: how many 16-bit values, and the first one's byte offset and values."""

    instruction: int
    label: str
    count: int
    offset: int
    first: int
    second: int


def compare(compiled: CompiledProgram, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> list[Mismatch]:
    """Compares two memories after a run of a program with trace, MATMUL by MATMUL, and the results.

    Both must have started from the same memory, so that what no instruction stores (experts without tokens) is equal.
    """
    parts = [(t.instruction, t.label, t.offset, t.size) for t in compiled.traces]
    for index, result in enumerate(compiled.results):
        for what, buffer in (("head", result.head), ("tokens", result.tokens)):
            if buffer:
                parts.append((len(compiled.instructions) - 1, f"{what} of stream {index}", buffer.offset, buffer.size))
    found = []
    for instruction, label, offset, size in parts:
        a, b = (np.ascontiguousarray(m[offset : offset + size]).view("<i2") for m in (first, second))
        different = np.flatnonzero(a != b)
        if different.size:
            at = int(different[0])
            found.append(Mismatch(instruction, label, int(different.size), offset + 2 * at, int(a[at]), int(b[at])))
    return found


def disassemble(program: bytes | NDArray[np.uint8] | CompiledProgram) -> str:
    """A listing: one line an instruction, with its label where it is known; bodies of EXPERTS are indented."""
    if isinstance(program, CompiledProgram):
        instructions = program.instructions
    else:
        data = bytes(program)
        instructions = []
        for offset in range(0, len(data) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
            instructions.append(Instruction.decode(data[offset : offset + INSTRUCTION_BYTES]))
            if instructions[-1].opcode == Opcode.END:
                break
    names = {"memory": Memory, "stationary": Stationary, "scale": Scale}
    lines, inside = [], 0
    for index, i in enumerate(instructions):
        values = dict(i.values)
        if i.opcode == Opcode.MATMUL:  # zero is a meaning there, too
            values = {"memory": 0, "stationary": 0, **values}
        shown = []
        for name, value in values.items():
            if value or name in ("memory", "stationary"):
                text = (
                    names[name](value).name
                    if name in names
                    else f"{value:#x}"
                    if name in ("address", "expert_stride")
                    else str(value)
                )
                shown.append(f"{name}={text}")
        label = f"  ; {i.label}" if i.label else ""
        lines.append(f"{index:5d}  {'    ' if inside else ''}{i.opcode.name:<9} {' '.join(shown)}{label}")
        inside = i.length if i.opcode == Opcode.EXPERTS else max(0, inside - 1)
    return "\n".join(lines) + "\n"
