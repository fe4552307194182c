# SPDX-License-Identifier: Apache-2.0
"""Streamer: executes issued instructions in order; for MATMUL it streams rows past the stationary blocks."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.pipeline import Stages, chain
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.contract.layouts import EXPERT_BITS, JOB, ROW_BITS, TAG
from edgemoe.hw.control.hazards import Hazards

ISSUE = data.StructLayout({"tag": TAG, "swap": 1, "chunk": 10, "lanes_left": 18, "probabilities": 1})


class Streamer(wiring.Component):
    """One row a cycle, no stall inside a block: for column block c, for chunk r, for row i.

    Two instructions may be in flight: one streams while the one before drains. `contexts` holds both; TAG.context tells
    which is meant. `Hazards` says when a block may start and when an instruction may begin.
    Instructions other than MATMUL wait until everything before them is written and run alone (`operation`,
    `operation_done`).

    From the issue of a row to its word at `issue` takes LATENCY cycles:

    ========  ==================================================================================
    stage     what is in its registers
    ========  ==================================================================================
    entry     the entry `index` of the expert's queue, which gather and scatter ask for
    row       the streamed row: that of the entry (gather) or the index. (A stage of its own
              because a large block RAM answers late in its cycle.)
    product   row x stride; base + chunk
    address   their sum
    word      the word, out of activation or score memory
    ========  ==================================================================================

    The *gather* of the patch reordering is this multiplexer in stage `row`: the tokens of an expert lie scattered over
    the activation memory, and the queue says where. Its counterpart, *scatter*, is the row that travels in the tag to
    write-back.

    `completed` counts instructions whose results are all written, modulo 256.
    """

    STAGES = Stages("entry", "row", "product", "address", "word")
    LATENCY = len(STAGES)
    INTERVAL = 1

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
        bank, lanes_left = Signal(), Signal(18)
        m.submodules.hazards = hazards = Hazards(
            block_spacing=self.block_spacing, probability_latency=self.probability_latency
        )

        issue = Signal()
        last_row, last_chunk, last_column = Signal(), Signal(), Signal()
        m.d.comb += [
            last_row.eq(index + 1 == job.rows),
            last_chunk.eq(chunk + 1 == instruction.chunks),
            last_column.eq(column + 1 == instruction.columns),
            hazards.announced.eq(self.ready),
            hazards.block_starts.eq(issue & (index == 0)),
            hazards.probability_issued.eq(issue & instruction.probabilities),
            hazards.retired.eq(self.retired),
            hazards.wait_stream.eq(instruction.wait_stream),
            hazards.probabilities.eq(instruction.probabilities),
            self.retired.eq(self.final_written | self.operation_done),
        ]
        with m.If(self.retired):
            m.d.sync += self.completed.eq(self.completed + 1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.jobs.ready.eq(1), hazards.accepted.eq(self.jobs.valid)]
                m.d.comb += self.idle.eq(hazards.empty & ~self.jobs.valid)
                with m.If(self.jobs.valid):
                    m.d.sync += [job.eq(self.jobs.payload), index.eq(0), column.eq(0), chunk.eq(0)]
                    m.d.sync += lanes_left.eq(self.jobs.payload.instruction.keys)
                    m.next = "DEPENDENCY"
            with m.State("DEPENDENCY"):
                m.d.comb += self.waits_for_results.eq(1)
                with m.If(instruction.opcode != Opcode.MATMUL):
                    with m.If(hazards.alone):
                        m.d.comb += self.operation.eq(1)
                        m.next = "OPERATION"
                with m.Elif(hazards.matmul_may_begin):
                    m.d.sync += [context.eq(~context), self.contexts[~context].eq(job)]
                    m.next = "STREAM"
            with m.State("OPERATION"):
                m.d.comb += self.operating.eq(1)
                with m.If(self.operation_done):
                    m.next = "IDLE"
            with m.State("STREAM"):
                m.d.comb += issue.eq((index != 0) | hazards.block_may_start)
                m.d.comb += [self.active.eq(issue), self.waits_for_block.eq(~issue)]
                with m.If(issue):
                    m.d.sync += index.eq(index + 1)
                    with m.If(last_row):
                        fewer = Mux(lanes_left > self.config.lanes, lanes_left - self.config.lanes, 0)
                        m.d.sync += [index.eq(0), chunk.eq(chunk + 1), lanes_left.eq(fewer)]
                        with m.If(last_chunk):
                            m.d.sync += [chunk.eq(0), column.eq(column + 1), lanes_left.eq(instruction.keys)]
                            with m.If(~instruction.stationary[1]):  # parameters come with weights only
                                m.d.sync += bank.eq(~bank)
                            with m.If(last_column):
                                m.next = "IDLE"

        m.d.comb += [self.entry_expert.eq(job.expert), self.entry_index.eq(index)]
        issued = Signal(ISSUE)
        m.d.comb += [
            issued.tag.valid.eq(issue),
            issued.tag.index.eq(index),
            issued.tag.column.eq(column),
            issued.tag.first.eq(chunk == 0),
            issued.tag.last.eq(last_chunk),
            issued.tag.column_end.eq(last_row & last_chunk),
            issued.tag.final.eq(last_row & last_chunk & last_column),
            issued.tag.bank.eq(bank),
            issued.tag.context.eq(context),
            issued.swap.eq(index == 0),
            issued.chunk.eq(chunk),
            issued.lanes_left.eq(lanes_left),
            issued.probabilities.eq(instruction.probabilities),
        ]
        self._locate(m, issued)
        return m

    def _locate(self, m: Module, issued: Signal) -> None:
        """From the issue of a row to the address of its word, through STAGES;
        the rest of the issue travels beside it.
        """
        entry, located = Signal(ISSUE, name="entry"), Signal(ISSUE, name="located")
        row, product, base = Signal(ROW_BITS), Signal(ROW_BITS + 10), Signal(20)
        here = self.contexts[entry.tag.context].instruction
        m.d.sync += [
            entry.eq(issued),
            # row
            row.eq(Mux(here.gather, self.entry_row, entry.tag.index)),
            located.eq(entry),
            located.tag.row.eq(Mux(here.scatter, self.entry_row, entry.tag.index)),
            located.tag.table_row.eq(Mux(here.gather, self.entry_row, here.row_base + entry.tag.index)),
            located.tag.score.eq(self.entry_score),
        ]
        here = self.contexts[located.tag.context].instruction
        # product, address; the word comes a cycle behind its address
        m.d.sync += [
            product.eq(row * here.stream_stride),
            base.eq(here.stream_base + located.chunk),
            self.address.eq(base + product),
        ]
        beside = chain(m, located, self.LATENCY - self.STAGES.after("row"), name="beside", reset_less=False)
        m.d.comb += self.issue.eq(beside[-1])
