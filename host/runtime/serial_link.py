# SPDX-License-Identifier: Apache-2.0
"""A board behind a serial port, without a processor: registers and memory through frames with checksums
(`hw/contract/frames.py`).

:class:`SerialDevice` is a :class:`edgemoe.host.runtime.device.Device`; the driver's checks of identity, version and
sizes follow when it opens one. A frame that is lost or damaged on the way is sent again; what does not get through in
ATTEMPTS is an error that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from edgemoe.host.runtime.board_device import BoardDevice
from edgemoe.hw.contract import frames
from edgemoe.hw.contract.frames import (
    ANSWER_BYTES,
    ANSWER_SYNC,
    BAUD,
    BLOCK,
    CRC_BYTES,
    LONGEST,
    Answer,
    Command,
    Request,
    Status,
)
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray

ATTEMPTS = 4
SILENCE = 5.0  # seconds without a byte, after which an answer is given up
GREETING = 1.0  # the same for the first answer of all, which is short and may never come
STUCK = 60.0  # seconds that the sending of one frame may take
# of silence before a frame is sent again: the board has then given the last one up
PAUSE = 2.5 * frames.TIMEOUT_SECONDS
TIMEOUT = (
    600.0  # seconds that a run may take where the caller states none: the boards behind such a line are the slow ones
)
NOISE = 256  # bytes that are no answer, after which waiting for one is given up
# of a frame: a USB bridge that the computer forgets for 2 ms loses bytes, and the less is sent again the better
READ_BYTES = 1 << 14

# What the board tells of a frame that it could not use, in words. Everything else is no matter of the line.
DAMAGED = {
    Status.HEADER_DAMAGED: "the board received a damaged request",
    Status.PAYLOAD_DAMAGED: "the board received damaged data",
    Status.PAYLOAD_SHORT: "the board missed a part of the data",
    Status.OVERRUN: "the data came faster than the board's memory took it",
}


class _Failed(Exception):
    """One attempt did not succeed."""


class SerialMemory:
    """The board's SDRAM, from address 0. Frames move whole blocks;
    a write's ragged ends are merged with what lies there.
    """

    base: int = 0
    bank_addresses: tuple[int, ...] = (0,)

    def __init__(self, device: SerialDevice, size: int) -> None:
        self._device, self.size = device, size

    def _check(self, address: int, size: int) -> None:
        if size < 0 or address < 0 or address + size > self.size:
            raise EdgemoeError(f"{size} bytes at {address:#x} are outside the device memory 0x0 to {self.size:#x}")

    @staticmethod
    def _frames(first: int, end: int, longest: int) -> Iterator[tuple[int, int]]:
        for start in range(first, end, longest):
            yield start, min(end, start + longest)

    def write(self, address: int, data: bytes | NDArray[np.generic]) -> None:
        """Store bytes, or an array's bytes in C order."""
        values = np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else bytes(data)
        self._check(address, len(values))
        if not values:
            return
        first, end = address // BLOCK * BLOCK, -(-(address + len(values)) // BLOCK) * BLOCK
        before = self._device.read_blocks(first, BLOCK)[: address - first] if address > first else b""
        behind = (
            self._device.read_blocks(end - BLOCK, BLOCK)[address + len(values) - end :]
            if end > address + len(values)
            else b""
        )
        whole = memoryview(before + values + behind)
        for start, stop in self._frames(first, end, LONGEST):
            self._device.write_blocks(start, bytes(whole[start - first : stop - first]))

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        """A copy of `size` bytes."""
        self._check(address, size)
        first, end = address // BLOCK * BLOCK, -(-(address + size) // BLOCK) * BLOCK
        data = b"".join(
            self._device.read_blocks(start, stop - start)
            for start, stop in self._frames(first, end, READ_BYTES)
            if size
        )
        return np.frombuffer(data, np.uint8)[address - first : address - first + size].copy()


def _port(name: str, baud: int) -> Any:
    try:
        import serial
        from serial.tools import list_ports
    except ImportError as error:
        raise extras.missing("pyserial", "--device serial", "serial") from error
    try:
        port = serial.Serial(name, baud, timeout=SILENCE, write_timeout=STUCK, exclusive=True)
    except ValueError as error:
        raise EdgemoeError(f"serial port {name} cannot be set to {baud} baud: {error}") from error
    except serial.SerialException as error:
        if "lock" in str(error):
            raise EdgemoeError(f"serial port {name} is in use by another process") from error
        if error.errno == 13:
            raise EdgemoeError(
                f"may not open {name}: put your user into the port's group (often dialout), log in anew"
            ) from error
        there = ", ".join(found.device for found in list_ports.comports()) or "none"
        raise EdgemoeError(f"cannot open serial port {name} (there are: {there}): {error}") from error
    try:
        port.set_low_latency_mode(True)  # else a USB bridge collects bytes for 16 ms before it sends them on
    except (OSError, ValueError, AttributeError, NotImplementedError):
        pass  # not every port or system knows it (a pseudo-terminal, macOS); then everything works, only slower
    return port


