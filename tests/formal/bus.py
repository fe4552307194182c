# SPDX-License-Identifier: Apache-2.0
"""Proofs of the arbiter, and of the AXI4 masters: the rules of the bus, the contract of Reader and Writer with their
clients.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal
from edgemoe.hw.contract.config import PAGE_BYTES, HardwareConfig
from edgemoe.hw.memory.arbiter import Arbiter
from edgemoe.hw.memory.reader import SKEW_BEATS, Reader, ReadMaster
from edgemoe.hw.memory.writer import Writer

from ..mutants import Mutant
from .configurations import ONE, TWO
from .rules import Queue, counter, held, stream
from .runner import Proof, Property

ADDRESS = 6  # low bits of addresses that requests use here


def address_rules(p: Property, config: HardwareConfig, axi: Any, channel: str) -> Any:
    """Asserts the rules of an address channel; returns (taken, beats of the burst)."""
    names = ("addr", "len", "size", "burst", "cache", "prot")
    valid, ready = getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready")
    address, length, size, burst, cache, prot = (getattr(axi, f"{channel}{name}") for name in names)
    held(p, valid, ready, Cat(address, length, size, burst, cache, prot), assume=False)
    beat = config.data_bits // 8
    p.check(~p.past(~p.begun) | ~valid)
    with p.m.If(valid):
        p.check(length < config.burst_limit)
        p.check((burst == 1) & (cache == 3) & (prot == 0) & (1 << size == beat))
        p.check(address[:12] + (length + 1) * beat <= PAGE_BYTES)
    return valid & ready, (length + 1)[:4]


def requests(p: Property, config: HardwareConfig, port: Any, beats: int) -> Any:
    """Assumes well-formed requests of few beats on a stream; returns `taken`."""
    stream(p, port, assume=True)
    p.assume((port.p.address < 1 << ADDRESS) & (port.p.address % config.bus_bytes == 0) & (port.p.beats <= beats))
    return port.valid & port.ready


def reader(config: HardwareConfig, beats: int = 3):
    """Two clients at a memory that returns, for each beat, its address:
    each gets its beats, in order, never more than it has room.
    """
    clients = {"fetch": 2, "weights": 3}

    def describe(p: Property, unit: Any) -> None:
        m = p.m
        dut = p.unit(unit(config, clients), base=0, stop=0)
        size, answers = config.data_bits // 8, []
        for i, axi in enumerate(dut.axi):
            taken, length = address_rules(p, config, axi, "ar")
            arrives = axi.rvalid & axi.rready
            place, final = p.register(4, f"place{i}"), Signal(name=f"final{i}")
            word = 12 + 4
            bursts = Queue(
                p, word, config.outstanding, taken, Cat(axi.araddr[:12], length), arrives & final, f"bursts{i}"
            )
            held(p, axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp), assume=True)
            m.d.comb += final.eq(place + 1 == bursts.head[12:])
            with m.If(arrives):
                m.d.sync += place.eq(Mux(final, 0, place + 1))
            p.assume(~axi.rvalid | (bursts.count != 0))
            p.assume(~axi.rvalid | (axi.rdata == (bursts.head[:12] // size + place)[: config.data_bits]))
            p.check(bursts.count <= config.outstanding)
            answers.append(counter(p, 5, arrives, name=f"answers{i}"))
            if config.masters == 1:
                p.check(axi.rready)
        for i in range(config.masters if config.masters > 1 else 0):
            # A master's data is refused only when it is a buffer ahead of the other's.
            p.check(dut.axi[i].rready | (answers[i] >= answers[1 - i] + SKEW_BEATS))
        number = p.constant(1, "number")  # of the watched request of each client
        for name, room in clients.items():
            client = getattr(dut, name)
            port, valid, release = client.request, client.valid, client.release
            taken = requests(p, config, port, beats)
            count, asked, came = (p.register(4, f"{name}_{what}") for what in ("count", "asked", "came"))
            start, length, first = (
                p.register(bits, f"{name}_{what}") for bits, what in ((ADDRESS, "start"), (4, "length"), (4, "first"))
            )
            known = p.register(1, f"{name}_known")
            p.assume(~taken | (count < 3))
            with m.If(taken):
                m.d.sync += [count.eq(count + 1), asked.eq(asked + port.p.beats)]
                with m.If(count == number):
                    m.d.sync += [start.eq(port.p.address), length.eq(port.p.beats), first.eq(asked), known.eq(1)]
            stored = p.register(3, f"{name}_stored")
            p.assume(release <= stored)
            m.d.sync += stored.eq(stored + valid - release)
            p.check(stored + valid <= room)
            with m.If(valid):
                m.d.sync += came.eq(came + 1)
                p.check(came < asked)
                with m.If(known & (came >= first) & (came < first + length)):
                    for i in range(config.masters):
                        got = client.data[i * config.data_bits : (i + 1) * config.data_bits]
                        p.check(got == (start // config.bus_bytes + came - first)[: config.data_bits])
                    p.check(client.last == (came + 1 == first + length))
                    p.cover((number == 1) & (came == first + 1) & client.last)
        fetch, weights = dut.fetch, dut.weights
        p.check(~(fetch.valid & weights.valid))
        p.check(dut.moved == (fetch.valid | weights.valid))
        p.cover(weights.valid & p.past(fetch.valid))
        p.cover(~dut.idle & (weights.request.valid & ~weights.request.ready))

    return describe


def read_master(p: Property, unit: Any) -> None:
    """A burst that is taken becomes one address on every master, in order and unchanged, whichever master is slower."""
    dut = p.unit(unit(TWO, 0b0011, 0), base=0)
    burst, size = dut.burst, TWO.data_bits // 8
    stream(p, burst, assume=True)
    p.assume((burst.p.beats != 0) & (burst.p.beats <= TWO.burst_limit))
    p.assume((burst.p.address < 1 << ADDRESS) & (burst.p.address % (TWO.burst_limit * TWO.bus_bytes) == 0))
    taken = burst.valid & burst.ready
    for i, axi in enumerate(dut.axi):
        accepted, length = address_rules(p, TWO, axi, "ar")
        asked = Cat((burst.p.address // TWO.masters // size)[:ADDRESS], burst.p.beats[:4])
        due = Queue(p, ADDRESS + 4, 2, taken, asked, accepted, f"due{i}")
        p.check(~accepted | (due.head == Cat((axi.araddr // size)[:ADDRESS], length)))
    valid = Cat(axi.arvalid for axi in dut.axi)
    p.check(dut.idle == ~valid.any())
    p.cover(taken & p.past(taken))
    p.cover(~burst.ready & (valid == 1))
    p.cover(~burst.ready & (valid == 2))


def reader_stops(p: Property, unit: Any) -> None:
    """While stopped no beat comes through and no burst begins; what was begun is awaited;
    then the reader is as after reset.
    """
    m = p.m
    dut = p.unit(unit(ONE, {"fetch": 2, "weights": 3}), base=0)
    axi = dut.axi[0]
    taken, length = address_rules(p, ONE, axi, "ar")
    clients = (dut.fetch, dut.weights)
    for port in (client.request for client in clients):
        stream(p, port, assume=True, unless=dut.stop)
        p.assume((port.p.address < 1 << ADDRESS) & (port.p.beats <= 3))
    p.assume(Cat(client.release == 0 for client in clients).all())
    # Stop lasts until idle.
    p.assume(~p.later | ~p.past(dut.stop & ~dut.idle) | dut.stop)
    outstanding = counter(p, 4, Mux(taken, length, 0), axi.rvalid & axi.rready, name="outstanding")
    p.assume(~axi.rvalid | (outstanding != 0))
    held(p, axi.rvalid, axi.rready, axi.rdata, assume=True)
    p.check(axi.rready)
    p.check(~dut.idle | (outstanding == 0) & ~axi.arvalid)
    stopped = p.past(dut.stop) & p.later
    p.check(~(stopped & p.past(stopped)) | ~(dut.moved | dut.failure.valid))
    began = p.register(2, "began")
    fresh = axi.arvalid & ~p.past(axi.arvalid & ~axi.arready)
    with m.If(~dut.stop):
        m.d.sync += began.eq(0)
    with m.Elif(fresh):
        m.d.sync += began.eq(began + 1)
    p.check(began <= 2)  # one that became an offer with the stop, one that was chosen already
    # A prompt memory lets it become idle soon.
    prompt = counter(
        p, 4, 1, clear=~dut.stop | ~axi.arready | ~axi.rvalid & (outstanding != 0) | dut.idle, name="prompt"
    )
    p.check(prompt < 12)
    fetches = counter(p, 3, dut.fetch.valid, clear=dut.stop, name="fetches")
    p.check(fetches <= 2)
    fetch = dut.fetch.request
    wanted = counter(p, 6, Mux(fetch.valid & fetch.ready, fetch.p.beats[:2], 0), clear=dut.stop, name="wanted")
    p.check(fetches + dut.fetch.valid <= wanted)
    again = p.register(1, "again")
    with m.If(dut.stop & dut.idle & (p.past(outstanding) != 0)):
        m.d.sync += again.eq(1)
    p.cover(again & dut.fetch.valid)
    p.cover(again & (fetches == 2))
    p.cover(dut.stop & (outstanding == 4))


def writer(config: HardwareConfig, stops: bool = False, beats: int = 3):
    """Bursts as the bus wants them, each with its beats, the data in order, all answers awaited;
    a stop completes what was begun.
    """

    def describe(p: Property, unit: Any) -> None:
        m = p.m
        never: dict[str, Any] = {} if stops else {"stop": 0}
        dut = p.unit(unit(config), base=0, **never)
        client = dut.client
        taken = requests(p, config, client.request, beats) if not stops else client.request.valid & client.request.ready
        stream(p, client.beats, assume=True, unless=dut.stop)
        if stops:
            stream(p, client.request, assume=True, unless=dut.stop)
            p.assume((client.request.p.address < 1 << ADDRESS) & (client.request.p.address % config.bus_bytes == 0))
            p.assume(client.request.p.beats <= beats)
            p.assume(~p.later | ~p.past(dut.stop & ~dut.idle) | dut.stop)
        number = p.constant(2, "number")  # of the watched beat
        given, kept, known = p.register(4, "given"), p.register(len(client.beats.p), "kept"), p.register(1, "known")
        moves = client.beats.valid & client.beats.ready
        p.check(dut.stop | (dut.moved == moves))
        with m.If(moves):
            m.d.sync += given.eq(given + 1)
            with m.If(given == number):
                m.d.sync += [kept.eq(client.beats.p), known.eq(1)]
        p.assume(given < 12)
        asked = counter(p, 5, Mux(taken, client.request.p.beats, 0), name="asked")
        answered, sent_all, waiting = [], [], []
        for i, axi in enumerate(dut.axi):
            accepted, _ = address_rules(p, config, axi, "aw")
            sent = axi.wvalid & axi.wready
            held(p, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb, axi.wlast), assume=False)
            p.check(axi.bready)
            fresh = axi.awvalid & ~p.past(axi.awvalid & ~axi.awready)
            # Bursts offered whose data is not complete. Data may come from the cycle of the offer on.
            lengths = Queue(p, 4, config.outstanding + 1, fresh, (axi.awlen + 1)[:4], sent & axi.wlast, f"lengths{i}")
            oldest = Mux(lengths.count == 0, (axi.awlen + 1)[:4], lengths.head)
            place, total = p.register(4, f"place{i}"), p.register(5, f"total{i}")
            with m.If(axi.wvalid):
                p.check((lengths.count != 0) | fresh)
                p.check(axi.wlast == (place + 1 == oldest))
                p.check(axi.wstrb.all() | (~axi.wstrb.any() if stops else 0))
            with m.If(sent):
                m.d.sync += [place.eq(Mux(axi.wlast, 0, place + 1)), total.eq(total + 1)]
                if not stops:
                    part = kept[i * config.data_bits : (i + 1) * config.data_bits]
                    p.check((total != number) | known & (axi.wdata == part))
                    p.check(total < given)
                    p.cover((total == number) & (number == 2) & known & ~p.past(axi.wready))
            # Answers: one a burst, when address and data are both there.
            due_a = counter(p, 4, accepted, axi.bvalid, name=f"due_a{i}")
            due_w = counter(p, 4, sent & axi.wlast, axi.bvalid, name=f"due_w{i}")
            p.assume(~axi.bvalid | (due_a != 0) & (due_w != 0))
            p.check(due_a <= config.outstanding)
            answered.append(counter(p, 4, axi.bvalid, name=f"answered{i}"))
            sent_all.append(total)
            quiet = ~axi.awvalid & (due_a == 0) & (due_w == 0) & (place == 0) & (lengths.count == 0) & ~axi.wvalid
            p.check(~dut.idle | quiet)
            p.check(~client.done | quiet)
            waiting.append(~axi.awready | ~axi.wready | ~axi.bvalid & (due_a != 0) & (due_w != 0))
        if not stops:
            busy = p.register(1, "busy")
            m.d.sync += busy.eq(taken | busy & ~client.done)
            p.check(~client.done | busy)
            p.check(~taken | ~busy)
            p.check(~client.done | (sent_all[0] == asked))
            p.check(given <= asked)
            p.cover(client.done & (asked == 4))
        else:
            p.check(~(dut.stop & (client.done | moves)))
            prompt = counter(p, 5, 1, clear=~dut.stop | Cat(*waiting).any() | dut.idle, name="prompt")
            p.check(prompt < 7)
            resumed = p.register(1, "resumed")
            with m.If(dut.stop & dut.idle & p.past(~dut.idle)):
                m.d.sync += resumed.eq(1)
            p.cover(resumed & client.done & (asked > 1))
            p.cover(dut.stop & dut.axi[0].wvalid & ~dut.axi[0].wstrb.any())
        p.cover(client.done & p.past(p.past(answered[0] == 1)))

    return describe


def arbiter(clients: int, turns: int):
    """One of those who ask is served, whenever somebody may be; a lower number first; those who take turns wait for at
    most one of each other.
    """

    def describe(p: Property, unit: Any) -> None:
        dut = p.unit(unit(clients, turns))
        asks, grant, least = dut.asks, dut.grant, clients - turns
        p.check(grant & ~asks == 0)
        p.check(grant.any() == (dut.serves & asks.any()))
        p.check(~grant.any() | (grant == Const(1, clients) << dut.chosen))
        for i in range(clients):
            before = asks[: min(i, least)].any()  # numbers below i, of those that have their order
            p.check(~grant[i] | ~before)
            if i >= least:
                others = grant[least:].any() & ~grant[i]
                overtaken = counter(p, 3, others, clear=~asks[i] | grant[i], name=f"overtaken{i}")
                p.check(overtaken + (others & asks[i]) < turns)
                p.cover(grant[i] & (overtaken == turns - 1))
            else:
                p.cover(grant[i] & asks[i:].all())
        if turns > 1:
            p.cover(grant[-1] & asks[least:].all() & p.past(grant[-2]))

    return describe


PROOFS = [
    Proof(
        "arbiter, priorities", arbiter(5, 0), Arbiter, 4, {"the last is first": Mutant("Mux(a, i, j)", "Mux(b, j, i)")}
    ),
    Proof(
        "arbiter, the last two in turn",
        arbiter(3, 2),
        Arbiter,
        8,
        {
            "the turn stays": Mutant("self.chosen == self.clients - 1", "1"),
            "a turn goes over without service": Mutant("self.grant[least:].any()", "1"),
            "turns before priorities": Mutant("else ask for k", "else (ask if k >= least else 0) for k"),
        },
    ),
    Proof(
        "arbiter, all in turn",
        arbiter(3, 3),
        Arbiter,
        9,
        {
            "the turn goes backwards": Mutant("ask & (turn <= k)", "ask & (turn >= k)"),
            "two are served": Mutant("Mux(a, 0, y)", "y"),
        },
    ),
    Proof(
        "writer",
        writer(ONE),
        Writer,
        11,
        {
            "WLAST follows the request, not the burst": Mutant(
                "Cat(part, left == 1, ~self.stop)", "Cat(part, burst.p.last, ~self.stop)"
            ),
            "an address is overwritten": Mutant("[axi.awvalid & ~axi.awready for", "[axi.awvalid & 0 for"),
            "a beat that is offered counts as moved": Mutant(
                "self.moved.eq(take)", "self.moved.eq(client.beats.valid)"
            ),
            "answers are not awaited": Mutant(
                "client.done.eq(active & quiet &", "client.done.eq(active & (left == 0) &"
            ),
            "VALID does not wait for READY": Mutant("with m.If(axi.awready):", "with m.If(1):"),
        },
        cover_depth=22,
    ),
    Proof(
        "writer, stopped",
        writer(ONE, stops=True),
        Writer,
        10,
        {"a stop reports success": Mutant("~splitter.busy & ~self.stop)", "~splitter.busy)")},
        cover_depth=22,
    ),
    Proof(
        "writer, stopped, to the end of the drain",
        writer(ONE, stops=True),
        Writer,
        14,
        {
            "a burst is left without its data": Mutant(
                "room & (client.beats.valid | self.stop)", "room & client.beats.valid & ~self.stop"
            )
        },
        cover_depth=22,
        full=True,
    ),
    Proof(
        "reader",
        reader(ONE),
        Reader,
        10,
        {
            "room is not reserved": Mutant("spare - splitter.beats + port.release", "spare + port.release"),
            "beats go to the wrong client": Mutant("(current.client == i)", "(current.client != i)"),
            "an address is overwritten": Mutant("self.burst.ready.eq(~waiting)", "self.burst.ready.eq(1)"),
            "last of a burst, not of a request": Mutant("last.eq(ends & current.last)", "last.eq(ends)"),
        },
        cover_depth=13,
    ),
    Proof(
        "read master",
        read_master,
        ReadMaster,
        8,
        {
            "an address is overwritten": Mutant("self.burst.ready.eq(~waiting)", "self.burst.ready.eq(1)"),
            "it asks one master alone": Mutant(
                "axi.arvalid & ~axi.arready for axi in self.axi", "axi.arvalid & ~axi.arready for axi in self.axi[:1]"
            ),
        },
    ),
    Proof(
        "reader, stopped",
        reader_stops,
        Reader,
        10,
        {
            "requests survive a stop": Mutant("ResetInserter(self.stop)(splitter)", "splitter"),
            "beats come through": Mutant("(current.client == i) & ~self.stop)", "(current.client == i))"),
            "outstanding data is forgotten": Mutant("master.idle & (tags.level == 0))", "master.idle)"),
        },
        cover_depth=16,
    ),
    Proof(
        "writer, two masters",
        writer(TWO),
        Writer,
        11,
        {
            "both masters get the low half": Mutant(
                "payload.word_select(i, config.data_bits)", "payload.word_select(0, config.data_bits)"
            )
        },
        cover_depth=22,
        full=True,
    ),
    Proof(
        "reader, two masters",
        reader(TWO),
        Reader,
        11,
        {"one master's data is not awaited": Mutant("self.valid.eq(there.all())", "self.valid.eq(there[0])")},
        cover_depth=14,
        full=True,
    ),
]
