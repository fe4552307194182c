# SPDX-License-Identifier: Apache-2.0
"""The steps of a model's operations as instructions, whose operands are still values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from edgemoe.host.compiler.draft import At, Draft, DraftResult, Lowered, Operand, Region, Room
from edgemoe.host.compiler.packing import pad, stream_of
from edgemoe.host.compiler.streams import Placement, Run
from edgemoe.host.program import Buffer, Stream
from edgemoe.hw.config import HardwareConfig
from edgemoe.hw.isa import Memory, Opcode, Scale, Stationary
from edgemoe.models.numbers.linear import Linear
from edgemoe.models.quantise import QuantisedModel
from edgemoe.models.steps import (
    RESIDUAL,
    Attend,
    EachExpert,
    EachStream,
    Embed,
    Normalise,
    Place,
    Product,
    Route,
    RowScale,
    Scores,
    Step,
    Value,
)

MEMORIES = {Place.ACTIVATION: Memory.ACTIVATION, Place.KEY_VALUE: Memory.KEY_VALUE, Place.SCORE: Memory.SCORE}
SCALES = {RowScale.NONE: Scale.NONE, RowScale.NORM: Scale.NORM, RowScale.EXPERT: Scale.EXPERT}
OPERANDS = {Place.KEY_VALUE: Operand.KEY_VALUE, Place.SCORE: Operand.SCORE}


def lower(model: QuantisedModel, streams: list[Stream], placement: Placement, hardware: HardwareConfig, save_tokens: bool) -> Lowered:
    """All instructions of a pass, in order."""
    return _Lowering(model, streams, placement, hardware).run(save_tokens)


class _Lowering:
    """Where the walk stands: the slots that have rows, the residual's copy in activation memory, rooms of the values under way."""

    def __init__(self, model: QuantisedModel, streams: list[Stream], placement: Placement, hardware: HardwareConfig) -> None:
        self.model, self.config, self.hardware, self.placement = model, model.config, hardware, placement
        self.out = Lowered(streams, list(placement.slot_of))
        self.width = hardware.words(model.config.width)
        self.active = placement.leaders
        self.copy = Room("the residual's copy", placement.slots * model.config.tokens, self.width)
        self.updated: Room | None = self.copy  # where a new copy of the residual goes, if it will be read
        self.rooms: dict[Value, Room] = {}
        self.weights: dict[int, Region] = {}
        self.normalised: Normalise | None = None  # what the table of row scales holds
        self.splits = self.last = False  # the operation is the last one that streams share; the last of all
        self.body = False
        self.group = self.groups = 0

    def run(self, save_tokens: bool) -> Lowered:
        trunk, operations = self.model.trunk, self.model.graph.trunk
        heads = [self.model.heads.get(self.config.tasks[stream.task].name) for stream in self.out.streams]
        routed = [index for index, operation in enumerate(operations) if operation.routed]
        for index, operation in enumerate(trunk):
            self.splits = bool(routed) and index + 1 == routed[0]
            self.last = index + 1 == len(trunk) and not any(heads)
            for step in operation.steps():
                self.step(step)
        self.finish([list(head.steps()) if head else [] for head in heads], save_tokens)
        self.draft(Opcode.END, "end")
        return self.out

    # ------------------------------------------------------------------------------------------------ drafts

    def draft(self, opcode: Opcode, label: str, fields: dict[str, Any] | None = None, **more: Any) -> None:
        self.out.drafts.append(Draft(opcode, label, fields or {}, body=self.body, group=self.group, **more))

    @contextmanager
    def loop(self) -> Iterator[None]:
        """What is drafted in here is one group."""
        self.groups += 1
        self.group = self.groups
        yield
        self.group = 0

    def transfer(
        self, opcode: Opcode, label: str, memory: Memory, base: int | At, rows: int, words: int, region: Region, **more: Any
    ) -> None:
        """LOAD or STORE of rows that lie one after the other."""
        beats = -(-rows * words * self.hardware.word_bytes // self.hardware.bus_bytes)
        fields = dict(memory=memory, destination_base=base, destination_stride=words, rows=rows, columns=words, beats=beats)
        self.draft(opcode, label, fields, region=region, **more)

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

    # ------------------------------------------------------------------------------------------------ steps

    def step(self, step: Step, slot: int | None = None, tag: str = "") -> None:
        """One step over all rows, or over those of a slot; `tag` goes into the label."""
        label = step.where + tag + step.what
        match step:
            case Embed():
                self.embed(step, label)
            case Normalise():
                self.normalise(step, label)
            case Product():
                self.product(step, label, slot)
            case Scores():
                self.scores(step, label, slot or 0)
            case Attend():
                self.attend(step, label, slot or 0)
            case Route():
                self.route(step, label, slot or 0)
            case EachStream():
                with self.loop():
                    for each in range(self.active):
                        task = self.out.streams[self.placement.slot_of.index(each)].task
                        for inner in step.steps(task):
                            self.step(inner, each, f" slot {each}" if self.active > 1 else "")
            case EachExpert():
                self.each_expert(step, label)
            case _:
                raise TypeError(f"no instructions for {step}")

    def embed(self, step: Embed, label: str) -> None:
        """Images -> residual rows of the leaders and their copy in activation memory."""
        c, h = self.config, self.hardware
        pixels = h.words(c.patch_size_words)
        per_row, patch_rows = c.patches_per_row, c.patches_per_column
        # A picture whose patches do not fit beside the residual comes in strips.
        free = h.activation_words - self.copy.words
        heights = (-(-patch_rows // strips) for strips in range(1, patch_rows + 1))
        taller = next(height for height in heights if height == 1 or (1 + height * per_row) * pixels <= free)
        image = Room("a row of patches", 1 + taller * per_row, pixels)
        position = pad(step.position, 1, 1, h.lanes).astype("<i2")
        position_region = Region(position.nbytes, position.view(np.uint8).reshape(-1))
        zero_region = Region(pixels * h.word_bytes, np.zeros(pixels * h.word_bytes, np.uint8))
        self.out.constants += [position_region, zero_region]
        self.out.images = [[] for _ in range(max(s.image for s in self.out.streams) + 1)]
        # The CLS token has no patch: its row of zeros leaves the position embedding's row 0 as it is.
        self.transfer(
            Opcode.LOAD, "no pixels for the CLS token", Memory.ACTIVATION, At(image), 1, pixels, zero_region,
            rooms=[self.copy, image], writes=[image],
        )  # fmt: skip
        for slot, number in enumerate(dict.fromkeys(stream.image for stream in self.out.streams)):
            first = slot * c.tokens
            place = f"position embedding, image {number}"
            base = first * self.width
            self.transfer(Opcode.LOAD, place, Memory.RESIDUAL, base, c.tokens, self.width, position_region, writes=[Operand.RESIDUAL])
            for start in range(0, patch_rows, taller):
                height = min(taller, patch_rows - start)
                patches, cls = height * per_row, int(start == 0)
                region = Region(c.image_channels * height * c.patch * c.image_width)
                self.out.images[number].append(region)
                part = f"image {number}" if taller == patch_rows else f"image {number}, patch rows {start}..{start + height - 1}"
                fields = dict(
                    beats=-(-region.size // h.bus_bytes),
                    rows=patches,
                    columns=pixels,
                    destination_base=At(image, pixels),
                    destination_stride=pixels,
                    across=per_row,
                    down=height,
                    channels=c.image_channels,
                    patch=c.patch,
                )
                self.draft(Opcode.IMAGE, part, fields, region=region, writes=[image])
                fields = dict(
                    rows=cls + patches,
                    stream_base=At(image, (1 - cls) * pixels),
                    stream_stride=pixels,
                    **self.into_residual(first + 1 - cls + start * per_row, self.copy),
                )
                self.matmul(f"{label}, {part}", step.linear, fields, patches, [image, Operand.RESIDUAL], [Operand.RESIDUAL, self.copy])

    def normalise(self, step: Normalise, label: str) -> None:
        """Unless the table of row scales holds it already."""
        if step != self.normalised:
            fields = dict(rows=self.active * self.config.tokens, row_base=0, elements=self.config.width)
            fields |= dict(epsilon=step.epsilon, uncentred=int(not step.centred))
            self.draft(Opcode.LAYERNORM, label, fields, writes=[Operand.NORM])
            self.normalised = step

    def product(self, step: Product, label: str, slot: int | None) -> None:
        """One MATMUL with weights; where streams part, one more for each run of followers."""
        tokens, skip = self.config.tokens, int(step.patches)
        if slot is not None:
            self.product_of(step, label, slot * tokens + skip, slot * tokens + skip, tokens - skip)
            return
        runs = [Run(0, 0, self.active)]
        if self.splits and step.into is RESIDUAL:
            self.copy_residual(step.where)
            runs += self.placement.followers
            self.active = self.placement.slots
        for run in runs:
            where = label + (f" to slot {run.slot}" if run.slot else "")
            self.product_of(step, where, run.leader * tokens, run.slot * tokens, run.count * tokens)

    def product_of(self, step: Product, label: str, source: int, row: int, rows: int) -> None:
        """One MATMUL: of what it reads the rows from `source` on; of the residual, if that is written, the rows from `row` on."""
        stream = self.room(step.reads, rows)
        fields: dict[str, Any] = dict(rows=rows, scale=SCALES[step.scale])
        fields |= dict(stream_base=At(stream, source * stream.stride), stream_stride=stream.stride)
        reads: list[Room | Operand] = [stream]
        if step.scale is RowScale.NORM:
            fields["row_base"] = source
            reads.append(Operand.NORM)
        if self.body:
            fields |= dict(gather=int(step.reads is RESIDUAL), scatter=int(step.into is RESIDUAL))
        if step.into is RESIDUAL:
            fields |= self.into_residual(row, self.updated)
            reads += [] if self.body else [Operand.RESIDUAL]
            writes: list[Room | Operand] = [Operand.RESIDUAL, *([self.updated] if self.updated else [])]
            self.normalised = None
        else:
            into = self.operand(step.into, rows)
            base = At(into) if isinstance(into, Room) else 0
            fields |= dict(memory=MEMORIES[step.into.place], destination_base=base, destination_stride=self.stride(step.into))
            fields |= dict(valid=step.into.width) if step.into.place is Place.SCORE else {}
            writes = [into]
        self.matmul(label, step.linear, fields, rows * self.config.top_k if self.body else rows, reads, writes)

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
            gelu=int(linear.gelu),
            expert_stride=stream.stride if linear.weights.ndim == 3 else 0,
        )
        self.out.macs += rows * linear.products
        region = self.weights.setdefault(id(linear), Region(linear=linear))  # there once, however often it is used
        self.draft(Opcode.MATMUL, label, fields, key=linear.key, region=region, reads=reads, writes=writes)

    def into_residual(self, row: int, copy: Room | None) -> dict[str, Any]:
        """Fields of a MATMUL that adds to the residual's rows from `row` on, and leaves a copy."""
        base = row * self.width
        fields: dict[str, Any] = dict(
            memory=Memory.RESIDUAL, residual=1, destination_base=base, destination_stride=self.width, row_base=row
        )
        return fields if copy is None else fields | dict(copy=1, copy_base=At(copy, base), copy_stride=self.width)

    def copy_residual(self, name: str) -> None:
        """Leaders' rows of the residual to their followers': through memory, as nothing on chip copies rows."""
        c, words = self.config, self.config.tokens * self.width
        shared: dict[tuple[int, int], Region] = {}
        for run in self.placement.followers:
            if (run.leader, run.count) not in shared:
                shared[run.leader, run.count] = region = Region(run.count * words * self.hardware.word_bytes)
                label = f"{name} shared residual" + (f" of slot {run.leader}" if run.leader else "")
                self.transfer(Opcode.STORE, label, Memory.RESIDUAL, run.leader * words, run.count * c.tokens, self.width, region)
        for run in self.placement.followers:
            region, label = shared[run.leader, run.count], f"{name} residual for slot {run.slot}"
            self.transfer(
                Opcode.LOAD, label, Memory.RESIDUAL, run.slot * words, run.count * c.tokens, self.width, region, writes=[Operand.RESIDUAL]
            )

    def scores(self, step: Scores, label: str, slot: int) -> None:
        c = self.config
        first, rows = slot * c.tokens, self.active * c.tokens
        queries, held, columns = self.room(step.queries, rows), self.stride(step.held), self.stride(step.into)
        fields = dict(
            stationary=Stationary.KEYS,
            stationary_base=first * held + self.start(step.held, step.keys),
            stationary_stride=held,
            memory=Memory.SCORE,
            destination_base=0,
            destination_stride=columns,
            rows=c.tokens,
            valid=c.tokens,
            chunks=self.hardware.words(step.queries.width),
            columns=columns,
            stream_base=At(queries, first * queries.stride + self.start(step.queries, step.head)),
            stream_stride=queries.stride,
            accumulator_shift=step.accumulator_shift,
            output_shift=step.output_shift,
        )
        self.attention_product(label, fields, step.queries.width, reads=[queries], writes=[Operand.SCORE])

    def attend(self, step: Attend, label: str, slot: int) -> None:
        c = self.config
        first, rows = slot * c.tokens, self.active * c.tokens
        attended, held, chunks = self.room(step.into, rows), self.stride(step.held), self.stride(step.scores)
        fields = dict(
            stationary=Stationary.VALUES,
            stationary_base=first * held + self.start(step.held, step.values),
            stationary_stride=held,
            probabilities=1,
            exponent_shift=step.exponent_shift,
            scale=Scale.SOFTMAX,
            memory=Memory.ACTIVATION,
            destination_base=At(attended, first * attended.stride + self.start(step.into, step.head)),
            destination_stride=attended.stride,
            rows=c.tokens,
            valid=c.tokens,
            chunks=chunks,
            columns=self.hardware.words(step.into.width),
            stream_base=0,
            stream_stride=chunks,
            accumulator_shift=step.accumulator_shift,
            output_shift=step.output_shift,
        )
        self.attention_product(label, fields, step.into.width, reads=[Operand.SCORE], writes=[attended])

    def attention_product(self, label: str, fields: dict[str, Any], width: int, **operands: Sequence[Room | Operand]) -> None:
        """A MATMUL that holds keys or values."""
        self.out.macs += self.config.tokens**2 * width
        self.draft(Opcode.MATMUL, label, fields, holds=[Operand.KEY_VALUE], **operands)

    def route(self, step: Route, label: str, slot: int) -> None:
        words = self.stride(step.logits)
        fields = dict(
            rows=self.config.tokens,
            row_base=slot * self.config.tokens,
            stream_base=0,
            stream_stride=words,
            columns=words,
            experts=step.experts,
            top_k=step.top_k,
            exponent_shift=step.exponent_shift,
            reset_queues=int(slot == 0),
        )
        self.draft(Opcode.ROUTE, label, fields, key=step.key, writes=[Operand.QUEUES])

    def each_expert(self, step: EachExpert, label: str) -> None:
        """All experts over the common queues. They read one copy of the residual and leave another.

        Other experts still read the old copy of a row when the first of its experts has updated it. The two copies lie at opposite ends of
        the memory, so that what is free between them stays in one piece.
        """
        rows = self.active * self.config.tokens
        self.updated = None if self.last else Room("the residual's second copy", rows, self.width, opposite=self.copy)
        inside = [self.room(inner.into, rows) for inner in step.steps if inner.into is not RESIDUAL]
        with self.loop():
            self.draft(Opcode.EXPERTS, label, dict(length=len(step.steps)), rooms=[*([self.updated] if self.updated else []), *inside])
            self.body = True
            for inner in step.steps:
                self.step(inner)
            self.body = False
        self.copy = self.updated or self.copy

    # ------------------------------------------------------------------------------------------------ results

    def finish(self, heads: Sequence[Sequence[Step]], save_tokens: bool) -> None:
        """Task heads and the stores of all results."""
        c, h = self.config, self.hardware
        for norm in (step for steps in heads for step in steps if isinstance(step, Normalise)):
            self.step(norm)
        for index, (stream, steps) in enumerate(zip(self.out.streams, heads, strict=True)):
            slot, task = self.placement.slot_of[index], c.tasks[stream.task]
            head = tokens = None
            for step in steps:
                self.step(step, slot, f", stream {index}")
                if isinstance(step, Product):
                    room = self.rooms[step.into]
                    key = self.model.graph.heads[task.name].result
                    buffer = Buffer(-1, c.patches, room.stride, h.lanes, task.head_outputs, self.model.exponents[key])
                    head = buffer, Region(buffer.size)
                    label = f"result {task.name}, stream {index}"
                    self.transfer(Opcode.STORE, label, Memory.ACTIVATION, At(room), c.patches, room.stride, head[1])
            if save_tokens or head is None:
                buffer = Buffer(-1, c.tokens, self.width, h.lanes, c.width, self.model.token_exponent)
                tokens = buffer, Region(buffer.size)
                base = slot * c.tokens * self.width
                self.transfer(Opcode.STORE, f"tokens, stream {index}", Memory.RESIDUAL, base, c.tokens, self.width, tokens[1])
            self.out.results.append(DraftResult(stream, head, tokens))
