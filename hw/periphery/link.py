# SPDX-License-Identifier: Apache-2.0
"""Link: carries out the requests of the serial line on the core's registers and on the memory."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc import Algorithm
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.contract.frames import FIELD_BITS, PAGE_BYTES, VERSION, Command, Status
from edgemoe.hw.control.register_file import AxiLite
from edgemoe.hw.memory.axi import AxiRead, AxiWrite
from edgemoe.hw.periphery.blocks import DATA_BITS, BlockReader, BlockWriter
from edgemoe.hw.periphery.frame_receiver import FrameReceiver
from edgemoe.hw.periphery.frame_sender import FrameSender


class Link(wiring.Component):
    """One request at a time: bytes in, accesses, bytes out. What a request may be, and what is answered, stands in
    `hw/contract/frames.py`.

    timeout_cycles: of silence inside a frame, after which the rest is not awaited. memory_bytes: behind the masters,
    from address 0. crc: of the frames (see FrameReceiver).

    Nothing on the line can make the link wait for ever: every state waits for the line with a time-out, or for the bus,
    which answers. A register access is done once: its repetition is answered from what is kept.

    Ports:
        received (in stream): bytes from the line.
        sent (out stream): bytes to the line.
        registers (out AxiLite): the core's.
        read (out AxiRead): memory, 64 bit, in bursts of one block.
        write (out AxiWrite): the same, the other way.
    Latency: varies: with line and bus.
    Interval: none (one request at a time).
    Limits: those of FrameReceiver.
    Twin: none (no arithmetic); `host.runtime.serial_link` is the other end.
    """

    def __init__(self, timeout_cycles: int, memory_bytes: int, crc: Algorithm = CRC32_ISO_HDLC):
        self.timeout_cycles, self.memory_bytes, self.crc = timeout_cycles, memory_bytes, crc
        super().__init__(
            {
                "received": In(stream.Signature(8)),
                "sent": Out(stream.Signature(8)),
                "registers": Out(AxiLite()),
                "read": Out(AxiRead(DATA_BITS)),
                "write": Out(AxiWrite(DATA_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver(self.timeout_cycles, self.memory_bytes, self.crc)
        m.submodules.sender = sender = FrameSender(self.crc)
        m.submodules.writer = writer = BlockWriter()
        m.submodules.reader = reader = BlockReader()
        connect(m, flipped(self.received), receiver.bytes)
        connect(m, sender.bytes, flipped(self.sent))
        connect(m, reader.beats, sender.beats)
        connect(m, reader.axi, flipped(self.read))
        connect(m, writer.axi, flipped(self.write))

        request, answer = Signal(receiver.request.p.fields.shape()), sender.answer.p
        status, value = Signal(FIELD_BITS["status"]), Signal(FIELD_BITS["value"])
        reads = (request.command == Command.READ_MEMORY) & (status == Status.OK)
        m.d.comb += [
            reader.address.eq(request.address),
            reader.length.eq(request.value),
            writer.address.eq(request.address),
            writer.beat.eq(receiver.beat),
            writer.beat_valid.eq(receiver.beat_valid),
            answer.status.eq(status),
            answer.sequence.eq(request.sequence),
            answer.attempt.eq(request.attempt),
            answer.value.eq(value),
            answer.payload.eq(Mux(reads, request.value, 0)),
            sender.payload_status.eq(Mux(reader.error, Status.BUS_ERROR, Status.OK)),
        ]
        self._steps(m, request, status, value)
        return m

    def _steps(self, m: Module, request, status: Signal, value: Signal) -> None:
        """A request from its arrival to its answer: `status` and `value` are the answer's."""
        units = m.submodules
        receiver, sender, reader, writer = units.receiver, units.sender, units.reader, units.writer
        # The last request, if it was a register access: a repetition is answered from here.
        kept_valid, kept_sequence = Signal(), Signal(FIELD_BITS["sequence"])
        kept_value, kept_status = Signal.like(value), Signal.like(status)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += receiver.request.ready.eq(1)
                m.d.sync += [request.eq(receiver.request.p.fields), status.eq(receiver.request.p.status), value.eq(0)]
                with m.If(receiver.request.valid):
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.next = "ANSWER"
                with m.If(status == Status.OK):
                    m.d.sync += kept_valid.eq(0)
                    with m.Switch(request.command):
                        with m.Case(Command.HELLO):
                            m.d.sync += value.eq(VERSION << 24 | self.memory_bytes // PAGE_BYTES)
                        with m.Case(Command.READ_REGISTER, Command.WRITE_REGISTER):
                            m.next = "REGISTER"
                            with m.If(kept_valid & (kept_sequence == request.sequence)):
                                m.d.sync += [kept_valid.eq(1), value.eq(kept_value), status.eq(kept_status)]
                                m.next = "ANSWER"
                        with m.Case(Command.READ_MEMORY):
                            m.d.comb += reader.start.eq(1)
                        with m.Case(Command.WRITE_MEMORY):
                            m.d.comb += writer.start.eq(1)
                            m.next = "WRITE"
            with m.State("REGISTER"):
                over, response = self._access_register(m, request)
                with m.If(over):
                    m.d.sync += [
                        value.eq(self.registers.rdata),
                        status.eq(Mux(response[1], Status.BUS_ERROR, Status.OK)),
                        kept_valid.eq(1),
                        kept_sequence.eq(request.sequence),
                        kept_value.eq(self.registers.rdata),
                        kept_status.eq(Mux(response[1], Status.BUS_ERROR, Status.OK)),
                    ]
                    m.next = "ANSWER"
            with m.State("WRITE"):
                with m.If(receiver.ended):
                    m.d.sync += status.eq(receiver.status)
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                with m.If(writer.idle):
                    with m.If(writer.overrun):
                        m.d.sync += status.eq(Status.OVERRUN)
                    with m.Elif((status == Status.OK) & writer.error):
                        m.d.sync += status.eq(Status.BUS_ERROR)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += sender.answer.valid.eq(1)
                with m.If(sender.answer.ready):
                    m.next = "SEND"
            with m.State("SEND"):
                with m.If(~sender.busy):
                    m.next = "IDLE"

    def _access_register(self, m, request):
        """One access, address and data offered together: (it is answered in this cycle, the response)."""
        bus, writes = self.registers, request.command == Command.WRITE_REGISTER
        addressed, given = Signal(), Signal()
        over = Mux(writes, bus.bvalid, bus.rvalid)
        m.d.comb += [
            bus.araddr.eq(request.address),
            bus.awaddr.eq(request.address),
            bus.wdata.eq(request.value),
            bus.wstrb.eq(0xF),
            bus.arvalid.eq(~writes & ~addressed),
            bus.awvalid.eq(writes & ~addressed),
            bus.wvalid.eq(writes & ~given),
            bus.rready.eq(1),
            bus.bready.eq(1),
        ]
        with m.If(over):
            m.d.sync += [addressed.eq(0), given.eq(0)]
        with m.Else():
            with m.If(bus.arvalid & bus.arready | bus.awvalid & bus.awready):
                m.d.sync += addressed.eq(1)
            with m.If(bus.wvalid & bus.wready):
                m.d.sync += given.eq(1)
        return over, Mux(writes, bus.bresp, bus.rresp)
