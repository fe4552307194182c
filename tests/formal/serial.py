# SPDX-License-Identifier: Apache-2.0
"""Proofs of the serial link's units: the arbiter in front of the memory, the blocks behind it, the streams of
frames.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Mux, Value
from amaranth.lib.crc.catalog import CRC8_AUTOSAR
from edgemoe.hw.contract.frames import BLOCK, Command, Status
from edgemoe.hw.periphery.blocks import BlockReader, BlockWriter
from edgemoe.hw.periphery.frame_receiver import FrameReceiver
from edgemoe.hw.periphery.frame_sender import FrameSender
from edgemoe.hw.periphery.interconnect import Interconnect
from edgemoe.hw.periphery.link import Link
from edgemoe.hw.periphery.uart import UartReceiver, UartTransmitter

from ..mutants import Mutant
from .rules import Queue, counter, held, stream
from .runner import Proof, Property

BEATS = 2  # of a block here: fewer than in the hardware, so that several blocks fit a proof
ADDRESS_NAMES = ("addr", "len", "size", "burst", "cache", "prot")


def _channel(axi: Any, channel: str) -> Value:
    return Cat(getattr(axi, f"{channel}{name}") for name in ADDRESS_NAMES)


def _fair(p: Property, clients: Any, channel: str) -> None:
    """One that waits sees at most one burst of the other go first."""
    for i, other in ((0, 1), (1, 0)):
        valid, ready = getattr(clients[i], f"{channel}valid"), getattr(clients[i], f"{channel}ready")
        passes = getattr(clients[other], f"{channel}valid") & getattr(clients[other], f"{channel}ready")
        passed = counter(p, 3, valid & ~ready & passes, clear=~valid | ready, name=f"{channel}_passed_{i}")
        p.check(passed <= 1)
        p.cover((passed == 1) & valid & ready)


def interconnect_reads(p: Property, unit: Any) -> None:
    """Every address goes through once, unchanged; every beat goes to the client whose burst is the oldest."""
    dut = p.unit(
        unit(8, outstanding=2), **{f"writes_{i}_{name}": 0 for i in range(2) for name in ("awvalid", "wvalid")}
    )
    axi, clients = dut.read, dut.reads
    for c in clients:
        held(p, c.arvalid, c.arready, _channel(c, "ar"), assume=True)
    held(p, axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp, axi.rlast), assume=True)
    held(p, axi.arvalid, axi.arready, _channel(axi, "ar"), assume=False)
    taken = axi.arvalid & axi.arready
    accepted = Cat(c.arvalid & c.arready for c in clients)
    p.check(accepted.any() == taken)
    p.check(~accepted.all())
    p.check(~taken | (_channel(axi, "ar") == Mux(accepted[0], _channel(clients[0], "ar"), _channel(clients[1], "ar"))))
    owners = Queue(p, 1, 2, taken, accepted[1], axi.rvalid & axi.rready & axi.rlast, "owners")
    p.assume(~axi.rvalid | (owners.count != 0))
    for i, c in enumerate(clients):
        p.check(c.rvalid == (axi.rvalid & (owners.head == i)))
        p.check(
            ~c.rvalid
            | (Cat(c.rdata, c.rresp, c.rlast) == Cat(axi.rdata, axi.rresp, axi.rlast)) & (axi.rready == c.rready)
        )
    _fair(p, clients, "ar")
    p.cover((owners.count == 2) & (owners.places[0] != owners.places[1]))
    p.cover(clients[1].rvalid & p.past(clients[0].rvalid & clients[0].rlast & clients[0].rready))


def interconnect_writes(p: Property, unit: Any) -> None:
    """Addresses and data go through whole bursts at a time;
    every response goes to the client whose burst is the oldest.
    """
    m = p.m
    dut = p.unit(unit(8, outstanding=2), reads_0_arvalid=0, reads_1_arvalid=0)
    axi, clients = dut.write, dut.writes
    payload = Cat(axi.wdata, axi.wstrb, axi.wlast)
    # What is due of each client: data beats of addresses it gave, which it may give early.
    for i, c in enumerate(clients):
        held(p, c.awvalid, c.awready, _channel(c, "aw"), assume=True)
        held(p, c.wvalid, c.wready, Cat(c.wdata, c.wstrb, c.wlast), assume=True)
        addresses, bursts = (p.register(4, f"{what}_{i}") for what in ("addresses", "bursts"))
        m.d.sync += [
            addresses.eq(addresses + (c.awvalid & c.awready)),
            bursts.eq(bursts + (c.wvalid & c.wready & c.wlast)),
        ]
        # A burst is complete before the same client's next one: one address ahead or one burst of data ahead, no more.
        p.check((addresses - bursts)[:4] != 2)
        p.check((bursts - addresses)[:4] != 2)
    held(p, axi.bvalid, axi.bready, axi.bresp, assume=True)
    held(p, axi.awvalid, axi.awready, _channel(axi, "aw"), assume=False)
    held(p, axi.wvalid, axi.wready, payload, assume=False)
    taken, sent = axi.awvalid & axi.awready, axi.wvalid & axi.wready
    accepted, given = Cat(c.awvalid & c.awready for c in clients), Cat(c.wvalid & c.wready for c in clients)
    p.check((accepted.any() == taken) & ~accepted.all())
    p.check((given.any() == sent) & ~given.all())
    p.check(~taken | (_channel(axi, "aw") == Mux(accepted[0], _channel(clients[0], "aw"), _channel(clients[1], "aw"))))
    sources = Array(Cat(c.wdata, c.wstrb, c.wlast) for c in clients)
    p.check(~sent | (payload == sources[given[1]]))
    # The bursts' data come in the order of their addresses, and never two clients' mixed.
    inside, whose = p.register(1, "inside"), p.register(1, "whose")
    with m.If(sent):
        m.d.sync += [inside.eq(~axi.wlast), whose.eq(given[1])]
        p.check(~inside | (given[1] == whose))
    by_address, by_data = p.register(4, "by_address"), p.register(4, "by_data")
    number = p.constant(2, "number")  # of the watched burst
    address_client, data_client = p.register(2, "address_client"), p.register(2, "data_client")
    m.d.sync += [by_address.eq(by_address + taken), by_data.eq(by_data + (sent & axi.wlast))]
    with m.If(taken & (by_address == number)):
        m.d.sync += address_client.eq(Cat(accepted[1], 1))
    with m.If(sent & axi.wlast & (by_data == number)):
        m.d.sync += data_client.eq(Cat(given[1], 1))
    p.check(~(address_client[1] & data_client[1]) | (address_client == data_client))
    owners = Queue(p, 1, 2, taken, accepted[1], axi.bvalid & axi.bready, "owners")
    p.assume(~axi.bvalid | (owners.count != 0))
    for i, c in enumerate(clients):
        p.check(c.bvalid == (axi.bvalid & (owners.head == i)))
        p.check(~c.bvalid | (c.bresp == axi.bresp) & (axi.bready == c.bready))
    _fair(p, clients, "aw")
    p.cover((number == 1) & (address_client == 3) & (data_client == 3) & (by_address == 3))
    p.cover((owners.count == 2) & (owners.places[0] != owners.places[1]) & axi.bvalid)


def block_reader(p: Property, unit: Any) -> None:
    """A burst is asked for only when all of it has room; beats come out in order, one for each that came."""
    dut = p.unit(unit(8 * BEATS))
    axi = dut.axi
    p.assume((dut.address % (8 * BEATS) == 0) & (dut.length % (8 * BEATS) == 0) & (dut.length <= 24 * BEATS))
    started = p.register(1, "started")
    p.m.d.sync += started.eq(started | dut.start)
    p.assume(~dut.start | ~started)
    held(p, axi.arvalid, axi.arready, _channel(axi, "ar"), assume=False)
    p.check(axi.rready)
    p.check(~axi.arvalid | (axi.arlen == BEATS - 1) & (axi.araddr % (8 * BEATS) == 0))
    stream(p, dut.beats, assume=False)
    due = counter(p, 6, Mux(axi.arvalid & axi.arready, BEATS, 0), axi.rvalid, name="due")
    place = counter(p, 1, axi.rvalid, name="place")
    p.assume(~axi.rvalid | (due != 0) & (axi.rlast == (place == BEATS - 1)))
    stored = counter(p, 6, axi.rvalid, dut.beats.valid & dut.beats.ready, name="stored")
    p.check(stored + due <= 2 * BEATS)
    number = p.constant(2, "number")  # of the watched beat
    came, went, kept = p.register(6, "came"), p.register(6, "went"), p.register(8, "kept")
    p.m.d.sync += [came.eq(came + axi.rvalid), went.eq(went + (dut.beats.valid & dut.beats.ready))]
    with p.m.If(axi.rvalid & (came == number)):
        p.m.d.sync += kept.eq(axi.rdata[:8])
    p.check(~dut.beats.valid | (went != number) | (dut.beats.payload[:8] == kept))
    p.cover((went == 2) & dut.beats.valid & (stored == BEATS))
    p.cover(stored + due == 2 * BEATS)


def block_writer(p: Property, unit: Any) -> None:
    """Bursts of whole blocks, the beats in order; idle only when everything was answered."""
    dut = p.unit(unit(8 * BEATS))
    axi = dut.axi
    started = p.register(1, "started")
    p.m.d.sync += started.eq(started | dut.start)
    p.assume(~dut.start | ~started)
    p.assume(started | ~dut.beat_valid)
    p.assume(dut.address % (8 * BEATS) == 0)
    held(p, axi.awvalid, axi.awready, _channel(axi, "aw"), assume=False)
    held(p, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb, axi.wlast), assume=False)
    sent = axi.wvalid & axi.wready
    came, went = counter(p, 6, dut.beat_valid, name="came"), counter(p, 6, sent, name="went")
    p.assume(came < 7)
    place = counter(p, 1, sent, name="place")
    p.check(~axi.wvalid | (axi.wlast == (place == BEATS - 1)) & axi.wstrb.all())
    addressed = counter(p, 3, axi.awvalid & axi.awready, name="addressed")
    complete = counter(p, 3, sent & axi.wlast, name="complete")
    answered = counter(p, 3, axi.bvalid & axi.bready, name="answered")
    p.assume(~axi.bvalid | (complete != answered))
    p.check(~axi.wvalid | (addressed == complete + 1))
    p.check(~axi.awvalid | ((came - went)[:6] >= BEATS))
    p.check(~dut.idle | (answered == complete) & (came - went < BEATS) & (addressed == complete))
    number = p.constant(2, "number")  # of the watched beat
    kept = p.register(8, "kept")
    with p.m.If(dut.beat_valid & (came == number)):
        p.m.d.sync += kept.eq(dut.beat[:8])
    p.check(~axi.wvalid | (went != number) | (axi.wdata[:8] == kept))
    p.check(~dut.overrun)
    p.cover(dut.idle & (answered == 1))


def frame_sender(p: Property, unit: Any) -> None:
    """Bytes stand until taken; an answer without payload is twelve bytes, then the sender is idle."""
    dut = p.unit(unit())
    answer = dut.answer
    p.assume(answer.p.payload % 8 == 0)
    stream(p, answer, assume=True)
    stream(p, dut.beats, assume=True)
    stream(p, dut.bytes, assume=False)
    taken = answer.valid & answer.ready
    plain = p.register(1, "plain")
    with p.m.If(taken):
        p.m.d.sync += plain.eq(answer.p.payload == 0)
    sent = counter(p, 5, dut.bytes.valid & dut.bytes.ready, clear=taken, name="sent")
    begun = p.register(1, "begun")
    p.m.d.sync += begun.eq(begun | taken)
    p.check(~plain | (sent <= 12) & ~dut.beats.ready)
    p.check(~begun | ~plain | dut.busy | (sent == 12))
    p.check(answer.ready == ~dut.busy)
    p.cover(plain & ~dut.busy & begun)
    p.cover(~plain & dut.beats.ready & dut.beats.valid & begun)


def frame_receiver(p: Property, unit: Any) -> None:
    """A request stands until taken; an unusable one is shown only when the line has been silent;
    a payload ends once, with its beats.
    """
    dut = p.unit(unit(3, 4096, CRC8_AUTOSAR))
    silence = counter(p, 4, 1, clear=dut.bytes.valid, name="silence")
    p.assume(silence < 12)
    request = dut.request
    stream(p, dut.bytes, assume=True)
    stream(p, request, assume=False)
    shown = request.valid & ~p.past(request.valid)
    p.check(~shown | (request.p.status == Status.OK) | (silence >= 3))
    usable = request.valid & (request.p.status == Status.OK)
    fields = request.p.fields
    moves = (fields.command == Command.READ_MEMORY) | (fields.command == Command.WRITE_MEMORY)
    p.check(
        ~usable
        | ~moves
        | (fields.address + fields.value <= 4096) & (fields.value != 0) & ((fields.address | fields.value) % BLOCK == 0)
    )
    writing = p.register(1, "writing")
    begins = usable & request.ready & (fields.command == Command.WRITE_MEMORY)
    p.m.d.sync += writing.eq(writing & ~dut.ended | begins)
    p.check(~dut.beat_valid | writing)
    p.check(~dut.ended | writing)
    p.check(~(request.valid & writing))
    p.cover(dut.beat_valid)
    p.cover(dut.ended & (dut.status == Status.PAYLOAD_SHORT))
    p.cover(request.valid & (request.p.status == Status.HEADER_DAMAGED))


def uart_receiver(p: Property, unit: Any) -> None:
    """A byte stands until it is taken, whatever comes behind it."""
    dut = p.unit(unit(4))
    stream(p, dut.bytes, assume=False)
    p.cover(dut.bytes.valid & (dut.bytes.payload == 0xA5))


def uart_transmitter(p: Property, unit: Any) -> None:
    """Start bit, eight data bits, stop bit, of four cycles each; else high;
    the next byte is taken in the last cycle at the earliest.
    """
    m = p.m
    dut = p.unit(unit(4))
    stream(p, dut.bytes, assume=True)
    taken = dut.bytes.valid & dut.bytes.ready
    # cycles of the byte's ten bits still to come, this one included
    place, kept = (
        p.register(6, "place"),
        p.register(10, "kept"),
    )
    m.d.sync += place.eq(Mux(place == 0, 0, place - 1))
    with m.If(taken):
        m.d.sync += [place.eq(40), kept.eq(Cat(Const(0, 1), dut.bytes.payload, Const(1, 1)))]
    with m.Elif(((place & 3) == 1) & (place != 1)):
        m.d.sync += kept.eq(kept >> 1)
    p.check(dut.line == Mux(place == 0, 1, kept[0]))
    p.check(~dut.bytes.ready | (place <= 1))
    p.cover((place == 1) & taken)


def link(p: Property, unit: Any) -> None:
    """Bytes and bus accesses stand until taken; registers are accessed only by a request that came whole."""
    dut = p.unit(unit(3, 4096, CRC8_AUTOSAR))
    stream(p, dut.received, assume=True)
    stream(p, dut.sent, assume=False)
    bus = dut.registers
    held(p, bus.arvalid, bus.arready, bus.araddr, assume=False)
    held(p, bus.awvalid, bus.awready, bus.awaddr, assume=False)
    held(p, bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb), assume=False)
    held(p, dut.read.arvalid, dut.read.arready, dut.read.araddr, assume=False)
    p.assume(~(dut.read.rvalid | dut.write.bvalid | bus.rvalid | bus.bvalid))
    came = counter(p, 5, dut.received.valid & dut.received.ready, name="came")
    p.assume(came < 24)
    touches = bus.arvalid | bus.awvalid | bus.wvalid | dut.read.arvalid | dut.write.awvalid
    p.check(~touches | (came >= 16))
    p.cover(bus.arvalid)


PROOFS = [
    Proof(
        "interconnect, reads",
        interconnect_reads,
        Interconnect,
        9,
        {
            "a beat goes to the wrong client": Mutant(
                "c.rvalid.eq(axi.rvalid & (owner == i))", "c.rvalid.eq(axi.rvalid & (client == i))"
            ),
            "an address is replaced while it waits": Mutant("serves.eq(~turn & free)", "serves.eq(free)"),
            "one client is preferred": Mutant("Arbiter(self.clients, turns=self.clients)", "Arbiter(self.clients)"),
        },
    ),
    Proof(
        "interconnect, writes",
        interconnect_writes,
        Interconnect,
        9,
        {
            "a turn ends before its data": Mutant(
                "with m.If((addressed | begun) & (given | sent)):", "with m.If(addressed | begun):"
            ),
            "an address goes twice": Mutant("axi.awvalid.eq(turn & ~addressed)", "axi.awvalid.eq(turn)"),
            "a response goes to the wrong client": Mutant(
                "c.bvalid.eq(axi.bvalid & (owner == i))", "c.bvalid.eq(axi.bvalid & (client == i))"
            ),
        },
        cover_depth=12,
    ),
    Proof(
        "block reader",
        block_reader,
        BlockReader,
        15,
        {
            "room is not reserved": Mutant("(left != 0) & (buffer.level <= count)", "left != 0"),
            "an address is withdrawn": Mutant("with m.If(axi.arready):", "with m.If(1):"),
        },
        cover_depth=20,
    ),
    Proof(
        "block writer",
        block_writer,
        BlockWriter,
        12,
        {
            "a burst begins before its data": Mutant(
                "with m.If(buffer.level >= count):", "with m.If(buffer.level != 0):"
            ),
            "the last beat is not marked": Mutant("axi.wlast.eq(left == 0)", "axi.wlast.eq(0)"),
        },
    ),
    Proof(
        "frame sender",
        frame_sender,
        FrameSender,
        19,
        {
            "a byte goes on before it is taken": Mutant("with m.If(sent):", "with m.If(self.bytes.valid):"),
            "a byte too many": Mutant("count.eq(FIXED_BYTES)", "count.eq(FIXED_BYTES + 1)"),
        },
        cover_depth=20,
    ),
    Proof(
        "frame receiver",
        frame_receiver,
        FrameReceiver,
        19,
        {"damage is answered at once": Mutant('m.next = "DRAIN"', 'm.next = "SHOW"')},
        cover_depth=30,
    ),
    Proof(
        "UART receiver",
        uart_receiver,
        UartReceiver,
        46,
        {"a byte vanishes": Mutant("with m.If(self.bytes.ready):", "with m.If(1):")},
    ),
    Proof(
        "UART transmitter",
        uart_transmitter,
        UartTransmitter,
        46,
        {
            "no stop bit": Mutant(
                "shift.eq(Cat(self.bytes.payload, Const(1)))", "shift.eq(Cat(self.bytes.payload, Const(0, 1)))"
            ),
            "a byte is taken too early": Mutant("(bits == 0) | (bits == 1) & over", "(bits == 0) | (bits == 1)"),
        },
    ),
    Proof(
        "link",
        link,
        Link,
        24,
        {
            "an address is withdrawn": Mutant(
                "with m.If(bus.arvalid & bus.arready | bus.awvalid & bus.awready):", "with m.If(1):"
            )
        },
        cover_depth=24,
    ),
]
