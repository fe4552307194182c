# SPDX-License-Identifier: Apache-2.0
"""Proof of the loader for an array of twice as many rows as columns: blocks of two chunks, or of what is left."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Mux
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.control.loader import Loader

from ..mutants import Mutant
from .configurations import small
from .rules import counter, stream
from .runner import Proof, Property

DEEP = small("deep blocks", data_bits=64, array_rows=8)


def loader(p: Property, unit: Any) -> None:
    """Whatever a block consists of, each of its rows is complete when the wave reaches it, and no row is touched before
    the wave has taken up what it held. An odd number of chunks leaves the upper rows as they are.
    """
    m, lanes = p.m, DEEP.lanes
    dut = p.unit(unit(DEEP))
    instruction = dut.jobs.payload.instruction
    stream(p, dut.jobs, assume=True)
    p.assume(instruction.opcode == Opcode.MATMUL)
    p.assume((instruction.chunks != 0) & (instruction.chunks < 4))
    p.assume((instruction.columns != 0) & (instruction.columns < 3))
    # Words of weights: as many as `level` says come without a gap.
    level, taken = p.past(dut.weights.level), dut.weights.valid & dut.weights.ready
    p.assume((dut.weights.level <= 2 * lanes) & (dut.weights.valid == (dut.weights.level != 0)))
    p.assume(~p.later | (dut.weights.level + p.past(taken) >= level))
    # What was begun gets a word in every cycle; behind a job's taking the last values of the one before come.
    of_before = p.past(dut.jobs.valid & dut.jobs.ready)
    p.check(~(dut.load.valid & dut.weights.ready) | dut.weights.valid | of_before)
    # DMA takes the memory port while nothing streams: not for a while after a swap, and before one.
    running = p.register(4, "running")
    m.d.sync += running.eq(Mux(dut.swap, 3 * lanes, Mux(running == 0, 0, running - 1)))
    p.assume(~dut.key_value_taken | ~dut.swap & (running == 0))
    p.assume(~dut.swap | ~p.past(dut.key_value_taken) & ~p.past(p.past(dut.key_value_taken)) | ~p.settled)
    # The array swaps only what was announced, from the next cycle on; banks of parameters come back.
    announced = counter(p, 2, dut.ready, dut.swap, name="announced")
    p.assume(~dut.swap | (announced != 0))
    p.check(announced + dut.ready <= 1 + dut.swap)
    banks = counter(p, 3, dut.parameter.valid & (dut.parameter.index == 0), dut.column_done, name="banks")
    p.assume(~dut.column_done | (banks != 0))
    # Which announced block is what is left of an odd number of chunks.
    chunks, block = p.register(2, "chunks"), p.register(2, "block")
    partial, next_partial = chunks[0] & (block == chunks >> 1), p.register(1, "next_partial")
    with m.If(of_before):
        m.d.sync += [chunks.eq(p.past(instruction.chunks)), block.eq(0)]
    with m.Elif(dut.ready):
        m.d.sync += block.eq(Mux((block << 1) + 2 >= chunks, 0, block + 1))
    with m.If(dut.ready):
        m.d.sync += next_partial.eq(partial)
    # The wave, and of what kind its block is.
    wave, kind = dut.swap, next_partial
    index = dut.load.index
    for k in range(DEEP.inputs):
        complete = p.register(1, f"complete{k}")
        row = ~dut.load.by_column & ((index == k) | dut.load.pair & (index + 1 == k))
        column = dut.load.by_column & (index >> 2 == k // lanes)
        touched = dut.load.valid & (row | column)
        p.check(~wave | complete | kind & (k >= lanes))
        p.check(~touched | ~complete | wave)
        with m.If(touched & (row | (index[:2] == lanes - 1))):
            m.d.sync += complete.eq(1)
        with m.Elif(wave):
            m.d.sync += complete.eq(0)
        before, kind_before = wave, kind
        wave, kind = p.register(1, f"wave{k}"), p.register(1, f"kind{k}")
        m.d.sync += [wave.eq(before), kind.eq(kind_before)]
    p.check(~(dut.load.valid & dut.load.pair) | ~dut.load.by_column & ~index[0])
    upper = dut.load.valid & (index >= lanes)
    p.cover(upper & dut.load.by_column & (announced == 0))
    p.cover(upper & dut.load.pair)
    p.cover(dut.swap & next_partial)


PROOFS = [
    Proof(
        "loader, more rows than columns",
        loader,
        Loader,
        15,
        {
            "a block begins without its second chunk": Mutant(
                "Mux(last_chunk, enough, self.weights.level[exact_log2(2 * words) :].any())", "enough"
            ),
            "each chunk is a block": Mutant("~chunk[0] & ~last_chunk", "Const(0)"),
            "both chunks go to the lower rows": Mutant("Cat(index, chunk[0])", "Cat(index, Const(0, 1))"),
            "pairs overtake the wave": Mutant("self.config.inputs // 2 - 1", "self.config.lanes // 2 - 1"),
        },
        full=True,
    )
]
