# SPDX-License-Identifier: Apache-2.0
"""Attention by landmarks. What the array holds of a head stands behind the values in key/value memory, where `Spaces`
says; what it streams, in rooms that all heads of a layer use one after the other.

Where a sum of two products is wanted, both are one: rows have the streamed words of the second behind those of the
first, and the operands lie one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from edgemoe.host.compiler.draft import At, Operand, Region, Room
from edgemoe.host.compiler.landmarks import Spaces
from edgemoe.host.compiler.packing import pad
from edgemoe.host.compiler.steps.linear_attention import shifts
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Memory, Opcode, Scale, Stationary
from edgemoe.models.numbers.inverse import REFINEMENTS, UNIT_FRACTION
from edgemoe.models.numbers.linear import Linear
from edgemoe.models.steps import Inversion, Landmarks, Prepare, Shift, Soften, Value
from numpy.typing import NDArray


@lowers(Prepare)
def prepare(walk: Walk, step: Prepare, label: str, slot: int | None) -> None:
    solver = walk.solvers[id(step.landmarks)] = Solver(walk, step.landmarks, step.held)
    solver.prepare(label)


@lowers(Soften)
def soften(walk: Walk, step: Soften, label: str, slot: int | None) -> None:
    walk.solvers[id(step.landmarks)].head(step, label, slot or 0)


class Solver:
    """The heads of a layer, one after the other.

    A room's words of a row, in order: `points` and `marks` their channels; `kernel` the landmarks' kernel, ones;
    `inverse` V, the factor that goes with it or with Z, Z; `rest` the rest, ones, the rest.
    """

    def __init__(self, walk: Walk, landmarks: Landmarks, held: Value) -> None:
        self.walk, self.landmarks = walk, landmarks
        self.base = walk.active * walk.tokens * walk.stride(held)
        s = self.spaces = Spaces(walk.config, walk.hardware)
        self.points, self.marks = Room("points", s.tokens, s.point), Room("landmarks", s.marks, s.point)
        self.squares, self.means = Room("squares", 1, s.squares), Room("weights of means", s.marks, s.along)
        self.kernel, self.factor = Room("kernel", s.marks, 2 * s.among), Room("factor", s.marks, s.among)
        self.inverse, self.rest = (Room(name, s.marks, 3 * s.among) for name in ("inverse", "rest"))
        self.regions: dict[bytes, Region] = {}
        self.lanes: dict[tuple[int, int], Linear] = {}

    # ------------------------------------------------------------------------------------------------ pieces

    def streams(self, room: Room, offset: int = 0, stride: int = 0) -> dict[str, Any]:
        return dict(stream_base=At(room, offset), stream_stride=stride or room.stride)

    def holds(self, name: str, stride: int, keys: int, kind: Stationary = Stationary.VALUES) -> dict[str, Any]:
        start = self.base + self.spaces.start[name]
        return dict(stationary=kind, stationary_base=start, stationary_stride=stride, keys=keys)

    def into(self, room: Room, offset: int = 0, stride: int = 0) -> dict[str, Any]:
        return dict(
            memory=Memory.ACTIVATION, destination_base=At(room, offset), destination_stride=stride or room.stride
        )

    def kept(self, name: str, stride: int, offset: int = 0) -> dict[str, Any]:
        start = self.base + self.spaces.start[name] + offset
        return dict(memory=Memory.KEY_VALUE, destination_base=start, destination_stride=stride)

    def copied(self, room: Room, offset: int = 0) -> dict[str, Any]:
        """What goes to key/value memory goes to a room as well."""
        return dict(copy=1, copy_base=At(room, offset), copy_stride=room.stride)

    def product(self, label: str, rows: int, chunks: int, columns: int, shift: Shift, *fields: dict[str, Any]) -> None:
        """Of what is streamed and what is held; where both are, and where it goes, the fields say."""
        joined: dict[str, Any] = dict(rows=rows, chunks=chunks, columns=columns) | shifts(shift)
        for part in fields:
            joined |= part
        reads, holds, writes = self.operands(joined)
        inputs = chunks * self.spaces.lanes
        outputs = min(joined["keys"], columns * self.spaces.lanes)
        if joined["stationary"] == Stationary.VALUES:
            inputs, outputs = joined["keys"], columns * self.spaces.lanes
        self.walk.out.macs += rows * inputs * outputs
        self.walk.draft(Opcode.MATMUL, label, joined, reads=reads, holds=holds, writes=writes)

    def operands(self, fields: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """What must be complete, streamed and held, and what changes."""
        reads = [Operand.SCORE] if fields.get("probabilities") else [fields["stream_base"].room]
        held = fields.get("stationary_base", -1)
        holds = [] if held < 0 else [Operand.SUMMARY if held >= self.base else Operand.KEY_VALUE]
        memory, place = fields["memory"], fields["destination_base"]
        others = {Memory.KEY_VALUE: Operand.SUMMARY, Memory.SCORE: Operand.SCORE}
        writes = [place.room if isinstance(place, At) else others[memory]]
        return reads, holds, writes + ([fields["copy_base"].room] if "copy" in fields else [])

    def weights(self, label: str, linear: Linear, rows: int, *fields: dict[str, Any], more: Sequence = ()) -> None:
        """A product with weights from memory."""
        joined: dict[str, Any] = dict(rows=rows)
        for part in fields:
            joined |= part
        reads, _, writes = self.operands(joined)
        self.walk.matmul(label, linear, joined, rows, [*reads, *more], writes)

    def scores(self, label: str, room: Room, held: str, keys: int) -> None:
        """Of the points in a room with those that are held; the largest one of a row stays what it is."""
        words = self.walk.hardware.words(keys)
        into = dict(memory=Memory.SCORE, destination_base=0, destination_stride=words, append=1)
        kind = self.holds(held, self.spaces.point, keys, Stationary.KEYS)
        self.product(label, room.rows, self.spaces.point, words, self.landmarks.scores, self.streams(room), kind, into)

    def weighed(self, keys: int) -> dict[str, Any]:
        """What streams weights of these scores."""
        return dict(probabilities=1, stream_base=0, stream_stride=self.walk.hardware.words(keys))

    def load(self, label: str, rows: NDArray, room: Room | None, offset: int, stride: int, name: str = "") -> None:
        """Rows of numbers into a room, or to where a value is held."""
        data = np.ascontiguousarray(pad(rows, 1, 1, self.spaces.lanes).astype("<i2"))
        key = data.tobytes() + bytes(str(data.shape), "ascii")
        if key not in self.regions:
            self.regions[key] = Region(data.nbytes, data.view(np.uint8).reshape(-1))
            self.walk.out.constants.append(self.regions[key])
        words = data.shape[1] // self.spaces.lanes
        memory, place = Memory.ACTIVATION, At(room, offset) if room else 0
        if room is None:
            memory, place = Memory.KEY_VALUE, self.base + self.spaces.start[name]
        writes: list[Any] = [room or Operand.SUMMARY]
        self.walk.transfer(
            Opcode.LOAD, label, memory, place, len(rows), words, self.regions[key], stride, writes=writes
        )

    # ------------------------------------------------------------------------------------------------ a layer

    def prepare(self, label: str) -> None:
        """Constants; and the largest scores, which nothing changes that all heads do."""
        s, of = self.spaces, self.landmarks
        one = np.eye(s.marks)
        self.load(f"{label} ones", one * 2**UNIT_FRACTION, None, 0, s.among, "unit")
        self.load(f"{label} weights of means", of.means, self.means, 0, self.means.stride)
        self.load(f"{label} ones beside the kernel", one * of.ridge_unit, self.kernel, s.among, self.kernel.stride)
        self.load(f"{label} ones beside the rest", one * 2**UNIT_FRACTION, self.rest, s.among, self.rest.stride)
        into = dict(memory=Memory.SCORE, destination_base=0, destination_stride=1, keys=1)
        self.weights(f"{label} largest scores", of.largest, s.tokens, self.streams(self.points), into)

    def head(self, step: Soften, label: str, slot: int) -> None:
        w, s, of = self.walk, self.spaces, self.landmarks
        first = slot * w.tokens
        residual: dict[str, Any] = dict(stream_base=At(w.copy, first * w.width), stream_stride=w.width)
        residual |= dict(scale=Scale.NORM, row_base=first)
        both = self.kept("points", s.point) | self.copied(self.points)
        self.weights(f"{label} points", step.queries, s.tokens, residual, both, more=[Operand.NORM])
        self.norms(f"{label} points", self.points, "points")
        means = (self.streams(self.means), self.holds("points", s.point, s.tokens))
        both = self.kept("marks", s.point) | self.copied(self.marks)
        self.product(f"{label} landmarks", s.marks, s.along, s.head, of.mean, *means, both)
        self.norms(f"{label} landmarks", self.marks, "marks")
        self.invert(label)

        # K1^T v, and what it is solved to.
        values: dict[str, Any] = dict(
            stationary=Stationary.VALUES,
            stationary_base=first * w.stride(step.held) + w.start(step.held, step.values),
            stationary_stride=w.stride(step.held),
            keys=s.tokens,
        )
        self.scores(f"{label} scores of landmarks", self.marks, "points", s.tokens)
        self.product(
            f"{label} sums of values", s.marks, s.along, s.head, of.sums, self.weighed(s.tokens), values,
            self.kept("sums", s.head),
        )  # fmt: skip
        self.solve(label)

        attended = w.room(step.into, w.active * w.tokens)
        self.scores(f"{label} scores", self.points, "marks", s.marks)
        at = self.into(attended, first * attended.stride + w.start(step.into, step.group))
        held = self.holds(f"solution {REFINEMENTS % 2}", s.head, s.marks)
        self.product(f"{label} values", s.tokens, s.among, s.head, of.results, self.weighed(s.marks), held, at)

    def norms(self, label: str, room: Room, held: str) -> None:
        """The channels of points that halves of their squares make: first products with those near to them, two words
        of points at a time, which lie so that those with themselves are in the same lane every so many words.
        """
        s, of, lanes = self.spaces, self.landmarks, self.spaces.lanes
        for start in range(0, room.rows, 2 * lanes):
            count = min(2 * lanes, room.rows - start)
            near = self.holds(held, s.point, count, Stationary.KEYS)
            near["stationary_base"] += start * s.point
            into = self.into(self.squares, (2 * lanes + 1) * (start // lanes), 2)
            self.product(
                f"{label} squares {start}..{start + count - 1}", count, s.head, self.walk.hardware.words(count),
                of.halves, self.streams(room, start * s.point), near, into,
            )  # fmt: skip
        for lane in range(min(lanes, room.rows)):
            rows = len(range(lane, room.rows, lanes))
            squares, stride = self.streams(self.squares, 2 * lane, 2 * lanes + 1), lanes * s.point
            place = lane * s.point + s.head
            for linear, into in (
                (of.of_rows, self.into(room, place, stride)),
                (of.of_keys, self.kept(held, stride, place)),
            ):
                self.weights(f"{label} norms, lane {lane}", self.lane(linear, lane), rows, squares, into)

    def lane(self, linear: Linear, lane: int) -> Linear:
        """The same of another lane than the first."""
        if (id(linear), lane) not in self.lanes:
            weights = np.zeros((lane + 1, linear.weights.shape[1]), np.int16)
            weights[lane] = linear.weights[0]
            self.lanes[id(linear), lane] = replace(linear, weights=weights)
        return self.lanes[id(linear), lane]

    def invert(self, label: str) -> None:
        """The landmarks' kernel, and both factors of its inverse into their room: -V, Z; and what they leave."""
        s, of = self.spaces, self.landmarks
        self.scores(f"{label} scores among landmarks", self.marks, "marks", s.marks)
        self.product(
            f"{label} kernel", s.marks, s.among, s.among, of.kernel, self.weighed(s.marks),
            self.holds("unit", s.among, s.marks), self.into(self.kernel),
        )  # fmt: skip
        self.weights(f"{label} matrix", of.ridged, s.marks, self.streams(self.kernel), self.kept("matrix", s.among))
        self.steps(f"{label} V", of.first, "matrix", 0)
        self.product(
            f"{label} V times the matrix", s.marks, s.among, s.among, of.product, self.streams(self.inverse),
            self.holds("matrix", s.among, s.marks), self.kept("product", s.among),
        )  # fmt: skip
        self.steps(f"{label} Z", of.second, "unit", 2 * s.among)
        ones = np.eye(s.marks) * of.last
        self.load(f"{label} ones beside Z", ones, self.inverse, s.among, self.inverse.stride)
        for offset in (0, 2 * s.among):
            self.beside(f"{label} rest", of.rest, "unit", self.into(self.rest, offset))

    def steps(self, label: str, of: Inversion, held: str, place: int) -> None:
        """Of an inverse at its place in a row; held: the matrix and ones, in the order of the row."""
        s, one, factor = self.spaces, np.eye(self.spaces.marks), 0
        self.load(f"{label} start", one * of.start, self.inverse, place, self.inverse.stride)
        self.load(f"{label} start", one * of.start, None, 0, s.among, "inverse 0")
        for number, (word, before, after) in enumerate(zip(of.factors, of.before, of.after, strict=True)):
            if word != factor:
                self.load(f"{label} ones {number}", one * word, self.inverse, s.among, self.inverse.stride)
                factor = word
            self.beside(f"{label} factor {number}", before, held, self.into(self.factor))
            was = self.holds(f"inverse {number % 2}", s.among, s.marks)
            both = self.kept(f"inverse {(number + 1) % 2}", s.among) | self.copied(self.inverse, place)
            self.product(
                f"{label} step {number}", s.marks, s.among, s.among, after, self.streams(self.factor), was, both
            )

    def beside(self, label: str, shift: Shift, held: str, into: dict[str, Any]) -> None:
        """Two neighbouring blocks of the inverse's rows with two that are held."""
        s = self.spaces
        streamed = self.streams(self.inverse, 0 if held == "matrix" else s.among)
        both = self.holds(held, s.among, s.block + s.marks)
        self.product(label, s.marks, 2 * s.among, s.among, shift, streamed, both, into)

    def solve(self, label: str) -> None:
        """Both factors of the inverse times the sums of values, refined by what the rest takes of that."""
        s, of = self.spaces, self.landmarks
        self.product(
            f"{label} V times sums", s.marks, s.among, s.head, of.turned, self.streams(self.inverse),
            self.holds("sums", s.head, s.marks), self.kept("turned", s.head),
        )  # fmt: skip
        for name in ("first", "solution 0"):
            self.product(
                f"{label} {name}", s.marks, s.among, s.head, of.solution, self.streams(self.inverse, 2 * s.among),
                self.holds("turned", s.head, s.marks), self.kept(name, s.head),
            )  # fmt: skip
        for number in range(REFINEMENTS):
            odd = number % 2  # the first solution is behind the zeroth, and the other one behind that
            held = self.holds("first" if odd else "solution 0", s.head, s.block + s.marks)
            self.product(
                f"{label} refined {number}", s.marks, 2 * s.among, s.head, of.refined,
                self.streams(self.rest, odd * s.among), held, self.kept(f"solution {1 - odd}", s.head),
            )  # fmt: skip
