# SPDX-License-Identifier: Apache-2.0
"""Proofs of what stands between DRAM and the compute side: bursts, gearboxes, FIFOs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Mux, Signal
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from edgemoe.hw.contract.config import PAGE_BYTES, PRESETS, HardwareConfig
from edgemoe.hw.memory.axi import BurstSplitter
from edgemoe.hw.memory.element_queue import ElementQueue
from edgemoe.hw.memory.gearbox import BeatsToWords, WordsToBeats

from ..mutants import Mutant
from .configurations import ONE, small
from .rules import Queue, counter, stream
from .runner import Proof, Property


def splitter(config: HardwareConfig, address_bits: int = 14, beat_bits: int = 12):
    """Bursts follow each other without gap or overlap from a request's address on, end at burst boundaries, and sum up
    to its beats.
    """

    def describe(p: Property, unit: Any) -> None:
        m = p.m
        dut = p.unit(unit(config))
        request, burst = dut.request, dut.burst
        stream(p, request, assume=True)
        stream(p, burst, assume=False)
        size, limit = config.bus_bytes, config.burst_limit
        p.assume(request.p.address[: (size - 1).bit_length()] == 0)
        p.assume((request.p.address < 1 << address_bits) & (request.p.beats < 1 << beat_bits))
        # Requests taken and not wholly given out: the oldest one and, behind it, the next; how far the oldest one has
        # come.
        taken = request.valid & request.ready
        given = burst.valid & burst.ready
        bits = len(request.p.as_value())
        pending = Queue(
            p, bits, 2, taken & (request.p.beats != 0), request.p.as_value(), given & burst.p.last, "pending"
        )
        fresh, address, left = Signal(init=1), Signal(len(request.p.address)), Signal(len(request.p.beats))
        address_now = Mux(fresh, pending.head[: len(address)], address)
        left_now = Mux(fresh, pending.head[len(address) :], left)
        ends = address_now + burst.p.beats * size
        with m.If(given):
            m.d.sync += [address.eq(ends), left.eq(left_now - burst.p.beats), fresh.eq(burst.p.last)]
        with m.If(burst.valid):
            p.check(pending.count != 0)
            p.check(burst.p.address == address_now)
            p.check((burst.p.beats != 0) & (burst.p.beats <= limit) & (burst.p.beats <= left_now))
            p.check(burst.p.last == (burst.p.beats == left_now))
            # On one master a burst is 1 / masters of the bytes.
            page = PAGE_BYTES * config.masters
            p.check(burst.p.address[: (page - 1).bit_length()] + burst.p.beats * size <= page)
            p.check(burst.p.last | (ends[: (limit * size - 1).bit_length()] == 0))
        p.check(dut.busy == (pending.count != 0))
        seen = counter(p, 3, given & (burst.p.beats != limit), name="seen")
        p.cover(given & burst.p.last & fresh & (seen == 1))
        p.cover(given & burst.p.last & ~fresh & (burst.p.beats < limit) & (address[:6] == 0))
        p.cover(given & p.past(given & burst.p.last))

    return describe


def beats_to_words(config: HardwareConfig):
    """Every bit comes out once, in order, and offers stand until taken."""

    def describe(p: Property, unit: Any) -> None:
        dut = p.unit(unit(config), clear=0)
        _gearbox(p, dut.beats, dut.words, dut.beats.p, dut.words.p)

    return describe


def _gearbox(p: Property, source: Any, sink: Any, given: Any, got: Any) -> None:
    """A symbolic bit of the stream of bits: what goes in at its place must come out there."""
    m = p.m
    stream(p, source, assume=True)
    stream(p, sink, assume=False)
    place = p.constant(7, "place")
    p.assume(place < 96)
    value, known = p.register(1, "value"), p.register(1, "known")
    into, out = p.register(10, "into"), p.register(10, "out")
    p.assume(into < 512)
    enters, leaves = source.valid & source.ready, sink.valid & sink.ready
    here = source.valid & (place >= into) & (place < into + len(given))
    bit = (given >> (place - into)[:7])[0]
    with m.If(enters):
        m.d.sync += into.eq(into + len(given))
    with m.If(leaves):
        m.d.sync += out.eq(out + len(got))
    with m.If(enters & here):
        m.d.sync += [value.eq(bit), known.eq(1)]
    with m.If(leaves & (place >= out) & (place < out + len(got))):
        p.check(known | here)
        p.check((got >> (place - out)[:7])[0] == Mux(here, bit, value))
        p.cover((known | here) & (place > 70))
        p.cover(Mux(here, bit, value) & p.past(~sink.ready))
    width = max(len(given), len(got))
    p.check((into + width >= out) & (out + width >= into))


def words_to_beats(config: HardwareConfig):
    """As beats_to_words; the last word completes its beat with zeros, and the next transfer starts a new one."""

    def describe(p: Property, unit: Any) -> None:
        m = p.m
        dut = p.unit(unit(config))
        words, beats = dut.words, dut.beats
        stream(p, words, assume=True)
        stream(p, beats, assume=False)
        enters, leaves = words.valid & words.ready, beats.valid & beats.ready
        bits, wide = len(words.p.word), len(beats.p)
        if config.words_per_beat > 1:
            held, position = (
                [p.register(bits, f"held{i}") for i in range(config.words_per_beat)],
                p.register(2, "position"),
            )
            ends = (position == config.words_per_beat - 1) | words.p.last
            with m.If(enters):
                m.d.sync += position.eq(Mux(ends, 0, position + 1))
                for i, part in enumerate(held):
                    with m.If(position == i):
                        m.d.sync += part.eq(words.p.word)
            p.check(leaves == (enters & ends))
            with m.If(leaves):
                for i, part in enumerate(held):
                    expected = Mux(position > i, part, Mux(position == i, words.p.word, 0))
                    p.check(beats.p[i * bits : (i + 1) * bits] == expected)
        else:
            position = p.register(4, "position")
            count = config.beats_per_word
            with m.If(leaves):
                m.d.sync += position.eq(Mux(position == count - 1, 0, position + 1))
                p.check(beats.p == (words.p.word >> (position * wide)[:10])[:wide])
            p.check(enters == (leaves & (position == count - 1)))
        p.cover(leaves & p.past(leaves & (beats.p != 0)) & (beats.p == 3))
        p.cover(enters & words.p.last & p.past(~beats.ready))

    return describe


def fifo(depth: int):
    """The contract of the FIFOs that the memory system is built with:
    nothing lost, nothing twice, in order, room as promised.
    """

    def describe(p: Property, unit: Any) -> None:
        m = p.m
        dut = unit(width=4, depth=depth)
        m.submodules.dut = dut
        write, read = p.free(1, "write"), p.free(1, "read")
        m.d.comb += [dut.w_en.eq(write), dut.r_en.eq(read), dut.w_data.eq(p.free(4, "w_data"))]
        model = Queue(p, 4, depth + 1, dut.w_en & dut.w_rdy, dut.w_data, dut.r_en & dut.r_rdy, "model")
        p.check(~dut.r_rdy | (dut.r_data == model.head))
        p.check(model.count <= depth)
        p.check(dut.level == model.count)
        p.check(dut.w_rdy | (model.count == depth) | (unit is SyncFIFOBuffered))
        p.check(dut.w_rdy | (model.count >= depth - 1))
        p.check(~p.later | ~p.past(dut.r_rdy & ~dut.r_en) | (dut.r_rdy & (dut.r_data == p.past(dut.r_data))))
        p.cover((model.count == depth) & p.past(dut.w_en) & p.past(p.past(dut.w_en & dut.r_en)))
        p.cover((model.count == 0) & p.past(model.count == 1) & (p.past(dut.r_data) == 9))

    return describe


def element_queue(p: Property, unit: Any) -> None:
    """Nothing lost, nothing twice, in order; what entered two cycles ago shows, and stands until it leaves."""
    depth = 3
    dut = p.unit(unit(4, depth))
    model = Queue(p, 4, depth, dut.arriving, dut.element, dut.valid & dut.leaves, "model")
    p.assume(~dut.arriving | (model.count < depth))
    p.check(~dut.valid | (model.count != 0) & (dut.oldest == model.head))
    p.check(dut.valid | (model.count <= p.past(dut.arriving)))
    p.cover((model.count == depth) & p.past(p.past(dut.leaves & dut.valid & dut.arriving)) & (dut.oldest == 9))
    p.cover((model.count == 0) & p.past(model.count == 1) & (p.past(dut.oldest) == 6))


HELD_BURST = Mutant("~empty & (~self.burst.valid | self.burst.ready)", "~empty")
SHORT_BURST = Mutant("C(limit) - before", "C(limit)")
PROOFS = [
    Proof(
        "burst splitter",
        splitter(ONE, 8, 4),
        BurstSplitter,
        10,
        {
            "a waiting burst is overwritten": HELD_BURST,
            "bursts ignore boundaries": SHORT_BURST,
            "last is one burst late": Mutant("value[power] & value[:power].any()", "value[power]"),
            "beats are those of the burst before": Mutant(
                "Mux(follows_last, rest - limit, limit)", "Mux(last, rest - limit, limit)"
            ),
            "a request is taken too early": Mutant(
                "self.request.ready.eq(empty)", "self.request.ready.eq(empty | last)"
            ),
        },
    ),
    *(
        Proof(
            f"burst splitter, {name}",
            splitter(PRESETS[name]),
            BurstSplitter,
            6,
            {"bursts ignore boundaries": SHORT_BURST},
        )
        for name in ("base", "zcu102")
    ),
    Proof(
        "burst splitter, 4 KiB bursts",
        splitter(small("page", data_bits=128, burst_beats=256)),
        BurstSplitter,
        6,
        {"bursts ignore boundaries": SHORT_BURST},
    ),
    Proof(
        "beats to words, wide words",
        beats_to_words(small("narrow bus", data_bits=16)),
        BeatsToWords,
        14,
        {
            "a beat is dropped": Mutant("~last | words.ready", "1"),
            "halves are swapped": Mutant("words.p.eq(Cat(held, beats.p))", "words.p.eq(Cat(beats.p, held))"),
        },
    ),
    Proof(
        "beats to words, wide beats",
        beats_to_words(small("wide bus", data_bits=128)),
        BeatsToWords,
        8,
        {"a word is skipped": Mutant("words.ready & last)", "words.ready)")},
    ),
    Proof(
        "words to beats, wide words",
        words_to_beats(small("narrow bus", data_bits=16)),
        WordsToBeats,
        12,
        {"a word is taken too early": Mutant("words.ready.eq(beats.ready & last)", "words.ready.eq(beats.ready)")},
    ),
    Proof(
        "words to beats, wide beats",
        words_to_beats(small("wide bus", data_bits=128)),
        WordsToBeats,
        12,
        {
            "the last word does not end its beat": Mutant("ends = last | words.p.last", "ends = last"),
            "old halves are not cleared": Mutant(
                "Mux(position == 0, words.p.word, Cat(held, words.p.word))", "Cat(held, words.p.word)"
            ),
        },
    ),
    Proof(
        "FIFO",
        fifo(3),
        SyncFIFO,
        9,
        {"a full FIFO takes more": Mutant("self.w_rdy.eq(self.level != self.depth)", "self.w_rdy.eq(1)")},
    ),
    Proof(
        "element queue",
        element_queue,
        ElementQueue,
        9,
        {
            "the oldest is overwritten": Mutant("waiting & (~self.valid | self.leaves)", "waiting"),
            "one that leaves is counted still": Mutant("stored - ~self.arriving", "stored + self.arriving"),
            "one that arrives is not awaited": Mutant("advance, fewer.any(), more.any()", "advance, 0, more.any()"),
        },
    ),
    Proof(
        "buffered FIFO",
        fifo(3),
        SyncFIFOBuffered,
        9,
        {"the inner FIFO is read too early": Mutant("inner_r_rdy & (~self.r_rdy | self.r_en)", "inner_r_rdy")},
    ),
]
