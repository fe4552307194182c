# SPDX-License-Identifier: Apache-2.0
"""Proofs of the block handshake: loader and streamer, coupled by announcements, swaps, parameter banks."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Mux
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.hw.contract.layouts import EXPERT_BITS, ROW_BITS
from edgemoe.hw.control.hazards import Hazards
from edgemoe.hw.control.loader import Loader
from edgemoe.hw.control.streamer import Streamer

from ..mutants import Mutant
from .configurations import small
from .rules import counter, instruction_of, job_of, stream
from .runner import Proof, Property

BLOCKS = small("blocks", data_bits=64)
WIDE = small("wide blocks", data_bits=64, lanes=8)
LEAD = 1


def parameter_banks(p: Property, unit: Any) -> None:
    """The loader on weights alone, deep enough for a third column block to want a bank."""
    loader(p, unit, weights_only=True)


def announced_early(p: Property, unit: Any) -> None:
    """The loader on 8-bit weights, where a wave is under way when they are announced."""
    loader(p, unit, config=WIDE, lead=LEAD)


def keys(p: Property, unit: Any) -> None:
    """The loader on keys, where a wave takes longer than they take out of the memory."""
    loader(p, unit, config=WIDE, keys_only=True)


def loader(
    p: Property, unit: Any, weights_only: bool = False, keys_only: bool = False, config: Any = BLOCKS, lead: int = 0
) -> None:
    """A block is announced once between two swaps; its rows are in place when the wave needs them and never overwrite
    the block before.

    The array's contract, with the swap at cycle t: row k of the new block is presented at t + k - 1 at the latest; row
    k of the block after it at t + k at the earliest; columns from t + lanes - 1 on.
    """
    m = p.m
    lanes = config.lanes
    if lead:  # one matrix of 8-bit weights
        given = instruction_of(p, constant=True, opcode=4, stationary=2, chunks=2, columns=2)
        dut = p.unit(unit(config, lead=lead), jobs_valid=1, jobs_payload=job_of(instruction=given))
        p.assume(dut.jobs.payload.instruction.stationary == Stationary.WEIGHTS8)
    elif keys_only:
        given = instruction_of(p, constant=True, opcode=4, stationary=2, chunks=2, columns=2)
        dut = p.unit(unit(config), jobs_valid=1, jobs_payload=job_of(instruction=given))
        p.assume(dut.jobs.payload.instruction.stationary == Stationary.KEYS)
    else:
        dut = p.unit(unit(config))
        stream(p, dut.jobs, assume=True)
        p.assume(dut.jobs.payload.instruction.chunks < 3)
    instruction = dut.jobs.payload.instruction
    p.assume(instruction.opcode == Opcode.MATMUL)
    p.assume((instruction.chunks != 0) & (instruction.columns != 0) & (instruction.columns < 3))
    if weights_only:
        p.assume(~instruction.stationary[1] & (instruction.chunks == 1))
    # Rows: as many as `level` says come without a gap.
    level = p.past(dut.weights.level)
    taken = dut.weights.valid & dut.weights.ready
    p.assume((dut.weights.level <= 2 * lanes) & (dut.weights.valid == (dut.weights.level != 0)))
    p.assume(~p.later | (dut.weights.level + p.past(taken) >= level))
    # DMA takes the memory port only while nothing streams: not from a swap on until its wave is through, and for a
    # while before one.
    running = p.register(4, "running")
    m.d.sync += running.eq(Mux(dut.swap, 8, Mux(running == 0, 0, running - 1)))
    p.assume(~dut.key_value_taken | ~dut.swap & (running == 0))
    p.assume(~dut.swap | ~p.past(dut.key_value_taken) & ~p.past(p.past(dut.key_value_taken)) | ~p.settled)
    # The array swaps only what was announced, from the next cycle on, or where the way is long later.
    announced = p.register(2, "announced")
    m.d.sync += announced.eq(announced + dut.ready - dut.swap)
    p.assume(~dut.swap | (announced != 0))
    if lead:
        p.assume(~dut.swap | (counter(p, 4, announced != 0, clear=dut.ready | dut.swap, name="age") >= lead))
    p.check(announced + dut.ready <= 1 + dut.swap)
    p.check((announced != 1) | ~dut.ready | dut.swap)
    # A block that was begun gets a row in every cycle; behind a job's taking the last values of the one before come.
    of_before = p.past(dut.jobs.valid & dut.jobs.ready)
    p.check(~(dut.load.valid & dut.weights.ready) | dut.weights.valid | of_before)
    # Parameter banks: two; one is given back for each that was filled.
    takes = dut.parameter.valid & (dut.parameter.index == 0)
    banks = counter(p, 3, takes, dut.column_done, name="banks")
    p.assume(~dut.column_done | (banks != 0))
    p.check(banks + takes - dut.column_done <= 2)
    p.check(~(p.later & (banks == 2)) | ~takes | dut.column_done)
    # Rows and columns against the wave.
    since = p.register(4, "since")  # cycles since the last swap
    m.d.sync += since.eq(Mux(dut.swap, 1, Mux(since == 15, 15, since + 1)))
    started = p.register(1, "started")
    m.d.sync += started.eq(started | dut.swap)
    # Which rows of the next block have come: bit k.
    rows = [p.register(1, f"row{k}") for k in range(lanes)]
    complete = dut.ready & dut.load.by_column
    waves = [dut.swap]  # several may be under way
    for k in range(1, lanes):
        waves.append(p.register(1, f"wave{k}"))
        m.d.sync += waves[k].eq(waves[k - 1])
    for k, row in enumerate(rows):
        here = (
            dut.load.valid & ~dut.load.by_column & ((dut.load.index == k) | dut.load.pair & (dut.load.index + 1 == k))
        )
        if lead and k >= lanes // 2:  # these rows are loaded a cycle later
            here = p.later & p.past(here)
        # The wave reaches row k, k cycles after the swap: then (one cycle earlier at the port) it must have come.
        reaches = waves[k]
        by_column = p.register(1, f"columns{k}")
        with m.If(complete):
            m.d.sync += by_column.eq(1)
        p.check(~reaches | row | by_column)
        with m.If(reaches):
            m.d.sync += [row.eq(0), by_column.eq(0)]
        with m.If(here):
            m.d.sync += row.eq(1)
            # Not twice into the same block, and not into the one that the wave has not yet taken up.
            p.check(~row | reaches)
            p.check(~by_column | reaches)
    p.check(~(dut.load.valid & dut.load.pair) | ~dut.load.by_column & ~dut.load.index[0])
    p.check(~(dut.load.valid & dut.load.by_column) | ~started | (since >= lanes - 1) & ~dut.swap)
    blocks = counter(p, 3, dut.swap, name="blocks")
    if lead:
        p.cover((blocks == 2) & dut.ready & dut.load.valid)
        p.cover((blocks == 1) & dut.ready & (since == lanes // 2 - 1 - lead) & ~dut.load.valid)
        p.cover(dut.swap & dut.load.valid & (dut.load.index == 2))
        return
    if weights_only:
        p.cover((blocks == 2) & takes)
        return
    if keys_only:
        p.cover((blocks == 1) & dut.load.valid & dut.load.by_column)
        return
    p.cover((blocks == 2) & dut.ready & ~dut.load.by_column)
    p.cover((blocks == 2) & dut.ready & dut.load.pair)
    p.cover(dut.ready & dut.load.by_column)
    p.cover(dut.swap & p.past(dut.ready))
    p.cover((banks == 2) & dut.weights.valid & ~dut.weights.ready)


def loader_waits(p: Property, unit: Any) -> None:
    """Keys and values are loaded only when what they may depend on is written."""
    m = p.m
    dut = p.unit(unit(BLOCKS))
    instruction = dut.jobs.payload.instruction
    stream(p, dut.jobs, assume=True)
    p.assume((instruction.opcode == Opcode.MATMUL) & (instruction.chunks != 0) & (instruction.columns != 0))
    stationary, waits, met = p.register(1, "stationary"), p.register(1, "waits"), p.register(1, "met")
    number = p.register(8, "number")
    with m.If(dut.jobs.valid & dut.jobs.ready):
        m.d.sync += [stationary.eq(instruction.stationary[1]), waits.eq(instruction.wait_load), met.eq(0)]
        m.d.sync += number.eq(dut.jobs.payload.sequence)
    with m.Elif(dut.completed == number):
        m.d.sync += met.eq(1)
    p.check(~(dut.load.valid & stationary & waits) | met)
    p.cover(dut.load.valid & stationary & waits & ~dut.load.by_column)
    p.cover(dut.load.valid & stationary & waits & dut.load.by_column)


def streamer(p: Property, unit: Any) -> None:
    """A block starts only when one was announced, lasts for all its rows without a gap;
    each instruction streams all its blocks once.
    """
    m = p.m
    widths = {"opcode": 4, "stationary": 2, "wait_stream": 1, "probabilities": 1, "rows": 2, "chunks": 2, "columns": 2}
    rows, position = p.free(2, "job_rows"), p.free(8, "job_sequence")
    given = Cat(instruction_of(p, **widths), rows, Const(0, ROW_BITS - 2 + EXPERT_BITS + 40), position)
    dut = p.unit(unit(BLOCKS, block_spacing=7, probability_latency=2), jobs_payload=given)
    job = dut.jobs.payload
    instruction = job.instruction
    stream(p, dut.jobs, assume=True)
    accepted = dut.jobs.valid & dut.jobs.ready
    sequence = counter(p, 8, accepted, name="sequence")
    p.assume(job.sequence == sequence)
    p.assume((job.rows != 0) & (job.rows < 4) & (instruction.rows == job.rows))
    p.assume(
        (instruction.chunks != 0) & (instruction.chunks < 3) & (instruction.columns != 0) & (instruction.columns < 3)
    )
    p.assume((instruction.opcode == Opcode.MATMUL) | (instruction.opcode == Opcode.LOAD))
    # Announcements: never more than one ahead of the swaps at the array.
    tag = dut.streamed.issue.tag
    swap = tag.valid & dut.streamed.issue.swap
    announced = counter(p, 3, dut.ready, swap, name="announced")
    p.assume(~dut.ready | (announced == 0) | (announced == 1) & swap)
    p.check(~swap | (announced != 0))
    # Results follow, in order: a pulse for each final row.
    finals = counter(p, 3, tag.valid & tag.final, dut.final_written, name="finals")
    p.assume(~dut.final_written | (finals != 0))
    operating = p.register(1, "operating")
    m.d.sync += operating.eq(dut.operation.start | operating & ~dut.operation.done)
    p.assume(~dut.operation.done | operating)
    p.check(~dut.operation.start | (dut.completed + 1 == sequence) & ~operating)
    # A cycle is spent on one thing at most; the counters rely on it.
    states = Cat(getattr(dut.events, name) for name in dut.events.signature.members if name != "retired")
    p.check((states & (states - 1)) == 0)
    p.check((sequence - dut.completed)[:8] <= 3)
    p.check(~dut.events.idle | (dut.completed == sequence))
    # Rows of a block follow each other; every row, chunk and column comes once.
    index, chunk, column = p.register(3, "index"), p.register(3, "chunk"), p.register(3, "column")
    here = dut.streamed.contexts[tag.context]
    with m.If(tag.valid):
        p.check((tag.index == index) & (dut.streamed.issue.chunk == chunk) & (tag.column == column))
        p.check(
            (tag.first == (chunk == 0))
            & (tag.last == (chunk + 1 == here.instruction.chunks))
            & (dut.streamed.issue.swap == (index == 0))
        )
        m.d.sync += index.eq(index + 1)
        with m.If(index + 1 == here.rows):
            m.d.sync += [index.eq(0), chunk.eq(chunk + 1)]
            with m.If(tag.last):
                m.d.sync += [chunk.eq(0), column.eq(column + 1)]
                p.check(tag.column_end & (tag.final == (column + 1 == here.instruction.columns)))
                with m.If(tag.final):
                    m.d.sync += column.eq(0)
    p.check(tag.valid | (index == 0))
    p.cover(tag.valid & tag.final & (column == 1))
    p.cover(dut.operation.start & (dut.completed == 1))


def streamer_spacing(p: Property, unit: Any) -> None:
    """Blocks keep their distance, also where announcements alone would let them come closer."""
    m = p.m
    spacing = 9
    given = job_of(instruction=instruction_of(p, opcode=4, columns=2, rows=1, chunks=2), rows=Const(1, 1))
    dut = p.unit(unit(BLOCKS, block_spacing=spacing, probability_latency=2), jobs_valid=1, jobs_payload=given)
    instruction, issue = dut.jobs.payload.instruction, dut.streamed.issue
    p.assume((instruction.opcode == Opcode.MATMUL) & instruction.chunks.any() & instruction.columns.any())
    swap = issue.tag.valid & issue.swap
    announced = counter(p, 3, dut.ready, swap, name="announced")
    p.assume(~dut.ready | (announced == 0) | (announced == 1) & swap)
    p.assume(~dut.operation.done & ~dut.final_written)
    distance, swapped = p.register(4, "distance"), p.register(1, "swapped")
    m.d.sync += [
        distance.eq(Mux(swap, 1, Mux(distance == 15, 15, distance + 1))),
        swapped.eq(swapped | swap),
    ]
    p.check(~swap | ~swapped | (distance >= spacing))
    p.cover(swap & swapped & (distance == spacing))


def streamer_waits(p: Property, unit: Any) -> None:
    """A job that must wait streams when all before it are done; only probabilities follow probabilities closely."""
    m = p.m
    latency = 5  # longer than it takes to begin with another job
    dut = p.unit(unit(BLOCKS, block_spacing=2, probability_latency=latency))
    job, present = dut.jobs.payload, dut.operation.job.instruction
    stream(p, dut.jobs, assume=True)
    sequence = counter(p, 8, dut.jobs.valid & dut.jobs.ready, name="sequence")
    p.assume((job.sequence == sequence) & (job.rows == 1) & (job.instruction.opcode == Opcode.MATMUL))
    p.assume((job.instruction.chunks == 1) & (job.instruction.columns == 1))
    finals = counter(
        p, 3, dut.streamed.issue.tag.valid & dut.streamed.issue.tag.final, dut.final_written, name="finals"
    )
    p.assume(~dut.operation.done & (~dut.final_written | (finals != 0)))
    p.check(~dut.events.array_active | ~present.wait_stream | (dut.completed == dut.operation.job.sequence))
    late = p.register(3, "late")  # cycles since a row of probabilities, as far as they matter
    probable = p.register(1, "probable")
    with m.If(dut.events.array_active & present.probabilities):
        m.d.sync += [late.eq(1), probable.eq(1)]
    with m.Elif(late != 7):
        m.d.sync += late.eq(late + 1)
    p.check(~dut.events.array_active | present.probabilities | ~probable | (late > latency))
    p.cover(dut.events.array_active & present.wait_stream & (dut.completed == 1))
    p.cover(dut.events.array_active & ~present.probabilities & probable)


def following(p: Property, unit: Any) -> None:
    """With rows that flush, instructions that follow the MATMUL before, and sweeps beside it."""
    hazards(p, unit, packed=True)


def hazards(p: Property, unit: Any, packed: bool = False) -> None:
    """A block may start exactly when one is announced and far enough from the last;
    a MATMUL exactly when nothing can go wrong.
    """
    spacing, latency = 5, 2
    dut = p.unit(unit(block_spacing=spacing, probability_latency=latency, packed=packed))
    under_way = counter(p, 3, dut.accepted, dut.retired, name="under_way")
    p.assume(~dut.retired | (under_way != 0))
    p.assume(~dut.accepted | (under_way < 3 + packed) & ~dut.retired)
    announced = counter(p, 2, dut.announced, dut.block_starts, name="announced_blocks")
    p.assume(~dut.block_starts | dut.block_may_start)
    p.assume(~dut.announced | (announced == 0) | (announced == 1) & dut.block_starts)

    def since(event: Any, name: str, start: int) -> Any:
        """Cycles since an event, at most 15; 15 if there was none."""
        count = p.register(4, name)
        none = p.register(1, f"{name}_seen")
        with p.m.If(event):
            p.m.d.sync += [count.eq(start), none.eq(1)]
        with p.m.Elif(count != 15):
            p.m.d.sync += count.eq(count + 1)
        return Mux(none, count, 15)

    starts = dut.block_starts
    if packed:
        p.assume(~dut.flush_starts | dut.flush_may_start & ~dut.block_starts)
        starts |= dut.flush_starts
    distance = since(starts, "distance", 1)
    long_way = since(dut.probability_issued, "long_way", 1)
    p.check(dut.block_may_start == (announced != 0) & (distance >= spacing))
    p.check((dut.alone == (under_way == 1)) & (dut.empty == (under_way == 0)))
    results = Mux(dut.wait_stream, under_way == 1, under_way <= 2)
    if packed:
        p.check(dut.flush_may_start == (distance >= spacing))
        # Nothing has completed since a MATMUL began to write its last column: it still does.
        leading, sweeps, passed = (p.register(1, name) for name in ("leading", "sweeps", "passed"))
        p.m.d.sync += leading.eq(~dut.retired & (leading | dut.first_written))
        # A sweep is one of those under way, until an operation ends; a MATMUL may begin beside it, but one.
        p.assume(~dut.matmul_begins | dut.matmul_may_begin & ~dut.accepted)
        p.assume(~dut.sweep_begins | dut.operation_may_begin & ~dut.accepted & ~dut.matmul_begins & (under_way != 0))
        p.assume(~dut.operation_ends | dut.retired & ~dut.sweep_begins)
        p.assume(~dut.retired | dut.operation_ends | (under_way > sweeps + dut.sweep_begins))
        p.m.d.sync += sweeps.eq(~dut.operation_ends & (sweeps | dut.sweep_begins))
        p.m.d.sync += passed.eq(~dut.operation_ends & (passed | sweeps & dut.matmul_begins))
        rest = under_way - sweeps
        p.check(dut.operation_may_begin == (under_way == 1) | dut.follow & ~sweeps & leading & (under_way == 2))
        beside = dut.follow & ((rest == 1) | (rest == 2) & leading)
        results = Mux(sweeps, beside & ~passed, results | beside)
        p.cover(dut.matmul_may_begin & dut.wait_stream & (under_way == 2) & ~sweeps)
        p.cover(dut.matmul_begins & (under_way == 3))
        p.cover(passed & (under_way == 3) & ~dut.matmul_may_begin & dut.follow)
        p.cover(dut.operation_may_begin & (under_way == 2))
    order = dut.probabilities | (long_way > latency + 1)
    p.check(dut.matmul_may_begin == results & order)
    p.cover((distance == spacing) & dut.block_may_start & dut.block_starts)
    p.cover((under_way == 3) & ~dut.matmul_may_begin)
    p.cover((long_way == latency + 2) & dut.matmul_may_begin & ~dut.probabilities & dut.wait_stream)


PROOFS = [
    Proof(
        "hazards",
        hazards,
        Hazards,
        14,
        {
            "blocks come one cycle too close": Mutant("spacing.eq(1)", "spacing.eq(2)"),
            "an announcement is forgotten": Mutant("with m.Elif(self.block_starts):", "with m.If(self.block_starts):"),
            "a short way overtakes": Mutant(
                "self.probability_latency + 1", "self.probability_latency"
            ),
            "results are not awaited": Mutant(
                "Mux(self.wait_stream, self.alone, in_flight <= IN_FLIGHT)", "(in_flight <= IN_FLIGHT)"
            ),
            "a third is let in": Mutant("in_flight <= IN_FLIGHT)", "in_flight <= IN_FLIGHT + 1)"),
        },
    ),
    Proof(
        "hazards, packed",
        following,
        Hazards,
        14,
        {
            "what is written is not awaited": Mutant("being_written & (others == IN_FLIGHT)", "(others == IN_FLIGHT)"),
            "one follows the last but one": Mutant("being_written & (others == IN_FLIGHT)", "being_written"),
            "a sweep is not awaited": Mutant("results & ~sweeps | led", "results | led"),
            "a second one begins beside a sweep": Mutant("led & ~passed_by", "led"),
            "an operation begins beside a sweep": Mutant("led & ~sweeps)", "led)"),
            "a sweep has no end": Mutant("[sweeps.eq(0), passed_by.eq(0)]", "passed_by.eq(0)"),
            "who completed still leads": Mutant("being_written.eq(0)", "being_written.eq(being_written)"),
            "flushed rows come too close": Mutant(
                "self.block_starts | self.flush_starts", "self.block_starts"
            ),
        },
    ),
    Proof(
        "loader",
        loader,
        Loader,
        15,
        {
            "a block is announced twice": Mutant(
                "m.d.sync += [loading.eq(1), shadow_free.eq(0)]", "m.d.sync += loading.eq(1)"
            ),
            "it starts without its rows": Mutant(
                "Mux(by_pair, half & half_way, whole)", "Mux(by_pair, half_way, 1) & self.weights.valid"
            ),
            "pairs overtake the wave": Mutant("half & half_way, whole", "half, whole"),
            "pairs start without half of their words": Mutant("in (lanes // 2, lanes)", "in (lanes // 4, lanes)"),
        },
        cover_depth=22,
    ),
    Proof(
        "loader, keys",
        keys,
        Loader,
        21,
        {"columns follow the wave too closely": Mutant("Mux(by_column, passed, 1)", "1")},
        cover_depth=28,
    ),
    Proof(
        "loader, parameter banks",
        parameter_banks,
        Loader,
        19,
        {"a third bank is used": Mutant("(banks_free != 0) | (index != 0)", "1")},
        cover_depth=20,
        full=True,
    ),
    Proof(
        "loader, announced early",
        announced_early,
        Loader,
        21,
        {
            "pairs are announced too early": Mutant("half - self.lead", "half - self.lead - 1"),
            "pairs follow each other too closely": Mutant(
                "start = (announced | self.ready) & (half_way | ~by_pair)", "start = announced | self.ready"
            ),
            "words are promised twice": Mutant("Mux(loading, both,", "Mux(loading, half,"),
            "parameters are forgotten": Mutant("soon & ~(loading & between)", "soon"),
        },
        full=True,
    ),
    Proof(
        "loader, dependencies",
        loader_waits,
        Loader,
        8,
        {
            "keys are read before they are written": Mutant(
                "~instruction.wait_load | (self.completed == job.sequence)", "1"
            )
        },
    ),
    Proof(
        "streamer",
        streamer,
        Streamer,
        15,
        {
            "a block starts unannounced": Mutant("block_may_start.eq(block_ready & ", "block_may_start.eq(", Hazards),
            "an operation overlaps": Mutant("self.alone.eq(in_flight == 1)", "self.alone.eq(in_flight <= 2)", Hazards),
            "the last row is told late": Mutant("self.jobs.payload.rows - 2", "self.jobs.payload.rows - 1"),
            "blocks of one row have two": Mutant("m.d.sync += last.eq(alone)", "m.d.sync += last.eq(0)"),
            "the last column is told late": Mutant("end.eq(given.columns - 1)", "end.eq(given.columns)"),
        },
        cover_depth=17,
    ),
    Proof(
        "streamer, spacing",
        streamer_spacing,
        Streamer,
        19,
        {"blocks come too close": Mutant("block_ready & (spacing == self.block_spacing)", "block_ready", Hazards)},
    ),
    Proof(
        "streamer, dependencies",
        streamer_waits,
        Streamer,
        11,
        {
            "a job does not wait": Mutant("Mux(self.wait_stream, self.alone,", "Mux(self.wait_stream, 1,", Hazards),
            "a short path overtakes": Mutant("(self.probabilities | (since_probabilities == passed))", "1", Hazards),
        },
        cover_depth=16,
    ),
]  # fmt: skip
