# SPDX-License-Identifier: Apache-2.0
"""Proofs of the SDRAM controller: the data sheet's rules on the pins, each beat done as asked, and the AXI4 rules of
its slave.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Signal, Value
from edgemoe.hw.periphery.sdram_commands import ACTIVE, LOAD_MODE, PRECHARGE, READ, REFRESH, WRITE, SdramCommands
from edgemoe.hw.periphery.sdram_config import SdramConfig, SdramTiming
from edgemoe.hw.periphery.sdram_port import SdramPort

from ..mutants import Mutant
from .rules import Queue, counter, held, stream
from .runner import Proof, Property

# Two banks of four rows of two beats, refreshed every 22 cycles of 60 MHz; two beats to buffer.
SMALL = SdramConfig(
    clock_hz=60e6,
    power_up_us=0,
    timing=SdramTiming(refresh_interval=22e9 / 60e6),
    init_refreshes=2,
    read_buffer=2,
    patience=3,
    row_bits=2,
    bank_bits=1,
    column_bits=3,
)
# Of the data sheet at 60 MHz, in cycles; the controller's own sums are not used here.
RP, RCD, RC, RAS, RFC, WR, MRD, REFI, CAS = 2, 2, 4, 3, 4, 2, 2, 22, 2


class Pins:
    """The commands on the pins, and for how many cycles (up to a few) each has been over, from the observer's own
    counters.
    """

    def __init__(self, p: Property, pins: Any) -> None:
        self.p, self.pins = p, pins
        code = Cat(pins.we_n, pins.cas_n, pins.ras_n)
        self.active, self.read, self.write, self.precharge, self.refresh, self.mode = (
            ~pins.cs_n & (code == one) for one in (ACTIVE, READ, WRITE, PRECHARGE, REFRESH, LOAD_MODE)
        )
        self.any = ~pins.cs_n & ~code.all()

    def since(self, event: Any, name: str, bits: int = 4) -> Signal:
        """Cycles since the event, 1 in the cycle behind it; saturates, and begins saturated."""
        count = Signal(bits, name=name, init=2**bits - 1)
        with self.p.m.If(event):
            self.p.m.d.sync += count.eq(1)
        with self.p.m.Elif(~count.all()):
            self.p.m.d.sync += count.eq(count + 1)
        return count


def offers(p: Property, access: Any, *, assume: bool) -> None:
    """A beat that was offered stands; what a read does not need, and a write does not, may change."""
    beat = access.p
    meant = Mux(beat.write, Cat(beat.data, beat.strobe), Cat(beat.last, beat.fault))
    stream(p, access, assume=assume, payload=Cat(beat.write, beat.address, meant))


def commands(p: Property, unit: Any) -> None:
    """Every rule of the data sheet between any two commands, and the initialisation, for any beats asked for in any
    cycle.
    """
    m = p.m
    dut = p.unit(unit(SMALL))
    offers(p, dut.access, assume=True)
    pins = Pins(p, dut.pins)
    p.check(dut.pins.cke | ~p.past(p.begun) | ~p.later)

    # Initialisation: all closed, two refreshes, the mode, and only then anything else.
    closed, ready, refreshes = p.register(1, "closed"), p.register(1, "ready"), p.register(2, "refreshes")
    with m.If(pins.precharge & dut.pins.a[10]):
        m.d.sync += closed.eq(1)
    with m.If(pins.refresh & (refreshes < 2)):
        m.d.sync += refreshes.eq(refreshes + 1)
    with m.If(pins.mode):
        m.d.sync += ready.eq(1)
        p.check((refreshes == 2) & (dut.pins.a == 0x22) & (dut.pins.ba == 0))
    p.check(~(pins.refresh | pins.mode) | closed)
    p.check(~(pins.active | pins.read | pins.write) | ready)
    p.check(ready | dut.pins.dqm.all())

    # Rows: which are open, and for how long.
    is_open = [p.register(1, f"open{i}") for i in range(2)]
    since_active = [pins.since(pins.active & (dut.pins.ba == i), f"since_active{i}") for i in range(2)]
    since_close = pins.since(pins.precharge, "since_close")
    since_write = pins.since(pins.write, "since_write")
    since_read = pins.since(pins.read, "since_read")
    for i in range(2):
        here = dut.pins.ba == i
        with m.If(pins.active & here):
            m.d.sync += is_open[i].eq(1)
            p.check(~is_open[i] & (since_active[i] >= RC))
        with m.If(pins.precharge & (dut.pins.a[10] | here)):
            m.d.sync += is_open[i].eq(0)
            p.check(~is_open[i] | (since_active[i] >= RAS))
        with m.If((pins.read | pins.write) & here):
            p.check(is_open[i] & (since_active[i] >= RCD) & ~dut.pins.a[10])
    p.check(dut.pins.ba < 2)
    p.check(~(pins.active | pins.refresh | pins.mode) | (since_close >= RP))
    p.check(~(pins.refresh | pins.mode) | ~Cat(is_open).any())
    p.check(~pins.precharge | (since_write >= 3 + WR) & (since_read >= 4))
    p.check(~(pins.read | pins.write) | (since_write >= 4) & (since_read >= 4))
    p.check(
        ~pins.any | (pins.since(pins.refresh, "since_refresh") >= RFC) & (pins.since(pins.mode, "since_mode") >= MRD)
    )
    # The wires: the chip drives them until CAS + 3 cycles behind READ, the next cycle is nobody's.
    p.check(~dut.pins.dq_oe | (since_read > CAS + 4))
    p.check(dut.pins.dq_oe == (pins.write | (since_write < 4)))

    # Refresh, never late.
    age = Signal(range(REFI + 2))
    with m.If(pins.refresh):
        m.d.sync += age.eq(1)
    with m.Elif(age <= REFI):
        m.d.sync += age.eq(age + 1)
    p.check(~ready | (age <= REFI))

    served = counter(p, 4, pins.read | pins.write, clear=pins.refresh, name="served")
    p.cover(pins.refresh & ready & (served == 2))
    p.cover(pins.write & (since_read == CAS + 5))
    p.cover(pins.read & (since_write == 4))
    p.cover(pins.precharge & (since_write == 3 + WR))
    p.cover(pins.active & (since_active[0] == 8) & dut.pins.ba[0])


def beats(p: Property, unit: Any) -> None:
    """Each beat is one command in its row, bank and column, its words in order and masked as asked;
    what is read comes back in time.
    """
    m = p.m
    dut = p.unit(unit(SMALL))
    access = dut.access
    offers(p, access, assume=True)
    pins = Pins(p, dut.pins)
    taken = access.valid & access.ready
    asked, waiting = Signal(access.p.shape()), p.register(1, "waiting")
    row = [p.register(SMALL.row_bits, f"row{i}") for i in range(2)]
    done = pins.read | pins.write
    p.check(~done | waiting)
    p.check(~(taken & waiting) | done)
    with m.If(taken):
        m.d.sync += [asked.eq(access.p), waiting.eq(1)]
    with m.Elif(done):
        m.d.sync += waiting.eq(0)
    for i in range(2):
        with m.If(pins.active & (dut.pins.ba == i)):
            m.d.sync += row[i].eq(dut.pins.a)
    with m.If(done):
        p.check(dut.pins.ba == asked.address.bank)
        p.check(dut.pins.a == asked.address.column << 2)
        p.check(Mux(dut.pins.ba[0], row[1], row[0]) == asked.address.row)
        p.check(pins.write == asked.write)
    # Written words: the first one with the command, then one a cycle.
    place = p.register(2, "place")
    data, strobe = Signal(64), Signal(8)
    with m.If(pins.write | (place != 0)):
        word = Mux(place == 0, asked.data, data)
        mask = Mux(place == 0, asked.strobe, strobe)
        p.check(dut.pins.dq_oe & (dut.pins.dq_o == word[:16]) & (dut.pins.dqm == ~mask[:2]))
        m.d.sync += [data.eq(word >> 16), strobe.eq(mask >> 2), place.eq(place + 1)]
    # Read words: dqm two cycles ahead of each, the register behind the wires CAPTURE cycles behind the command, the
    # beat when it has four.
    dqi, marks = [dut.pins.dq_i], [Cat(pins.read, asked.last, asked.fault)]
    for _ in range(4):
        dqi.append(p.past(dqi[-1]))
    for i in range(CAS + 3):
        p.check(~marks[-1][0] | (i > 3) | ~dut.pins.dqm.any())
        later = Signal(3, name=f"mark{i}")
        m.d.sync += later.eq(marks[-1])
        marks.append(later)
    p.check(dut.beat_valid == marks[-1][0])
    with m.If(dut.beat_valid):
        p.check(dut.beat.data == Cat(reversed(dqi[1:])))
        p.check(Cat(dut.beat.last, dut.beat.fault) == marks[-1][1:])
    # In time: whatever must be closed, refreshed and opened before.
    ready = p.register(1, "ready")
    with m.If(pins.mode):
        m.d.sync += ready.eq(1)
    waited = counter(p, 6, 1, clear=~waiting | done | ~ready, name="waited")
    p.check(waited < 22)
    p.cover(dut.beat_valid & dut.beat.last & p.past(p.past(p.past(p.past(dut.beat_valid)))))
    p.cover(pins.write & (asked.strobe == 0xA5) & p.past(p.past(p.past(p.past(pins.write)))))
    p.cover(ready & (waited > 12) & done)


LONGEST = 2  # beats of a burst
SIZE = SMALL.bytes.bit_length() - 1  # bits of a byte address


def master(p: Property, read: Any, write: Any) -> tuple[Any, Any]:
    """Assumes a master's part: offers stand, bursts are short and stay, as the 4 KiB rule has it, inside or outside the
    memory.
    """
    for valid, ready, address, length in (
        (read.arvalid, read.arready, read.araddr, read.arlen),
        (write.awvalid, write.awready, write.awaddr, write.awlen),
    ):
        held(p, valid, ready, Cat(address, length), assume=True)
        p.assume((length < LONGEST) & (address[:3] == 0) & (address[SIZE + 1 :] == 0))
        p.assume(address[3:SIZE] + length < 1 << SIZE - 3)
    held(p, write.wvalid, write.wready, Cat(write.wdata, write.wstrb), assume=True)
    return read.arvalid & read.arready, write.awvalid & write.awready


def follow(p: Property, name: str, started: Any, address: Any, length: Any, moves: Any) -> tuple[Any, Any, Any]:
    """The observer's own burst: checks that beats come only in one;
    returns their address, whether outside, whether last.
    """
    m = p.m
    place, active, outside = (
        p.register(2, f"{name}_place"),
        p.register(1, f"{name}_active"),
        p.register(1, f"{name}_outside"),
    )
    first, last = p.register(SIZE - 3, f"{name}_first"), p.register(2, f"{name}_last")
    p.check(~started | ~active)
    p.check(~moves | active)
    with m.If(started):
        m.d.sync += [first.eq(address[3:SIZE]), outside.eq(address[SIZE]), last.eq(length), active.eq(1), place.eq(0)]
    with m.Elif(moves):
        m.d.sync += [place.eq(place + 1), active.eq(place != last)]
    return (first + place)[: SIZE - 3], outside, place == last


def port(p: Property, unit: Any) -> None:
    """Each burst becomes its beats at its addresses; those written carry their data;
    one BRESP a burst, with the right verdict.
    """
    m = p.m
    dut = p.unit(unit(SMALL), beat=0)
    read, write, access = dut.read, dut.write, dut.access
    ar, aw = master(p, read, write)
    held(p, write.bvalid, write.bready, write.bresp, assume=False)
    offers(p, access, assume=False)
    p.check(~p.past(~p.begun) | ~(read.rvalid | write.bvalid | access.valid))
    taken, asks, writes = access.valid & access.ready, Signal(), Signal()
    m.d.comb += [asks.eq(taken & ~access.p.write), writes.eq(taken & access.p.write)]
    outstanding = counter(p, 3, asks, dut.beat_valid, name="outstanding")
    p.assume(~dut.beat_valid | (outstanding != 0))

    address, outside, ends = follow(p, "read", ar, read.araddr, read.arlen, asks)
    with m.If(asks):
        p.check(access.p.address.as_value() == address)
        p.check((access.p.last == ends) & (access.p.fault == outside))
    address, outside, ends = follow(p, "write", aw, write.awaddr, write.awlen, writes)
    p.check(writes == (write.wvalid & write.wready))
    due, verdict = p.register(1, "due"), p.register(2, "verdict")
    p.check(write.bvalid == due)
    p.check(~write.bvalid | (write.bresp == verdict))
    with m.If(due & write.bready):
        m.d.sync += due.eq(0)
    with m.If(writes):
        p.check(access.p.address.as_value() == address)
        p.check((access.p.data == write.wdata) & (access.p.strobe == Mux(outside, 0, write.wstrb)))
        p.check(~(ends & due))
        with m.If(ends):
            m.d.sync += [due.eq(1), verdict.eq(Mux(outside, 3, 0))]
    p.cover(due & write.bready & (verdict == 3) & p.past(access.p.strobe == 0))
    p.cover(due & ~write.bready & p.past(due) & write.awvalid)
    p.cover(asks & p.past(writes & ends))
    p.cover(ar & aw)


def answers(p: Property, unit: Any) -> None:
    """What the memory gives comes out in order, held until taken, RLAST and the verdict with it;
    nothing is asked for that has no room.
    """
    dut = p.unit(unit(SMALL), write_awvalid=0, write_wvalid=0)
    read, access = dut.read, dut.access
    master(p, read, dut.write)
    held(p, read.rvalid, read.rready, Cat(read.rdata, read.rresp, read.rlast), assume=False)
    taken, r = access.valid & access.ready, read.rvalid & read.rready
    # The memory answers in order, whenever it likes. The queues complain about too many.
    sent = Queue(p, 2, SMALL.read_buffer, taken, Cat(access.p.last, access.p.fault), dut.beat_valid, "sent")
    p.assume(~dut.beat_valid | (sent.count != 0) & (Cat(dut.beat.last, dut.beat.fault) == sent.head))
    p.assume(dut.beat.data[8:] == 0)  # for the solver's sake
    kept = Queue(
        p, 10, SMALL.read_buffer, dut.beat_valid, Cat(dut.beat.last, dut.beat.fault, dut.beat.data[:8]), r, "kept"
    )
    p.check(sent.count + kept.count <= SMALL.read_buffer)
    p.check(read.rvalid == (kept.count != 0))
    with p.m.If(read.rvalid):
        p.check(Cat(read.rlast, read.rdata) == Cat(kept.head[0], kept.head[2:]))
        p.check(read.rresp == Mux(kept.head[1], 3, 0))
    p.cover((kept.count == SMALL.read_buffer) & read.rlast & (read.rdata == 0x5A))
    p.cover(r & (read.rresp == 3) & p.past(r & (read.rresp == 0)))


def turns(p: Property, unit: Any) -> None:
    """Neither direction waits for more than a burst of the other, nor, for long, for one that cannot go on."""
    dut = p.unit(unit(SMALL))
    read, write, access = dut.read, dut.write, dut.access
    ar, aw = master(p, read, write)
    taken = access.valid & access.ready
    asks, writes = taken & ~access.p.write, taken & access.p.write
    left_read = counter(p, 3, Mux(ar, read.arlen + 1, 0), asks, name="left_read")
    left_write = counter(p, 3, Mux(aw, write.awlen + 1, 0), writes, name="left_write")
    # Room is there while the beats that were asked for and not yet taken are fewer than the buffer holds.
    credit = counter(p, 3, asks, read.rvalid & read.rready, name="credit")
    outstanding = counter(p, 3, asks, dut.beat_valid, name="outstanding")
    p.assume(~dut.beat_valid | (outstanding != 0))
    able = {"read": (left_read != 0) & (credit < SMALL.read_buffer), "write": (left_write != 0) & write.wvalid}
    lefts = {"read": left_read, "write": left_write}
    for name, mine, rival, other in (("read", asks, "write", writes), ("write", writes, "read", asks)):
        overtaken = counter(p, 4, other, clear=mine | ~able[name], name=f"{name}_overtaken")
        p.check(overtaken <= LONGEST)
        idle = counter(p, 4, 1, clear=mine | ~able[name] | access.valid, name=f"{name}_idle")
        p.check(idle <= SMALL.patience + 1)
        # The other's burst ended while this one waited: it has its chance now, for as long as patience lasts.
        chance, used = p.register(1, f"{name}_chance"), p.register(3, f"{name}_used")
        with p.m.If(mine):
            p.m.d.sync += chance.eq(0)
        with p.m.Elif(other & (lefts[rival] == 1) & (lefts[name] != 0)):
            p.m.d.sync += [chance.eq(1), used.eq(0)]
        with p.m.Elif(chance & (used < 7)):
            p.m.d.sync += used.eq(used + 1)
        p.check(~(chance & other) | (used >= SMALL.patience))
        p.cover(mine & (overtaken == LONGEST))
        p.cover(mine & p.past(mine) & p.past(p.past(other)))
        p.cover(able[name] & (idle == SMALL.patience))
        p.cover(chance & other)
    p.check(~access.valid | Value.cast(Mux(access.p.write, able["write"], able["read"])).bool())


CLOSING = "with m.If(close == 0):\n                        issue(PRECHARGE, c.row_precharge)"
REFRESHING = "with m.If(wait == 0):\n                issue(REFRESH, c.refresh_cycle)"
PROOFS = [
    Proof(
        "SDRAM commands",
        commands,
        SdramCommands,
        38,
        {
            "tRCD is forgotten": Mutant("issue(ACTIVE, c.row_to_column)", "issue(ACTIVE, 1)"),
            "tRP is forgotten": Mutant(CLOSING, CLOSING.replace("c.row_precharge", "1")),
            "tRFC is short": Mutant(REFRESHING, REFRESHING.replace("cycle)", "cycle - 1)")),
            "the written word does not recover": Mutant(
                "close.eq(c.write_to_close - 1)", "close.eq(c.read_to_close - 1)"
            ),
            "a row is closed too soon": Mutant("close.eq(c.row_active - 1)", "close.eq(0)"),
            "another bank's row": Mutant("(new.row == old.row) & (new.bank == old.bank)", "(new.row == old.row)"),
            "the wires are not turned round": Mutant("turn.eq(c.read_to_write - 1)", "turn.eq(c.read_to_write - 2)"),
            "beats go before refreshes": Mutant(
                "with m.If(due | valid & ~hit):", "with m.If(due & ~valid | valid & ~hit):"
            ),
            "one refresh at first": Mutant("refreshes == c.init_refreshes - 1", "refreshes == c.init_refreshes - 2"),
        },
    ),
    Proof(
        "SDRAM beats",
        beats,
        SdramCommands,
        36,
        {
            "another row": Mutant("(new.row == old.row) & (new.bank == old.bank)", "(new.bank == old.bank)"),
            "data is overwritten": Mutant("self.access.ready.eq(~valid & (wait <= 1))", "self.access.ready.eq(~valid)"),
            "strobes stand still": Mutant(
                "current.strobe.eq(current.strobe >> STROBES)", "current.strobe.eq(current.strobe)"
            ),
            "words in the wrong order": Mutant("Cat(before, word)[DQ_BITS:]", "Cat(word, before)[: -DQ_BITS]"),
            "a beat comes a cycle late": Mutant("range(self.LATENCY - 1)", "range(self.LATENCY)"),
        },
    ),
    Proof(
        "SDRAM port",
        port,
        SdramPort,
        13,
        {
            "RLAST at the wrong beat": Mutant("access.p.last.eq(reads.left == 0)", "access.p.last.eq(reads.left == 1)"),
            "a refused burst writes": Mutant(
                "access.p.strobe.eq(Mux(writes.fault, 0, write.wstrb))", "access.p.strobe.eq(write.wstrb)"
            ),
            "an answer is withdrawn": Mutant("with m.If(write.bready):", "with m.If(1):"),
            "data of the other's turn": Mutant(
                "write.wready.eq(writing & writes.active", "write.wready.eq(writes.active"
            ),
            "a burst is overwritten": Mutant("with m.If(valid & ~burst.active):", "with m.If(valid):"),
            "an answer is overwritten": Mutant("write.awvalid & ~write.bvalid", "write.awvalid"),
        },
    ),
    Proof(
        "SDRAM answers",
        answers,
        SdramPort,
        13,
        {
            "more is asked for than there is room": Mutant("return room != 0", "return room == room"),
            "a beat counts as taken when it is offered": Mutant("(read.rvalid & read.rready)", "read.rvalid"),
            "a refused burst is fine": Mutant("read.rresp.eq(Mux(out.fault, DECERR, 0))", "read.rresp.eq(0)"),
        },
    ),
    Proof(
        "SDRAM turns",
        turns,
        SdramPort,
        13,
        {
            "the turn is kept": Mutant("(taken & (left == 0) & other_active)", "(taken & (left == 0) & other_able)"),
            "a burst that cannot go on keeps the turn": Mutant("~active | ~able & (patience == 0)", "~active"),
        },
    ),
]  # fmt: skip
