# SPDX-License-Identifier: Apache-2.0
"""The steps of a model that is larger than the chip, as `split` cuts it.

    phase    all tiles                                                       then
    first    picture -> residual; norm, queries, keys, values -> memory      attention, head by head -> memory
    others   residual, attention's results <- memory; projection, MLP or
             experts; norm, queries, keys, values, residual -> memory        attention, head by head -> memory
    last     residual, attention's results <- memory; projection, MLP or
             experts; heads -> memory                                        -

Streams of an image share everything before the phase in which a router stands, and part there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgemoe.host.compiler.draft import At, DraftResult, Lowered, Operand, Region, Room
from edgemoe.host.compiler.split import Split, pieces, row_unit, unit
from edgemoe.host.compiler.steps.attention import Held, score_product, value_product
from edgemoe.host.compiler.steps.embedding import Embedding, position_of
from edgemoe.host.compiler.steps.products import product_of
from edgemoe.host.compiler.streams import Placement
from edgemoe.host.compiler.walk import Walk
from edgemoe.host.runtime.program import Buffer, Stream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.models.numbers.quantise import QuantisedModel
from edgemoe.models.steps import Attend, EachStream, Embed, Normalise, Product, Scores, Step

QUERIES, KEYS, VALUES, ATTENDED, RESIDUAL = "queries", "keys", "values", "attention's results", "residual"

Spilled = tuple[str, int, int]  # a value that is in memory: its name, group of heads, column
Pairs = Sequence[tuple[Scores, Attend]]  # of each head


@dataclass
class Phase:
    """What runs over tiles - (title, whether its rows depend on the task, step) -, then attention, if any is left."""

    steps: list[tuple[str, Step]] = field(default_factory=list)
    routed: bool = False
    attention: tuple[str, Pairs] | None = None


@dataclass
class Track:
    """Streams that have all in common up to here; they are led by the first, in whose slot their rows are counted.

    spilled: where its values are.
    """

    streams: list[int]
    slot: int
    spilled: dict[Spilled, Region] = field(default_factory=dict)


def phases(model: QuantisedModel) -> list[Phase]:
    """A model's steps between its attentions."""
    found = [Phase()]
    for operation, quantised in zip(model.graph.trunk, model.trunk, strict=True):
        found[-1].routed |= operation.routed
        for step in quantised.steps():
            inner = step.steps(0) if isinstance(step, EachStream) else []
            if inner and isinstance(inner[0], Scores):
                pairs = [(s, a) for s, a in zip(inner[::2], inner[1::2], strict=True)]
                assert all(isinstance(s, Scores) and isinstance(a, Attend) for s, a in pairs)
                found[-1].attention = operation.title, pairs  # type: ignore[assignment]
                found.append(Phase())
            else:
                found[-1].steps.append((operation.title, step))
    return found


def lower_tiled(
    model: QuantisedModel,
    streams: list[Stream],
    placement: Placement,
    hardware: HardwareConfig,
    save_tokens: bool,
    split: Split,
) -> Lowered:
    """All instructions of a pass, in order."""
    walk = TileWalk(model, streams, placement, hardware, save_tokens, split)
    for number in dict.fromkeys(stream.image for stream in streams):
        members = [index for index, stream in enumerate(streams) if stream.image == number]
        tracks = [Track(members, placement.slot_of[members[0]])]
        before = None
        for phase in phases(model):
            if phase.routed and len(tracks) == 1 and placement.followers:
                tracks = [Track([i], placement.slot_of[i], dict(tracks[0].spilled)) for i in members]
            for track in tracks:
                for tile in split.tiles:
                    walk.tile(phase, before, track, tile)
            for track in tracks if phase.attention else ():
                walk.attention(phase, track)
            before = phase.attention
    walk.out.results.extend(walk.results[index] for index in range(len(streams)))
    walk.draft(Opcode.END, "end")
    return walk.out


