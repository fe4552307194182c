# SPDX-License-Identifier: Apache-2.0
"""Interconnect: several AXI4 masters take turns at one memory, burst by burst; reads and writes apart."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from edgemoe.hw.memory.arbiter import Arbiter
from edgemoe.hw.memory.axi import ADDRESS_CHANNEL, AxiRead, AxiWrite


class Interconnect(wiring.Component):
    """Arbiter in front of a memory that answers in order.

    A client that waits is served after at most one burst of every other. The choice is a register, so that an offered
    address stands. A write keeps the memory until its last beat is taken; responses and read data find their client by
    the order of the bursts.

    Ports:
        reads (in AxiRead): one for each client.
        writes (in AxiWrite): one for each client.
        read (out AxiRead): of the memory.
        write (out AxiWrite): to the memory.
    Latency: LATENCY = 1 cycle from a client's ARVALID or AWVALID to the memory's; data and responses pass in the same.
    Interval: IDLE_CYCLES = 1 cycle more than the memory takes, between two addresses.
    Limits: `outstanding` bursts unanswered each way.
    Twin: none (no arithmetic).
    """

    LATENCY = 1
    IDLE_CYCLES = 1

    def __init__(self, data_bits: int, clients: int = 2, outstanding: int = 8):
        self.data_bits, self.clients, self.outstanding = data_bits, clients, outstanding
        super().__init__(
            {
                "reads": In(AxiRead(data_bits)).array(clients),
                "writes": In(AxiWrite(data_bits)).array(clients),
                "read": Out(AxiRead(data_bits)),
                "write": Out(AxiWrite(data_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._reads(m)
        self._writes(m)
        return m

    def _choose(self, m: Module, name: str, wanted: list, free) -> tuple[Signal, Signal]:
        """(a client has its turn, which one). In a cycle in which `free` holds and no turn lasts, the next waiting
        client gets it.
        """
        m.submodules[f"{name}_arbiter"] = arbiter = Arbiter(self.clients, turns=self.clients)
        turn, client = Signal(name=f"{name}_turn"), Signal(range(self.clients), name=f"{name}_client")
        m.d.comb += [arbiter.asks.eq(Cat(wanted)), arbiter.serves.eq(~turn & free)]
        with m.If(arbiter.grant.any()):
            m.d.sync += [turn.eq(1), client.eq(arbiter.chosen)]
        return turn, client

    def _owners(self, m: Module, name: str, client: Signal, begun, over) -> tuple[Signal, Signal]:
        """Clients of the unanswered bursts: (whose is the oldest, there is room for one more)."""
        m.submodules[name] = owners = SyncFIFO(width=len(client), depth=self.outstanding)
        m.d.comb += [owners.w_data.eq(client), owners.w_en.eq(begun), owners.r_en.eq(over)]
        return owners.r_data, owners.w_rdy

    def _reads(self, m: Module) -> None:
        axi = self.read
        room = Signal(name="read_room")
        turn, client = self._choose(m, "read", [c.arvalid for c in self.reads], room)
        begun, over = axi.arvalid & axi.arready, axi.rvalid & axi.rready & axi.rlast
        owner, space = self._owners(m, "read_owners", client, begun, over)
        m.d.comb += room.eq(space)
        for name in (f"ar{part}" for part in ADDRESS_CHANNEL):
            m.d.comb += getattr(axi, name).eq(Array(getattr(c, name) for c in self.reads)[client])
        m.d.comb += [axi.arvalid.eq(turn), axi.rready.eq(Array(c.rready for c in self.reads)[owner])]
        for i, c in enumerate(self.reads):
            m.d.comb += [
                c.arready.eq(turn & (client == i) & axi.arready),
                c.rdata.eq(axi.rdata),
                c.rresp.eq(axi.rresp),
                c.rlast.eq(axi.rlast),
                c.rvalid.eq(axi.rvalid & (owner == i)),
            ]
        with m.If(begun):
            m.d.sync += turn.eq(0)

    def _writes(self, m: Module) -> None:
        axi = self.write
        room = Signal(name="write_room")
        turn, client = self._choose(m, "write", [c.awvalid for c in self.writes], room)
        addressed, given = Signal(), Signal()  # of this turn: the address is taken, the last beat is taken
        begun, sent = axi.awvalid & axi.awready, axi.wvalid & axi.wready & axi.wlast
        owner, space = self._owners(m, "write_owners", client, begun, axi.bvalid & axi.bready)
        m.d.comb += room.eq(space)
        for name in (*(f"aw{part}" for part in ADDRESS_CHANNEL), "wdata", "wstrb", "wlast"):
            m.d.comb += getattr(axi, name).eq(Array(getattr(c, name) for c in self.writes)[client])
        chosen_wvalid = Array(c.wvalid for c in self.writes)[client]
        m.d.comb += [
            axi.awvalid.eq(turn & ~addressed),
            axi.wvalid.eq(turn & ~given & chosen_wvalid),
            axi.bready.eq(Array(c.bready for c in self.writes)[owner]),
        ]
        for i, c in enumerate(self.writes):
            m.d.comb += [
                c.awready.eq(turn & ~addressed & (client == i) & axi.awready),
                c.wready.eq(turn & ~given & (client == i) & axi.wready),
                c.bresp.eq(axi.bresp),
                c.bvalid.eq(axi.bvalid & (owner == i)),
            ]
        with m.If(turn):
            m.d.sync += [addressed.eq(addressed | begun), given.eq(given | sent)]
            with m.If((addressed | begun) & (given | sent)):
                m.d.sync += [turn.eq(0), addressed.eq(0), given.eq(0)]
