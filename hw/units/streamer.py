# SPDX-License-Identifier: Apache-2.0
"""Streamer: executes issued instructions in order; for MATMUL it streams rows past the stationary blocks."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import HardwareConfig
from ..isa import Opcode
from ..layouts import EXPERT_BITS, JOB, ROW_BITS, TAG

IN_FLIGHT = 2  # MATMULs: one streams while the one before drains
ISSUE = data.StructLayout({"tag": TAG, "swap": 1, "chunk": 10, "lanes_left": 18, "probabilities": 1})


class Streamer(wiring.Component):
    """One row a cycle, no stall inside a block: for column block c, for chunk r, for row i.

    Two instructions may be in flight: one streams while the one before drains. `contexts` holds both; TAG.context tells which is meant.
    Blocks start at least `block_spacing` cycles apart, so that short queues never revisit an accumulator or a table too early.
    Instructions other than MATMUL wait until everything before them is written and run alone (`operation`, `operation_done`).

    From the issue of a row to its word at `issue` takes LATENCY cycles: queue entry, row, row x stride, address, memory.
    `completed` counts instructions whose results are all written, modulo 256.
    """

    LATENCY = 5

    def __init__(self, config: HardwareConfig, *, block_spacing: int, probability_latency: int):
        self.config, self.block_spacing, self.probability_latency = config, block_spacing, probability_latency
        super().__init__(
            {
                "jobs": In(stream.Signature(JOB)),
                "completed": Out(8),
                "final_written": In(1),  # pulse: a MATMUL's last row has been written
                "ready": In(1),  # pulse: the loader has a block
                "entry_expert": Out(EXPERT_BITS),
                "entry_index": Out(ROW_BITS),
                "entry_row": In(ROW_BITS),  # one cycle later
                "entry_score": In(16),
                "address": Out(20),  # of the streamed word, to activation and score memory
                "issue": Out(ISSUE),  # beside the streamed word's data
                "contexts": Out(data.ArrayLayout(JOB, 2)),
                "operation": Out(1),  # pulse: start the instruction in `current`
                "current": Out(JOB),
                "operation_done": In(1),
                "active": Out(1),
                "waits_for_block": Out(1),
                "waits_for_results": Out(1),
                "operating": Out(1),
                "idle": Out(1),
                "retired": Out(1),  # pulse: an instruction has completed
            }
        )

    def elaborate(self, platform):
        m = Module()
        job, context = self.current, Signal()
        instruction = job.instruction
        index, column, chunk = Signal(ROW_BITS), Signal(10), Signal(10)
        bank, block_ready = Signal(), Signal()
        lanes_left = Signal(18)
        spacing = Signal(range(self.block_spacing + 1), init=self.block_spacing)
        since_probabilities = Signal(range(self.probability_latency + 2), init=self.probability_latency + 1)
        in_flight, accept = Signal(range(IN_FLIGHT + 2)), Signal()  # instructions taken and not complete, the present one among them

        issue = Signal()
        block_start = Signal()
        last_row, last_chunk, last_column = Signal(), Signal(), Signal()
        m.d.comb += [
            last_row.eq(index + 1 == job.rows),
            last_chunk.eq(chunk + 1 == instruction.chunks),
            last_column.eq(column + 1 == instruction.columns),
            block_start.eq(issue & (index == 0)),
        ]
        with m.If(self.ready):
            m.d.sync += block_ready.eq(1)
        with m.Elif(block_start):
            m.d.sync += block_ready.eq(0)
        with m.If(block_start):
            m.d.sync += spacing.eq(1)
        with m.Elif(spacing != self.block_spacing):
            m.d.sync += spacing.eq(spacing + 1)
        with m.If(issue & instruction.probabilities):
            m.d.sync += since_probabilities.eq(0)
        with m.Elif(since_probabilities != self.probability_latency + 1):
            m.d.sync += since_probabilities.eq(since_probabilities + 1)

        with m.If(self.retired):
            m.d.sync += self.completed.eq(self.completed + 1)
        m.d.comb += self.retired.eq(self.final_written | self.operation_done)
        m.d.sync += in_flight.eq(in_flight + accept - self.retired)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.jobs.ready.eq(1), accept.eq(self.jobs.valid), self.idle.eq((in_flight == 0) & ~self.jobs.valid)]
                with m.If(self.jobs.valid):
                    m.d.sync += [job.eq(self.jobs.payload), index.eq(0), column.eq(0), chunk.eq(0)]
                    m.d.sync += lanes_left.eq(self.jobs.payload.instruction.valid)
                    m.next = "DEPENDENCY"
            with m.State("DEPENDENCY"):
                m.d.comb += self.waits_for_results.eq(1)
                with m.If(instruction.opcode != Opcode.MATMUL):
                    with m.If(in_flight == 1):
                        m.d.comb += self.operation.eq(1)
                        m.next = "OPERATION"
                with m.Elif(
                    # A short path must not overtake rows still on their way through the exponentials.
                    Mux(instruction.wait_stream, in_flight == 1, in_flight <= IN_FLIGHT)
                    & (instruction.probabilities | (since_probabilities == self.probability_latency + 1))
                ):
                    m.d.sync += [context.eq(~context), self.contexts[~context].eq(job)]
                    m.next = "STREAM"
            with m.State("OPERATION"):
                m.d.comb += self.operating.eq(1)
                with m.If(self.operation_done):
                    m.next = "IDLE"
            with m.State("STREAM"):
                m.d.comb += issue.eq((index != 0) | (block_ready & (spacing == self.block_spacing)))
                m.d.comb += [self.active.eq(issue), self.waits_for_block.eq(~issue)]
                with m.If(issue):
                    m.d.sync += index.eq(index + 1)
                    with m.If(last_row):
                        fewer = Mux(lanes_left > self.config.lanes, lanes_left - self.config.lanes, 0)
                        m.d.sync += [index.eq(0), chunk.eq(chunk + 1), lanes_left.eq(fewer)]
                        with m.If(last_chunk):
                            m.d.sync += [chunk.eq(0), column.eq(column + 1), lanes_left.eq(instruction.valid)]
                            with m.If(~instruction.stationary[1]):  # parameters come with weights only
                                m.d.sync += bank.eq(~bank)
                            with m.If(last_column):
                                m.next = "IDLE"

        # Stage 0 (now): the queue is asked for entry `index`.
        m.d.comb += [self.entry_expert.eq(job.expert), self.entry_index.eq(index)]
        stages = [Signal(ISSUE, name=f"stage{i}") for i in range(1, self.LATENCY + 1)]
        first = stages[0]
        m.d.sync += [
            first.tag.valid.eq(issue),
            first.tag.index.eq(index),
            first.tag.column.eq(column),
            first.tag.first.eq(chunk == 0),
            first.tag.last.eq(last_chunk),
            first.tag.column_end.eq(last_row & last_chunk),
            first.tag.final.eq(last_row & last_chunk & last_column),
            first.tag.bank.eq(bank),
            first.tag.context.eq(context),
            first.swap.eq(index == 0),
            first.chunk.eq(chunk),
            first.lanes_left.eq(lanes_left),
            first.probabilities.eq(instruction.probabilities),
        ]
        # Stage 1: the entry has come; the row is chosen, a stage of its own because a large block RAM answers late in its cycle.
        # Stage 2: row x stride. Stage 3: address. Stage 4: memory. Stage 5: word.
        second, third = stages[1], stages[2]
        here = self.contexts[first.tag.context].instruction
        row = Signal(ROW_BITS)
        m.d.sync += [
            row.eq(Mux(here.gather, self.entry_row, first.tag.index)),
            second.eq(first),
            second.tag.row.eq(Mux(here.scatter, self.entry_row, first.tag.index)),
            second.tag.table_row.eq(Mux(here.gather, self.entry_row, here.row_base + first.tag.index)),
            second.tag.score.eq(self.entry_score),
        ]
        here = self.contexts[second.tag.context].instruction
        product, base = Signal(ROW_BITS + 10), Signal(20)
        m.d.sync += [product.eq(row * here.stream_stride), base.eq(here.stream_base + second.chunk), third.eq(second)]
        m.d.sync += [self.address.eq(base + product), stages[3].eq(third), stages[4].eq(stages[3])]
        m.d.comb += self.issue.eq(stages[4])
        return m