class TileWalk(Walk):
    """Over one tile after the other: `active` is 1, and `tokens` those of the tile."""

    def __init__(
        self,
        model: QuantisedModel,
        streams: list[Stream],
        placement: Placement,
        hardware: HardwareConfig,
        save_tokens: bool,
        split: Split,
    ) -> None:
        super().__init__(model, streams, placement, hardware)
        self.split, self.active = split, 1
        self.regions: dict[tuple[int, Spilled], Region] = {}  # by slot: used again in every layer
        self.positions: dict[int, Region] = {}  # by the first row of a tile
        self.results = {index: self._result(index, save_tokens) for index in range(len(streams))}
        self.stream = 0

    def task_of(self, slot: int) -> int:
        """That of the streams whose tile it is."""
        return self.out.streams[self.stream].task

    # ------------------------------------------------------------------------------------------------ tiles

    def tile(self, phase: Phase, before: tuple[str, Pairs] | None, track: Track, tile: range) -> None:
        """A phase's steps over a tile. before: the attention whose results it reads."""
        self.tokens, self.stream = len(tile), track.streams[0]
        self.origin = track.slot * self.config.tokens + tile.start
        self.copy = self.updated = Room("the residual's copy", len(tile), self.width)
        self.rooms, self.normalised = {}, None
        name = self._name(track, tile)
        if before:
            self.part = before[0]
            place = track.spilled[RESIDUAL, 0, 0]
            self._move(Opcode.LOAD, f"residual{name}", Memory.RESIDUAL, 0, self.width, tile, place)
            room = self.room(before[1][0][1].into, len(tile))
            for number, group in enumerate(self.split.groups(self.config.heads)):
                start, words = group.start * self._head, len(group) * self._head
                place = track.spilled[ATTENDED, number, 0]
                label = f"{ATTENDED} of {self._heads(group)}{name}"
                rooms, at = [self.copy, room], At(room, start)
                self._move(Opcode.LOAD, label, Memory.ACTIVATION, at, words, tile, place, room.stride, rooms=rooms)
        for title, step in phase.steps:
            self.part = title
            self.last = not phase.attention and step is phase.steps[-1][1] and not self._heads_here(track)
            if isinstance(step, Embed):
                self._embed(step, track, tile)
            else:
                self.step(step, None, name)
        if phase.attention:
            self._spill(phase.attention[1], track, tile)
        else:
            self._finish(track, tile)

    def _embed(self, step: Embed, track: Track, tile: range) -> None:
        """Pictures have the same positions, which are there once."""
        pixels = self.hardware.words(self.config.patch_size_words)
        prefix = max(0, min(self.config.prefix, tile.stop) - tile.start)
        most = (self.hardware.activation_words - self.copy.words) // pixels - prefix
        if tile.start not in self.positions:
            self.positions[tile.start] = position_of(self, step, tile)
        embedding = Embedding(self, step, tile, max(1, most), self.positions[tile.start])
        embedding.picture(step.where + step.what, self.out.streams[self.stream].image, 0)

    def _spill(self, pairs: Sequence[tuple[Scores, Attend]], track: Track, tile: range) -> None:
        """Residual, queries, keys and values to memory: of each group of heads in one piece."""
        name, slot = self._name(track, tile), track.slot
        queries, held = self.room(pairs[0][0].queries, len(tile)), self.stride(pairs[0][0].held)
        for number, group in enumerate(self.split.groups(self.config.heads)):
            heads, words = self._heads(group), len(group) * self._head
            start = self.start(pairs[0][0].queries, pairs[group.start][0].head)
            place = self._region(track, (QUERIES, number, 0), words)
            label = f"{QUERIES} of {heads}{name}"
            self._move(Opcode.STORE, label, Memory.ACTIVATION, At(queries, start), words, tile, place, queries.stride)
            start = self.start(pairs[0][0].held, pairs[group.start][0].keys)
            place = self._region(track, (KEYS, number, 0), words)
            self._move(Opcode.STORE, f"{KEYS} of {heads}{name}", Memory.KEY_VALUE, start, words, tile, place, held)
            start = self.start(pairs[0][1].held, pairs[group.start][1].values)
            label = f"{VALUES} of {heads}{name}"
            for part in pieces(range(words), self.split.columns if self.split.parted else words):
                place = self._region(track, (VALUES, number, part.start), len(part))
                self._move(Opcode.STORE, label, Memory.KEY_VALUE, start + part.start, len(part), tile, place, held)
        # Streams that part read the residual that they share after the first of them has gone on.
        turn = 1 - self._turn(track)
        place = self.regions.setdefault((slot, (RESIDUAL, 0, turn)), self._sized(self.width))
        self._move(Opcode.STORE, f"residual{name}", Memory.RESIDUAL, 0, self.width, tile, place)
        if tile.stop == self.split.tokens:
            track.spilled[RESIDUAL, 0, 0] = place

    def _turn(self, track: Track) -> int:
        """Which of its two residuals it reads."""
        present = track.spilled.get((RESIDUAL, 0, 0))
        return int(present is not None and present is self.regions.get((track.slot, (RESIDUAL, 0, 1))))

    # ------------------------------------------------------------------------------------------------ attention

    def attention(self, phase: Phase, track: Track) -> None:
        """Heads of a group, tile after tile of queries."""
        assert phase.attention
        self.part, pairs = phase.attention
        self.origin = track.slot * self.config.tokens
        for number, group in enumerate(self.split.groups(self.config.heads)):
            words, heads = len(group) * self._head, self._heads(group)
            if not self.split.parted:
                for kind, start in ((KEYS, 0), (VALUES, words)):
                    self._hold(f"{kind} of {heads}", track, (kind, number, 0), start, 2 * words)
            for tile in self.split.tiles:
                self.tokens, name = len(tile), self._name(track, tile)
                queries, attended = (Room(kind, len(tile), words) for kind in (QUERIES, ATTENDED))
                place, label = track.spilled[QUERIES, number, 0], f"{QUERIES} of {heads}{name}"
                self._move(Opcode.LOAD, label, Memory.ACTIVATION, At(queries), words, tile, place, writes=[queries])
                for rows in pieces(range(len(tile)), self.split.queries):
                    for head in group:
                        self._head_of(pairs[head], track, head - group.start, rows, queries, attended, 2 * words)
                place, label = self._region(track, (ATTENDED, number, 0), words), f"{ATTENDED} of {heads}{name}"
                self._move(Opcode.STORE, label, Memory.ACTIVATION, At(attended), words, tile, place)

    def _head_of(
        self,
        pair: tuple[Scores, Attend],
        track: Track,
        place: int,
        rows: range,
        queries: Room,
        attended: Room,
        held: int,
    ) -> None:
        """Some rows of a head, which has this place in its group."""
        (scores, attend), count, start = pair, self.split.tokens, place * self._head
        # Which rows these are is said where there are several.
        name = f" rows {rows.start}..{rows.stop - 1}" if len(rows) < queries.rows else ""
        labels = [step.where + name + step.what for step in pair]
        wanted = At(queries, rows.start * queries.stride + start)
        result = At(attended, rows.start * attended.stride + start)
        if not self.split.parted:
            score_product(self, scores, labels[0], wanted, len(rows), Held(start, held, count))
            values = Held(held // 2 + start, held, count)
            value_product(self, attend, labels[1], result, len(rows), values, self._head)
            return
        for part in pieces(range(count), self.split.keys):
            self._hold(f"{scores.where} keys", track, (KEYS, scores.head, 0), 0, self._head, part)
            keys = Held(0, self._head, len(part))
            score_product(self, scores, labels[0], wanted, len(rows), keys, part.start)
        for part in pieces(range(self._head), self.split.columns):
            self._hold(f"{attend.where} values", track, (VALUES, scores.head, part.start), 0, len(part))
            into, lanes = At(attended, result.offset + part.start), self.hardware.lanes
            channels = min(attend.into.width, part.stop * lanes) - part.start * lanes
            value_product(self, attend, labels[1], into, len(rows), Held(0, len(part), count), len(part), channels)

    def _hold(
        self, label: str, track: Track, value: Spilled, start: int, stride: int, keys: range | None = None
    ) -> None:
        """Keys or values from memory, word `start` of each `stride`; keys: which, all if None."""
        region = track.spilled[value]
        words = region.size // (self.split.tokens * self.hardware.word_bytes)
        keys = keys or range(self.split.tokens)
        most = self.hardware.rows // unit(self.hardware, self.split.parted) * unit(self.hardware, self.split.parted)
        for piece in pieces(keys, most):
            base = (piece.start - keys.start) * stride + start
            writes = [Operand.KEY_VALUE]
            self._move(Opcode.LOAD, label, Memory.KEY_VALUE, base, words, piece, region, stride, writes=writes)

    # ------------------------------------------------------------------------------------------------ results

    def _result(self, index: int, save_tokens: bool) -> DraftResult:
        """Buffers of a stream's head and tokens; they begin at its first row."""
        c, h, stream = self.config, self.hardware, self.out.streams[index]
        task, head, tokens = c.tasks[stream.task], None, None
        if operation := self.model.graph.heads.get(task.name):
            rows, words = c.head_rows(task), h.words(task.head_outputs)
            exponent = self.model.exponents[operation.result]
            first = rows.start * words * h.word_bytes
            head = Buffer(first, len(rows), words, h.lanes, task.head_outputs, exponent), self._sized(words)
        if save_tokens or head is None:
            buffer = Buffer(0, c.tokens, self.width, h.lanes, c.width, self.model.token_exponent)
            tokens = buffer, self._sized(self.width)
        return DraftResult(stream, head, tokens)

    def _heads_here(self, track: Track) -> bool:
        """Whether the array computes the head of one of a track's streams."""
        return any(self.results[index].head for index in track.streams)

    def _finish(self, track: Track, tile: range) -> None:
        """A tile's part of task heads and tokens."""
        c, name = self.config, self._name(track, tile)
        for index in track.streams:
            stream, result = self.out.streams[index], self.results[index]
            task, tag = c.tasks[stream.task], f", stream {index}{name}"
            operation = self.model.graph.heads.get(task.name)
            self.part = operation.title if operation else "results"
            if result.head:
                for step in self.model.heads[task.name].steps():
                    if isinstance(step, Normalise):
                        self.step(step)
                    if isinstance(step, Product):
                        self._head_rows(step, tag, tile, c.head_rows(task), result.head[1])
            if result.tokens:
                region, label = result.tokens[1], f"tokens{tag}"
                self._move(Opcode.STORE, label, Memory.RESIDUAL, 0, self.width, tile, region)

    def _head_rows(self, step: Product, tag: str, tile: range, wanted: range, region: Region) -> None:
        """Those rows of a tile that the head is to see, and some before them, as a STORE begins at 64 bytes."""
        words = self.stride(step.into)
        step_rows = row_unit(self.hardware, words)
        first = max(tile.start, wanted.start // step_rows * step_rows)
        most = (self.hardware.activation_words - self.copy.words) // words // step_rows * step_rows
        for rows in pieces(range(first, min(tile.stop, wanted.stop)), max(1, most)):
            source = rows.start - tile.start
            product_of(self, step, step.where + tag + step.what, source, source, len(rows))
            room = self.rooms.pop(step.into)
            label = f"result {step.where}{tag}"
            self._move(Opcode.STORE, label, Memory.ACTIVATION, At(room), words, rows, region)

    # ------------------------------------------------------------------------------------------------ memory

    @property
    def _head(self) -> int:
        """Words of a head."""
        return self.hardware.words(self.config.head_width)

    def _name(self, track: Track, tile: range) -> str:
        """What tells a tile apart."""
        slot = f" slot {track.slot}" if self.placement.slots > 1 else ""
        return slot + (f" tokens {tile.start}..{tile.stop - 1}" if len(tile) < self.split.tokens else "")

    def _heads(self, group: range) -> str:
        return f"head {group.start}" if len(group) == 1 else f"heads {group.start}..{group.stop - 1}"

    def _sized(self, words: int) -> Region:
        """For rows of `words` of all tokens."""
        return Region(self.split.tokens * words * self.hardware.word_bytes)

    def _region(self, track: Track, value: Spilled, words: int) -> Region:
        """Where a track's value goes, in every layer."""
        found = self.regions.setdefault((track.slot, value), self._sized(words))
        track.spilled[value] = found
        return found

    def _move(
        self,
        opcode: Opcode,
        label: str,
        memory: Memory,
        base: int | At,
        words: int,
        rows: range,
        region: Region,
        stride: int = 0,
        **more: Sequence[Room | Operand],
    ) -> None:
        """Rows of `words` between a region that holds those of all tokens and a place on chip."""
        offset = rows.start * words * self.hardware.word_bytes
        self.transfer(opcode, label, memory, base, len(rows), words, region, stride, offset=offset, **more)
