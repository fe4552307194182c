# SPDX-License-Identifier: Apache-2.0
"""From a quantised model and a list of streams to a program, packed weights and a memory layout.

A stream is one (image, task). Streams of one image share everything before the first router; from there on each has its own token rows.
Rows lie slot after slot; the first streams of the images (their leaders) have the first slots, so that the shared part runs over
contiguous rows.

Memory, in bytes from its base: program, constants (position embedding, zeros), weights in the order of their use, images, results, trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from edgemoe.host.assembler import Assembler, Region, Shortage
from edgemoe.host.packing import pad
from edgemoe.host.program import Buffer, CompiledProgram, Stream, StreamResult, Trace
from edgemoe.hw.config import CHOICES, HardwareConfig
from edgemoe.hw.isa import BY_NAME, Memory, Opcode, Scale, Stationary
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.quantise import Head, Layer, QuantisedModel


def _slots(streams: Sequence[Stream], shared_to_the_end: bool) -> tuple[list[int], list[list[int]], int]:
    """(slot of each stream, rounds of followers' slots as [first slot, first leader slot, count], slots in all)."""
    leaders: dict[int, int] = {}
    for stream in streams:
        leaders.setdefault(stream.image, len(leaders))
    if shared_to_the_end:
        return [leaders[s.image] for s in streams], [], len(leaders)
    slots, seen = [-1] * len(streams), dict[int, int]()
    order: list[tuple[int, int, int]] = []  # (how many streams of this image came before, leader's slot, stream)
    for index, stream in enumerate(streams):
        order.append((seen.get(stream.image, 0), leaders[stream.image], index))
        seen[stream.image] = seen.get(stream.image, 0) + 1
    rounds: list[list[int]] = []
    for slot, (turn, leader, index) in enumerate(sorted(order)):
        slots[index] = slot
        if turn:
            last = rounds[-1] if rounds else None
            if last and last[1] + last[2] == leader and last[0] + last[2] == slot:
                last[2] += 1
            else:
                rounds.append([slot, leader, 1])
    return slots, rounds, len(streams)


class _Compiler(Assembler):
    def __init__(self, model: QuantisedModel, streams: list[Stream], hardware: HardwareConfig, trace: bool, save_tokens: bool) -> None:
        super().__init__(model.config.name, hardware, trace)
        self.model, self.config, self.streams, self.save_tokens = model, model.config, streams, save_tokens
        c, h = self.config, hardware
        self.words_width, self.head_words = h.words(c.width), h.words(c.head_width)
        shared = not c.moe_layers
        self.slots, self.rounds, self.slot_count = _slots(streams, shared)
        self.leaders = len({s.image for s in streams})
        self.active = self.leaders  # slots that have rows
        self.image_count = max(s.image for s in streams) + 1
        self._check()

    # ------------------------------------------------------------------------------------------------ capacities

    def _check(self) -> None:
        c, h = self.config, self.hardware
        lanes, rows = h.lanes, self.slot_count * c.tokens
        self.need("tokens a stream", c.tokens, h.tokens, tokens=c.tokens, rows=max(rows, h.rows))
        self.need(f"token rows ({self.slot_count} x {c.tokens})", rows, h.rows, rows=rows)
        residual, key_value = rows * self.words_width, rows * 2 * c.heads * self.head_words
        self.need("residual words", residual, h.residual_words, width=-(-residual // h.rows) * lanes)
        self.need("key/value words", key_value, h.key_value_words, width=-(-key_value // (2 * h.rows)) * lanes)
        self.need("score words", c.tokens * h.words(c.tokens), h.score_words)
        if c.moe_layers:
            self.need("experts", c.experts, h.experts, experts=c.experts)
            self.need("experts a token (top_k)", c.top_k, h.top_k, top_k=c.top_k)
            self.need("score words", c.tokens * h.words(c.experts), h.score_words)
        self.need("channels of a row", c.width, h.width, width=c.width)
        widest = max(c.hidden, c.expert_hidden, c.patch_size_words, 2 * c.heads * self.head_words * lanes)
        widest, most = max(widest, *(t.head_outputs for t in c.tasks)), BY_NAME["columns"].limit
        self.need("words a row", h.words(widest), most, **self._more_lanes(lambda n: n > lanes and -(-widest // n) <= most))
        self.need("pixels a patch side", c.patch, BY_NAME["patch"].limit)
        self.need("image channels", c.image_channels, BY_NAME["channels"].limit)

    @staticmethod
    def _more_lanes(suits: Callable[[int], bool]) -> dict[str, int]:
        """The remedy that a larger array is; none if none suits."""
        return next(({"lanes": lanes} for lanes in map(int, CHOICES["lanes"]) if suits(lanes)), {})

    # ------------------------------------------------------------------------------------------------ the model

    def run(self) -> CompiledProgram:
        c = self.config
        self.image_regions: list[list[Region]] = [[] for _ in range(self.image_count)]
        rows = self.slot_count * c.tokens
        copy = self.embed(rows)
        branch = c.moe_layers[0] if c.moe_layers else None
        for n, layer in enumerate(self.model.layers):
            copy = self.attention(n, layer, copy, branch == n)
            last = n == c.layers - 1 and not any(c.tasks[s.task].head_outputs for s in self.streams)
            copy = self.experts(n, layer, copy, last) if layer.routers else self.mlp(n, layer, copy)
        results = self.finish(copy)
        self.emit(Opcode.END, "end")
        return self.link(results)

    def residual_fields(self, base_row: int, copy: int | None) -> dict:
        width = self.words_width
        fields = dict(memory=Memory.RESIDUAL, residual=1, destination_base=base_row * width, destination_stride=width, row_base=base_row)
        if copy is not None:
            fields.update(copy=1, copy_base=copy + base_row * width, copy_stride=width)
        return fields

    def embed(self, rows: int) -> int:
        """Images -> residual rows of the leaders and their copy in activation memory, whose base is returned."""
        c, h, lanes = self.config, self.hardware, self.hardware.lanes
        pixels = h.words(c.patch_size_words)
        copy = self.take("the residual's copy", rows, self.words_width)
        per_row, patch_rows = c.image_width // c.patch, c.image_height // c.patch
        # A picture whose patches do not fit beside the residual comes in strips.
        for strips in range(1, patch_rows + 1):
            taller = -(-patch_rows // strips)
            base = self.activations.take((1 + taller * per_row) * pixels)
            if base is not None:
                break
        image = self.take("a row of patches", 1 + per_row, pixels) if base is None else base
        position = pad(self.model.position, 1, 1, lanes).astype("<i2")
        position_region = Region(position.nbytes, position.view(np.uint8).reshape(-1))
        zero_region = Region(pixels * h.word_bytes, np.zeros(pixels * h.word_bytes, np.uint8))
        self.constants += [position_region, zero_region]
        # The CLS token has no patch: its row of zeros leaves the position embedding's row 0 as it is.
        self.transfer(Opcode.LOAD, "no pixels for the CLS token", Memory.ACTIVATION, image, 1, pixels, zero_region, "image")
        ordered = sorted({s.image for s in self.streams}, key=lambda k: next(i for i, s in enumerate(self.streams) if s.image == k))
        for slot, number in enumerate(ordered):
            first = slot * c.tokens
            base, width = first * self.words_width, self.words_width
            label = f"position embedding, image {number}"
            self.transfer(Opcode.LOAD, label, Memory.RESIDUAL, base, c.tokens, width, position_region, "residual")
            for start in range(0, patch_rows, taller):
                height = min(taller, patch_rows - start)
                patches, cls = height * per_row, int(start == 0)
                region = Region(c.image_channels * height * c.patch * c.image_width)
                self.image_regions[number].append(region)
                part = f"image {number}" if taller == patch_rows else f"image {number}, patch rows {start}..{start + height - 1}"
                self.blocking(
                    Opcode.IMAGE,
                    part,
                    "image",
                    address=region,
                    beats=-(-region.size // h.bus_bytes),
                    rows=patches,
                    columns=pixels,
                    destination_base=image + pixels,
                    destination_stride=pixels,
                    across=per_row,
                    down=height,
                    channels=c.image_channels,
                    patch=c.patch,
                )
                self.matmul(
                    f"patch embedding, {part}",
                    self.model.patch,
                    reads=("image", "residual"),
                    writes="residual copy",
                    macs=patches * c.patch_size_words * c.width,
                    rows=cls + patches,
                    stream_base=image + (1 - cls) * pixels,
                    stream_stride=pixels,
                    **self.residual_fields(first + 1 - cls + start * per_row, copy),
                )
        self.activations.free(image)
        return copy

    def normalise(self, label: str, epsilon: int, rows: int) -> None:
        self.blocking(Opcode.LAYERNORM, label, "norm", rows=rows, row_base=0, elements=self.config.width, epsilon=epsilon)

    def attention(self, n: int, layer: Layer, copy: int, branches: bool) -> int:
        """norm1, attention and projection; with `branches` the projection fills the followers' rows, too. Returns the copy's base."""
        c, h = self.config, self.hardware
        rows, width, head, heads = self.active * c.tokens, self.words_width, self.head_words, c.heads
        name = f"layer {n}"
        self.normalise(f"{name} norm 1", layer.epsilon1, rows)
        stride = heads * head
        common: dict[str, Any] = dict(rows=rows, stream_base=copy, stream_stride=width, scale=Scale.NORM, row_base=0)
        self.matmul(
            f"{name} keys and values",
            layer.key_value,
            reads=("copy", "norm"),
            writes="kv",
            macs=2 * rows * c.width**2,
            memory=Memory.KEY_VALUE,
            destination_base=0,
            destination_stride=2 * stride,
            **common,
        )
        query = self.take("queries", rows, stride)
        self.matmul(
            f"{name} queries",
            layer.query,
            reads=("copy", "norm"),
            writes="query",
            macs=rows * c.width**2,
            memory=Memory.ACTIVATION,
            destination_base=query,
            destination_stride=stride,
            **common,
        )
        attended = self.take("attention's results", rows, stride)
        s = layer.attention
        score_words = h.words(c.tokens)
        for slot in range(self.active):
            first = slot * c.tokens
            for k in range(heads):
                where = f"{name} head {k}" + (f" slot {slot}" if self.active > 1 else "")
                macs = c.tokens * c.tokens * c.head_width
                self.matmul(
                    f"{where} scores",
                    reads=("query",),
                    holds=("kv",),
                    writes="score",
                    macs=macs,
                    stationary=Stationary.KEYS,
                    stationary_base=first * 2 * stride + k * head,
                    stationary_stride=2 * stride,
                    memory=Memory.SCORE,
                    destination_base=0,
                    destination_stride=score_words,
                    rows=c.tokens,
                    valid=c.tokens,
                    chunks=head,
                    columns=score_words,
                    stream_base=query + first * stride + k * head,
                    stream_stride=stride,
                    accumulator_shift=s.score_accumulator_shift,
                    output_shift=s.score_output_shift,
                )
                self.matmul(
                    f"{where} values",
                    reads=("score",),
                    holds=("kv",),
                    writes="attended",
                    macs=macs,
                    stationary=Stationary.VALUES,
                    stationary_base=first * 2 * stride + (heads + k) * head,
                    stationary_stride=2 * stride,
                    probabilities=1,
                    exponent_shift=s.exponent_shift,
                    scale=Scale.SOFTMAX,
                    memory=Memory.ACTIVATION,
                    destination_base=attended + first * stride + k * head,
                    destination_stride=stride,
                    rows=c.tokens,
                    valid=c.tokens,
                    chunks=score_words,
                    columns=head,
                    stream_base=0,
                    stream_stride=score_words,
                    accumulator_shift=s.value_accumulator_shift,
                    output_shift=s.value_output_shift,
                )
        self.activations.free(query)
        runs: list[Sequence[int]] = [(0, 0, self.active)]
        if branches and self.rounds:
            # The followers need the residual that the projection adds to: it goes through memory, as nothing on chip copies rows.
            shared: dict[tuple[int, int], Region] = {}
            for _, leader, count in self.rounds:
                if (leader, count) not in shared:
                    shared[leader, count] = region = Region(count * c.tokens * width * h.word_bytes)
                    self.outputs.append(region)
                    self.transfer(
                        Opcode.STORE,
                        f"{name} shared residual" + (f" of slot {leader}" if leader else ""),
                        Memory.RESIDUAL,
                        leader * c.tokens * width,
                        count * c.tokens,
                        width,
                        region,
                    )
            for slot, leader, count in self.rounds:
                base = slot * c.tokens * width
                label = f"{name} residual for slot {slot}"
                self.transfer(Opcode.LOAD, label, Memory.RESIDUAL, base, count * c.tokens, width, shared[leader, count], "residual")
            runs += self.rounds
            self.active = self.slot_count
        for slot, source, count in runs:
            self.matmul(
                f"{name} projection" + (f" to slot {slot}" if slot else ""),
                layer.projection,
                reads=("attended", "residual"),
                writes="residual copy",
                macs=count * c.tokens * c.width**2,
                rows=count * c.tokens,
                stream_base=attended + source * c.tokens * stride,
                stream_stride=stride,
                **self.residual_fields(slot * c.tokens, copy),
            )
        self.activations.free(attended)
        return copy

    def mlp(self, n: int, layer: Layer, copy: int) -> int:
        c, h = self.config, self.hardware
        rows, width, words = self.active * c.tokens, self.words_width, h.words(c.hidden)
        self.normalise(f"layer {n} norm 2", layer.epsilon2, rows)
        hidden = self.take("the MLP's hidden rows", rows, words)
        self.matmul(
            f"layer {n} MLP 1",
            layer.first,
            reads=("copy", "norm"),
            writes="hidden",
            macs=rows * c.width * c.hidden,
            rows=rows,
            row_base=0,
            scale=Scale.NORM,
            stream_base=copy,
            stream_stride=width,
            memory=Memory.ACTIVATION,
            destination_base=hidden,
            destination_stride=words,
        )
        self.matmul(
            f"layer {n} MLP 2",
            layer.second,
            reads=("hidden", "residual"),
            writes="residual copy",
            macs=rows * c.width * c.hidden,
            rows=rows,
            stream_base=hidden,
            stream_stride=words,
            **self.residual_fields(0, copy),
        )
        self.activations.free(hidden)
        return copy

    def experts(self, n: int, layer: Layer, copy: int, last: bool) -> int:
        """Router of each stream, then all experts over the common queues. They read one copy of the residual and leave another."""
        c, h = self.config, self.hardware
        rows, width = self.active * c.tokens, self.words_width
        self.normalise(f"layer {n} norm 2", layer.epsilon2, rows)
        logit_words = h.words(c.experts)
        for place, slot in enumerate(sorted(set(self.slots))):
            task = self.streams[self.slots.index(slot)].task
            router, first = layer.routers[task], slot * c.tokens
            label = f"layer {n} router of task {c.tasks[task].name}" + (f" slot {slot}" if self.active > 1 else "")
            self.matmul(
                label,
                router.linear,
                reads=("copy", "norm"),
                writes="score",
                macs=c.tokens * c.width * c.experts,
                rows=c.tokens,
                row_base=first,
                valid=c.experts,
                scale=Scale.NORM,
                stream_base=copy + first * width,
                stream_stride=width,
                memory=Memory.SCORE,
                destination_base=0,
                destination_stride=logit_words,
            )
            self.blocking(
                Opcode.ROUTE,
                f"{label}: top {c.top_k}",
                "queues",
                rows=c.tokens,
                row_base=first,
                stream_base=0,
                stream_stride=logit_words,
                columns=logit_words,
                experts=c.experts,
                top_k=c.top_k,
                exponent_shift=router.exponent_shift,
                reset_queues=int(place == 0),
            )
        words = h.words(c.expert_hidden)
        # Other experts still read the old copy of a row when the first of its experts has updated it. The two copies lie at opposite
        # ends of the memory, so that what is free between them stays in one piece.
        updated = None if last else self.take("the residual's second copy", rows, width, high=copy == 0)
        hidden = self.take("the experts' hidden rows", rows, words)
        self.blocking(Opcode.EXPERTS, f"layer {n} experts", "copy norm queues residual", length=4 if self.trace else 2)
        self.written = {}  # the loop starts when all before it is done
        self.body = (self.slot_count * c.tokens, c.experts)
        self.matmul(
            f"layer {n} expert 1",
            layer.first,
            reads=("copy", "norm"),
            writes="hidden",
            macs=rows * c.top_k * c.width * c.expert_hidden,
            rows=rows,
            gather=1,
            scale=Scale.NORM,
            stream_base=copy,
            stream_stride=width,
            memory=Memory.ACTIVATION,
            destination_base=hidden,
            destination_stride=words,
        )
        fields = self.residual_fields(0, updated)
        self.matmul(
            f"layer {n} expert 2",
            layer.second,
            reads=("hidden",),
            writes="residual copy",
            macs=rows * c.top_k * c.width * c.expert_hidden,
            rows=rows,
            scatter=1,
            scale=Scale.EXPERT,
            stream_base=hidden,
            stream_stride=words,
            **fields,
        )
        self.body = None
        self.activations.free(hidden)
        if updated is None:
            return copy
        self.activations.free(copy)
        return updated

    def finish(self, copy: int) -> list[StreamResult]:
        """Task heads and the stores of all results."""
        c, h, model = self.config, self.hardware, self.model
        width = self.words_width
        results: list[StreamResult] = []
        heads = [c.tasks[s.task] for s in self.streams]
        if any(t.head_outputs for t in heads):
            epsilon = next(iter(model.heads.values())).epsilon
            self.normalise("final norm", epsilon, self.active * c.tokens)
        self.final: list[tuple[Region | None, Region | None]] = []
        for index, (stream, task) in enumerate(zip(self.streams, heads, strict=True)):
            first = self.slots[index] * c.tokens
            head = tokens = head_region = token_region = None
            if task.head_outputs:
                words = h.words(task.head_outputs)
                linear: Head = model.heads[task.name]
                base = self.take(f"the head of task {task.name}", c.patches, words)
                self.matmul(
                    f"head {task.name}, stream {index}",
                    linear.linear,
                    reads=("copy", "norm"),
                    writes="head",
                    macs=c.patches * c.width * task.head_outputs,
                    rows=c.patches,
                    row_base=first + 1,
                    scale=Scale.NORM,
                    stream_base=copy + (first + 1) * width,
                    stream_stride=width,
                    memory=Memory.ACTIVATION,
                    destination_base=base,
                    destination_stride=words,
                )
                head = Buffer(-1, c.patches, words, h.lanes, task.head_outputs, model.exponents[f"heads.{task.name}.output"])
                head_region = Region(head.size)
                self.outputs.append(head_region)
                self.transfer(Opcode.STORE, f"result {task.name}, stream {index}", Memory.ACTIVATION, base, c.patches, words, head_region)
                self.activations.free(base)
            if self.save_tokens or not task.head_outputs:
                tokens = Buffer(-1, c.tokens, width, h.lanes, c.width, model.token_exponent)
                token_region = Region(tokens.size)
                self.outputs.append(token_region)
                self.transfer(Opcode.STORE, f"tokens, stream {index}", Memory.RESIDUAL, first * width, c.tokens, width, token_region)
            results.append(StreamResult(stream, head, tokens))
            self.final.append((head_region, token_region))
        return results

    # ------------------------------------------------------------------------------------------------ layout

    def link(self, results: list[StreamResult]) -> CompiledProgram:
        instructions, memory, size = self.layout(strip for strips in self.image_regions for strip in strips)

        def located(buffer: Buffer | None, region: Region | None) -> Buffer | None:
            return None if buffer is None or region is None else replace(buffer, offset=region.offset)

        final = [StreamResult(r.stream, located(r.head, a), located(r.tokens, b)) for r, (a, b) in zip(results, self.final, strict=True)]
        c = self.config
        return CompiledProgram(
            config=c,
            hardware=self.hardware,
            weight_bits=self.model.weight_bits,
            streams=list(self.streams),
            memory=memory,
            memory_size=size,
            program=0,
            instructions=instructions,
            images=[tuple(strip.offset for strip in strips) for strips in self.image_regions],
            image_bytes=c.image_channels * c.image_height * c.image_width,
            results=final,
            traces=[Trace(i, label, r.offset, r.size) for i, label, r in self.traced],
            macs=self.macs,
            weight_bytes=sum(r.size for r in self.weights),
            exponents=self.model.exponents,
            slots=list(self.slots),
        )


def compile(
    model: QuantisedModel,
    streams: Sequence[Stream | tuple[int, int | str]],
    hardware: HardwareConfig,
    *,
    trace: bool = False,
    save_tokens: bool = False,
) -> CompiledProgram:
    """A program for `streams`, each an (image index, task index or name).

    save_tokens: also store the final tokens of streams whose task has a head. trace: store the destination of every MATMUL.
    EdgemoeError if the model does not fit, naming the capacity, the excess, and the hardware fields with which it would.
    """
    if not streams:
        raise EdgemoeError("nothing to compile: give at least one stream (image, task)")
    listed = [s if isinstance(s, Stream) else Stream(int(s[0]), model.config.task_index(s[1])) for s in streams]
    try:
        return _Compiler(model, listed, hardware, trace, save_tokens).run()
    except Shortage as shortage:
        changes = _remedy(shortage, lambda larger: _Compiler(model, listed, larger, trace, save_tokens).run(), hardware)
        advice = "choose a larger hardware preset, fewer streams or a smaller model"
        if changes:
            advice = "it fits with " + " ".join(f"--set {name}={value}" for name, value in changes.items())
        raise EdgemoeError(f"{shortage}; {advice}") from None


def _remedy(shortage: Shortage, attempt: Callable[[HardwareConfig], object], hardware: HardwareConfig) -> dict[str, int]:
    """Hardware fields to change, and to what, so that `attempt` succeeds; none if no legal hardware was found that way."""
    changes: dict[str, int] = {}
    while shortage.remedy and shortage.remedy.items() - changes.items():
        changes |= shortage.remedy
        try:
            attempt(HardwareConfig.from_fields(changes, hardware))
        except Shortage as further:
            shortage = further
        except EdgemoeError:  # no such hardware can be built
            return {}
        else:
            return changes
    return {}
