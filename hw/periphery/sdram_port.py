# SPDX-License-Identifier: Apache-2.0
"""AXI4 in front of the SDRAM: bursts into beats, reads and writes in turn, answers."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.memory.axi import LENGTH_BITS, AxiRead, AxiWrite
from edgemoe.hw.periphery.sdram_config import BEAT_BITS, Access, BeatAddress, ReadBeat, SdramConfig

DECERR = 0b11
SHIFT = exact_log2(BEAT_BITS // 8)


class SdramPort(wiring.Component):
    """An AXI4 slave of one ID: at most one burst a direction under way.

    Reads and writes take turns burst by burst. A burst that cannot go on (no data to write, no room for what is read)
    yields its turn after config.patience cycles, between two beats, so neither direction can lock the other. A read is
    asked for only when the buffer of config.read_buffer beats has room for it. Addresses beyond the memory answer
    DECERR, each beat of a read; nothing is written then.

    Ports:
        read (in AxiRead): INCR bursts of whole beats: size, kind, cache and prot are not looked at, nor are the low
            address bits.
        write (in AxiWrite): the same, the other way; WLAST is not looked at either.
        access (out stream): the beats.
        beat, beat_valid (in): what comes back (see SdramCommands).
    Latency: LATENCY = (1, 1) cycles from ARVALID (AWVALID) to the beat on `access`, one more when the turn changes, and
        from `beat_valid` to RVALID. BVALID comes a cycle after the last beat is taken.
    Interval: INTERVAL = 1 cycle between beats of a burst.
    Limits: one burst of at most 256 beats a direction at a time; answers come in order.
    Twin: none (no arithmetic).
    """

    LATENCY = (1, 1)
    INTERVAL = 1

    def __init__(self, config: SdramConfig) -> None:
        self.config = config
        access = Out(stream.Signature(Access(config)))
        ports = {"read": In(AxiRead(BEAT_BITS)), "write": In(AxiWrite(BEAT_BITS)), "access": access}
        super().__init__({**ports, "beat": In(ReadBeat()), "beat_valid": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read, write, access = self.read, self.write, self.access
        writing = Signal()  # whose turn it is
        taken = Signal()
        m.d.comb += taken.eq(access.valid & access.ready)
        reads, read_ready = self._burst(m, "read", read.arvalid, read.araddr, read.arlen, taken & ~writing)
        writes, write_ready = self._burst(
            m, "write", write.awvalid & ~write.bvalid, write.awaddr, write.awlen, taken & writing
        )
        m.d.comb += [read.arready.eq(read_ready), write.awready.eq(write_ready & ~write.bvalid)]

        room = self._answers(m, taken & ~writing)
        read_able, write_able = Signal(), Signal()
        m.d.comb += [read_able.eq(reads.active & room), write_able.eq(writes.active & write.wvalid)]
        m.d.comb += [
            access.valid.eq(Mux(writing, write_able, read_able)),
            access.p.write.eq(writing),
            access.p.address.eq(Mux(writing, writes.address, reads.address)),
            access.p.data.eq(write.wdata),
            access.p.strobe.eq(Mux(writes.fault, 0, write.wstrb)),
            access.p.last.eq(reads.left == 0),
            access.p.fault.eq(reads.fault),
            write.wready.eq(writing & writes.active & access.ready),
        ]
        with m.If(write.bready):
            m.d.sync += write.bvalid.eq(0)
        with m.If(taken & writing & (writes.left == 0)):
            m.d.sync += [write.bvalid.eq(1), write.bresp.eq(Mux(writes.fault, DECERR, 0))]

        # The turn goes over when a burst ends and the other waits, or when it cannot go on and the other can.
        active, able, other_active, other_able, left = Signal(), Signal(), Signal(), Signal(), Signal(LENGTH_BITS)
        m.d.comb += Cat(active, able, other_active, other_able).eq(
            Mux(
                writing,
                Cat(writes.active, write_able, reads.active, read_able),
                Cat(reads.active, read_able, writes.active, write_able),
            )
        )
        m.d.comb += left.eq(Mux(writing, writes.left, reads.left))
        patience = Signal(range(self.config.patience))
        m.d.sync += patience.eq(Mux(able | ~active | ~other_able, self.config.patience - 1, patience - 1))
        with m.If((taken & (left == 0) & other_active) | (other_able & (~active | ~able & (patience == 0)))):
            m.d.sync += writing.eq(~writing)
        return m

    def _burst(
        self, m: Module, name: str, valid: Signal, address: Signal, length: Signal, taken: Signal
    ) -> tuple[data.View, Signal]:
        """Takes an address when no burst is under way, and counts its beats: `left` are those after the one at hand."""
        shape = data.StructLayout({"active": 1, "address": BeatAddress(self.config), "left": LENGTH_BITS, "fault": 1})
        burst = Signal(shape, name=f"{name}_burst")
        with m.If(taken):
            m.d.sync += [
                burst.address.eq(burst.address.as_value() + 1),
                burst.left.eq(burst.left - 1),
                burst.active.eq(burst.left != 0),
            ]
        with m.If(valid & ~burst.active):
            beyond = exact_log2(self.config.bytes)
            m.d.sync += [
                burst.active.eq(1),
                burst.address.eq(address[SHIFT:]),
                burst.left.eq(length),
                burst.fault.eq(address[beyond:].any()),
            ]
        return burst, ~burst.active

    def _answers(self, m: Module, asked: Signal) -> Signal:
        """The buffer of what was read; returns whether it has room for one more than those asked for."""
        read = self.read
        m.submodules.answers = answers = SyncFIFO(width=len(self.beat.as_value()), depth=self.config.read_buffer)
        out = data.View(ReadBeat(), answers.r_data)
        m.d.comb += [
            answers.w_en.eq(self.beat_valid),
            answers.w_data.eq(self.beat),
            answers.r_en.eq(read.rready),
            read.rvalid.eq(answers.r_rdy),
            read.rdata.eq(out.data),
            read.rlast.eq(out.last),
            read.rresp.eq(Mux(out.fault, DECERR, 0)),
        ]
        room = Signal(range(self.config.read_buffer + 1), init=self.config.read_buffer)
        m.d.sync += room.eq(room - asked + (read.rvalid & read.rready))
        return room != 0
