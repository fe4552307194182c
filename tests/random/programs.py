# SPDX-License-Identifier: Apache-2.0
"""Random programs that the instruction set allows, with the wait flags that its dependency rule asks for and no others.

What makes a program legal, beside what the sequencer checks:

- No instruction writes words that it streams or loads itself, or one word twice.
- An instruction that reads what an earlier one wrote waits, unless that one is complete anyway: when a MATMUL begins to
  stream, all but the one before it are complete; when it loads stationary operands, what was complete when the MATMUL
  before it began to stream.
- Probabilities are taken of scores whose maxima are in the table; row scales are read where they have been written; row
  statistics are changed by differences only where they agree with the residual.
- A queue holds a row once.

The memory is random everywhere, so that whatever is written astray shows; at the end all on-chip memories are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from edgemoe.hw.contract.config import PARAMETER_WORDS, HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Activation, Instruction, Memory, Opcode, Scale, Stationary
from edgemoe.hw.contract.weight_stream import WeightStream
from numpy.typing import NDArray

MAX_INSTRUCTIONS = 200
ON_CHIP = (Stationary.KEYS, Stationary.VALUES)
BLOCKING = (Opcode.LOAD, Opcode.STORE, Opcode.IMAGE, Opcode.LAYERNORM, Opcode.ROUTE)


@dataclass
class Program:
    """`memory`: the whole image before the run. `outputs`: (offset, size) of all STOREs, expert copies included."""

    hardware: HardwareConfig
    instructions: list[Instruction]
    memory: NDArray[np.uint8]
    outputs: list[tuple[int, int]] = field(default_factory=list)

    def link(self) -> NDArray[np.uint8]:
        """The memory with the instructions in it."""
        memory = self.memory.copy()
        code = b"".join(i.encode() for i in self.instructions)
        memory[: len(code)] = np.frombuffer(code, np.uint8)
        return memory


def extent(base: int, rows: int, stride: int, columns: int) -> NDArray[np.int64]:
    """Addresses of the words of an operand."""
    return (base + np.arange(rows)[:, None] * stride + np.arange(columns)).reshape(-1)


class Generator:
    """One random program of a seed."""

    def __init__(self, hardware: HardwareConfig, seed: int, length: int = 30) -> None:
        self.h, self.rng, self.length = hardware, np.random.default_rng(seed), length
        h = hardware
        self.activations = [Activation.of(function) for function in h.functions]
        self.depth = {
            Memory.ACTIVATION: h.activation_words,
            Memory.KEY_VALUE: h.key_value_words,
            Memory.RESIDUAL: h.residual_words,
            Memory.SCORE: h.score_words,
        }
        self.instructions: list[Instruction] = []
        self.chunks_of_memory: list[tuple[int, NDArray[np.uint8]]] = []
        self.position = (MAX_INSTRUCTIONS + 16) * INSTRUCTION_BYTES
        self.outputs: list[tuple[int, int]] = []
        # The number of rows that queues may name, and the width of the residual's rows.
        self.rows = self.pick(1, h.rows)
        self.width = self.pick(1, h.words(h.width))
        # Dependencies: the dynamic number of the last writer of each word, and of the tables of softmax.
        self.writer = {memory: np.full(depth, -1, np.int64) for memory, depth in self.depth.items()}
        self.table_writer: dict[str | int, int] = {"maximum": -1, "softmax": -1, 1: -1, 2: -1, 3: -1}  # 1..3: of maxima
        self.now = 0  # dynamic number of the next instruction
        self.complete = 0  # all instructions before this one are complete when the next one can be issued
        self.complete_before_last_stream = 0  # ... when the last MATMUL began to stream
        self.before: tuple[int, dict[str, int], dict[Memory, NDArray]] | None = None  # the last MATMUL: number, writes
        self.sweeps, self.swept = False, 0  # a LAYERNORM is the last, beside which a MATMUL may begin; its row_base
        # Contents of the tables.
        self.kept = np.zeros((4, h.table_rows), bool)  # rows whose maxima are in a table
        self.scores: tuple[int, int, int, int, int] | None = (
            None  # rows, base, stride, columns, keys of the maxima in the table
        )
        self.softmax_rows = 0
        self.norm = np.zeros(h.rows, bool)
        self.head_norm = np.zeros(h.rows, bool)
        self.statistics = np.zeros(h.rows, bool)
        self.consistent = np.zeros(h.rows, bool)  # with the row at row * width of the residual
        self.routed = np.zeros(h.rows, bool)

    # ------------------------------------------------------------------------------------------------ choices

    def pick(self, low: int, high: int) -> int:
        """A number whose extremes are as likely as all between them."""
        kind = self.rng.random()
        if kind < 0.2:
            return low
        if kind < 0.35:
            return high
        if kind < 0.5:
            return min(high, low + int(self.rng.integers(1, 4)))
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def choose(self, *values):
        return values[int(self.rng.integers(len(values)))]

    # ------------------------------------------------------------------------------------------------ memory

    def buffer(self, size: int, data: NDArray[np.uint8] | None = None) -> int:
        """Room of whole beats, aligned to 64 bytes, with at least 64 bytes between it and the next."""
        offset = self.position
        if data is not None:
            self.chunks_of_memory.append((offset, data))
        self.position += -(-size // 64) * 64 + 64
        return offset

    def numbers(self, count: int, bits: int) -> NDArray[np.int64]:
        """Signed numbers of up to `bits` bits: uniform, of a few bits, or with the extremes among them."""
        limit = 1 << self.pick(1, bits) - 1
        values = self.rng.integers(-limit, limit, count, endpoint=False)
        if self.chance(0.3):
            values = np.where(self.rng.random(count) < 0.1, self.choose(-(1 << bits - 1), (1 << bits - 1) - 1), values)
        return values

    def parameters(self, count: int) -> list[NDArray[np.uint8]]:
        """Of so many column blocks."""
        h, parts = self.h, []
        for _ in range(count):
            bias = self.numbers(h.lanes, 27)
            if h.packed:  # a smoothing above it
                bias ^= self.rng.integers(0, 8, h.lanes) * int(self.chance(0.5)) << 27
            multiplier = (
                self.rng.integers(1 << 14, 1 << 16, h.lanes)
                if self.chance(0.8)
                else self.rng.integers(0, 1 << 16, h.lanes)
            )
            filling = self.rng.integers(0, 1 << 16, h.lanes * (h.parameter_words - PARAMETER_WORDS))
            parts.append(
                np.concatenate([bias & 0xFFFF, bias >> 16 & 0xFFFF, multiplier, filling]).astype("<u2").view(np.uint8)
            )
        return parts

    def weights(self, chunks: int, columns: int, eight: bool, packed: bool) -> tuple[int, int, int]:
        """(offset, beats, bytes) of a random weight stream."""
        h = self.h
        stream = WeightStream(h, chunks, columns, 8 if eight else 16, packed)
        parts: list[NDArray[np.uint8]] = []
        for _ in range(stream.parts):
            parts += self.parameters(stream.together)
            values = self.numbers(stream.together * chunks * h.lanes**2, 8 if eight else 16)
            parts.append(values.astype("i1" if eight else "<i2").view(np.uint8))
        data = np.concatenate(parts)
        assert data.size == stream.size
        return self.buffer(data.size, data), stream.beats, data.size

    # ------------------------------------------------------------------------------------------------ program

    def generate(self) -> Program:
        self.prologue()
        choices = [
            (self.matmul, 12), (self.attention, 3), (self.residual, 4), (self.layernorm, 2), (self.route, 2),
            (self.experts, 3), (self.load, 1), (self.store, 1), (self.image, 1), (self.burst_of_short_ones, 2),
        ]  # fmt: skip
        if self.h.packed:
            choices.append((self.scaled_beside, 4))
        share = np.array([weight for _, weight in choices], float)
        while len(self.instructions) < self.length:
            choices[int(self.rng.choice(len(choices), p=share / share.sum()))][0]()
        return self.finish()

    def finish(self) -> Program:
        """What there is so far, and all memories stored."""
        for memory in Memory:
            self.store_all(memory)
        self.emit(Opcode.END)
        if len(self.instructions) > MAX_INSTRUCTIONS:
            raise ValueError(f"{len(self.instructions)} instructions: more than there is room for")
        memory = self.rng.integers(0, 256, -(-self.position // 4096) * 4096 + 4096, np.uint8)
        for offset, data in self.chunks_of_memory:
            memory[offset : offset + data.size] = data
        return Program(self.h, self.instructions, memory, self.outputs)

    def emit(self, opcode: Opcode, **values: int) -> Instruction:
        instruction = Instruction(
            opcode, {name: int(value) for name, value in values.items()}, f"{len(self.instructions)}"
        )
        self.instructions.append(instruction)
        return instruction

    def blocking(self, opcode: Opcode, **values: int) -> None:
        """An instruction that runs when all before it is complete."""
        self.emit(opcode, **values)
        self.now += 1
        self.complete, self.sweeps = self.now, False

    def prologue(self) -> None:
        """Every word of every memory gets a value: score memory from MATMULs, the others from LOADs."""
        h = self.h
        for memory in (Memory.ACTIVATION, Memory.KEY_VALUE, Memory.RESIDUAL):
            words = self.depth[memory]
            rows = next(r for r in range(h.rows, 0, -1) if words % r == 0 and words // r <= 1023)
            data = self.numbers(words * h.lanes, 16).astype("<i2").view(np.uint8)
            fields = {"destination_stride": words // rows, "rows": rows, "columns": words // rows}
            self.blocking(
                Opcode.LOAD,
                memory=memory,
                address=self.buffer(data.size, data),
                beats=-(-data.size // h.bus_bytes),
                **fields,
            )
            self.writer[memory][:] = self.now - 1
        columns = h.score_words // h.tokens
        fields = {
            "destination_stride": columns,
            "columns": columns,
            "rows": h.tokens,
            "keys": columns * h.lanes,
        }
        self.emit_matmul({**self.shifts(), "memory": Memory.SCORE, **fields}, stationary=Stationary.WEIGHTS16, chunks=2)

    def shifts(self) -> dict[str, int]:
        """The numeric fields of a MATMUL, mostly such that results are neither all zero nor all saturated."""
        accumulator = self.pick(-64, 63) if self.chance(0.15) else int(self.rng.integers(0, 22))
        return {
            "accumulator_shift": accumulator,
            "output_shift": int(self.rng.integers(0, 16)),
            "residual_shift": int(self.rng.integers(0, 12)),
            "bias_shift": int(self.rng.integers(0, 21)),
            "bias_first": int(self.chance(0.3)),
            "activation": int(self.rng.choice(self.activations)) if self.chance(0.4) else 0,
            **({"raised": int(self.chance(0.5))} if self.h.packed else {}),
            "exponent_shift": int(self.rng.integers(0, 16)),
        }

    def operand(self, memory: Memory, rows: int, words: int, spaced: bool) -> tuple[int, int] | None:
        """(base, stride) of an operand somewhere in a memory; `spaced`: its rows do not overlap.
        None if there is no room.
        """
        least = words if spaced and rows > 1 else 0
        most = min(1023, (self.depth[memory] - words) // max(1, rows - 1)) if words <= self.depth[memory] else -1
        if most < least:
            return None
        stride = self.pick(least, min(most, words + 4) if self.chance(0.7) and words + 4 >= least else most)
        return int(self.rng.integers(0, self.depth[memory] - words - (rows - 1) * stride + 1)), stride

    # ------------------------------------------------------------------------------------------------ MATMUL

    def emit_matmul(
        self,
        fields: dict[str, int],
        *,
        stationary: Stationary,
        chunks: int,
        probabilities: bool = False,
        stream: tuple[int, int] | None = None,
        apart: int = 0,
    ) -> bool:
        """Complete a MATMUL whose destination is in `fields` with operands that it does not overwrite; False if none
        are found.

        apart: distance of the experts' weights, 0 outside EXPERTS.
        """
        h, lanes = self.h, self.h.lanes
        rows, columns = fields["rows"], fields["columns"]
        memory = Memory(fields["memory"])
        written = {memory: extent(fields.get("destination_base", 0), rows, fields["destination_stride"], columns)}
        if fields.get("copy"):
            written[Memory.ACTIVATION] = extent(fields["copy_base"], rows, fields["copy_stride"], columns)
        streamed_memory = Memory.SCORE if probabilities else Memory.ACTIVATION
        for _ in range(8):
            place = stream or (not probabilities and self.just_written(rows, chunks))
            place = place or self.operand(streamed_memory, rows, chunks, False)
            if place is None:
                return False
            streamed = extent(place[0], rows, place[1], chunks)
            if not np.isin(streamed, written.get(streamed_memory, ())).any():
                break
        else:
            return False
        fields.update(stream_base=place[0], stream_stride=place[1], stationary=stationary, chunks=chunks)
        fields["probabilities"] = int(probabilities)
        if probabilities and len(h.weighings) > 1:
            fields.update(score_bias=int(self.numbers(1, 16)[0]))
        if (probabilities or memory == Memory.SCORE) and len(h.kinds) > 1:
            fields["attention"] = self.choose(*h.kinds)
        loaded = None
        if stationary in ON_CHIP:
            blocks = columns if stationary == Stationary.KEYS else chunks
            words = chunks if stationary == Stationary.KEYS else columns
            if not fields.get("keys"):
                fields["keys"] = self.pick(1, blocks * lanes + 3)
            for _ in range(8):
                found = self.operand(Memory.KEY_VALUE, fields["keys"], words, False)
                if found is None:
                    return False
                loaded = extent(found[0], fields["keys"], found[1], words)
                if not np.isin(loaded, written.get(Memory.KEY_VALUE, ())).any():
                    break
            else:
                return False
            fields.update(stationary_base=found[0], stationary_stride=found[1])
        else:
            eight = stationary == Stationary.WEIGHTS8
            if h.packed and self.chance(0.7):
                fields.update(packed=1, unsigned=int(self.chance(0.4)), **self.steps(fields, rows))
            packed = bool(fields.get("packed")) and eight and not probabilities
            copies = h.experts if apart else 1
            first, beats, size = self.weights(chunks, columns, eight, packed)
            for _ in range(copies - 1):
                self.weights(chunks, columns, eight, packed)
            fields.update(address=first, beats=beats)
            if apart:
                fields["expert_stride"] = -(-size // 64) * 64 + 64
        if fields.get("activation") == Activation.GATED:
            self.gate(fields, rows)
        if h.packed:
            self.keep(fields, rows)
        self.flag(fields, streamed_memory, streamed, loaded, written)
        self.emit(Opcode.MATMUL, **fields)
        self.issue(fields, written)
        return True

    def gate(self, fields: dict[str, int], rows: int) -> None:
        """Rows whose sums become known, or go on; what cannot be gated is not."""
        if fields["memory"] != Memory.ACTIVATION or any(fields.get(name) for name in ("gather", "scatter", "queued")):
            fields["activation"] = Activation.NONE
            return
        first = fields.setdefault("row_base", int(self.rng.integers(0, self.h.rows - rows + 1)))
        table = slice(first, first + rows)
        if self.statistics[table].all() and self.chance(0.5):
            fields["append"] = 1
        self.statistics[table], self.consistent[table] = True, False

    def steps(self, fields: dict[str, int], rows: int) -> dict[str, int]:
        """A table of maxima that is known where rows are streamed, or none."""
        table = int(self.rng.integers(1, 4))
        if fields.get("gather"):
            return {"steps": table} if self.kept[table, : self.rows].all() else {}
        starts = [r for r in range(len(self.kept[0]) - rows + 1) if self.kept[table, r : r + rows].all()]
        return {"steps": table, "steps_base": self.choose(*starts)} if starts else {}

    def keep(self, fields: dict[str, int], rows: int) -> None:
        """Maxima of what a MATMUL writes, in a table that it does not read."""
        table, base = int(self.rng.integers(4)), fields.get("row_base", 0)
        known = self.kept[table, base : base + rows].all()
        if table and table != fields.get("steps") and (known or not fields.get("append")):
            fields["maxima"] = table
            kept = fields["memory"] == Memory.ACTIVATION or fields.get("copy")
            if kept and not any(fields.get(name) for name in ("gather", "scatter", "queued")):
                self.kept[table, base : base + rows] = True

    def reads(
        self, fields: dict[str, int], streamed_memory: Memory, streamed: NDArray, written: dict[Memory, NDArray]
    ) -> int:
        """The dynamic number of the last writer of what a MATMUL reads while it streams."""
        last = int(self.writer[streamed_memory][streamed].max(initial=-1))
        if fields["memory"] == Memory.RESIDUAL and (fields.get("residual") or fields.get("scatter")):
            last = max(last, int(self.writer[Memory.RESIDUAL][written[Memory.RESIDUAL]].max(initial=-1)))
        if fields["probabilities"]:
            last = max(last, self.table_writer["maximum"])
        elif fields.get("scale") == Scale.SOFTMAX:
            last = max(last, self.table_writer["softmax"])
        if steps := fields.get("steps"):
            last = max(last, self.table_writer[steps])
        return last

    def flag(self, fields, streamed_memory, streamed, loaded, written) -> None:
        """Set the wait flags that are needed, and sometimes one that is not. Flags that are set stay."""
        if (
            loaded is not None
            and self.writer[Memory.KEY_VALUE][loaded].max(initial=-1) >= self.complete_before_last_stream
        ):
            fields["wait_load"] = 1
        if self.reads(fields, streamed_memory, streamed, written) >= max(self.complete, self.now - 1 - self.sweeps):
            fields["wait_stream"] = 1
        for name in ("wait_load", "wait_stream"):
            if self.chance(0.9 if name == "wait_stream" and self.sweeps else 0.1):
                fields[name] = 1
        if self.h.packed and fields.get("wait_stream") and self.in_step(fields, streamed_memory, streamed, written):
            fields["follow"] = int(self.chance(0.9))

    def just_written(self, rows: int, chunks: int) -> tuple[int, int] | None:
        """Sometimes what the MATMUL before has written to activation memory, if that is large enough."""
        if not self.h.packed or self.before is None or not self.chance(0.4):
            return None
        number, wrote, _ = self.before
        fits = wrote["memory"] == Memory.ACTIVATION and wrote["rows"] >= rows and wrote["columns"] >= chunks
        return (wrote["destination_base"], wrote["destination_stride"]) if fits and number == self.now - 1 else None

    def in_step(
        self, fields: dict[str, int], streamed_memory: Memory, streamed: NDArray, written: dict[Memory, NDArray]
    ) -> bool:
        """Of what a MATMUL reads, the one before has written only words that it streams, none as a later row. If a
        LAYERNORM is between them, it takes no later row's scale from it, and changes no sums.
        """
        sums = fields["memory"] == Memory.RESIDUAL or fields.get("row_sums")
        later = fields.get("scale") == Scale.NORM and fields["row_base"] > self.swept
        if self.sweeps and (sums or later or fields.get("gather") or fields.get("activation") == Activation.GATED):
            return False
        if self.before is None or self.before[0] != self.now - 1 - self.sweeps:
            return self.sweeps
        last, wrote, words = self.before[0], self.before[1], self.before[2].get(streamed_memory, np.empty(0, int))
        if any(f.get(name) for f in (wrote, fields) for name in ("gather", "scatter", "queued")):
            return False
        rows = np.arange(fields["rows"]).repeat(fields["chunks"])
        from_row = {int(word): n // wrote["columns"] for n, word in enumerate(words)}
        if any(from_row.get(int(word), 0) > row for word, row in zip(streamed, rows, strict=True)):
            return False
        old = fields["memory"] == Memory.RESIDUAL and fields.get("residual")
        if old and (self.writer[Memory.RESIDUAL][written[Memory.RESIDUAL]] == last).any():
            return False
        if (
            fields.get("scale") == Scale.SOFTMAX
            and not fields["probabilities"]
            and self.table_writer["softmax"] == last
        ):
            return False
        steps = fields.get("steps")
        late = steps and self.table_writer[steps] == last
        return not late or wrote.get("row_base", 0) >= fields.get("steps_base", 0)

    def issue(self, fields: dict[str, int], written: dict[Memory, NDArray]) -> None:
        """Take account of a MATMUL that has been issued."""
        waits = fields.get("wait_stream") and not fields.get("follow")  # what it follows is still under way
        before = self.now if waits else max(self.complete, self.now - 1 - self.sweeps)
        self.complete, self.sweeps = max(self.complete, before), False
        self.complete_before_last_stream = self.complete
        self.before = self.now, fields, written
        for memory, words in written.items():
            self.writer[memory][words] = self.now
        if fields["memory"] == Memory.SCORE:
            self.table_writer["maximum"] = self.now
        if fields["probabilities"]:
            self.table_writer["softmax"] = self.now
        if maxima := fields.get("maxima"):
            self.table_writer[maxima] = self.now
        self.now += 1

    def destination(self, rows: int, columns: int, memories: tuple[Memory, ...]) -> dict[str, int] | None:
        memory = self.choose(*memories)
        place = self.operand(memory, rows, columns, True)
        if place is None:
            return None
        fields = {
            "memory": memory,
            "destination_base": place[0],
            "destination_stride": place[1],
            "rows": rows,
            "columns": columns,
        }
        if (
            memory != Memory.ACTIVATION
            and self.chance(0.4)
            and (copy := self.operand(Memory.ACTIVATION, rows, columns, True))
        ):
            fields.update(copy=1, copy_base=copy[0], copy_stride=copy[1])
        return fields

    def scale(self, fields: dict[str, int], rows: int) -> None:
        """A row scale whose table entries exist."""
        kind = self.choose(Scale.NONE, Scale.NORM, Scale.SOFTMAX)
        if kind == Scale.NORM:
            of_heads = bool(self.h.head_norms) and self.chance(0.5)
            norm = self.head_norm if of_heads else self.norm
            starts = [r for r in range(self.h.rows - rows + 1) if norm[r : r + rows].all()]
            if "row_base" in fields:
                starts = [r for r in starts if r == fields["row_base"]]
            if starts:
                fields.update(scale=Scale.NORM, row_base=self.choose(*starts), of_heads=int(of_heads))
        elif kind == Scale.SOFTMAX and 0 < rows <= self.softmax_rows:
            fields["scale"] = Scale.SOFTMAX

    def row_sums(self, fields: dict[str, int]) -> None:
        """Sums of rows that are not the residual's, in a build that keeps them; `summed` takes account of them."""
        if not (self.h.keeps_row_sums and self.chance(0.4)):
            return
        rows = fields["rows"]
        base = fields.setdefault("row_base", int(self.rng.integers(0, self.h.rows - rows + 1)))
        fields["row_sums"] = 1
        if fields["memory"] != Memory.SCORE and self.statistics[base : base + rows].all() and self.chance(0.3):
            fields["append"] = 1

    def summed(self, fields: dict[str, int]) -> None:
        if fields.get("row_sums"):
            table = slice(fields["row_base"], fields["row_base"] + fields["rows"])
            self.statistics[table], self.consistent[table] = True, False

    def stationary(self) -> Stationary:
        return self.choose(Stationary.WEIGHTS16, Stationary.WEIGHTS8, Stationary.KEYS, Stationary.VALUES)

    def matmul(self, rows: int | None = None) -> None:
        """Any MATMUL outside EXPERTS but those with probabilities."""
        h = self.h
        memories = (Memory.ACTIVATION, Memory.ACTIVATION, Memory.KEY_VALUE, Memory.SCORE)
        memory = self.choose(*memories)
        rows = rows or self.pick(1, h.tokens if memory == Memory.SCORE else h.rows)
        if memory == Memory.SCORE:
            rows = min(rows, h.tokens)
        fields = self.destination(rows, self.pick(1, 6), (memory,))
        if fields is None:
            return
        fields.update(self.shifts())
        self.scale(fields, rows)
        if fields.get("scale") == Scale.SOFTMAX and rows > h.tokens:
            return
        if memory == Memory.SCORE:
            fields["keys"] = self.pick(1, fields["columns"] * h.lanes)
        self.row_sums(fields)
        if not self.emit_matmul(fields, stationary=self.stationary(), chunks=self.pick(1, 6)):
            return
        self.summed(fields)
        if memory == Memory.SCORE:
            self.scores = (
                rows,
                fields["destination_base"],
                fields["destination_stride"],
                fields["columns"],
                fields["keys"],
            )

    def attention(self) -> None:
        """Scores (if there are none), then MATMULs that stream their probabilities."""
        h = self.h
        if self.scores is None or self.chance(0.7):
            rows, columns = self.pick(1, h.tokens), self.pick(1, 2 * h.words(h.tokens))
            fields = self.destination(rows, columns, (Memory.SCORE,))
            if fields is None:
                return
            fields.update(self.shifts(), keys=self.pick(1, columns * h.lanes))
            if not self.emit_matmul(
                fields, stationary=self.choose(Stationary.KEYS, Stationary.WEIGHTS16), chunks=self.pick(1, 4)
            ):
                return
            self.scores = (rows, fields["destination_base"], fields["destination_stride"], columns, fields["keys"])
            self.more_keys()
        for _ in range(int(self.rng.integers(1, 4))):
            limit, base, stride, columns, keys = self.scores
            rows = self.pick(1, limit)
            memory = self.choose(Memory.ACTIVATION, Memory.ACTIVATION, Memory.KEY_VALUE)
            found = self.destination(rows, self.pick(1, 5), (memory,))
            if found is None:
                continue
            found.update(self.shifts(), keys=keys)
            found["scale"] = self.choose(Scale.SOFTMAX, Scale.SOFTMAX, Scale.NONE)
            stationary = self.choose(Stationary.VALUES, Stationary.VALUES, Stationary.WEIGHTS16)
            chunks = int(self.rng.integers(h.words(keys), columns + 1))
            self.row_sums(found)
            if self.emit_matmul(found, stationary=stationary, chunks=chunks, probabilities=True, stream=(base, stride)):
                self.softmax_rows = max(self.softmax_rows, rows)
                self.summed(found)

    def more_keys(self) -> None:
        """Further scores beside those that there are, whose maxima go on, if their rows have room for them."""
        assert self.scores is not None
        h, (rows, base, stride, columns, _) = self.h, self.scores
        room = (h.score_words - base if rows == 1 else stride) - columns
        end = base + (rows - 1) * stride + columns
        if room < 1 or end >= h.score_words or not self.chance(0.5):
            return
        more = self.pick(1, min(room, h.score_words - end, 4))
        fields = dict(memory=Memory.SCORE, destination_base=base + columns, destination_stride=stride, rows=rows)
        fields |= dict(columns=more, keys=self.pick(1, more * h.lanes), append=1, **self.shifts())
        kind = self.choose(Stationary.KEYS, Stationary.WEIGHTS16)
        # All lanes of the words before count now, though the first scores' maxima may have left some out.
        if self.scores[-1] == columns * h.lanes and self.emit_matmul(fields, stationary=kind, chunks=self.pick(1, 4)):
            self.scores = (rows, base, stride, columns + more, columns * h.lanes + fields["keys"])

    def burst_of_short_ones(self) -> None:
        """Streams shorter than the pipeline, back to back."""
        for _ in range(int(self.rng.integers(2, 7))):
            self.matmul(rows=self.pick(1, min(5, self.h.rows)))

    def residual(self) -> None:
        """Rows of the residual in their usual place, whose statistics begin afresh."""
        h, width = self.h, self.width
        first = int(self.rng.integers(0, h.rows))
        rows = self.pick(1, h.rows - first)
        fields = {
            "memory": Memory.RESIDUAL,
            "destination_base": first * width,
            "destination_stride": width,
            "rows": rows,
            "columns": width,
        }
        fields.update(self.shifts(), residual=int(self.chance(0.7)))
        fields["row_base"] = first if self.chance(0.8) else int(self.rng.integers(0, h.rows - rows + 1))
        self.scale(fields, rows)
        if self.statistics[fields["row_base"] : fields["row_base"] + rows].all() and self.chance(0.3):
            fields["append"] = 1
        if self.chance(0.6) and (copy := self.operand(Memory.ACTIVATION, rows, width, True)):
            fields.update(copy=1, copy_base=copy[0], copy_stride=copy[1])
        if self.emit_matmul(fields, stationary=self.stationary(), chunks=self.pick(1, 4)):
            own, table = slice(first, first + rows), slice(fields["row_base"], fields["row_base"] + rows)
            self.consistent[own] = False
            self.statistics[table] = True
            self.consistent[table] = fields["row_base"] == first and not fields.get("append")

    # ------------------------------------------------------------------------------------------------ the others

    def layernorm(self) -> None:
        h = self.h
        starts = np.flatnonzero(self.statistics)
        if not starts.size:
            return self.residual()
        first = int(self.choose(*starts))
        known = int(np.argmin(self.statistics[first:])) if not self.statistics[first:].all() else h.rows - first
        self.sweep(first, self.pick(1, known))

    def sweep(self, first: int, rows: int) -> None:
        """A LAYERNORM over rows whose sums are known."""
        h = self.h
        epsilon = int(self.rng.integers(0, 1 << self.pick(1, 48)))
        fields = dict(elements=self.pick(1, h.width), epsilon=epsilon, uncentred=int(self.chance(0.4)))
        of_heads = bool(h.head_norms) and self.chance(0.5)
        wrote = self.before[1] if self.before and self.before[0] == self.now - 1 else {"scatter": 1}
        in_rows = not wrote.get("scatter") and wrote.get("row_base", 0) >= first
        follow = int(bool(self.h.packed) and in_rows and self.chance(0.9))
        complete = self.complete
        self.blocking(Opcode.LAYERNORM, rows=rows, row_base=first, of_heads=int(of_heads), follow=follow, **fields)
        self.sweeps, self.swept = bool(self.h.packed), first
        if follow:
            self.complete = max(complete, self.now - 2)
        (self.head_norm if of_heads else self.norm)[first : first + rows] = True

    def scaled_beside(self) -> None:
        """Rows that are scaled while a LAYERNORM goes through them, right behind who writes them."""
        number = self.now
        self.residual()
        if self.before is None or self.before[0] != number:
            return
        wrote = self.before[1]
        rows, first = self.pick(1, wrote["rows"]), wrote["row_base"]
        self.sweep(first, rows)
        fields = self.destination(rows, self.pick(1, 4), (Memory.ACTIVATION, Memory.KEY_VALUE))
        if fields is None or not self.norm[first : first + rows].all():
            return
        fields.update(self.shifts(), scale=Scale.NORM, row_base=first)
        stream = (wrote["copy_base"], wrote["copy_stride"]) if wrote.get("copy") else None
        self.emit_matmul(fields, stationary=self.stationary(), chunks=self.pick(1, wrote["columns"]), stream=stream)

    def route(self, top_k: int | None = None) -> None:
        """Rows that are in no queue yet, unless the queues are emptied. Logits with many ties now and then:
        constant score rows.
        """
        h = self.h
        reset = not self.routed.any() or self.chance(0.6)
        taken = np.zeros_like(self.routed) if reset else self.routed
        first = int(self.rng.integers(0, self.rows))
        if taken[first]:
            return
        room = int(np.argmax(taken[first : self.rows])) if taken[first : self.rows].any() else self.rows - first
        rows = self.pick(1, min(room, h.tokens))
        experts = self.pick(1, h.experts)
        columns = self.pick(h.words(experts), h.words(h.experts))
        stride = 0 if self.chance(0.2) else None  # all rows alike: all tokens choose the same experts
        place, follow = self.operand(Memory.SCORE, rows, columns, False), 0
        if h.packed and self.chance(0.6) and (fields := self.destination(rows, columns, (Memory.SCORE,))):
            fields.update(self.shifts(), keys=columns * h.lanes)
            if self.emit_matmul(fields, stationary=self.stationary(), chunks=self.pick(1, 6)):
                place, stride, follow = (fields["destination_base"], fields["destination_stride"]), None, 1
                self.scores = rows, *place, columns, fields["keys"]
        if place is None:
            return
        self.blocking(
            Opcode.ROUTE,
            follow=follow,
            rows=rows,
            row_base=first,
            stream_base=place[0],
            stream_stride=place[1] if stride is None else 0,
            columns=columns,
            experts=experts,
            top_k=self.pick(1, min(experts, h.top_k)),
            exponent_shift=int(self.rng.integers(0, 16)),
            reset_queues=int(reset),
            among_chosen=int(self.chance(0.4)),
        )
        if reset:
            self.routed[:] = False
        self.routed[first : first + rows] = True

    def load(self) -> None:
        memory = self.choose(Memory.ACTIVATION, Memory.KEY_VALUE, Memory.RESIDUAL)
        rows, columns = self.pick(1, self.h.rows), self.pick(1, 12)
        place = self.operand(memory, rows, columns, True)
        if place is None:
            return
        data = self.numbers(rows * columns * self.h.lanes, 16).astype("<i2").view(np.uint8)
        if self.outputs and self.chance(0.3):  # what has been stored comes back
            fitting = [offset for offset, size in self.outputs if size >= data.size]
            address = self.choose(*fitting) if fitting else self.buffer(data.size, data)
        else:
            address = self.buffer(data.size, data)
        fields = {"destination_base": place[0], "destination_stride": place[1], "rows": rows, "columns": columns}
        self.blocking(Opcode.LOAD, memory=memory, address=address, beats=-(-data.size // self.h.bus_bytes), **fields)
        words = extent(place[0], rows, place[1], columns)
        self.writer[memory][words] = self.now - 1
        if memory == Memory.RESIDUAL:
            self.consistent[np.minimum(words // self.width, self.h.rows - 1)] = False

    def store(self) -> None:
        memory = Memory(int(self.rng.integers(4)))
        rows, columns = self.pick(1, self.h.rows), self.pick(1, 12)
        place = self.operand(memory, rows, columns, False)
        if place is not None:
            size = rows * columns * self.h.word_bytes
            address = self.buffer(size)
            self.outputs.append((address, size))
            fields = {"destination_base": place[0], "destination_stride": place[1], "rows": rows, "columns": columns}
            self.blocking(Opcode.STORE, memory=memory, address=address, beats=-(-size // self.h.bus_bytes), **fields)

    def store_all(self, memory: Memory) -> None:
        words = self.depth[memory]
        rows = next(r for r in range(self.h.rows, 0, -1) if words % r == 0 and words // r <= 1023)
        size = words * self.h.word_bytes
        address = self.buffer(size)
        self.outputs.append((address, size))
        fields = {"destination_base": 0, "destination_stride": words // rows, "rows": rows, "columns": words // rows}
        self.blocking(Opcode.STORE, memory=memory, address=address, beats=-(-size // self.h.bus_bytes), **fields)

    def image(self) -> None:
        h = self.h
        patch = int(self.rng.integers(1, self.choose(4, 10, 64)))
        across, down, channels = (int(v) for v in self.rng.integers(1, 4, 3))
        words = h.words(channels * patch * patch)
        place = self.operand(Memory.ACTIVATION, across * down, words, True)
        if across * down > h.rows or place is None:
            return
        data = self.rng.integers(0, 256, channels * patch * patch * across * down, np.uint8)
        self.blocking(
            Opcode.IMAGE,
            address=self.buffer(data.size, data),
            beats=-(-data.size // h.bus_bytes),
            rows=across * down,
            columns=words,
            destination_base=place[0],
            destination_stride=place[1],
            across=across,
            down=down,
            channels=channels,
            patch=patch,
        )
        self.writer[Memory.ACTIVATION][extent(place[0], across * down, place[1], words)] = self.now - 1

    # ------------------------------------------------------------------------------------------------ EXPERTS

    def experts(self) -> None:
        """A loop over the queues: its instructions follow one another twice, so that what one expert leaves behind
        meets the next.
        """
        if not self.routed.any() or self.chance(0.5):
            self.route()
        if not self.routed.any():
            return
        loop = self.emit(Opcode.EXPERTS, length=1)
        before = self.complete, self.complete_before_last_stream, self.sweeps
        self.complete = self.complete_before_last_stream = self.now
        self.sweeps = False
        start = len(self.instructions)
        for _ in range(int(self.rng.integers(1, 5))):
            self.choose(
                self.expert_matmul, self.expert_matmul, self.expert_matmul, self.expert_load, self.expert_store
            )()
        body = self.instructions[start:]
        if not body:
            self.instructions.pop()
            self.complete, self.complete_before_last_stream, self.sweeps = before
            return
        loop.values["length"] = len(body)
        for instruction in body:  # the next expert
            self.again(instruction)

    def queue_flags(self) -> dict[str, int]:
        flags = {name: int(self.chance(0.4)) for name in ("gather", "scatter", "queued")}
        return flags if any(flags.values()) else {self.choose("gather", "scatter", "queued"): 1}

    def expert_matmul(self) -> None:
        h, rows = self.h, self.rows
        flags = self.queue_flags() if self.chance(0.9) else {}
        residual = self.chance(0.3)
        small = rows <= h.tokens
        if residual:
            # Differences keep statistics right where they are right; dense rows would leave them unknown.
            if not flags.get("scatter") or not self.consistent[self.routed].all():
                return
            columns = self.pick(1, self.width)
            fields = {
                "memory": Memory.RESIDUAL,
                "destination_base": 0,
                "destination_stride": self.width,
                "columns": columns,
                "rows": rows,
            }
            fields["residual"] = int(self.chance(0.7))
            if self.chance(0.6) and (copy := self.operand(Memory.ACTIVATION, rows, columns, True)):
                fields.update(copy=1, copy_base=copy[0], copy_stride=copy[1])
        else:
            memories = (Memory.ACTIVATION, Memory.ACTIVATION, Memory.KEY_VALUE) + ((Memory.SCORE,) if small else ())
            found = self.destination(rows, self.pick(1, 5), memories)
            if found is None:
                return
            fields = found
        fields.update(self.shifts(), **flags)
        if fields["memory"] == Memory.SCORE:
            fields["keys"] = self.pick(1, fields["columns"] * h.lanes)
            self.scores = None  # of how many rows is unknown
        kinds = [Scale.NONE]
        if flags:
            kinds += [Scale.EXPERT, Scale.EXPERT]
        if self.norm[self.routed].all() if flags.get("gather") else self.norm[:rows].all():
            kinds.append(Scale.NORM)
        if small and rows <= self.softmax_rows:
            kinds.append(Scale.SOFTMAX)
        fields["scale"] = self.choose(*kinds)
        fields["row_base"] = 0
        self.emit_matmul(fields, stationary=self.stationary(), chunks=self.pick(1, 4), apart=1)

    def expert_load(self) -> None:
        memory = self.choose(Memory.ACTIVATION, Memory.KEY_VALUE)
        columns = self.pick(1, 6)
        place = self.operand(memory, self.rows, columns, True)
        if place is None:
            return
        size = -(-self.rows * columns * self.h.word_bytes // 64) * 64
        data = self.rng.integers(0, 256, size * self.h.experts, np.uint8)
        fields = {
            "destination_base": place[0],
            "destination_stride": place[1],
            "rows": self.rows,
            "columns": columns,
            "memory": memory,
        }
        beats = size // self.h.bus_bytes
        self.blocking(
            Opcode.LOAD,
            **fields,
            **self.queue_flags(),
            address=self.buffer(data.size, data),
            beats=beats,
            expert_stride=size,
        )
        self.writer[memory][extent(place[0], self.rows, place[1], columns)] = self.now - 1

    def expert_store(self) -> None:
        memory = Memory(int(self.rng.integers(4)))
        columns = self.pick(1, 6)
        place = self.operand(memory, self.rows, columns, False)
        if place is None:
            return
        size = -(-self.rows * columns * self.h.word_bytes // 64) * 64
        address = self.buffer(size * self.h.experts)
        self.outputs.append((address, size * self.h.experts))
        fields = {
            "destination_base": place[0],
            "destination_stride": place[1],
            "rows": self.rows,
            "columns": columns,
            "memory": memory,
        }
        beats = size // self.h.bus_bytes
        self.blocking(Opcode.STORE, **fields, **self.queue_flags(), address=address, beats=beats, expert_stride=size)

    def again(self, i: Instruction) -> None:
        """The same instruction once more: more flags may be needed."""
        if i.opcode != Opcode.MATMUL:
            self.now += 1
            self.complete = self.now
            if i.opcode == Opcode.LOAD:
                self.writer[Memory(i.memory)][extent(i.destination_base, i.rows, i.destination_stride, i.columns)] = (
                    self.now - 1
                )
            return
        fields = i.values
        written = {Memory(i.memory): extent(i.destination_base, i.rows, i.destination_stride, i.columns)}
        if i.copy:
            written[Memory.ACTIVATION] = extent(i.copy_base, i.rows, i.copy_stride, i.columns)
        loaded = None
        if i.stationary in ON_CHIP:
            words = i.chunks if i.stationary == Stationary.KEYS else i.columns
            loaded = extent(i.stationary_base, i.keys, i.stationary_stride, words)
        streamed_memory = Memory.SCORE if i.probabilities else Memory.ACTIVATION
        self.flag(fields, streamed_memory, extent(i.stream_base, i.rows, i.stream_stride, i.chunks), loaded, written)
        self.issue(fields, written)


def random_program(hardware: HardwareConfig, seed: int, length: int = 30) -> Program:
    """The program of a seed."""
    return Generator(hardware, seed, length).generate()
