# SPDX-License-Identifier: Apache-2.0
"""Memory access of the serial link: whole blocks between streams of beats and an AXI4 master, one burst at a time."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.frames import BLOCK, FIELD_BITS, LONGEST
from edgemoe.hw.memory.axi import BURST_INCR, AxiRead, AxiWrite

DATA_BITS = 64
ADDRESS_BITS = FIELD_BITS["address"]
BUFFERED_BLOCKS = 4  # a block comes in as slowly as the line is; the memory has so many of these times for one burst
CACHE, PROTECTION = 3, 0


class BlockWriter(wiring.Component):
    """Writes the beats that come to consecutive blocks of memory, of `block` bytes each.

    Ports:
        start, address (in): pulse: from this block on. Forgets beats of an incomplete block, and `error` and `overrun`.
        beat_valid, beat (in): no back-pressure: a beat that finds the buffer full is lost and sets `overrun`.
        axi (out AxiWrite): writes, in bursts of one block, which is aligned: none crosses a page.
        idle (out): every complete block is written and answered.
        error, overrun (out): since `start`: a write was answered with an error; a beat was lost.
    Latency: varies: with the bus; a burst begins when all its beats are there.
    Interval: INTERVAL = 1 cycle between beats, as long as the buffer of BUFFERED_BLOCKS blocks has room.
    Limits: `address` is a multiple of `block`.
    Twin: none (no arithmetic).
    """

    INTERVAL = 1

    def __init__(self, block: int = BLOCK) -> None:
        self.block, self.beats_of_block = block, block * 8 // DATA_BITS
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "beat_valid": In(1),
                "beat": In(DATA_BITS),
                "axi": Out(AxiWrite(DATA_BITS)),
                "idle": Out(1),
                "error": Out(1),
                "overrun": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi, count = self.axi, self.beats_of_block
        m.submodules.buffer = buffer = ResetInserter(self.start)(
            SyncFIFOBuffered(width=DATA_BITS, depth=BUFFERED_BLOCKS * count)
        )
        address = Signal(ADDRESS_BITS)
        left = Signal(range(count))
        m.d.comb += [
            buffer.w_data.eq(self.beat),
            buffer.w_en.eq(self.beat_valid),
            axi.awaddr.eq(address),
            axi.awlen.eq(count - 1),
            axi.awsize.eq(exact_log2(DATA_BITS // 8)),
            axi.awburst.eq(BURST_INCR),
            axi.awcache.eq(CACHE),
            axi.awprot.eq(PROTECTION),
            axi.wdata.eq(buffer.r_data),
            axi.wstrb.eq(~0),
            axi.wlast.eq(left == 0),
        ]
        with m.If(self.beat_valid & ~buffer.w_rdy):
            m.d.sync += self.overrun.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += left.eq(count - 1)
                m.d.comb += self.idle.eq((buffer.level < count) & ~self.beat_valid)
                with m.If(buffer.level >= count):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += axi.awvalid.eq(1)
                with m.If(axi.awready):
                    m.next = "DATA"
            with m.State("DATA"):
                # The buffer shows a beat a cycle after it came; all of this block came before.
                m.d.comb += [axi.wvalid.eq(buffer.r_rdy), buffer.r_en.eq(axi.wready)]
                with m.If(axi.wvalid & axi.wready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(axi.wlast):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += axi.bready.eq(1)
                with m.If(axi.bvalid):
                    m.d.sync += [address.eq(address + self.block), self.error.eq(self.error | axi.bresp[1])]
                    m.next = "IDLE"
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), self.error.eq(0), self.overrun.eq(0)]
        return m


class BlockReader(wiring.Component):
    """Reads consecutive blocks of memory, of `block` bytes each, as a stream of beats.

    Ports:
        start (in): pulse, only when all beats of the last one were taken.
        address, length (in): from where, and how many bytes (a multiple of `block`).
        beats (out stream): what was read.
        axi (out AxiRead): reads, in bursts of one block; RREADY is always high, for room is kept before a burst is
            asked for.
        error (out): a beat since `start` was answered with an error.
    Latency: varies: with the bus.
    Interval: INTERVAL = 1 cycle between beats within a block, while they are taken.
    Limits: `address` and `length` are multiples of `block`, `length` at most LONGEST.
    Twin: none (no arithmetic).
    """

    INTERVAL = 1

    def __init__(self, block: int = BLOCK) -> None:
        self.block, self.beats_of_block = block, block * 8 // DATA_BITS
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "length": In(range(LONGEST + 1)),
                "beats": Out(stream.Signature(DATA_BITS)),
                "axi": Out(AxiRead(DATA_BITS)),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi, count = self.axi, self.beats_of_block
        m.submodules.buffer = buffer = SyncFIFOBuffered(width=DATA_BITS, depth=2 * count)
        address, left = Signal(ADDRESS_BITS), Signal(range(LONGEST // self.block + 1))
        arrives = axi.rvalid & axi.rready
        m.d.comb += [
            axi.araddr.eq(address),
            axi.arlen.eq(count - 1),
            axi.arsize.eq(exact_log2(DATA_BITS // 8)),
            axi.arburst.eq(BURST_INCR),
            axi.arcache.eq(CACHE),
            axi.arprot.eq(PROTECTION),
            axi.rready.eq(1),
            buffer.w_data.eq(axi.rdata),
            buffer.w_en.eq(axi.rvalid),
            self.beats.payload.eq(buffer.r_data),
            self.beats.valid.eq(buffer.r_rdy),
            buffer.r_en.eq(self.beats.ready),
        ]
        with m.If(arrives):
            m.d.sync += self.error.eq(self.error | axi.rresp[1])
        with m.FSM():
            with m.State("IDLE"):
                with m.If((left != 0) & (buffer.level <= count)):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += axi.arvalid.eq(1)
                with m.If(axi.arready):
                    m.d.sync += [address.eq(address + self.block), left.eq(left - 1)]
                    m.next = "DATA"
            with m.State("DATA"):
                with m.If(arrives & axi.rlast):
                    m.next = "IDLE"
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), left.eq(self.length // self.block), self.error.eq(0)]
        return m
