# SPDX-License-Identifier: Apache-2.0
"""Proofs of the stream rules, and of what is counted on the way, for the units that ask for data:
fetch, weights, DMA, sequencer.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS
from edgemoe.hw.control.fetch import AHEAD, Fetch
from edgemoe.hw.control.legality import Legality
from edgemoe.hw.control.sequencer import Sequencer
from edgemoe.hw.memory.dma import Dma
from edgemoe.hw.memory.element_queue import ElementQueue
from edgemoe.hw.memory.row_unpacker import LevelPromise, RowUnpacker
from edgemoe.hw.memory.weights import Weights

from ..mutants import Mutant
from .configurations import small
from .rules import Queue, counter, held, instruction_of, job_of, stream
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
    read, address = dut.read, dut.failure.address
    p.assume(dut.pc % 64 == 0)
    p.assume(dut.pc < 1 << 12)
    stream(p, read.request, assume=False)
    stream(p, dut.instruction, assume=False, unless=dut.jump)
    taken = read.request.valid & read.request.ready
    # The Reader: beats of requests in order. Memory holds its own address.
    ends = read.valid & read.last
    asked = Queue(p, 13, 2 * AHEAD + 1, taken, read.request.p.address[:13], ends, "asked")
    position = p.register(1, "position")
    m.d.sync += position.eq(position ^ read.valid)
    p.assume(~read.valid | (asked.count != 0))
    p.assume(~read.valid | (read.last == position) & (read.data[:16] == asked.head + position * 32))
    p.check(~taken | (read.request.p.beats == 2))
    shown = dut.instruction.valid
    # A jump counts from its own cycle on.
    jumped = p.register(1, "jumped")
    m.d.sync += jumped.eq(jumped | dut.jump)
    p.check(~shown | jumped)
    p.check(~shown | (dut.instruction.payload.as_value()[:16] == address[:13]))
    p.check(~shown | (dut.instruction.payload.as_value()[256:272] == address[:13] + 32))
    p.check(~dut.failure.valid | ~shown)
    p.check(~(p.later & p.past(dut.jump)) | ~shown & (address == p.past(dut.pc)))
    # Room: beats that came and whose instruction is not taken.
    p.check(asked.count <= 2 * AHEAD)
    p.cover(shown & p.past(shown & dut.instruction.ready))
    jumps = counter(p, 3, dut.jump, name="jumps")
    p.cover(shown & (jumps == 2) & (asked.count == 1))
    p.cover(dut.failure.valid)


def row_unpacker(p: Property, unit: Any) -> None:
    """Words stand until taken; each is that part of its element that its number says, and an element leaves with its
    last word.
    """
    m = p.m
    lanes, words = UNPACKER.lanes, UNPACKER.words_per_beat
    dut = p.unit(unit(UNPACKER))
    stream(p, dut.row, assume=False)
    # The FIFO's output stands until it is taken.
    p.assume(~p.later | ~p.past(dut.valid & ~dut.leaves) | dut.valid & (dut.element == p.past(dut.element)))
    moves = dut.valid & (~dut.row.valid | dut.row.ready)
    number, shown = p.register(3, "number"), p.register(len(dut.row.p.as_value()), "shown")
    p.check(dut.leaves == moves & (number + 1 == words))
    with m.If(moves):
        m.d.sync += number.eq(Mux(number + 1 == words, 0, number + 1))
        m.d.sync += shown.eq(Cat(dut.element.word_select((number * lanes + lane)[:3], 16) for lane in range(lanes)))
    p.check(~dut.row.valid | (dut.row.p.as_value() == shown))
    p.check(~(p.later & p.past(moves)) | dut.row.valid)
    p.cover(dut.leaves & (number == 1))
    p.cover(p.later & dut.leaves & dut.row.ready & (p.past(number) == 0))


def weights(p: Property, unit: Any) -> None:
    """Jobs, requests and rows stand until taken; `level` rows come without a gap;
    beats held never exceed the promised room.
    """
    m = p.m
    dut = p.unit(unit(WEIGHTS), stop=0)
    read, rows, job = dut.read, dut.rows, dut.jobs.p.instruction
    stream(p, dut.jobs, assume=True)
    stream(p, read.request, assume=False)
    held(p, rows.valid, rows.ready, rows.word, assume=False)
    # Well-formed jobs: the beats of their columns, and padding.
    least = Mux(job.stationary == Stationary.WEIGHTS8, 5, 7)
    p.assume((job.chunks == 1) & (job.columns == 1) & (job.beats <= 9) & (job.beats >= least))
    requested = read.request.valid & read.request.ready
    lengths = Queue(p, 5, 6, requested, job.beats[:5], read.valid & read.last, "lengths")
    position = p.register(5, "position")
    with m.If(read.valid):
        m.d.sync += position.eq(Mux(read.last, 0, position + 1))
    p.assume(~read.valid | (lengths.count != 0) & (read.last == (position + 1 == lengths.head)))
    stored = counter(p, 5, read.valid, read.release, name="stored")
    p.assume(stored + read.valid <= dut.CAPACITY)
    p.check(stored + read.valid >= read.release)
    p.check(rows.valid == (rows.level != 0))
    before = p.past(rows.level)
    moved = p.past(rows.valid & rows.ready)
    p.check(~p.later | (rows.level + moved >= before))
    p.check((dut.jobs.valid & dut.jobs.ready) == requested)
    taken = counter(p, 5, rows.valid & rows.ready, name="taken")
    p.cover(taken == 3)
    p.cover((rows.level == 4) & ~rows.ready)
    p.cover(read.release > 0)


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
    widths = {"opcode": 4, "memory": 2, "columns": 2, "destination_base": 4, "destination_stride": 3}
    rows, place = p.constant(2, "rows"), p.constant(DRAM_OFFSET_BITS, "place")
    job = {"instruction": instruction_of(p, constant=True, **widths), "rows": rows, "address": place}
    dut = p.unit(unit(config), stop=0, memories_entry_row=0, operation_job=job_of(**job))
    operation, memories, read, write = dut.operation, dut.memories, dut.read, dut.write
    command = operation.job.instruction
    p.assume((command.opcode == Opcode.LOAD) | (command.opcode == Opcode.STORE))
    p.assume((rows <= 2) & (command.columns <= 2))
    busy = p.register(1, "busy")
    m.d.sync += busy.eq(operation.start | busy & ~operation.done)
    p.assume(~operation.start | ~busy)
    p.check(~operation.done | busy)
    stream(p, read.request, assume=False)
    stream(p, write.request, assume=False)
    stream(p, write.beats, assume=False)
    store = command.opcode == Opcode.STORE
    p.check(~(read.request.valid & store) & ~(write.request.valid & ~store))
    taken = read.request.valid & read.request.ready
    due = counter(p, 4, Mux(taken, read.request.p.beats[:3], 0), read.valid, name="due")
    p.assume(~read.valid | (due != 0))
    stored = counter(p, 4, read.valid, read.release, name="stored")
    p.assume(stored + read.valid <= dut.CAPACITY)
    p.check(stored >= read.release)
    to_write = counter(p, 4, Mux(write.request.valid & write.request.ready, write.request.p.beats[:3], 0),
                       write.beats.valid & write.beats.ready, name="to_write")  # fmt: skip
    asked = p.register(1, "asked")
    m.d.sync += asked.eq(asked & ~operation.done | write.request.valid & write.request.ready)
    p.assume(~write.beats.ready | (to_write != 0))
    p.assume(~write.done | asked & (to_write == 0))
    words = p.register(3, "words")
    moves = memories.write_valid | dut.reads
    row, column = p.register(2, "row"), p.register(2, "column")
    with m.If(moves):
        m.d.sync += [words.eq(words + 1), column.eq(column + 1)]
        with m.If(column + 1 == command.columns):
            m.d.sync += [column.eq(0), row.eq(row + 1)]
        p.check(busy & (memories.write_valid ^ dut.reads) & (dut.reads == store))
        address = Mux(store, memories.read_address, memories.write_address)
        p.check(address == command.destination_base + Mux(row == 0, 0, command.destination_stride) + column)
        p.check((row < rows) & (column < command.columns))
    with m.If(operation.start):
        m.d.sync += [words.eq(0), row.eq(0), column.eq(0)]
    total = Mux(rows == 2, command.columns << 1, Mux(rows == 1, command.columns, 0))
    p.check(~operation.done | (words + memories.write_valid == total))
    p.check(~operation.done | store | (stored == 0) & (due == 0))
    p.cover(operation.done & ~store & (words == 4))
    p.cover(operation.done & store & (words == 2))
    p.cover(operation.done & (total == 0))


PROOFS = [
    Proof(
        "fetch",
        fetch,
        Fetch,
        10,
        {
            "beats from before a jump are shown": Mutant("obsolete.eq(pending - arrives)", "obsolete.eq(0)"),
            "an instruction is overwritten": Mutant("moves = assembled & (~shown | leaves)", "moves = assembled"),
            "a request is withdrawn": Mutant("with m.If(read.request.ready):", "with m.If(1):"),
        },
        cover_depth=14,
    ),
    Proof(
        "row unpacker",
        row_unpacker,
        RowUnpacker,
        8,
        {
            "words are swapped": Mutant("word_select(step,", "word_select(~step,"),
            "an element leaves too early": Mutant("(step == self.words - 1)", "(step == 0)"),
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
            "an element is overwritten": Mutant(
                "waiting & (~self.valid | self.leaves)", "waiting", ElementQueue
            ),
            "level promises too much": Mutant("kept.eq(rows + arrived)", "kept.eq(rows + self.arriving)", LevelPromise),
        },
        cover_depth=18,
    ),
    Proof(
        "sequencer",
        sequencer,
        Sequencer,
        14,
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
            "a word goes astray": Mutant("product.eq(row_number *", "product.eq((row_number + 1) *"),
            "it ends before the last word": Mutant("quiet & used_up", "used_up"),
        },
        cover_depth=24,
    ),
]  # fmt: skip
