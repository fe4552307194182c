# SPDX-License-Identifier: Apache-2.0
"""Frames on the serial line between a computer and a board: what the driver and the gateware share.

Everything is little-endian; every CRC is CRC-32 (ISO-HDLC, as in zlib). The computer asks, the board answers; one
request at a time.

    request   sync A5 | command | sequence | attempt | address 4 | value 4 | CRC 4     CRC of the twelve bytes before it
              then, of WRITE_MEMORY: `value` bytes | CRC 4
    answer    sync 5A | status | sequence | attempt | value 4 | CRC 4                  CRC of the eight bytes before it
              then, of READ_MEMORY if status is OK: the bytes | status | CRC 4         CRC of bytes and status

A new request takes the next sequence number; a repeated one keeps it and counts `attempt` up, so that a late answer to
an earlier attempt is told from the right one. The board carries a repeated register access out once and repeats its
answer: START or a register that changes when it is read suffers no second access. Memory frames may be repeated freely.
Nothing is touched before the header's CRC was found right; the payload's CRC decides the status. HELLO makes the board
forget the last sequence number.

A line that falls silent inside a frame for the board's time-out ends the frame. After a damaged header the board waits
for such a silence before it answers and listens again, so that a payload is never taken for a request.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
REQUEST_SYNC, ANSWER_SYNC = 0xA5, 0x5A
BLOCK = 64  # bytes: addresses and lengths of memory frames are multiples of it
LONGEST = 1 << 16  # bytes of payload
FIELD_BITS = {"command": 8, "status": 8, "sequence": 8, "attempt": 8, "address": 32, "value": 32}
REQUEST_BYTES, ANSWER_BYTES, CRC_BYTES = 16, 12, 4
BAUD = 3_000_000  # of the line, unless a person says otherwise: the most that the FT231X of a ULX3S does
PAGE_BYTES = 4096  # the unit of the memory size in the answer to HELLO
TIMEOUT_SECONDS = 0.1  # of silence inside a frame, on a board: a computer under load may pause while it writes


class Command(IntEnum):
    HELLO = 1  # the answer's value: VERSION << 24 | memory in pages
    READ_REGISTER = 2
    WRITE_REGISTER = 3
    READ_MEMORY = 4
    WRITE_MEMORY = 5


class Status(IntEnum):
    OK = 0
    HEADER_DAMAGED = 1
    PAYLOAD_DAMAGED = 2
    PAYLOAD_SHORT = 3
    UNKNOWN_COMMAND = 4
    REFUSED = 5  # address or length: no multiple of BLOCK, too long, outside
    BUS_ERROR = 6
    OVERRUN = 7  # bytes came faster than the memory took them


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CRC_BYTES, "little")


@dataclass(frozen=True)
class Request:
    command: int
    sequence: int
    attempt: int
    address: int = 0
    value: int = 0

    def pack(self) -> bytes:
        header = struct.pack(
            "<BBBBII", REQUEST_SYNC, self.command, self.sequence, self.attempt, self.address, self.value
        )
        return header + crc(header)


@dataclass(frozen=True)
class Answer:
    status: int
    sequence: int
    attempt: int
    value: int

    @classmethod
    def unpack(cls, data: bytes) -> Answer | None:
        """None if the CRC or the sync byte is wrong."""
        if len(data) != ANSWER_BYTES or data[0] != ANSWER_SYNC or crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
            return None
        return cls(*struct.unpack("<BBBI", data[1:-CRC_BYTES]))
