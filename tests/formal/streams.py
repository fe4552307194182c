# SPDX-License-Identifier: Apache-2.0
"""Proofs of the stream rules, and of what is counted on the way, for the units that ask for data:
fetch, weights, DMA, sequencer.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.control.fetch import AHEAD, Fetch
from edgemoe.hw.control.legality import Legality
from edgemoe.hw.control.sequencer import Sequencer
from edgemoe.hw.memory.dma import Dma
from edgemoe.hw.memory.row_unpacker import LevelPromise, RowUnpacker
from edgemoe.hw.memory.weights import Weights

from ..mutants import Mutant
from .configurations import small
from .rules import Queue, counter, held, instruction_of, stream
from .runner import Proof, Property

FETCH = small("fetch", data_bits=256)
UNPACKER = small("unpacker", data_bits=128)
WEIGHTS = small("weights", data_bits=64, prefetch_beats=10)


def fetch(p: Property, unit: Any) -> None:
    """Requests and instructions stand until taken; what is shown is what memory holds at `address`, also across
    jumps.
    """
    m = p.m
    dut = p.unit(unit(FETCH), stop=0)
    p.assume(dut.pc % 64 == 0)
    p.assume(dut.pc < 1 << 12)
    stream(p, dut.request, assume=False)
    stream(p, dut.instruction, assume=False, unless=dut.jump)
    taken = dut.request.valid & dut.request.ready
    # The Reader: beats of requests in order. Memory holds its own address.
    ends = dut.valid & dut.last
    asked = Queue(p, 13, 2 * AHEAD + 1, taken, dut.request.p.address[:13], ends, "asked")
    position = p.register(1, "position")
    m.d.sync += position.eq(position ^ dut.valid)
    p.assume(~dut.valid | (asked.count != 0))
    p.assume(~dut.valid | (dut.last == position) & (dut.data[:16] == asked.head + position * 32))
    p.check(~taken | (dut.request.p.beats == 2))
    shown = dut.instruction.valid
    # A jump counts from its own cycle on.
    jumped = p.register(1, "jumped")
    m.d.sync += jumped.eq(jumped | dut.jump)
    p.check(~shown | jumped)
    p.check(~shown | (dut.instruction.payload[:16] == dut.address[:13]))
    p.check(~shown | (dut.instruction.payload[256:272] == dut.address[:13] + 32))
    p.check(~dut.fault | ~shown)
    p.check(~(p.later & p.past(dut.jump)) | ~shown & (dut.address == p.past(dut.pc)))
    # Room: beats that came and whose instruction is not taken.
    p.check(asked.count <= 2 * AHEAD)
    p.cover(shown & p.past(shown & dut.instruction.ready))
    jumps = counter(p, 3, dut.jump, name="jumps")
    p.cover(shown & (jumps == 2) & (asked.count == 1))
    p.cover(dut.fault)


def row_unpacker(p: Property, unit: Any) -> None:
    """Rows stand until taken; each is that part of its element that its number says, and an element leaves with its
    last row.
    """
    m = p.m
    lanes, words = UNPACKER.lanes, UNPACKER.words_per_beat
    dut = p.unit(unit(UNPACKER))
    stream(p, dut.row, assume=False)
    given = Cat(dut.element, dut.parameter, dut.eight_bit)
    # The FIFO's output stands until it is taken.
    p.assume(~p.later | ~p.past(dut.valid & ~dut.leaves) | dut.valid & (given == p.past(given)))
    moves = dut.valid & (~dut.row.valid | dut.row.ready)
    number, shown = p.register(3, "number"), p.register(len(dut.row.p.as_value()), "shown")
    rows = Mux(dut.eight_bit, 2 * words, words)
    p.check(dut.leaves == moves & (number + 1 == rows))
    with m.If(moves):
        m.d.sync += number.eq(Mux(number + 1 == rows, 0, number + 1))
        word = []
        for lane in range(lanes):
            place = number * lanes + lane
            small = dut.element.word_select(place[:4], 8)
            word.append(Mux(dut.eight_bit, Cat(small, small[7].replicate(8)), dut.element.word_select(place[:3], 16)))
        m.d.sync += shown.eq(Cat(dut.parameter, *word))
    p.check(~dut.row.valid | (dut.row.p.as_value() == shown))
    p.check(~(p.later & p.past(moves)) | dut.row.valid)
    p.cover(dut.leaves & dut.eight_bit & (number == 3))
    p.cover(
        dut.leaves & ~dut.eight_bit & p.past(dut.leaves) & p.past(dut.eight_bit)
        | dut.leaves & ~dut.eight_bit & (number == 1)
    )


def weights(p: Property, unit: Any) -> None:
    """Jobs, requests and rows stand until taken; `level` rows come without a gap;
    beats held never exceed the promised room.
    """
    m = p.m
    dut = p.unit(unit(WEIGHTS), stop=0)
    job = dut.job.p
    stream(p, dut.job, assume=True)
    stream(p, dut.request, assume=False)
    stream(p, dut.row, assume=False)
    # Well-formed jobs: the beats of their columns, and padding.
    p.assume((job.chunks == 1) & (job.columns == 1) & (job.beats <= 9) & (job.beats >= Mux(job.eight_bit, 5, 7)))
    requested = dut.request.valid & dut.request.ready
    lengths = Queue(p, 5, 6, requested, job.beats[:5], dut.valid & dut.last, "lengths")
    position = p.register(5, "position")
    with m.If(dut.valid):
        m.d.sync += position.eq(Mux(dut.last, 0, position + 1))
    p.assume(~dut.valid | (lengths.count != 0) & (dut.last == (position + 1 == lengths.head)))
    stored = counter(p, 5, dut.valid, dut.release, name="stored")
    p.assume(stored + dut.valid <= dut.CAPACITY)
    p.check(stored + dut.valid >= dut.release)
    p.check(dut.row.valid == (dut.level != 0))
    before = p.past(dut.level)
    moved = p.past(dut.row.valid & dut.row.ready)
    p.check(~p.later | (dut.level + moved >= before))
    p.check((dut.job.valid & dut.job.ready) == requested)
    rows = counter(p, 5, dut.row.valid & dut.row.ready, name="rows")
    p.cover(rows == 3)
    p.cover((dut.level == 4) & ~dut.row.ready)
    p.cover(dut.release > 0)


def sequencer(p: Property, unit: Any) -> None:
    """Each instruction goes exactly once to each unit that wants it, unchanged while it waits;
    none that was refused goes anywhere.
    """
    m = p.m
    # Operand extents are another matter (arithmetic, held against the emulator): what they are computed from is 0 here.
    widths = {
        "opcode": 4,
        "stationary": 2,
        "gather": 1,
        "queued": 1,
        "rows": 3,
        "chunks": 2,
        "columns": 2,
        "length": 2,
        "memory": 2,
    }
    dut = p.unit(unit(FETCH), completed=0, instructions_payload=instruction_of(p, keys=2, **widths))
    stream(p, dut.instructions, assume=True, unless=dut.jump)
    p.assume(~dut.start | ~dut.busy)
    outputs = (dut.jobs, dut.loads, dut.weights)
    for port in outputs:
        stream(p, port, assume=False)
    fetched = dut.instructions.valid & dut.instructions.ready
    instruction = p.register(512, "instruction")
    with m.If(fetched):
        m.d.sync += instruction.eq(dut.instructions.payload)
    view = type(dut.instructions.payload)(dut.instructions.payload.shape(), instruction)
    matmul = view.opcode == Opcode.MATMUL
    gone = [p.register(1, f"gone{i}") for i in range(3)]
    wants = (1, matmul, matmul & ~view.stationary[1])
    stopped = p.register(1, "stopped")
    m.d.sync += stopped.eq(stopped | dut.error)
    for port, sent, want in zip(outputs, gone, wants, strict=True):
        m.d.sync += sent.eq(~fetched & (sent | port.valid & port.ready))
        p.check(~port.valid | ~sent & want & ~stopped & ~dut.error)
        p.check(~port.valid | (port.payload.instruction.as_value() == instruction))
        # Before the next instruction is asked for, the last one has gone wherever it must.
        offered = p.past(port.valid & ~port.ready)
        p.check(~fetched | ~offered | ~p.later)
    # What was issued is legal: a known operation of at least one row, at most as many as the build has.
    p.check(~dut.jobs.valid | (view.opcode >= 2) & (view.opcode <= 7) & (view.rows != 0) & (view.rows <= FETCH.rows))
    p.check(~dut.jobs.valid | ~(view.gather | view.scatter | view.queued))
    p.check(~(stopped & (dut.done | dut.jump)))
    held(p, stopped, 0, dut.instruction_number, assume=False)
    p.cover(gone[0] & gone[1] & gone[2] & fetched)
    p.cover(dut.error)
    p.cover(dut.loads.valid & gone[0] & ~dut.loads.ready)


def dma(p: Property, unit: Any) -> None:
    """LOAD and STORE: requests and beats stand until taken; every word moves once, to or from its own address;
    the room is kept.
    """
    m = p.m
    config = small("dma", data_bits=64)
    dut = p.unit(unit(config), stop=0, entry_row=0)
    command = p.constant(dut.command.shape(), "order")
    m.d.comb += dut.command.eq(command)
    p.inputs.pop("dut_command")
    p.assume((command.opcode == Opcode.LOAD) | (command.opcode == Opcode.STORE))
    p.assume(
        (command.rows <= 2) & (command.columns <= 2) & ~command.gather & (command.stride < 8) & (command.base < 16)
    )
    busy = p.register(1, "busy")
    m.d.sync += busy.eq(dut.start | busy & ~dut.done)
    p.assume(~dut.start | ~busy)
    p.check(~dut.done | busy)
    stream(p, dut.request, assume=False)
    stream(p, dut.write_request, assume=False)
    stream(p, dut.write_beats, assume=False)
    store = command.opcode == Opcode.STORE
    p.check(~(dut.request.valid & store) & ~(dut.write_request.valid & ~store))
    taken = dut.request.valid & dut.request.ready
    due = counter(p, 4, Mux(taken, dut.request.p.beats[:3], 0), dut.valid, name="due")
    p.assume(~dut.valid | (due != 0))
    stored = counter(p, 4, dut.valid, dut.release, name="stored")
    p.assume(stored + dut.valid <= dut.CAPACITY)
    p.check(stored >= dut.release)
    to_write = counter(p, 4, Mux(dut.write_request.valid & dut.write_request.ready, dut.write_request.p.beats[:3], 0),
                       dut.write_beats.valid & dut.write_beats.ready, name="to_write")  # fmt: skip
    asked = p.register(1, "asked")
    m.d.sync += asked.eq(asked & ~dut.done | dut.write_request.valid & dut.write_request.ready)
    p.assume(~dut.write_beats.ready | (to_write != 0))
    p.assume(~dut.write_done | asked & (to_write == 0))
    words = p.register(3, "words")
    moves = dut.write_valid | dut.read_valid
    row, column = p.register(2, "row"), p.register(2, "column")
    with m.If(moves):
        m.d.sync += [words.eq(words + 1), column.eq(column + 1)]
        with m.If(column + 1 == command.columns):
            m.d.sync += [column.eq(0), row.eq(row + 1)]
        p.check(busy & (dut.write_valid ^ dut.read_valid) & (dut.read_valid == store))
        address = Mux(store, dut.read_address, dut.write_address)
        p.check(address == command.base + Mux(row == 0, 0, command.stride) + column)
        p.check((row < command.rows) & (column < command.columns))
    with m.If(dut.start):
        m.d.sync += [words.eq(0), row.eq(0), column.eq(0)]
    total = Mux(command.rows == 2, command.columns << 1, Mux(command.rows == 1, command.columns, 0))
    p.check(~dut.done | (words + dut.write_valid == total))
    p.check(~dut.done | store | (stored == 0) & (due == 0))
    p.cover(dut.done & ~store & (words == 4))
    p.cover(dut.done & store & (words == 2))
    p.cover(dut.done & (total == 0))


PROOFS = [
    Proof(
        "fetch",
        fetch,
        Fetch,
        10,
        {
            "beats from before a jump are shown": Mutant("obsolete.eq(pending - arrives)", "obsolete.eq(0)"),
            "an instruction is overwritten": Mutant("moves = assembled & (~shown | leaves)", "moves = assembled"),
            "a request is withdrawn": Mutant("with m.If(self.request.ready):", "with m.If(1):"),
        },
        cover_depth=14,
    ),
    Proof(
        "row unpacker",
        row_unpacker,
        RowUnpacker,
        8,
        {
            "halves are swapped": Mutant("narrow = halves[step]", "narrow = halves[step ^ 1]"),
            "signs are lost": Mutant("narrow.word_select(lane, 8).as_signed()", "narrow.word_select(lane, 8)"),
            "an element leaves too early": Mutant("2 * words - 1, words - 1)", "words - 1, words - 1)"),
        },
    ),
    Proof(
        "weights",
        weights,
        Weights,
        10,
        {
            "a row is overwritten": Mutant(
                "self.valid & (~self.row.valid | self.row.ready)", "self.valid", RowUnpacker
            ),
            "level promises too much": Mutant("kept.eq(rows + arrived)", "kept.eq(rows + self.arriving)", LevelPromise),
        },
        cover_depth=18,
    ),
    Proof(
        "sequencer",
        sequencer,
        Sequencer,
        13,
        {
            "an instruction goes twice": Mutant("port.valid.eq(wanted & ~issued[number])", "port.valid.eq(wanted)"),
            "capacities do not count": Mutant("broken.any()", "(broken & illegal).any()", Legality),
            "it moves on too early": Mutant("return now.all()", "return now[0]"),
        },
        cover_depth=26,
    ),
    Proof(
        "DMA",
        dma,
        Dma,
        13,
        {
            "a word goes astray": Mutant("row_number * command.stride", "row_number * (command.stride + 1)"),
            "it ends before the last word": Mutant("quiet & (left == 0)", "left == 0"),
        },
        cover_depth=24,
    ),
]  # fmt: skip
