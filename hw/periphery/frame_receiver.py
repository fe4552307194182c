# SPDX-License-Identifier: Apache-2.0
"""Frame receiver: bytes of the serial line to checked requests and payload beats.
The layout is in `hw/contract/frames.py`.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc import Algorithm
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.frames import (
    BLOCK,
    CRC_BYTES,
    FIELD_BITS,
    LONGEST,
    REQUEST_BYTES,
    REQUEST_SYNC,
    Command,
    Status,
)
from edgemoe.hw.contract.registers import ADDRESS_BITS as REGISTER_BITS

BEAT_BYTES = 8

REQUEST = data.StructLayout({n: FIELD_BITS[n] for n in ("command", "sequence", "attempt", "address", "value")})


class FrameReceiver(wiring.Component):
    """Hunts for requests, checks them, and hands on the payload that follows.

    A request's `status` is OK if its CRC and its bounds are right; it was not acted upon yet. Anything else: the line
    has been silent since, and the request is to be answered with that status and no more (its fields may be damaged
    themselves). A header that stays incomplete for `timeout_cycles` of silence is forgotten.

    crc: of the frames; a proof takes a shorter one, for a solver cannot invert a long one.

    Ports:
        bytes (in stream): from the line.
        request (out stream): a request with its `status`.
        beat, beat_valid (out): eight payload bytes of a WRITE_MEMORY, the first in the low bits; no back-pressure.
        ended, status (out): pulse behind the last beat of a payload; OK, PAYLOAD_DAMAGED or PAYLOAD_SHORT (its last
            beats did not come).
    Latency: varies: two cycles from a header's last byte to its request if it is right, else `timeout_cycles` of
        silence; one from a beat's last byte to beat_valid; two from the last byte of a payload's CRC to `ended`.
    Interval: INTERVAL = 1 cycle between bytes; two more for a request, and as long as it is not taken; one more behind
        a payload.
    Format: that of requests in `hw/contract/frames.py`.
    Limits: payloads of 1 to LONGEST bytes, whole blocks, within memory_bytes.
    Twin: `hw.contract.frames.Request`: its `pack` is the other end.
    """

    INTERVAL = 1

    def __init__(self, timeout_cycles: int, memory_bytes: int, crc: Algorithm = CRC32_ISO_HDLC):
        self.timeout_cycles, self.memory_bytes, self.crc = timeout_cycles, memory_bytes, crc
        super().__init__(
            {
                "bytes": In(stream.Signature(8)),
                "request": Out(
                    stream.Signature(data.StructLayout({"status": FIELD_BITS["status"], "fields": REQUEST}))
                ),
                "beat": Out(8 * BEAT_BYTES),
                "beat_valid": Out(1),
                "ended": Out(1),
                "status": Out(FIELD_BITS["status"]),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = self.crc(data_width=8).create()
        request, status = self.request.p.fields, self.request.p.status
        header = request.as_value()
        kept = len(header) // 8
        index = Signal(range(max(REQUEST_BYTES, BEAT_BYTES)))
        left = Signal(range(LONGEST + 1))  # payload bytes still to come
        silence = Signal(range(self.timeout_cycles + 1))
        taken, quiet, listens = Signal(), Signal(), Signal()
        byte = self.bytes.payload
        m.d.comb += [
            self.bytes.ready.eq(listens),
            taken.eq(self.bytes.valid & listens),
            quiet.eq(silence == self.timeout_cycles),
            crc.data.eq(byte),
            crc.valid.eq(taken),
        ]
        m.d.sync += [silence.eq(Mux(self.bytes.valid, 0, silence + ~quiet)), self.beat_valid.eq(0), self.ended.eq(0)]

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += [listens.eq(1), crc.start.eq(1)]
                m.d.sync += index.eq(1)
                with m.If(taken & (byte == REQUEST_SYNC)):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += listens.eq(1)
                with m.If(taken):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index <= kept):
                        m.d.sync += header.eq(Cat(header[8:], byte))
                    with m.If(index == REQUEST_BYTES - 1):
                        m.next = "CHECK"
                with m.Elif(quiet):
                    m.next = "HUNT"
            with m.State("CHECK"):
                verdict = Signal.like(status)
                m.d.comb += verdict.eq(Mux(crc.match_detected, self._verdict(request), Status.HEADER_DAMAGED))
                m.d.sync += status.eq(verdict)
                m.next = "SHOW"
                with m.If(verdict != Status.OK):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += listens.eq(1)
                with m.If(quiet & ~taken):
                    m.next = "SHOW"
            with m.State("SHOW"):
                m.d.comb += [self.request.valid.eq(1), crc.start.eq(1)]
                m.d.sync += [left.eq(request.value), index.eq(0)]
                with m.If(self.request.ready):
                    m.next = "HUNT"
                    with m.If((status == Status.OK) & (request.command == Command.WRITE_MEMORY)):
                        m.next = "PAYLOAD"
            self._payload(m, crc, taken, quiet, listens, left, index)
        return m

    def _payload(
        self, m: Module, crc, taken: Signal, quiet: Signal, listens: Signal, left: Signal, index: Signal
    ) -> None:
        """The states behind a WRITE_MEMORY that was taken: its bytes, their CRC, and how it ended."""
        with m.State("PAYLOAD"):
            m.d.comb += listens.eq(1)
            with m.If(taken):
                m.d.sync += [
                    self.beat.eq(Cat(self.beat[8:], self.bytes.payload)),
                    left.eq(left - 1),
                    index.eq(index + 1),
                ]
                with m.If(index == BEAT_BYTES - 1):
                    m.d.sync += [self.beat_valid.eq(1), index.eq(0)]
                with m.If(left == 1):
                    m.next = "TRAILER"
            with m.Elif(quiet):
                m.d.sync += [self.ended.eq(1), self.status.eq(Status.PAYLOAD_SHORT)]
                m.next = "HUNT"
        with m.State("TRAILER"):
            m.d.comb += listens.eq(1)
            with m.If(taken):
                m.d.sync += index.eq(index + 1)
                with m.If(index == CRC_BYTES - 1):
                    m.next = "JUDGE"
            with m.Elif(quiet):
                m.d.sync += [self.ended.eq(1), self.status.eq(Status.PAYLOAD_SHORT)]
                m.next = "HUNT"
        with m.State("JUDGE"):
            m.d.sync += [
                self.ended.eq(1),
                self.status.eq(Mux(crc.match_detected, Status.OK, Status.PAYLOAD_DAMAGED)),
            ]
            m.next = "HUNT"

    def _verdict(self, request):
        """The status of a request whose CRC is right."""
        address, value, command = request.address, request.value, request.command
        whole = (address[: exact_log2(BLOCK)] == 0) & (value[: exact_log2(BLOCK)] == 0)
        length = (value != 0) & (value <= LONGEST)
        # Both are multiples of a block by then: compare blocks, a few bits less.
        inside = (address < self.memory_bytes) & (
            address[exact_log2(BLOCK) :] + value[exact_log2(BLOCK) : LONGEST.bit_length()] <= self.memory_bytes // BLOCK
        )
        register = (address[2:] < 1 << REGISTER_BITS - 2) & (address[:2] == 0)
        memory_access = (command == Command.READ_MEMORY) | (command == Command.WRITE_MEMORY)
        register_access = (command == Command.READ_REGISTER) | (command == Command.WRITE_REGISTER)
        refused = memory_access & ~(whole & length & inside) | register_access & ~register
        unknown = ~(memory_access | register_access | (command == Command.HELLO))
        return Mux(unknown, Status.UNKNOWN_COMMAND, Mux(refused, Status.REFUSED, Status.OK))