class SerialDevice(BoardDevice):
    """A core behind a serial port.

    silence: seconds without a byte, after which an answer is given up. pause: seconds of silence before a frame is sent
    again. Closing gives the port back; a second process that opens it is refused until then. `failures`: what went
    wrong with the frames that were sent again.
    """

    name = "serial"
    timeout = TIMEOUT

    def __init__(self, port: str, baud: int = BAUD, *, silence: float = SILENCE, pause: float = PAUSE) -> None:
        self.port, self.baud, self.pause = port, baud, pause
        self.reset_command = f"edgemoe reset --device serial --port {port}" + (
            f" --baud {baud}" if baud != BAUD else ""
        )
        self.failures: list[str] = []
        self._sequence = 0
        self._lost = False  # the board can no longer be reached
        self._line: Any = _port(port, baud)
        self._line.timeout = min(silence, GREETING)
        try:
            self._line.reset_input_buffer()
            value = self._ask(Command.HELLO, unheard="is the bitstream loaded, and is this the board's port?")[0].value
            if value >> 24 != frames.VERSION:
                raise EdgemoeError(
                    f"the board on {port} speaks version {value >> 24} of the serial protocol, this driver "
                    f"{frames.VERSION}"
                )
            self._line.timeout = silence
            self.memory = SerialMemory(self, (value & 0xFFFFFF) * frames.PAGE_BYTES)
        except BaseException:
            self._release(stopped=True)
            raise

    # ------------------------------------------------------------------------------------------------ the device
    # contract

    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""
        return self._ask(Command.READ_REGISTER, offset)[0].value

    def _write(self, offset: int, value: int) -> None:
        if not 0 <= value < 2**32:
            raise ValueError(f"register value {value:#x} does not fit 32 bits")
        self._ask(Command.WRITE_REGISTER, offset, value)

    def _event(self, seconds: float) -> None:
        """Every look at the registers already waits for the line."""

    def stop(self) -> bool:
        """As every board's; an interrupt may have cut a frame short, so the line comes to rest first."""
        import serial

        if self._lost:  # another attempt would take as long as those before
            return False
        try:
            self._quieten()
        except (KeyboardInterrupt, serial.SerialException, OSError):
            pass  # what asks next finds out
        return super().stop()

    def _release(self, stopped: bool) -> None:
        # The memory is the board's own: there is none to keep.
        self._line.close()

    # ------------------------------------------------------------------------------------------------ blocks of memory

    def read_blocks(self, address: int, size: int) -> bytes:
        """`size` bytes (at most LONGEST); both multiples of BLOCK."""
        return self._ask(Command.READ_MEMORY, address, size)[1]

    def write_blocks(self, address: int, data: bytes) -> None:
        """Bytes (at most LONGEST); their number and the address multiples of BLOCK."""
        self._ask(Command.WRITE_MEMORY, address, len(data), data)

    # ------------------------------------------------------------------------------------------------ frames

    def _ask(
        self, command: Command, address: int = 0, value: int = 0, payload: bytes = b"", unheard: str = ""
    ) -> tuple[Answer, bytes]:
        """A request and its answer, as often as it takes."""
        import serial

        self._sequence = (self._sequence + 1) % 256
        earlier = len(self.failures)
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    self._quieten()
                try:
                    answered = self._attempt(Request(command, self._sequence, attempt, address, value), payload)
                    self._lost = False
                    return answered
                except _Failed as failure:
                    self.failures.append(str(failure))
        except (serial.SerialException, OSError) as error:
            self._lost = True
            raise EdgemoeError(
                f"serial port {self.port} no longer works ({error}): was the board unplugged?"
            ) from error
        self._lost = True
        reason = ", ".join(dict.fromkeys(self.failures[earlier:]))
        advice = unheard or "check the cable, or try a lower --baud with a bitstream that was built for it"
        raise EdgemoeError(
            f"the board on {self.port} could not be reached at {self.baud} baud in {ATTEMPTS} attempts "
            f"({command.name} at {address:#x}: {reason}); {advice}"
        )

    def _attempt(self, request: Request, payload: bytes) -> tuple[Answer, bytes]:
        data = request.pack()
        if payload:
            data += payload + frames.crc(payload)
        self._line.write(data)
        answer = self._answer(request)
        data = b""
        if answer.status == Status.OK and request.command == Command.READ_MEMORY:
            data = self._receive(request.value + 1 + CRC_BYTES)
            if frames.crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
                raise _Failed("damaged data came back")
            answer = Answer(data[request.value], answer.sequence, answer.attempt, answer.value)
            data = data[: request.value]
        if answer.status in DAMAGED:
            raise _Failed(DAMAGED[Status(answer.status)])
        if answer.status == Status.BUS_ERROR:
            what = "register" if request.command in (Command.READ_REGISTER, Command.WRITE_REGISTER) else "memory"
            raise EdgemoeError(
                f"the board on {self.port} answered a {what} access at {request.address:#05x} with an error"
            )
        if answer.status != Status.OK:
            known = answer.status in Status.__members__.values()
            reason = Status(answer.status).name if known else f"status {answer.status}"
            raise EdgemoeError(
                f"the board on {self.port} did not take {Command(request.command).name} at {request.address:#x}: "
                f"{reason}"
            )
        return answer, data

    def _answer(self, request: Request) -> Answer:
        """The answer to this very attempt; late ones to earlier attempts are passed over."""
        for _ in range(NOISE):
            sync = self._receive(1)
            if sync[0] != ANSWER_SYNC:
                continue
            answer = Answer.unpack(sync + self._receive(ANSWER_BYTES - 1))
            if answer is None:
                raise _Failed("a damaged answer came back")
            if answer.status == Status.HEADER_DAMAGED or (answer.sequence, answer.attempt) == (
                request.sequence,
                request.attempt,
            ):
                return answer
        raise _Failed("nothing but noise came back")

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self._line.read(1)
            if not more:
                raise _Failed(
                    f"no answer for {self._line.timeout:g} s" if not data else "a part of an answer did not come"
                )
            data += more + self._line.read(min(self._line.in_waiting, count - len(data) - 1))
        return bytes(data)

    def _quieten(self) -> None:
        """Wait until nothing has come for a while; what comes belongs to frames that were given up."""
        kept, self._line.timeout = self._line.timeout, self.pause
        try:
            for _ in range(ATTEMPTS):
                if not self._line.read(4096):
                    break
        finally:
            self._line.timeout = kept
