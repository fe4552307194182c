# SPDX-License-Identifier: Apache-2.0
"""The driver: a compiled program on a device, through its registers and its memory, whatever the device is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from edgemoe.host.runtime.board_device import IDLE, SOFT_RESET, START, BoardDevice
from edgemoe.host.runtime.device import Device
from edgemoe.host.runtime.program import Buffer, CompiledProgram, image_buffers
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import ErrorCode, Opcode
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray

INTERRUPT_DONE, INTERRUPT_ERROR = 1, 2
WATCHDOG_CYCLES = 1_000_000  # far above any instruction's silence: the longest LOAD moves a beat every few cycles

Progress = Callable[[int, int, str], None]  # instruction being executed, instructions in the program, its label


class DeviceError(EdgemoeError):
    """The core stopped with an error: code, instruction and address are in the message and in the attributes."""

    def __init__(self, code: ErrorCode, instruction: int, address: int, label: str) -> None:
        self.code, self.instruction, self.address = code, instruction, address
        super().__init__(
            f"the accelerator stopped with {code.name} ({int(code)}) at instruction {instruction} "
            f"({label or 'no label'}), "
            f"address {address:#x}; "
            "the core is ready for another run"
        )


@dataclass
class Run:
    """What a run gave. heads[i]: integers [patches, outputs] of stream i or None; tokens[i]: likewise [tokens, width].

    counters: every counter of the register map. seconds: from start to interrupt, on the host's clock.
    """

    program: CompiledProgram
    counters: dict[str, int]
    seconds: float
    heads: list[NDArray[np.float32] | None] = field(default_factory=list)
    tokens: list[NDArray[np.float32] | None] = field(default_factory=list)
    traces: list[NDArray[np.uint8]] = field(default_factory=list)
    # [tokens, top_k] of each ROUTE, where the device tells (the emulator)
    routes: list[NDArray[np.int64]] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        return self.counters["CYCLES"]

    @property
    def bytes_read(self) -> int:
        return self.counters["READ_BEATS"] * self.program.hardware.bus_bytes

    @property
    def bytes_written(self) -> int:
        return self.counters["WRITE_BEATS"] * self.program.hardware.bus_bytes

    @property
    def mac_utilisation(self) -> float:
        """Useful multiplications per multiplier and cycle; 0 where cycles are not counted."""
        return self.program.macs / (self.cycles * self.program.hardware.multipliers) if self.cycles else 0.0


class Driver:
    """Opens a device for one hardware configuration: identity, major version and all capacities must be as programs are
    compiled for.
    """

    def __init__(self, device: Device, hardware: HardwareConfig) -> None:
        self.device, self.hardware = device, hardware
        self._ahead: Sequence[NDArray[np.uint8]] | None = None  # images of the next run, which are there already
        expected = registers.constants(hardware)
        found = {name: self.read(name) for name in expected}
        if found["MAGIC"] != expected["MAGIC"]:
            raise EdgemoeError(
                f"device {device.name!r} is no edgemoe core: its identity reads {found['MAGIC']:#010x}, expected "
                f"{expected['MAGIC']:#010x}"
            )
        if found["VERSION"] >> 16 != expected["VERSION"] >> 16:
            raise EdgemoeError(
                f"device {device.name!r} has version {found['VERSION'] >> 16}, this driver is for version "
                f"{expected['VERSION'] >> 16}"
            )
        expected["VERSION"] = found["VERSION"]  # another minor version is no other core
        different = [
            f"{name} is {found[name]} instead of {expected[name]}" for name in expected if found[name] != expected[name]
        ]
        if different:
            raise EdgemoeError(
                f"device {device.name!r} was built for other sizes than hardware {hardware.name!r}: "
                f"{', '.join(different)}"
            )

    def read(self, name: str) -> int:
        return self.device.read_register(registers.offset(name))

    def read_long(self, name: str) -> int:
        offset = registers.offset(name)
        return self.device.read_register(offset) | self.device.read_register(offset + 4) << 32

    def write(self, name: str, value: int) -> None:
        self.device.write_register(registers.offset(name), value)

    def write_long(self, name: str, value: int) -> None:
        offset = registers.offset(name)
        self.device.write_register(offset, value & 0xFFFFFFFF)
        self.device.write_register(offset + 4, value >> 32)

    def load(self, program: CompiledProgram) -> None:
        """Put program, constants and weights into the device's memory; the same program may then run many times."""
        if program.hardware_hash != self.hardware.hash:
            raise EdgemoeError(
                f"the program was compiled for hardware {program.hardware.name!r} ({program.hardware_hash:#010x}), "
                f"the device has {self.hardware.name!r} ({self.hardware.hash:#010x}); compile it again"
            )
        memory = self.device.memory
        if program.memory_size > memory.size:
            raise EdgemoeError(
                f"the program needs {program.memory_size} bytes of device memory, {memory.size} are there"
            )
        memory.write(memory.base, program.memory)
        self._ahead = None

    def _upload(self, program: CompiledProgram, images: Sequence[NDArray[np.uint8]]) -> None:
        memory = self.device.memory
        for number, image in enumerate(images):
            for offset, strip in image_buffers(program, number, image):
                memory.write(memory.base + offset, strip)

    def run(
        self,
        program: CompiledProgram,
        images: Sequence[NDArray[np.uint8]],
        *,
        progress: Progress | None = None,
        following: Callable[[], Sequence[NDArray[np.uint8]] | None] | None = None,
    ) -> Run:
        """Load the images (uint8 C x H x W each), start, wait for the interrupt, read the results.
        `load` must have been called.

        following: asked, when the program has read its images and goes on computing, for those of the next run of the
        same program, which are then loaded meanwhile; None: they are not there yet.
        """
        memory = self.device.memory
        if len(images) != len(program.images):
            raise EdgemoeError(f"the program is for {len(program.images)} images, got {len(images)}")
        if self._ahead is None or any(mine is not its for mine, its in zip(images, self._ahead, strict=True)):
            self._upload(program, images)
        self._ahead = None
        last = max((n for n, i in enumerate(program.instructions) if i.opcode == Opcode.IMAGE), default=-1)

        def report(number: int, total: int, label: str) -> None:
            if progress:
                progress(number, total, label)
            # The next instruction may have begun while the last picture's rows are on their way; one later is sure.
            if following and self._ahead is None and last + 1 < number < total and (coming := following()) is not None:
                self._upload(program, coming)
                self._ahead = coming

        for trace in program.traces:  # experts without tokens store nothing
            memory.write(memory.base + trace.offset, np.zeros(trace.size, np.uint8))
        seconds = self.execute(program.program, program.labels, progress=report)
        counters = {name: self.read_long(name) for name in registers.COUNTERS} | {
            name: self.read(name) for name in registers.KIND_COUNTERS
        }
        run = Run(program, counters, seconds)

        def fetch(buffer: Buffer | None) -> NDArray[np.float32] | None:
            return None if buffer is None else buffer.values(memory.read(memory.base + buffer.offset, buffer.size))

        for result in program.results:
            run.heads.append(fetch(result.head))
            run.tokens.append(fetch(result.tokens))
        if told := getattr(self.device, "result", None):
            run.routes = [route.experts for route in told.routes]
        run.traces = [memory.read(memory.base + t.offset, t.size) for t in program.traces]
        return run

    def require_idle(self) -> None:
        """EdgemoeError if the core is at work for somebody else, or never came to rest."""
        if not self.read("CTRL") & IDLE:
            remedy = self.device.reset_command if isinstance(self.device, BoardDevice) else "open the device again"
            raise EdgemoeError(
                f"device {self.device.name!r} is busy: an earlier process left it running; stop it: {remedy}"
            )

    def execute(self, program: int, labels: Sequence[str], *, progress: Progress | None = None) -> float:
        """Run the instructions in memory at a byte offset; return the seconds from start to interrupt. labels: one an
        instruction.

        However this ends, an interrupt included, a board's core is idle afterwards (`BoardDevice.stop`); a simulated
        one is freed together with its memory and needs no such care.
        """
        self.require_idle()
        try:
            return self._execute(program, labels, progress)
        except BaseException:
            if isinstance(self.device, BoardDevice):
                self.device.stop()
            raise

    def _execute(self, program: int, labels: Sequence[str], progress: Progress | None) -> float:
        memory, total = self.device.memory, len(labels)
        self.write("GIE", 1)
        self.write("IER", INTERRUPT_DONE | INTERRUPT_ERROR)
        self.write("ISR", INTERRUPT_DONE | INTERRUPT_ERROR)
        self.write("WATCHDOG", WATCHDOG_CYCLES)
        self.write_long("PROGRAM", program)
        for number, address in enumerate(memory.bank_addresses):
            self.write_long(f"BASE_{number}", address)
        started = time.perf_counter()
        self.write("CTRL", START)

        def report(device: Device) -> None:
            number = self.read("INSTRUCTION")
            if progress:
                progress(number, total, labels[number] if number < total else "")

        self.device.wait(progress=report)
        seconds = time.perf_counter() - started
        code = ErrorCode(self.read("ERROR_CODE"))
        if code != ErrorCode.NONE:
            number, address = self.read("ERROR_INSTRUCTION"), self.read_long("ERROR_ADDRESS")
            label = labels[number] if number < total else ""
            raise DeviceError(code, number, address, label)
        return seconds

    def soft_reset(self) -> None:
        """Abandon whatever runs; the core drains its bus and is idle afterwards."""
        self.write("CTRL", SOFT_RESET)
