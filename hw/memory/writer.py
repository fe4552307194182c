# SPDX-License-Identifier: Apache-2.0
"""Writing DRAM: one request at a time, as bursts on all AXI4 write masters in lock-step."""

from functools import reduce

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS
from edgemoe.hw.memory.axi import (
    ADDRESS_BITS,
    BURST_INCR,
    AxiWrite,
    BurstSplitter,
    Failure,
    WriteClient,
    master_address,
)

SKEW_BEATS = 4  # by which one master may take data ahead of another


class Writer(wiring.Component):
    """Request + stream of beats -> bursts; beat A goes to the masters' memories at base[m] + A / masters, master 0
    takes the low bits.

    Data of a burst does not wait for its address to be taken. At most config.outstanding bursts are unanswered.

    Ports:
        client (in WriteClient): a request, taken when nothing is under way, and its beats.
        moved (out): pulse: a beat was taken.
        base (in): byte address of each master's memory, a multiple of 4096.
        stop (in): hold until `idle`: no new bursts; those begun are completed with disabled bytes, their answers
            awaited; no `done`.
        idle (out): nothing is under way on the bus.
        failure (out Failure): of a burst: a response (of any master) was not OKAY.
        axi (out AxiWrite): writes, one for each master.
    Latency: varies: with AWREADY, WREADY and the answers.
    Interval: INTERVAL = 1 cycle between beats, no gap between bursts while AWREADY is prompt.
    Limits: 1, 2 or 4 masters, whose data may be SKEW_BEATS apart.
    Twin: none (no arithmetic).
    """

    INTERVAL = 1

    def __init__(self, config: HardwareConfig, cache: int = 0b0011, prot: int = 0) -> None:
        self.config, self.cache, self.prot = config, cache, prot
        super().__init__(
            {
                "client": In(WriteClient(config)),
                "moved": Out(1),
                "base": In(data.ArrayLayout(ADDRESS_BITS, config.masters)),
                "stop": In(1),
                "idle": Out(1),
                "failure": Out(Failure()),
                "axi": Out(AxiWrite(config.data_bits)).array(config.masters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, client = self.config, self.client
        splitter = BurstSplitter(config)
        m.submodules.splitter = ResetInserter(self.stop)(splitter)
        burst = splitter.burst
        active, begin, take, room = Signal(), Signal(), Signal(), Signal()
        left = Signal(range(config.burst_limit + 1))  # beats of the present burst
        unanswered = [Signal(range(config.outstanding + 1), name=f"unanswered{i}") for i in range(config.masters)]
        blocked = Cat(
            [axi.awvalid & ~axi.awready for axi in self.axi] + [count == config.outstanding for count in unanswered]
        ).any()
        quiet = ~Cat([count.any() for count in unanswered]).any() & (left == 0)

        m.d.comb += [
            splitter.request.p.eq(client.request.p),
            splitter.request.valid.eq(client.request.valid & ~active & ~self.stop),
            client.request.ready.eq(splitter.request.ready & ~active & ~self.stop),
            begin.eq(burst.valid & ((left == 0) | (left == 1) & take) & ~blocked & ~self.stop),
            burst.ready.eq(begin),
            take.eq((left != 0) & room & (client.beats.valid | self.stop)),
            client.beats.ready.eq((left != 0) & room & ~self.stop),
            self.moved.eq(take),
            client.done.eq(active & quiet & ~splitter.busy & ~self.stop),
            self.idle.eq(quiet),
        ]
        m.d.sync += left.eq(Mux(begin, burst.p.beats, left - take))
        with m.If(client.request.valid & client.request.ready):
            m.d.sync += active.eq(1)
        with m.Elif(client.done | self.stop):
            m.d.sync += active.eq(0)

        ready = []
        failed = []
        for i, axi in enumerate(self.axi):
            m.d.comb += [
                axi.awsize.eq(exact_log2(config.data_bits // 8)),
                axi.awburst.eq(BURST_INCR),
                axi.awcache.eq(self.cache),
                axi.awprot.eq(self.prot),
                axi.bready.eq(1),
            ]
            with m.If(axi.awready):
                m.d.sync += axi.awvalid.eq(0)
            with m.If(begin):
                m.d.sync += [
                    axi.awvalid.eq(1),
                    axi.awaddr.eq(master_address(self.base[i], burst.p.address >> exact_log2(config.masters))),
                    axi.awlen.eq(burst.p.beats - 1),
                ]
            m.d.sync += unanswered[i].eq(unanswered[i] + begin - axi.bvalid)

            beat = data.StructLayout({"data": config.data_bits, "last": 1, "enabled": 1})
            m.submodules[f"skew{i}"] = fifo = SyncFIFOBuffered(width=beat.size, depth=SKEW_BEATS)
            shown = data.View(beat, fifo.r_data)
            part = client.beats.payload.word_select(i, config.data_bits)
            m.d.comb += [
                fifo.w_data.eq(Cat(part, left == 1, ~self.stop)),
                fifo.w_en.eq(take),
                axi.wdata.eq(shown.data),
                axi.wlast.eq(shown.last),
                axi.wstrb.eq(shown.enabled.replicate(config.data_bits // 8)),
                axi.wvalid.eq(fifo.r_rdy),
                fifo.r_en.eq(axi.wready),
            ]
            ready.append(fifo.w_rdy)

            # Answers come in order: each one is for the burst that follows the one answered before.
            oldest = Signal(DRAM_OFFSET_BITS, name=f"oldest{i}")
            with m.If(client.request.valid & client.request.ready):
                m.d.sync += oldest.eq(client.request.p.address)
            with m.Elif(axi.bvalid):
                m.d.sync += oldest.eq((oldest | (config.burst_limit * config.bus_bytes - 1)) + 1)
            failed.append((axi.bvalid & (axi.bresp != 0), oldest))
        m.d.comb += room.eq(Cat(ready).all())
        m.d.sync += self.failure.valid.eq(Cat(bad for bad, _ in failed).any() & ~self.stop)
        m.d.sync += self.failure.address.eq(reduce(lambda later, one: Mux(*one, later), failed[-2::-1], failed[-1][1]))
        return m
