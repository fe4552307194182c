# SPDX-License-Identifier: Apache-2.0
"""Frame sender: answers and payload beats to bytes of the serial line. The layout is in `hw/contract/frames.py`."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc import Algorithm
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.frames import ANSWER_BYTES, ANSWER_SYNC, CRC_BYTES, FIELD_BITS, LONGEST

FIELDS = {name: FIELD_BITS[name] for name in ("status", "sequence", "attempt", "value")}
FIXED_BYTES = ANSWER_BYTES - CRC_BYTES
BEAT_BYTES = 8


class FrameSender(wiring.Component):
    """Sends an answer, behind it the payload that it announces, and the CRCs.

    Ports:
        answer (in stream): the fields and how many bytes of payload follow (a multiple of eight, or 0); taken only when
            idle.
        beats (in stream): the payload, eight bytes each.
        payload_status (in): sent behind the last beat, looked at then.
        bytes (out stream): to the line.
        busy (out): a frame is not yet wholly given out.
    Latency: LATENCY = 1 cycle from an answer to its first byte.
    Interval: INTERVAL = 1 cycle between bytes; one more before each CRC, each beat and the status of a payload.
    Format: that of answers in `hw/contract/frames.py`.
    Limits: payloads of at most LONGEST bytes.
    Twin: `hw.contract.frames.Answer`: its `unpack` is the other end.
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, crc: Algorithm = CRC32_ISO_HDLC) -> None:
        self.crc = crc
        answer = data.StructLayout({**FIELDS, "payload": range(LONGEST + 1)})
        super().__init__(
            {
                "answer": In(stream.Signature(answer)),
                "beats": In(stream.Signature(8 * BEAT_BYTES)),
                "payload_status": In(FIELD_BITS["status"]),
                "bytes": Out(stream.Signature(8)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = self.crc(data_width=8).create()
        shift = Signal(8 * BEAT_BYTES)
        count = Signal(range(BEAT_BYTES + 1))  # bytes of `shift` still to send
        left = Signal(range(LONGEST + 1))  # payload bytes not yet in `shift`
        sent = self.bytes.valid & self.bytes.ready
        m.d.comb += [self.busy.eq(1), self.bytes.payload.eq(shift[:8]), crc.data.eq(shift[:8])]
        with m.If(sent):
            m.d.sync += [shift.eq(shift >> 8), count.eq(count - 1)]

        with m.FSM():
            with m.State("IDLE"):
                p = self.answer.p
                m.d.comb += [self.answer.ready.eq(1), crc.start.eq(1), self.busy.eq(0)]
                with m.If(self.answer.valid):
                    m.d.sync += [
                        shift.eq(Cat(Const(ANSWER_SYNC, 8), p.status, p.sequence, p.attempt, p.value)),
                        count.eq(FIXED_BYTES),
                        left.eq(p.payload),
                    ]
                    m.next = "BYTES"
            with m.State("BYTES"):
                m.d.comb += [self.bytes.valid.eq(1), crc.valid.eq(sent)]
                with m.If(sent & (count == 1)):
                    m.next = "AFTER"
            with m.State("AFTER"):
                m.d.sync += [shift.eq(crc.crc), count.eq(CRC_BYTES)]
                m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += self.bytes.valid.eq(1)
                with m.If(sent & (count == 1)):
                    m.next = "IDLE"
                    with m.If(left != 0):
                        m.d.comb += crc.start.eq(1)
                        m.next = "BEAT"
            with m.State("BEAT"):
                m.d.comb += self.beats.ready.eq(1)
                with m.If(self.beats.valid):
                    m.d.sync += [shift.eq(self.beats.payload), count.eq(BEAT_BYTES), left.eq(left - BEAT_BYTES)]
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += [self.bytes.valid.eq(1), crc.valid.eq(sent)]
                with m.If(sent & (count == 1)):
                    m.next = "BEAT"
                    with m.If(left == 0):
                        m.next = "STATUS"
            with m.State("STATUS"):
                m.d.sync += [shift.eq(self.payload_status), count.eq(1)]
                m.next = "BYTES"
        return m
