# SPDX-License-Identifier: Apache-2.0
"""Streamer: executes issued instructions in order; for MATMUL it streams rows past the stationary blocks."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.row_maxima import StepPort
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.contract.layouts import CONTEXTS, JOB, ROW_BITS, STRIDE_BITS, WORD_ADDRESS_BITS, packs, tag
from edgemoe.hw.contract.layouts import bank as bank_shape
from edgemoe.hw.contract.ports import EntryPort, Events, OperationPort
from edgemoe.hw.control.hazards import Hazards
from edgemoe.hw.memory.pipeline import Stages, chain, delay

BEGINS = data.StructLayout({"block": 1, "flush": 1})
"""The next row is the first of a block, or of those that only flush."""


def issue_layout(config: HardwareConfig) -> data.StructLayout:
    """A row's tag, and what else is known of it when it is issued."""
    second = {"second": 1} if config.words_at_once > 1 else {}  # a second word stands beside the first
    return data.StructLayout(
        {"tag": tag(config), "swap": 1, "chunk": 10, "lanes_left": 18, "probabilities": 1, **second}
    )


class StreamedWord(wiring.Signature):
    """The word of a row, as the streamer sees it: `address` in activation and score memory; one cycle later, beside its
    data, `issue` says what it is and `contexts` holds the instructions that its tag refers to.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {"address": Out(WORD_ADDRESS_BITS), "issue": Out(issue_layout(config)), "contexts": Out(CONTEXTS)}
        )


class Streamer(wiring.Component):
    """One row a cycle, no stall inside a block: for column block c, for chunk r, for row i; two chunks at a time, where
    the array has rows for two words.

    Two instructions may be in flight: one streams while the one before drains. `Hazards` says when a block may start
    and when an instruction may begin. Instructions other than MATMUL wait until everything before them is written and
    run alone. Packed, LAYERNORM and ROUTE may follow the MATMUL before them, too, and LAYERNORM sweeps beside the
    MATMUL that follows it. What is in the registers on the way from the issue of a row to its word:

    ========  ==================================================================================
    stage     what is in its registers
    ========  ==================================================================================
    entry     the entry `index` of the expert's queue, which gather and scatter ask for
    kept      the same
    row       the streamed row: that of the entry (gather) or the index. (A stage of its own
              because a large block RAM answers late in its cycle.)
    product   row x stride; base + chunk
    address   their sum
    word      the word, out of activation or score memory
    ========  ==================================================================================

    Packed, two column blocks go together: their lower sums are finished with the last chunk, the upper ones leave the
    accumulators during the next blocks' first chunk, or, behind the last blocks and where there is only one chunk, with
    rows that add nothing up.

    The *gather* of the patch reordering is this multiplexer in stage `row`: the tokens of an expert lie scattered over
    the activation memory, and the queue says where. Its counterpart, *scatter*, is the row that travels in the tag to
    write-back.

    Ports:
        jobs (in stream): instructions.
        completed (out): instructions whose results are all written, modulo 256.
        final_written (in): pulse: a MATMUL's last row has been written.
        first_written (in): pulse: the first row of its last column has, where products are packed.
        ready (in): pulse: the loader has a block.
        waits_for_weights (in): it has none, for want of weights.
        entry (out EntryPort): an entry of an expert's queue.
        streamed (out StreamedWord): the word of a row; of the instructions in flight TAG.context tells which is meant.
        steps (out StepPort): the step of a row's activations, where products are packed.
        operation (out OperationPort): runs alone; its `job` is the present instruction, whatever it is.
        events (out Events): what the present cycle is spent on.
    Latency: LATENCY = 6 cycles from the issue of a row to its word, beside `streamed.issue`, a register for each of the
        STAGES.
    Interval: INTERVAL = 1 cycle between rows of a block.
    Limits: those that the sequencer checks; a block spacing of at least 2.
    Twin: none (no arithmetic on data).
    """

    STAGES = Stages("entry", "kept", "row", "product", "address", "word")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, *, block_spacing: int, probability_latency: int):
        if block_spacing < 2:
            raise ValueError(f"what a block is, is known from its second cycle on: no spacing of {block_spacing}")
        self.config, self.block_spacing, self.probability_latency = config, block_spacing, probability_latency
        super().__init__(
            {
                "jobs": In(stream.Signature(JOB)),
                "completed": Out(8),
                "final_written": In(1),  # pulse: a MATMUL's last row has been written
                "ready": In(1),  # pulse: the loader has a block
                "waits_for_weights": In(1),  # it has none, for want of weights
                "entry": Out(EntryPort()),
                "streamed": Out(StreamedWord(config)),
                **({"first_written": In(1), "steps": Out(StepPort())} if config.packed else {}),
                "operation": Out(OperationPort()),  # its `job` is the present instruction, whatever it is
                "events": Out(Events()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        job, issued, context = self.operation.job, Signal(issue_layout(self.config)), Signal()
        accepted, issue = Signal(), Signal()
        begins = Signal(BEGINS) if self.config.packed else None
        instruction, first_row = job.instruction, begins.block if self.config.packed else issued.swap
        m.submodules.hazards = hazards = Hazards(
            block_spacing=self.block_spacing,
            probability_latency=self.probability_latency,
            packed=bool(self.config.packed),
        )
        m.d.comb += [
            accepted.eq(self.jobs.valid & self.jobs.ready),
            hazards.accepted.eq(accepted),
            hazards.announced.eq(self.ready),
            hazards.block_starts.eq(issue & first_row),
            hazards.probability_issued.eq(issue & instruction.probabilities),
            hazards.retired.eq(self.events.retired),
            hazards.wait_stream.eq(instruction.wait_stream),
            hazards.probabilities.eq(instruction.probabilities),
        ]
        alone, sweeps, ends = hazards.alone, None, self.operation.done
        if self.config.packed:
            alone, sweeps, ends = self._follow(m, hazards, instruction)
        m.d.comb += self.events.retired.eq(self.final_written | ends)
        with m.If(self.events.retired):
            m.d.sync += self.completed.eq(self.completed + 1)

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.jobs.ready.eq(1)
                with m.If(self.jobs.valid):
                    m.d.sync += job.eq(self.jobs.payload)
                    m.next = "DEPENDENCY"
            with m.State("DEPENDENCY"):
                with m.If(instruction.opcode != Opcode.MATMUL):
                    with m.If(alone):
                        m.d.comb += self.operation.start.eq(1)
                        m.next = "OPERATION"
                        if sweeps is not None:
                            with m.If(sweeps):
                                m.next = "IDLE"
                with m.Elif(hazards.matmul_may_begin):
                    m.d.sync += [context.eq(~context), self.streamed.contexts[~context].eq(job)]
                    if self.config.packed:
                        m.d.comb += hazards.matmul_begins.eq(1)
                    m.next = "STREAM"
            with m.State("OPERATION"):
                with m.If(self.operation.done):
                    m.next = "IDLE"
            with m.State("STREAM"):
                m.d.comb += issue.eq(self._may_issue(m, issue, issued, begins, hazards))
                with m.If(issue & issued.tag.final):
                    m.next = "IDLE"

        m.d.comb += [
            issued.tag.valid.eq(issue),
            issued.tag.context.eq(context),
            issued.probabilities.eq(instruction.probabilities),
        ]
        self._walk(m, accepted, issued, begins)
        self._locate(m, issued)
        self._events(m, fsm, issue, hazards.empty)
        return m

    def _follow(self, m: Module, hazards: Hazards, instruction) -> tuple[Value, Value, Value]:
        """(whether an operation may begin, whether the next instruction is taken beside it, pulse: it is complete)."""
        sweeps, route = (instruction.opcode == opcode for opcode in (Opcode.LAYERNORM, Opcode.ROUTE))
        held, ends = Signal(), Signal()  # held: it has completed in the cycle of a MATMUL
        m.d.comb += [
            ends.eq((self.operation.done | held) & ~self.final_written),
            hazards.first_written.eq(self.first_written),
            hazards.follow.eq(instruction.follow),
            hazards.sweep_begins.eq(self.operation.start & sweeps),
            hazards.operation_ends.eq(ends),
        ]
        m.d.sync += held.eq((self.operation.done | held) & self.final_written)
        return Mux(sweeps | route, hazards.operation_may_begin, hazards.alone), sweeps, ends

    def _may_issue(self, m: Module, issue: Signal, issued: Signal, begins: Signal, hazards: Hazards) -> Value:
        """The next row may go: the first of a block if that is there, the first that flushes if those before are."""
        if not self.config.packed:
            return ~issued.swap | hazards.block_may_start
        m.d.comb += hazards.flush_starts.eq(issue & begins.flush)
        return Mux(begins.flush, hazards.flush_may_start, ~begins.block | hazards.block_may_start)

    def _walk(self, m: Module, accepted: Signal, issued: Signal, begins: Signal | None) -> None:
        """The loop nest of the present instruction: `issued` is the row whose turn it is, the next one's comes with
        its issue. With two columns at a time if products are packed.

        A block lasts two cycles at least, so what is asked behind its last row is there as a register.
        """
        job, tag, at_once, inputs = self.operation.job, issued.tag, self.config.words_at_once, self.config.inputs
        given, instruction = self.jobs.payload.instruction, job.instruction
        index, column, chunk = Signal(ROW_BITS), Signal(10), Signal(10)
        bank, lanes_left = Signal(bank_shape(self.config)), Signal(18)
        first_row, last_row = self._rows(m, accepted, tag.valid, index)
        # Of the instruction: its last column; two columns at a time, and of each a single block.
        end, packed, one_chunk = Signal(10), Const(0, 1), Const(0, 1)
        # Of the block: it only flushes; upper sums leave with it.
        flush, high = Const(0, 1), Const(0, 1)
        if self.config.packed:
            packed, one_chunk, flush, high = (Signal(name=name) for name in ("packed", "one_chunk", "flush", "high"))
        last = self._last(chunk, instruction) & ~flush
        last_chunk, last_column, beyond = Signal(), Signal(), Signal()  # of the block, from its second cycle on
        m.d.sync += [last_chunk.eq(last), last_column.eq((column | packed) >= end), beyond.eq(column > end)]
        m.d.comb += [
            tag.index.eq(index),
            tag.column.eq(column - high),
            tag.bank.eq(bank - high),
            tag.first.eq((chunk == 0) & ~flush),
            tag.last.eq(last),
            tag.column_end.eq(last_row & (last_chunk | high)),
            tag.final.eq(last_row & Mux(packed, flush & beyond, last_chunk & last_column)),
            issued.swap.eq(first_row & ~flush),
            issued.chunk.eq(chunk),
            issued.lanes_left.eq(lanes_left),
            self.entry.expert.eq(job.expert),
            self.entry.index.eq(index),
        ]
        if at_once > 1:
            m.d.comb += issued.second.eq(chunk + 1 < instruction.chunks)
        with m.If(accepted):
            m.d.sync += [column.eq(0), chunk.eq(0), lanes_left.eq(given.keys), end.eq(given.columns - 1)]
        with m.Elif(tag.valid & last_row & ~flush):
            fewer = Mux(lanes_left > inputs, lanes_left - inputs, 0)
            m.d.sync += [chunk.eq(chunk + at_once), lanes_left.eq(fewer)]
            with m.If(last_chunk):
                step = Mux(packed, 2, 1)
                m.d.sync += [chunk.eq(0), column.eq(column + step), lanes_left.eq(instruction.keys)]
                with m.If(~instruction.stationary[1]):  # parameters come with weights only
                    m.d.sync += bank.eq(bank + step)
        if begins is not None:
            m.d.comb += [
                tag.flush.eq(flush),
                tag.high.eq(high),
                # The last column block, `column` - 1, may be there only to fill up.
                tag.emits.eq(last | (high & (column <= instruction.columns))),
                begins.block.eq(first_row & ~flush),
                begins.flush.eq(first_row & flush),
            ]
            with m.If(accepted):
                m.d.sync += [packed.eq(packs(given)), one_chunk.eq(given.chunks <= at_once), flush.eq(0), high.eq(0)]
            with m.Elif(tag.valid & last_row):
                both = packed & last_chunk
                m.d.sync += [high.eq(both), flush.eq(both & (one_chunk | last_column))]

    def _rows(self, m: Module, accepted: Signal, issue: Signal, index: Signal) -> tuple[Signal, Signal]:
        """Counts the rows of a block: whether the present one is its first, its last, which is known a row ahead."""
        first, last, alone, before_last = Signal(init=1), Signal(), Signal(), Signal(ROW_BITS)
        with m.If(accepted):
            m.d.sync += [alone.eq(self.jobs.payload.rows == 1), before_last.eq(self.jobs.payload.rows - 2)]
        with m.If(issue):
            m.d.sync += [index.eq(Mux(last, 0, index + 1)), first.eq(last)]
            m.d.sync += last.eq(Mux(last, alone, index == before_last))
        with m.Elif(first):
            m.d.sync += last.eq(alone)
        return first, last

    def _last(self, chunk: Value, instruction) -> Value:
        """Whether a row ends with the words from this chunk on."""
        at_once = self.config.words_at_once
        return chunk + 1 == instruction.chunks if at_once == 1 else chunk + at_once >= instruction.chunks

    def _events(self, m: Module, fsm, issue: Signal, empty: Signal) -> None:
        """What the present cycle is spent on."""
        events, opcode = self.events, self.operation.job.instruction.opcode
        operating, waits = fsm.ongoing("OPERATION"), fsm.ongoing("STREAM") & ~issue
        norm, route = opcode == Opcode.LAYERNORM, opcode == Opcode.ROUTE
        m.d.comb += [
            events.array_active.eq(issue),
            events.waits_for_weights.eq(waits & self.waits_for_weights),
            events.waits_for_operands.eq(waits & ~self.waits_for_weights),
            events.waits_for_results.eq(fsm.ongoing("DEPENDENCY")),
            events.moving.eq(operating & ~(norm | route)),
            events.normalising.eq(operating & norm),
            events.routing.eq(operating & route),
            events.idle.eq(fsm.ongoing("IDLE") & empty & ~self.jobs.valid),
        ]

    def _locate(self, m: Module, issued: Signal) -> None:
        """From the issue of a row to the address of its word, through STAGES;
        the rest of the issue travels beside it.
        """
        entry, located = (Signal(issue_layout(self.config), name=name) for name in ("entry", "located"))
        row, product, base = Signal(ROW_BITS), Signal(ROW_BITS + STRIDE_BITS), Signal(WORD_ADDRESS_BITS)
        here = self.streamed.contexts[entry.tag.context].instruction
        m.d.sync += [
            entry.eq(delay(m, issued, self.STAGES.after("entry"), name="asked", reset_less=False)),
            # row
            row.eq(Mux(here.gather, self.entry.row, entry.tag.index)),
            located.eq(entry),
            located.tag.row.eq(Mux(here.scatter, self.entry.row, entry.tag.index)),
            located.tag.table_row.eq(Mux(here.gather, self.entry.row, here.row_base + entry.tag.index)),
            located.tag.score.eq(self.entry.score),
        ]
        here = self.streamed.contexts[located.tag.context].instruction
        # product, address; the word comes a cycle behind its address
        m.d.sync += [
            product.eq(row * here.stream_stride),
            base.eq(here.stream_base + located.chunk),
            self.streamed.address.eq(base + product),
        ]
        beside = chain(m, located, self.LATENCY - self.STAGES.after("row"), name="beside", reset_less=False)
        m.d.comb += self.streamed.issue.eq(beside[-1])
        if self.config.packed:
            before = self.streamed.contexts[entry.tag.context].instruction
            place = Signal(ROW_BITS)
            m.d.sync += place.eq(Mux(before.gather, self.entry.row, before.steps_base + entry.tag.index))
            m.d.comb += [
                self.steps.table.eq(here.steps),
                self.steps.row.eq(place),
                self.streamed.issue.tag.step.eq(self.steps.step),
            ]
