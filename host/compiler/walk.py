# SPDX-License-Identifier: Apache-2.0
"""Where the walk over a model's steps stands, and what all of them need to become instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from edgemoe.host.compiler.draft import At, Draft, Lowered, Operand, Region, Room
from edgemoe.host.compiler.packing import stream_of
from edgemoe.host.compiler.streams import Placement
from edgemoe.host.runtime.program import Stream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Activation, Memory, Opcode, Stationary
from edgemoe.models.keys import Role
from edgemoe.models.numbers.linear import Linear
from edgemoe.models.numbers.quantise import QuantisedModel
from edgemoe.models.steps import RESIDUAL, EachStream, Normalise, Place, Step, Value

OPERANDS = {Place.KEY_VALUE: Operand.KEY_VALUE, Place.SCORE: Operand.SCORE}

Lowering = Callable[["Walk", Any, str, int | None], None]  # walk, step, label, slot
KINDS: dict[type[Step], Lowering] = {}


def lowers(kind: type[Step]) -> Callable[[Lowering], Lowering]:
    """The decorated function makes instructions of this kind of step: over all rows, or over those of a slot."""

    def register(lowering: Lowering) -> Lowering:
        KINDS[kind] = lowering
        return lowering

    return register


class Walk:
    """The slots that have rows, the residual's copy in activation memory, rooms of the values under way.

    active      slots that have rows; tokens: how many each has on chip
    origin      the token row, counted over all slots, that row 0 on chip is
    copy        the residual in activation memory, and where its next copy goes (`updated`), if that will be read
    normalised  what the table of row scales holds
    part        what of the model is walked through, as people call it
    splits      the operation is the last one that streams share; last: it is the last of all
    body        in what is repeated for every expert
    """

    def __init__(
        self, model: QuantisedModel, streams: list[Stream], placement: Placement, hardware: HardwareConfig
    ) -> None:
        self.model, self.config, self.hardware, self.placement = model, model.config, hardware, placement
        self.out = Lowered(streams, list(placement.slot_of))
        self.width = hardware.words(model.config.width)
        self.active, self.tokens, self.origin = placement.leaders, model.config.tokens, 0
        self.copy = Room("the residual's copy", placement.slots * model.config.tokens, self.width, maxima=1)
        self.updated: Room | None = self.copy
        self.rooms: dict[Value, Room] = {}
        self.weights: dict[int, Region] = {}
        self.diagonals: dict[int, list[Linear]] = {}
        self.solvers: dict[int, Any] = {}  # of `landmark_attention`, layer by layer
        self.normalised: Normalise | None = None
        self.splits = self.last = False
        self.part = ""
        self.body = False
        self.group = self.groups = 0

    def step(self, step: Step, slot: int | None = None, tag: str = "") -> None:
        """One step over all rows, or over those of a slot; `tag` goes into the label."""
        KINDS[type(step)](self, step, step.where + tag + step.what, slot)

    def draft(self, opcode: Opcode, label: str, fields: dict[str, Any] | None = None, **more: Any) -> None:
        more |= dict(body=self.body, part=self.part, group=self.group, origin=self.origin)
        self.out.drafts.append(Draft(opcode, label, fields or {}, **more))

    @contextmanager
    def loop(self) -> Iterator[None]:
        """What is drafted in here is one group."""
        self.groups += 1
        self.group = self.groups
        yield
        self.group = 0

    def transfer(
        self,
        opcode: Opcode,
        label: str,
        memory: Memory,
        base: int | At,
        rows: int,
        words: int,
        region: Region,
        stride: int = 0,
        **more: Any,
    ) -> None:
        """LOAD or STORE of rows of `words`, which on chip begin `stride` words apart; 0: one after the other."""
        beats = -(-rows * words * self.hardware.word_bytes // self.hardware.bus_bytes)
        fields = dict(memory=memory, destination_base=base, destination_stride=stride or words)
        fields |= dict(rows=rows, columns=words, beats=beats)
        self.draft(opcode, label, fields, region=region, **more)

    def matmul(
        self,
        label: str,
        linear: Linear,
        fields: dict[str, Any],
        rows: int,
        reads: Sequence[Room | Operand],
        writes: Sequence[Room | Operand],
    ) -> None:
        """A MATMUL with weights; rows: those that count as useful."""
        stream = stream_of(linear, self.hardware)
        fields = fields | dict(
            stationary=Stationary.WEIGHTS16 if linear.bits == 16 else Stationary.WEIGHTS8,
            accumulator_shift=linear.accumulator_shift,
            residual_shift=linear.residual_shift,
            output_shift=linear.output_shift,
            chunks=stream.chunks,
            columns=stream.columns,
            beats=stream.beats,
            bias_first=int(linear.bias_first),
            bias_shift=linear.bias_shift,
            activation=Activation.of(linear.activation),
            packed=int(linear.packed),
            raised=int(linear.raised),
            unsigned=int(linear.unsigned),
            expert_stride=stream.stride if linear.weights.ndim == 3 else 0,
        )
        if linear.key.role is not Role.BACK:  # the model itself has no such product
            self.out.macs += rows * linear.products
        region = self.weights.setdefault(id(linear), Region(linear=linear))  # there once, however often it is used
        self.draft(Opcode.MATMUL, label, fields, key=linear.key, region=region, reads=reads, writes=writes)

    def blocks(self, linear: Linear) -> list[Linear]:
        """Those on the diagonal of a matrix, word by word."""
        found = self.diagonals.setdefault(id(linear), [])
        if not found:
            width = len(linear.weights) // linear.groups
            for start in range(0, len(linear.weights), width):
                for first in range(start, start + width, self.hardware.lanes):
                    part = slice(first, min(first + self.hardware.lanes, start + width))
                    bias, multiplier = linear.bias[part], linear.multiplier[part]
                    found.append(
                        replace(
                            linear,
                            weights=linear.weights[part, part],
                            bias=bias,
                            multiplier=multiplier,
                            groups=1,
                            input_groups=1,
                        )
                    )
        return found

    def into_residual(self, row: int, copy: Room | None) -> dict[str, Any]:
        """Fields of a MATMUL that adds to the residual's rows from `row` on, and leaves a copy."""
        base = row * self.width
        fields: dict[str, Any] = dict(
            memory=Memory.RESIDUAL, residual=1, destination_base=base, destination_stride=self.width, row_base=row
        )
        if copy is None:
            return fields
        kept = self.kept(copy)
        return fields | dict(copy=1, copy_base=At(copy, base), copy_stride=self.width) | kept

    def kept(self, room: Room) -> dict[str, int]:
        """Fields of a MATMUL that writes words of a room, whose rows' maxima may be asked for."""
        return dict(maxima=room.maxima) if self.model.weight_bits.fast else {}

    def second_copy(self, rows: int) -> Room:
        """Where the residual's next copy goes while this one is read."""
        return Room("the residual's second copy", rows, self.width, opposite=self.copy, maxima=3 - self.copy.maxima)

    def task_of(self, slot: int) -> int:
        """The task of a slot's first stream."""
        return self.out.streams[self.placement.slot_of.index(slot)].task

    def stride(self, value: Value) -> int:
        """Words of a row."""
        return value.groups * self.hardware.words(value.width)

    def start(self, value: Value, group: int) -> int:
        """Words before a group of a row."""
        return group * self.hardware.words(value.width)

    def room(self, value: Value, rows: int) -> Room:
        """Where a value lies in activation memory."""
        if value is RESIDUAL:
            return self.copy
        if value not in self.rooms:
            self.rooms[value] = Room(value.name, rows, self.stride(value))
        return self.rooms[value]

    def operand(self, value: Value, rows: int) -> Room | Operand:
        """What to wait for before a value is read."""
        return OPERANDS.get(value.place) or self.room(value, rows)


@lowers(EachStream)
def each_stream(walk: Walk, step: EachStream, label: str, slot: int | None) -> None:
    """Slot after slot."""
    with walk.loop():
        for each in range(walk.active):
            for inner in step.steps(walk.task_of(each)):
                walk.step(inner, each, f" slot {each}" if walk.active > 1 else "")
