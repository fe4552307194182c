# SPDX-License-Identifier: Apache-2.0
"""Runs programs: the same instructions from the same memory image as the hardware, results to the same addresses, to
the last bit.

One MATMUL is one matrix product, whatever the array's side: sums are exact, so the order in which the hardware adds
does not show. What would show is an instruction that overwrites its own operands while it streams; no compiled program
does that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import (
    FEATURES,
    INSTRUCTION_BYTES,
    Activation,
    Attention,
    ErrorCode,
    Instruction,
    Memory,
    Opcode,
    Scale,
    Stationary,
)
from edgemoe.hw.contract.rules import Place, violated
from edgemoe.hw.contract.weight_stream import WeightStream
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers import twins as unit
from edgemoe.models.numbers.arithmetic import maximum_code, narrow, probability, round_shift, row_step
from edgemoe.models.numbers.words import LOWEST_SCORE
from numpy.typing import NDArray


@dataclass
class Route:
    """What one ROUTE decided: expert indices and scores [rows, top_k] of rows row_base, row_base + 1, ..."""

    instruction: int
    row_base: int
    experts: NDArray[np.int64]
    scores: NDArray[np.int64]


@dataclass
class Result:
    """How a run ended.

    error_instruction, error_address: where it stopped (the address that the bus refused; 0 for other errors).
    instructions: retired, each repetition inside EXPERTS counted, EXPERTS itself and END not. macs: multiplications
    with a real operand row, padding included.
    saturated: results of MATMULs that were limited to 16 bits, by instruction index.
    """

    error_code: ErrorCode = ErrorCode.NONE
    error_instruction: int = 0
    error_address: int = 0
    instructions: int = 0
    macs: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    routes: list[Route] = field(default_factory=list)
    queue_lengths: list[NDArray[np.int64]] = field(default_factory=list)
    saturated: dict[int, int] = field(default_factory=dict)


class _Fault(Exception):
    def __init__(self, code: ErrorCode, address: int = 0) -> None:
        super().__init__(code.name)
        self.code, self.address = code, address


Progress = Callable[[int, Instruction], None]


class Emulator:
    """One core with its on-chip memories. Memories keep their contents between runs, as in hardware."""

    name = "emulator"

    def __init__(self, hardware: HardwareConfig) -> None:
        h = self.hardware = hardware
        sizes = {
            Memory.ACTIVATION: h.activation_words,
            Memory.KEY_VALUE: h.key_value_words,
            Memory.RESIDUAL: h.residual_words,
            Memory.SCORE: h.score_words,
        }
        self.memories = {m: np.zeros((words, h.lanes), np.int16) for m, words in sizes.items()}
        self.total = np.zeros(h.rows, np.int64)  # sum of x and of x^2 of every residual row
        self.squares = np.zeros(h.rows, np.int64)
        # 1/sigma of every row, and of every row of heads
        self.norm_scales = [(np.zeros(h.rows, np.int64), np.zeros(h.rows, np.int64)) for _ in range(2)]
        self.maximum = np.zeros(h.tokens, np.int64)
        self.running = np.zeros(h.tokens, np.int64)  # M of each row of scores of TWO_PASS, whose E is the maximum
        self.score_sums = np.zeros(h.tokens, np.int64)  # of SOFTPLUS
        self.codes = np.zeros((4, h.table_rows), np.int64)  # of the maxima of rows, by table
        self.softmax_scale = (np.zeros(h.tokens, np.int64), np.zeros(h.tokens, np.int64))
        self.queues = unit.ExpertQueues(h.experts)
        self.dram = np.zeros(0, np.uint8)
        self.result = Result()

    def run(self, memory: NDArray[np.uint8] | bytearray, program: int = 0, progress: Progress | None = None) -> Result:
        """Execute the program at byte offset `program` of `memory` (changed in place) until END or an error."""
        self.dram = np.frombuffer(memory, np.uint8) if isinstance(memory, (bytearray, memoryview)) else memory
        self.result = result = Result()
        index = 0
        try:
            while True:
                instruction = self._fetch(program, index)
                self._check(instruction, looping=False)
                if progress:
                    progress(index, instruction)
                if instruction.opcode == Opcode.END:
                    return result
                if instruction.opcode == Opcode.EXPERTS:
                    index = self._experts(program, index, instruction, progress)
                else:
                    self._execute(index, instruction, 0)
                    index += 1
                    result.instructions += 1
        except _Fault as fault:
            result.error_code, result.error_address = fault.code, fault.address
            result.error_instruction = self._at
            return result

    # ------------------------------------------------------------------------------------------------ control

    def _fetch(self, program: int, index: int) -> Instruction:
        self._at = index
        offset = program + index * INSTRUCTION_BYTES
        data = self._read(offset, INSTRUCTION_BYTES).tobytes()
        try:
            return Instruction.decode(data)
        except EdgemoeError:
            raise _Fault(ErrorCode.ILLEGAL_INSTRUCTION) from None

    def _check(self, i: Instruction, looping: bool, expert: int = 0) -> None:
        """Refuses what the sequencer refuses, before it issues an instruction."""
        broken = violated(i, self.hardware, Place.of(i, looping, expert))
        if broken:
            raise _Fault(broken[0].error)

    def _experts(self, program: int, index: int, loop: Instruction, progress: Progress | None) -> int:
        for expert in np.flatnonzero(self.queues.lengths):
            for j in range(loop.length):
                instruction = self._fetch(program, index + 1 + j)
                self._check(instruction, looping=True, expert=int(expert))
                if progress:
                    progress(self._at, instruction)
                self._execute(self._at, instruction, int(expert))
                self.result.instructions += 1
        return index + 1 + loop.length

    def _execute(self, index: int, i: Instruction, expert: int) -> None:
        match i.opcode:
            case Opcode.MATMUL:
                self._matmul(index, i, expert)
            case Opcode.LAYERNORM:
                rows = np.arange(i.row_base, i.row_base + i.rows)
                mantissa, exponent = unit.layernorm_scale(
                    self.total[rows], self.squares[rows], i.elements, i.epsilon, i.uncentred
                )
                table = self._norm_scale(i)
                table[0][rows], table[1][rows] = mantissa, exponent
            case Opcode.ROUTE:
                self._route(index, i)
            case Opcode.LOAD:
                self._load(i, expert)
            case Opcode.STORE:
                self._store(i, expert)
            case Opcode.IMAGE:
                self._image(i)

    # ------------------------------------------------------------------------------------------------ memories

    def _read(self, offset: int, size: int) -> NDArray[np.uint8]:
        if offset + size > self.dram.size:
            raise _Fault(ErrorCode.READ_BUS, offset)
        self.result.bytes_read += size
        return self.dram[offset : offset + size]

    def _padded(self, size: int) -> int:
        """Transfers are whole beats."""
        return -(-size // self.hardware.bus_bytes) * self.hardware.bus_bytes

    def _words(
        self, memory: Memory, base: int, rows: NDArray[np.int64], stride: int, columns: int
    ) -> NDArray[np.int64]:
        """Addresses [rows, columns] of the words base + row * stride + column."""
        address = base + rows[:, None] * stride + np.arange(columns)
        if address.size and int(address.max()) >= len(self.memories[memory]):
            raise _Fault(ErrorCode.CAPACITY)
        return address

    def _rows(self, i: Instruction, expert: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """(number of rows, streamed row of each, destination row of each)."""
        if i.gather or i.scatter or i.queued:
            queue = self.queues.rows[expert]
            dense = np.arange(len(queue))
            return len(queue), queue if i.gather else dense, queue if i.scatter else dense
        dense = np.arange(i.rows)
        return i.rows, dense, dense

    def _load(self, i: Instruction, expert: int) -> None:
        offset = i.address + expert * i.expert_stride
        _, streamed, scattered = self._rows(i, expert)
        rows = scattered if i.scatter else streamed
        where = self._words(Memory(i.memory), i.destination_base, rows, i.destination_stride, i.columns)
        size = where.size * self.hardware.word_bytes
        data = self._read(offset, self._padded(size))[:size].view("<i2")
        self.memories[Memory(i.memory)][where] = data.reshape(*where.shape, self.hardware.lanes)

    def _store(self, i: Instruction, expert: int) -> None:
        """Rows of a queue when gather or scatter; `queued` alone stores dense rows. Zeros fill the last beat."""
        offset = i.address + expert * i.expert_stride
        count, streamed, scattered = self._rows(i, expert)
        rows = scattered if i.scatter else streamed
        where = self._words(Memory(i.memory), i.destination_base, rows, i.destination_stride, i.columns)
        size = where.size * self.hardware.word_bytes
        padded = self._padded(size)
        if offset + padded > self.dram.size:
            raise _Fault(ErrorCode.WRITE_BUS, offset)
        self.dram[offset + size : offset + padded] = 0
        self.dram[offset : offset + size] = (
            self.memories[Memory(i.memory)][where].astype("<i2", copy=False).reshape(-1).view(np.uint8)
        )
        self.result.bytes_written += padded

    def _image(self, i: Instruction) -> None:
        """Lanes beyond the last pixel of a patch keep their old value: the weights that they meet are zero.

        No beats: nothing is moved. A picture that is longer than its beats is waited for until the watchdog ends the
        run; beats that follow the picture are not used.
        """
        if not i.beats:
            return
        shape = (i.channels, i.down * i.patch, i.across * i.patch)
        size = int(np.prod(shape))
        content = self._read(i.address, i.beats * self.hardware.bus_bytes)
        if content.size < size:
            raise _Fault(ErrorCode.WATCHDOG)
        image = content[:size].reshape(shape)
        patches = unit.image_patches(image, i.patch)
        lanes = self.hardware.lanes
        count, pixels = patches.shape
        words = self.hardware.words(pixels)
        where = self._words(Memory.ACTIVATION, i.destination_base, np.arange(count), i.destination_stride, words)
        memory = self.memories[Memory.ACTIVATION]
        rows = memory[where].reshape(count, words * lanes)
        rows[:, :pixels] = patches
        memory[where] = rows.reshape(count, words, lanes)

    # ------------------------------------------------------------------------------------------------ router

    def _route(self, index: int, i: Instruction) -> None:
        h = self.hardware
        where = self._words(Memory.SCORE, i.stream_base, np.arange(i.rows), i.stream_stride, i.columns)
        logits = self.memories[Memory.SCORE][where].reshape(i.rows, i.columns * h.lanes)[:, : i.experts]
        chosen, scores = unit.route(logits, i.exponent_shift, i.top_k, i.among_chosen)
        if i.reset_queues:
            self.queues.reset()
        self.queues.push(i.row_base, chosen, scores)
        if (lengths := self.queues.lengths).max(initial=0) > h.rows:
            raise _Fault(ErrorCode.CAPACITY)
        self.result.routes.append(Route(index, i.row_base, chosen, scores))
        self.result.queue_lengths.append(lengths)

    # ------------------------------------------------------------------------------------------------ array

    def _matmul(self, index: int, i: Instruction, expert: int) -> None:
        h, lanes = self.hardware, self.hardware.lanes
        count, streamed, scattered = self._rows(i, expert)

        # The streamed operand [rows, chunks * lanes].
        if i.probabilities:
            x: NDArray[Any] = self._probabilities(i, count)
        else:
            where = self._words(Memory.ACTIVATION, i.stream_base, streamed, i.stream_stride, i.chunks)
            x = self.memories[Memory.ACTIVATION][where].reshape(count, i.chunks * lanes)

        # The stationary operand.
        bias = multiplier = None
        smoothing: NDArray = np.zeros(1, np.int64)
        if i.stationary in (Stationary.WEIGHTS16, Stationary.WEIGHTS8):
            weights, *parameters = self._weights(i, expert)
            bias, multiplier, smoothing = (values[: i.columns * lanes] for values in parameters)
            sums = self._packed(i, x, streamed, weights) if h.packs(i) else unit.matmul(x, weights)
        elif i.stationary == Stationary.KEYS:
            keys = min(i.keys, i.columns * lanes)
            where = self._words(Memory.KEY_VALUE, i.stationary_base, np.arange(keys), i.stationary_stride, i.chunks)
            sums = np.zeros((count, i.columns * lanes))
            sums[:, :keys] = unit.matmul(x, self.memories[Memory.KEY_VALUE][where].reshape(keys, -1).T)
        else:
            keys = min(i.keys, i.chunks * lanes)
            where = self._words(Memory.KEY_VALUE, i.stationary_base, np.arange(keys), i.stationary_stride, i.columns)
            sums = unit.matmul(x[:, :keys], self.memories[Memory.KEY_VALUE][where].reshape(keys, -1))
        self.result.macs += count * i.chunks * i.columns * lanes * lanes
        if i.bias_first and bias is not None:
            sums += bias * float(1 << i.bias_shift)
            bias = None
        sums = unit.wrap_accumulator(sums)

        # The row scale.
        mantissa: NDArray | None = None
        exponent: NDArray | int = 0
        absolute = streamed if i.gather else i.row_base + np.arange(count)
        match i.scale:
            case Scale.NORM:
                if absolute.max() >= h.rows:
                    raise _Fault(ErrorCode.CAPACITY, int(absolute.max()))
                mantissa, exponent = (part[absolute] for part in self._norm_scale(i))
            case Scale.SOFTMAX:
                mantissa, exponent = self.softmax_scale[0][:count], self.softmax_scale[1][:count]
            case Scale.EXPERT:
                mantissa = self.queues.scores[expert][:count]

        # Results.
        memory = Memory(i.memory)
        where = self._words(memory, i.destination_base, scattered, i.destination_stride, i.columns)
        target = self.memories[memory]
        old = None
        if memory == Memory.RESIDUAL:
            same = self._words(Memory.RESIDUAL, i.destination_base, scattered, i.destination_stride, i.columns)
            old = self.memories[Memory.RESIDUAL][same].reshape(count, -1)
        number = unit.streamed(sums) if i.activation == Activation.GATED else None
        y = unit.epilogue(
            sums,
            accumulator_shift=i.accumulator_shift,
            mantissa=mantissa,
            exponent=exponent,
            multiplier=multiplier,
            bias=bias,
            old=old if i.residual else None,
            residual_shift=i.residual_shift,
            output_shift=i.output_shift,
            function=Activation(i.activation).function,
            raise_result=h.packed & i.raised,
        )
        saturated = int(np.count_nonzero((y == 32767) | (y == -32768)))
        if saturated:
            self.result.saturated[index] = self.result.saturated.get(index, 0) + saturated
        words = y.reshape(count, i.columns, lanes)
        copied = round_shift(y, smoothing).astype(np.int16).reshape(words.shape) if smoothing.any() else words
        target[where] = copied if memory == Memory.ACTIVATION else words
        if i.copy:
            self.memories[Memory.ACTIVATION][
                self._words(Memory.ACTIVATION, i.copy_base, scattered, i.copy_stride, i.columns)
            ] = copied
        if h.packed and i.maxima and (memory == Memory.ACTIVATION or i.copy):
            rows = (scattered if i.scatter else i.row_base + np.arange(count)) % h.table_rows
            codes = maximum_code(np.abs(copied.astype(np.int64)).reshape(count, -1).max(axis=1))
            self.codes[i.maxima][rows] = np.maximum(codes, self.codes[i.maxima][rows]) if i.append else codes
        if memory == Memory.SCORE:
            self._scores(i, y[:, : i.keys])
        rows = scattered if i.scatter else i.row_base + np.arange(count)
        if number is not None:
            self._statistics(i, number, None, rows)
        elif memory == Memory.RESIDUAL or h.sums_rows(i):
            self._statistics(i, y, old, rows)

    def _scores(self, i: Instruction, scores: NDArray[np.int16]) -> None:
        """What is kept of rows of scores [rows, keys that exist]."""
        count = len(scores)
        before = (self.maximum[:count], self.running[:count])
        if self.hardware.weighs(i.attention) == Attention.TWO_PASS:
            found = unit.running_sums(scores, self.hardware.lanes, i.exponent_shift, before if i.append else None)
            self.maximum[:count], self.running[:count] = found
        else:
            if self.hardware.weighs(i.attention) == Attention.SOFTPLUS:
                total = scores.sum(axis=1, dtype=np.int64) + self.score_sums[:count] * i.append
                self.score_sums[:count] = (total + (1 << 29)) % (1 << 30) - (1 << 29)
            least = before[0] if i.append else np.full(count, LOWEST_SCORE)
            self.maximum[:count] = np.maximum(scores.max(axis=1, initial=LOWEST_SCORE), least)

    def _packed(self, i: Instruction, x: NDArray, streamed: NDArray[np.int64], weights: NDArray) -> NDArray[np.float64]:
        """Sums of rows rounded to 9 bits, in units of 1/8 of what they would be of rows as they are; unsigned: 1/16."""
        rows = streamed if i.gather else i.steps_base + streamed
        codes = self.codes[i.steps][rows % self.hardware.table_rows] if i.steps else np.zeros(len(x), np.int64)
        mantissa, exponent = row_step(codes)
        x = narrow(x, mantissa[:, None], exponent[:, None], i.unsigned)
        sums = unit.packed_matmul(x, weights, self.hardware.inputs).reshape(len(x), -1)
        return sums[:, : i.columns * self.hardware.lanes] * (mantissa << exponent)[:, None]

    def _probabilities(self, i: Instruction, count: int) -> NDArray[np.int64]:
        """Weights of the keys that exist, else 0; the sums' reciprocals go into the scale table."""
        where = self._words(Memory.SCORE, i.stream_base, np.arange(count), i.stream_stride, i.chunks)
        scores = self.memories[Memory.SCORE][where].reshape(count, i.chunks * self.hardware.lanes)
        kind = self.hardware.weighs(i.attention)
        factors: NDArray[np.int64] | None = None
        if kind == Attention.COSFORMER:
            half = (i.chunks >> 1) * self.hardware.lanes
            factors = unit.position_factors(
                i.score_bias >> 14 & 3, count, scores.shape[1], i.score_bias, i.exponent_shift, i.row_base, half
            )
        p = unit.weights(
            kind.kind,
            scores,
            self.maximum[:count],
            i.exponent_shift,
            i.score_bias,
            factors,
            self.score_sums[:count],
            i.keys,
        )
        p[:, i.keys :] = 0
        if kind not in FEATURES or i.scale != Scale.SOFTMAX:
            sums = self.running[:count] if kind == Attention.TWO_PASS else p.sum(axis=1)
            self.softmax_scale[0][:count], self.softmax_scale[1][:count] = unit.softmax_scale(sums)
        return probability(p)

    def _weights(self, i: Instruction, expert: int) -> tuple[NDArray[np.float64], NDArray, NDArray, NDArray]:
        """(weights [inputs, outputs], bias, multiplier, smoothing [outputs]) from the stream."""
        bits = 8 if i.stationary == Stationary.WEIGHTS8 else 16
        stream = WeightStream(self.hardware, i.chunks, i.columns, bits, self.hardware.packs(i))
        return stream.unpack(self._read(i.address + expert * i.expert_stride, self._padded(stream.size))[: stream.size])

    def _norm_scale(self, i: Instruction) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The table that an instruction means."""
        return self.norm_scales[bool(self.hardware.head_norms and i.of_heads)]

    def _statistics(self, i: Instruction, y: NDArray, old: NDArray | None, rows: NDArray[np.int64]) -> None:
        """Sum and sum of squares of rows: from zero, or with `append` more channels', or changed by the
        difference when scattered.
        """
        if rows.max() >= self.hardware.rows:
            raise _Fault(ErrorCode.CAPACITY, int(rows.max()))
        new = y.astype(np.int64)
        total, squares = new.sum(axis=1), np.einsum("ij,ij->i", new, new)
        if i.scatter:
            assert old is not None
            before = old.astype(np.int64)
            np.add.at(self.total, rows, total - before.sum(axis=1))
            np.add.at(self.squares, rows, squares - np.einsum("ij,ij->i", before, before))
        elif i.append:
            self.total[rows], self.squares[rows] = self.total[rows] + total, self.squares[rows] + squares
        else:
            self.total[rows], self.squares[rows] = total, squares
