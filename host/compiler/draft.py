# SPDX-License-Identifier: Apache-2.0
"""What the passes work on: instructions whose operands and addresses are not yet numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from edgemoe.host.runtime.program import Buffer, Stream
from edgemoe.hw.contract.isa import Opcode
from edgemoe.models.keys import Key
from edgemoe.models.numbers.linear import Linear
from numpy.typing import NDArray


class Operand(Enum):
    """What instructions wait for, beside values in activation memory."""

    RESIDUAL = 0
    KEY_VALUE = 1
    SCORE = 2
    NORM = 3
    QUEUES = 4
    SUMMARY = 5
    HEAD_NORM = 6


@dataclass(eq=False)
class Room:
    """A value in activation memory: rows of `stride` words.

    opposite: the one at whose other end of the memory it is to lie.
    maxima: the table that its rows' maxima are in.
    """

    name: str
    rows: int
    stride: int
    opposite: Room | None = None
    maxima: int = 3  # that of all but the residual's copies, of which there are two at a time
    base: int = -1  # decided by `allocate`

    @property
    def words(self) -> int:
        return self.rows * self.stride


@dataclass(frozen=True)
class At:
    """A word of a room."""

    room: Room
    offset: int = 0


@dataclass(eq=False)
class Region:
    """A part of the memory: of `size` bytes that are written by the program, or with what it begins with, data or
    packed weights.
    """

    size: int = 0
    data: NDArray[np.uint8] | None = None
    linear: Linear | None = None
    offset: int = -1  # decided by `link`


@dataclass(frozen=True)
class Piece:
    """A rectangle of a picture, in pixels, and where it is put in memory: CHW bytes."""

    region: Region
    top: int
    left: int
    height: int
    width: int


@dataclass
class Draft:
    """An instruction on its way.

    key     the matrix that it is about
    region  what its address names, `offset` bytes from its begin
    rooms   whose words are to be taken before it, in this order; others are taken at their first use
    reads   what must be complete before it streams; holds: before it reads keys or values
    writes  what it changes
    body    it is repeated for every expert
    part    what of the model it belongs to, as people call it
    group   number of the loop that it is part of, unrolled or not: what that uses lives from its begin to its end; 0:
            of none
    origin  which token row, counted over all slots, has row 0 on chip
    """

    opcode: Opcode
    label: str
    fields: dict[str, int | At]
    key: Key | None = None
    region: Region | None = None
    rooms: Sequence[Room] = ()
    reads: Sequence[Room | Operand] = ()
    holds: Sequence[Room | Operand] = ()
    writes: Sequence[Room | Operand] = ()
    body: bool = False
    part: str = ""
    group: int = 0
    offset: int = 0
    origin: int = 0

    @property
    def used(self) -> list[Room]:
        """Rooms that it names."""
        return [*self.rooms, *(value.room for value in self.fields.values() if isinstance(value, At))]


@dataclass(frozen=True)
class DraftResult:
    """Of a stream: the buffers of head and tokens, and their regions."""

    stream: Stream
    head: tuple[Buffer, Region] | None
    tokens: tuple[Buffer, Region] | None


@dataclass
class Lowered:
    """A program before its numbers.

    images: the pieces of each; traced: the MATMUL that each trace is of; macs: useful multiplications.
    """

    streams: list[Stream]
    slots: list[int]
    drafts: list[Draft] = field(default_factory=list)
    constants: list[Region] = field(default_factory=list)
    images: list[list[Piece]] = field(default_factory=list)
    results: list[DraftResult] = field(default_factory=list)
    traced: list[tuple[Draft, Region]] = field(default_factory=list)
    macs: int = 0
