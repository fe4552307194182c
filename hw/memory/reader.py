# SPDX-License-Identifier: Apache-2.0
"""Reading DRAM: clients share the AXI4 read masters burst by burst."""

from collections.abc import Mapping

from amaranth import C, Cat, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for, exact_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS
from edgemoe.hw.memory.arbiter import Arbiter
from edgemoe.hw.memory.axi import (
    ADDRESS_BITS,
    BURST_INCR,
    AxiRead,
    Burst,
    BurstSplitter,
    Failure,
    ReadClient,
    bus_bits,
    master_address,
)

SKEW_BEATS = 16  # by which one master's data may run ahead of another's


class ReadMaster(wiring.Component):
    """Issues bursts on all masters in lock-step and joins their data: beat A is the masters' data at base[m] + A /
    masters, master 0 low.

    Ports:
        burst (in stream): bursts.
        valid, data (out): the beats of all bursts in order; no back-pressure.
        fault (out): a response was not OKAY.
        idle (out): no address is waiting for its ARREADY.
        base (in): byte address of each master's memory, a multiple of 4096.
        axi (out AxiRead): reads, one for each master.
    Latency: LATENCY = 0 cycles from RVALID to `valid`, with several masters 1 from that of the last one.
    Interval: INTERVAL = 1 cycle between beats.
    Limits: 1, 2 or 4 masters, whose data may be SKEW_BEATS apart.
    Twin: none (no arithmetic).
    """

    INTERVAL = 1

    def __init__(self, config: HardwareConfig, cache: int, prot: int) -> None:
        self.config, self.cache, self.prot = config, cache, prot
        self.LATENCY = int(config.masters > 1)
        super().__init__(
            {
                "burst": In(stream.Signature(Burst(config))),
                "valid": Out(1),
                "data": Out(bus_bits(config)),
                "fault": Out(1),
                "idle": Out(1),
                "base": In(data.ArrayLayout(ADDRESS_BITS, config.masters)),
                "axi": Out(AxiRead(config.data_bits)).array(config.masters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        waiting = Cat(axi.arvalid & ~axi.arready for axi in self.axi).any()
        m.d.comb += [self.burst.ready.eq(~waiting), self.idle.eq(~Cat(axi.arvalid for axi in self.axi).any())]
        for i, axi in enumerate(self.axi):
            m.d.comb += [
                axi.arsize.eq(exact_log2(config.data_bits // 8)),
                axi.arburst.eq(BURST_INCR),
                axi.arcache.eq(self.cache),
                axi.arprot.eq(self.prot),
            ]
            with m.If(axi.arready):
                m.d.sync += axi.arvalid.eq(0)
            with m.If(self.burst.valid & self.burst.ready):
                m.d.sync += [
                    axi.arvalid.eq(1),
                    axi.araddr.eq(master_address(self.base[i], self.burst.p.address >> exact_log2(config.masters))),
                    axi.arlen.eq(self.burst.p.beats - 1),
                ]
        if config.masters == 1:
            axi = self.axi[0]
            m.d.comb += [
                axi.rready.eq(1),
                self.valid.eq(axi.rvalid),
                self.data.eq(axi.rdata),
                self.fault.eq(axi.rresp != 0),
            ]
            return m
        beat = data.StructLayout({"data": config.data_bits, "fault": 1})
        there, shown = Signal(config.masters), []  # which of them have a beat
        for i, axi in enumerate(self.axi):
            m.submodules[f"skew{i}"] = fifo = SyncFIFO(width=beat.size, depth=SKEW_BEATS)
            m.d.comb += [
                fifo.w_data.eq(Cat(axi.rdata, axi.rresp != 0)),
                fifo.w_en.eq(axi.rvalid),
                axi.rready.eq(fifo.w_rdy),
            ]
            m.d.comb += fifo.r_en.eq(self.valid)
            # `r_rdy`, which comes late, as a register.
            m.d.sync += there[i].eq(axi.rvalid | (fifo.level > 1) | there[i] & ~self.valid)
            shown.append(data.View(beat, fifo.r_data))
        m.d.comb += [
            self.valid.eq(there.all()),
            self.data.eq(Cat(one.data for one in shown)),
            self.fault.eq(Cat(one.fault for one in shown).any()),
        ]
        return m


class Reader(wiring.Component):
    """Read requests of several clients -> bursts on all masters in lock-step -> beats back to the client that asked, in
    its order.

    Earlier clients win over later ones, but the last two take turns burst by burst. At most config.outstanding bursts
    are in flight. A client's room is `clients[name]` beats, less those requested and not yet released; a burst is
    requested only when the room holds it whole: nobody waits for anybody while holding the bus.

    Ports:
        <client> (in ReadClient): one for each client.
        moved (out): pulse: a beat went to a client.
        base (in): byte address of each master's memory, a multiple of 4096.
        stop (in): hold until `idle`: no new bursts, those outstanding are awaited and dropped, requests and credits
            start afresh.
        idle (out): nothing is outstanding.
        failure (out Failure): of a beat of a client outside `deferred`. (Instructions are fetched ahead of need: the
            fetch unit reports a failed one only when it is wanted.)
        axi (out AxiRead): reads, one for each master.
    Latency: LATENCY = 1 cycle from RVALID to the client's `valid`, with several masters 2 from that of the last one.
    Interval: INTERVAL = 1 cycle between beats.
    Limits: 1, 2 or 4 masters.
    Twin: none (no arithmetic).
    """

    INTERVAL = 1

    def __init__(
        self,
        config: HardwareConfig,
        clients: Mapping[str, int],
        deferred: tuple[str, ...] = ("fetch",),
        cache: int = 0b0011,
        prot: int = 0,
    ) -> None:
        self.config, self.clients, self.deferred, self.cache, self.prot = config, dict(clients), deferred, cache, prot
        self.LATENCY = 1 + int(config.masters > 1)
        super().__init__(
            {
                **{name: In(ReadClient(config)) for name in clients},
                "moved": Out(1),
                "base": In(data.ArrayLayout(ADDRESS_BITS, config.masters)),
                "stop": In(1),
                "idle": Out(1),
                "failure": Out(Failure()),
                "axi": Out(AxiRead(config.data_bits)).array(config.masters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.master = master = ReadMaster(config, self.cache, self.prot)
        for i in range(config.masters):
            connect(m, master.axi[i], flipped(self.axi[i]))
        m.d.comb += master.base.eq(self.base)

        tag = data.StructLayout(
            {
                "client": range(len(self.clients)),
                "address": DRAM_OFFSET_BITS,
                "end": range(config.burst_limit),  # its last beat
                "last": 1,
            }
        )
        m.submodules.tags = tags = SyncFIFOBuffered(width=tag.size, depth=max(3, config.outstanding))
        self._arbitrate(m, tag, tags, master.burst)

        # Beats go to the client of the oldest burst.
        current = data.View(tag, tags.r_data)
        position = Signal(range(config.burst_limit))
        ends = position == current.end
        m.d.comb += tags.r_en.eq(master.valid & ends)
        beat, last, fault = Signal(bus_bits(config)), Signal(), Signal()  # all clients share it; their `valid` differs
        inside = exact_log2(config.burst_limit * config.bus_bytes)  # a burst ends where these bits of addresses do
        place = current.address[:inside] + position * config.bus_bytes
        m.d.sync += [
            beat.eq(master.data),
            fault.eq(master.fault),
            last.eq(ends & current.last),
            self.failure.address.eq(Cat(place[:inside], current.address[inside:])),
        ]
        with m.If(master.valid):
            m.d.sync += position.eq(Mux(ends, 0, position + 1))
        deferred = Cat(C(name in self.deferred) for name in self.clients)
        m.d.sync += self.failure.valid.eq(
            master.valid & master.fault & ~deferred.bit_select(current.client, 1) & ~self.stop
        )
        ports = [getattr(self, name) for name in self.clients]
        for i, port in enumerate(ports):
            m.d.sync += port.valid.eq(master.valid & (current.client == i) & ~self.stop)
            m.d.comb += [port.data.eq(beat), port.last.eq(last), port.fault.eq(fault)]
        m.d.comb += self.moved.eq(Cat(port.valid for port in ports).any())
        m.d.comb += self.idle.eq(~master.burst.valid & master.idle & (tags.level == 0))
        return m

    def _arbitrate(self, m: Module, tag: data.StructLayout, tags: SyncFIFOBuffered, out: stream.Interface) -> None:
        """Chooses a burst and reserves its room and its place in the tag queue; a cycle later it is offered to the
        master and enters the queue.
        """
        m.submodules.arbiter = arbiter = Arbiter(len(self.clients), turns=2)
        bursts, pick = [], arbiter.grant
        enters, client = Signal(), Signal.like(arbiter.chosen)
        # (Of a queue of fewer than three places not every one can be used; of three, the others stay empty.)
        in_flight = Signal(self.config.outstanding)  # as many ones: `pick` comes late, too late to count
        with m.If(pick.any() & ~tags.r_en):
            m.d.sync += in_flight.eq(Cat(1, in_flight))
        with m.If(~pick.any() & tags.r_en):
            m.d.sync += in_flight.eq(in_flight >> 1)
        tag_room = ~in_flight[-1]
        free = (~out.valid | out.ready) & tag_room & ~self.stop
        for i, (name, capacity) in enumerate(self.clients.items()):
            splitter = BurstSplitter(self.config)
            m.submodules[f"{name}_splitter"] = ResetInserter(self.stop)(splitter)
            port = getattr(self, name)
            connect(m, splitter.request, flipped(port.request))
            burst = splitter.burst
            # Room that the burst on offer leaves: it may go unless that is negative.
            spare = Signal(signed(1 + bits_for(capacity)), init=capacity, name=f"{name}_spare")
            m.d.comb += [arbiter.asks[i].eq(burst.valid & ~spare[-1]), burst.ready.eq(pick[i])]
            # Both outcomes are made: `pick` comes late, and with it the next offer.
            kept, left = spare + port.release, spare - splitter.beats + port.release
            m.d.sync += spare.eq(Mux(self.stop, capacity, Mux(splitter.offers, left, kept)))
            bursts.append(burst)
        chosen = Signal(tag)
        m.d.comb += arbiter.serves.eq(free)
        m.d.sync += [enters.eq(pick.any()), client.eq(arbiter.chosen)]
        with m.If(out.ready):
            m.d.sync += out.valid.eq(0)
        for i, burst in enumerate(bursts):
            with m.If(pick[i]):
                m.d.sync += [out.p.eq(burst.p), out.valid.eq(1)]
        m.d.comb += [
            chosen.client.eq(client),
            chosen.address.eq(out.p.address),
            chosen.end.eq(out.p.beats - 1),
            chosen.last.eq(out.p.last),
            tags.w_data.eq(chosen),
            tags.w_en.eq(enters),
        ]
