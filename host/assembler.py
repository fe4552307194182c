# SPDX-License-Identifier: Apache-2.0
"""Instructions in order, with the waits that they need, and the regions of memory that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from edgemoe.host.packing import pack, stream_of
from edgemoe.hw.config import HardwareConfig
from edgemoe.hw.isa import INSTRUCTION_BYTES, Instruction, Memory, Opcode, Stationary
from edgemoe.hw.weight_stream import ALIGNMENT, aligned
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.quantise import Linear
from numpy.typing import NDArray


class Shortage(EdgemoeError):
    """A model does not fit.

    remedy: hardware fields, and the least values that give room for what was short; none if no field does.
    """

    def __init__(self, message: str, remedy: Mapping[str, int]) -> None:
        super().__init__(message)
        self.remedy = dict(remedy)


class Region:
    """A part of the memory whose offset is decided when all is known."""

    def __init__(self, size: int, data: NDArray[np.uint8] | None = None) -> None:
        self.size, self.data, self.offset = size, data, -1


class Activations:
    """First-fit allocator of activation words; what is freed may be used by the next instruction, as the array works in order."""

    def __init__(self, words: int) -> None:
        self.words, self.taken = words, dict[int, int]()

    def take(self, size: int, high: bool = False) -> int | None:
        """The lowest room, or, with `high`, the very end of the memory."""
        if high:
            start = self.words - size
            if start < max((base + length for base, length in self.taken.items()), default=0):
                return None
            self.taken[start] = size
            return start
        start = 0
        for base, length in sorted(self.taken.items()):
            if base - start >= size:
                break
            start = base + length
        if start + size > self.words:
            return None
        self.taken[start] = size
        return start

    def free(self, base: int) -> None:
        """Give back what `take` returned."""
        del self.taken[base]

    @property
    def used(self) -> int:
        """Words taken."""
        return sum(self.taken.values())


class Assembler:
    """Collects what a program is made of; `layout` gives every region its place.

    name: of the model, for messages. trace: store the destination of every MATMUL behind it.
    """

    def __init__(self, name: str, hardware: HardwareConfig, trace: bool) -> None:
        self.name, self.hardware, self.trace = name, hardware, trace
        self.instructions: list[tuple[Opcode, dict, str]] = []
        self.weights: list[Region] = []
        self.packed: dict[str, Region] = {}  # matrix -> its weights, which lie there once however often they are used
        self.constants: list[Region] = []
        self.outputs: list[Region] = []
        self.traced: list[tuple[int, str, Region]] = []
        self.activations = Activations(hardware.activation_words)
        self.written: dict[str, int] = {}  # operand -> instruction that wrote it last
        self.complete = 0  # instructions before this one have written their results when the next one starts to stream
        self.body: tuple[int, int] | None = None  # in the body of EXPERTS: (rows of a queue at most, experts)
        self.macs = 0

    def need(self, what: str, amount: int, limit: int, **remedy: int) -> None:
        """Shortage if more is needed than there is, with both and the difference."""
        if amount > limit:
            raise Shortage(
                f"model {self.name} does not fit hardware {self.hardware.name!r}: it needs {amount} {what}, the limit is {limit} "
                f"({amount - limit} too many)",
                remedy,
            )

    def take(self, what: str, rows: int, stride: int, high: bool = False) -> int:
        """Base of so many activation words; EdgemoeError if they are not free."""
        base = self.activations.take(rows * stride, high)
        if base is None:
            h, limit = self.hardware, self.activations.words
            amount = self.activations.used + rows * stride
            wider = (h.words(h.hidden) + max(1, -(-(amount - limit) // h.rows))) * h.lanes  # a word more in every row, at least
            self.need(f"activation words at once ({rows * stride} for {what})", amount, limit, hidden=wider)
            raise Shortage(f"model {self.name} on hardware {h.name!r}: activation memory is too fragmented for {what}", {"hidden": wider})
        return base

    def emit(self, opcode: Opcode, label: str, **values) -> int:
        """Append an instruction; its index."""
        index = len(self.instructions)
        self.instructions.append((opcode, values, label))
        return index

    def matmul(
        self,
        label: str,
        linear: Linear | None = None,
        *,
        reads: Sequence[str] = (),
        holds: Sequence[str] = (),
        writes: str,
        macs: int,
        **values,
    ) -> None:
        """One MATMUL. `reads`: operands that must be complete before it streams; `holds`: before it reads keys or values.

        Where the hardware is known to have finished the writer (an instruction in between waited), no wait is asked for.
        """
        index = len(self.instructions)
        if linear is not None:
            region = self.weight_region(linear)
            values.update(self.linear_fields(linear, region))
        # The loader runs at most one block ahead of the array: when it reads keys, the instruction before this one has begun to stream.
        if any(self.written.get(s, -1) >= self.complete for s in holds):
            values["wait_load"] = 1
        if any(self.written.get(s, -1) >= self.complete for s in reads):
            values["wait_stream"] = 1
            self.complete = index
        self.emit(Opcode.MATMUL, label, **values)
        for name in writes.split():
            self.written[name] = index
        self.macs += macs
        if self.trace:
            self.store_trace(index, label, values)

    def blocking(self, opcode: Opcode, label: str, writes: str = "", **values) -> None:
        """An instruction that waits for all earlier ones by itself."""
        index = self.emit(opcode, label, **values)
        self.complete = index
        for name in writes.split():
            self.written[name] = index

    def linear_fields(self, linear: Linear, region: Region) -> dict:
        """The fields of a MATMUL that its matrix decides."""
        stream = stream_of(linear, self.hardware)
        fields = dict(
            stationary=Stationary.WEIGHTS16 if linear.bits == 16 else Stationary.WEIGHTS8,
            accumulator_shift=linear.accumulator_shift,
            residual_shift=linear.residual_shift,
            output_shift=linear.output_shift,
            chunks=stream.chunks,
            columns=stream.columns,
            address=region,
            beats=stream.beats,
        )
        if linear.bias_first:
            fields.update(bias_first=1, bias_shift=linear.bias_shift)
        if linear.gelu:
            fields["gelu"] = 1
        if linear.weights.ndim == 3:
            fields["expert_stride"] = stream.stride
        return fields

    def weight_region(self, linear: Linear) -> Region:
        """Where a matrix lies, packed."""
        if linear.name in self.packed:
            return self.packed[linear.name]
        data = pack(linear, self.hardware)
        region = self.packed[linear.name] = Region(data.size, data.reshape(-1))
        self.weights.append(region)
        return region

    def store_trace(self, index: int, label: str, values: Mapping[str, int]) -> None:
        """A STORE of what the MATMUL before it has written."""
        rows, copies = self.body or (values["rows"], 1)
        size = rows * values["columns"] * self.hardware.word_bytes
        region = Region(aligned(size) * copies)
        self.outputs.append(region)
        self.traced.append((index, label, region))
        kept = ("memory", "destination_base", "destination_stride", "columns")
        fields: dict[str, Any] = {name: values[name] for name in kept if name in values}
        if self.body:
            fields.update({"scatter": 1} if values.get("scatter") else {"queued": 1}, expert_stride=region.size // copies)
        fields.update(rows=rows, address=region, beats=-(-size // self.hardware.bus_bytes))
        self.blocking(Opcode.STORE, f"trace of {label}", **fields)

    def transfer(
        self, opcode: Opcode, label: str, memory: Memory, base: int, rows: int, words: int, region: Region, writes: str = ""
    ) -> None:
        """LOAD or STORE of rows that lie one after the other."""
        beats = -(-rows * words * self.hardware.word_bytes // self.hardware.bus_bytes)
        fields = dict(memory=memory, destination_base=base, destination_stride=words, rows=rows, columns=words, address=region, beats=beats)
        self.blocking(opcode, label, writes, **fields)

    def layout(self, images: Iterable[Region]) -> tuple[list[Instruction], NDArray[np.uint8], int]:
        """(instructions with addresses, the memory from the program, which lies at 0, to the last weight, bytes of the whole memory)."""
        position = 0

        def place(region: Region) -> None:
            nonlocal position
            region.offset = position
            position += aligned(region.size)

        # The fetcher may run past the end of the program, so a little room follows it.
        place(Region((len(self.instructions) + 16) * INSTRUCTION_BYTES))
        for region in (*self.constants, *self.weights):
            place(region)
        memory = np.zeros(position, np.uint8)
        for region in (*images, *self.outputs):
            place(region)
        instructions = []
        for opcode, given, label in self.instructions:
            values = dict(given)
            operand = values.get("address")
            if isinstance(operand, Region):
                values["address"] = operand.offset
            instructions.append(Instruction(opcode, {k: int(v) for k, v in values.items()}, label))
        code = b"".join(i.encode() for i in instructions)
        memory[: len(code)] = np.frombuffer(code, np.uint8)
        for region in (*self.constants, *self.weights):
            assert region.data is not None
            memory[region.offset : region.offset + region.size] = region.data
        return instructions, memory, -(-(position + ALIGNMENT) // 4096) * 4096
