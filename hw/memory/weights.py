# SPDX-License-Identifier: Apache-2.0
"""Weight prefetch: DRAM beats ahead of need in block RAM, words out, one a cycle."""

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Stationary
from edgemoe.hw.contract.layouts import CHUNK_BITS, COLUMN_BITS, JOB, packs
from edgemoe.hw.contract.ports import WeightRowPort
from edgemoe.hw.memory.axi import ReadClient, bus_bits
from edgemoe.hw.memory.element_queue import ElementQueue
from edgemoe.hw.memory.row_unpacker import LevelPromise, RowUnpacker

JOBS = 4  # whose beats may be under way at the same time


class Weights(wiring.Component):
    """MATMULs -> read requests -> beats -> elements in a FIFO -> words. Reads ahead across them as far as the FIFO has
    room.

    An element is a beat or a word, whichever is wider; a column block is a whole number of elements. Beats behind the
    last column block (padding) never enter the FIFO. All `config.parameter_words` parameter words come out, also the
    filling one.

    Ports:
        jobs (in stream): MATMULs with weights. The weight stream of one is `columns` column blocks of parameter words
            and `chunks` blocks of N words, of 8-bit weights N/2 (both at least 1), `beats` beats from `address` on;
            packed column blocks come two at a time, as `weight_stream` has them.
        read (out ReadClient): to the Reader, whose client must be given CAPACITY beats.
        rows (out WeightRowPort): words of blocks and parameter words as they come. `level`: words that can be taken in
            this and the following cycles without a gap, at most 2 N; valid = (level != 0).
        stop (in): empties everything; hold until the Reader is idle.
    Latency: LATENCY = 4 cycles from the beat that completes an element to its first word.
    Interval: INTERVAL = 1 cycle between words, without a gap across blocks, jobs and widths, as long as `level` says
        so.
    Limits: JOBS jobs whose beats may be under way.
    Twin: none (no arithmetic); the layout is that of `hw.contract.weight_stream`.
    """

    LATENCY = 4
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.DEPTH = config.prefetch_beats // config.beats_per_word  # elements: beats or words, whichever is wider
        self.CAPACITY = self.DEPTH * config.beats_per_word
        super().__init__(
            {
                "jobs": In(stream.Signature(JOB)),
                "read": Out(ReadClient(config)),
                "rows": Out(WeightRowPort(config)),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> ResetInserter:
        m = Module()
        config = self.config
        packed = {"packed": 1} if config.packed else {}
        structure = data.StructLayout({"eight_bit": 1, **packed, "chunks": CHUNK_BITS, "columns": COLUMN_BITS})
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=structure.size, depth=JOBS)
        request, instruction = self.read.request, self.jobs.p.instruction
        m.d.comb += [
            request.valid.eq(self.jobs.valid & jobs.w_rdy),
            request.p.address.eq(self.jobs.p.address),
            request.p.beats.eq(instruction.beats),
            self.jobs.ready.eq(request.ready & jobs.w_rdy),
            jobs.w_en.eq(self.jobs.valid & self.jobs.ready & (instruction.beats != 0)),
            jobs.w_data.eq(
                Cat(
                    instruction.stationary == Stationary.WEIGHTS8,
                    *((packs(instruction),) if config.packed else ()),
                    instruction.chunks,
                    instruction.columns,
                )
            ),
        ]
        job = data.View(structure, jobs.r_data)
        m.d.comb += jobs.r_en.eq(self.read.valid & self.read.last)

        element, complete, beats = self._assemble(m)
        wanted = self._wanted(m, complete, job)
        m.submodules.queue = queue = ElementQueue(len(element), self.DEPTH)
        m.d.sync += [queue.arriving.eq(complete & wanted), queue.element.eq(element)]
        m.submodules.unpacker = unpacker = RowUnpacker(config)
        m.submodules.promise = promise = LevelPromise(config, self.DEPTH)
        m.d.comb += [
            unpacker.valid.eq(queue.valid),
            unpacker.element.eq(queue.oldest),
            queue.leaves.eq(unpacker.leaves),
            promise.arriving.eq(queue.arriving),
            self.rows.valid.eq(unpacker.row.valid),
            self.rows.word.eq(unpacker.row.p),
            unpacker.row.ready.eq(self.rows.ready),
            promise.taken.eq(self.rows.valid & self.rows.ready),
            self.rows.level.eq(promise.level),
        ]
        dropped = Mux(complete & ~wanted, beats, 0)
        m.d.sync += self.read.release.eq(dropped + Mux(unpacker.leaves, config.beats_per_word, 0))
        return ResetInserter(self.stop)(m)

    def _assemble(self, m: Module):
        """Beats -> element: (its bits, it is complete in this cycle, its beats).
        Beats that do not fill one at the end complete it too.
        """
        count, read = self.config.beats_per_word, self.read
        if count == 1:
            return read.data, read.valid, Const(1)
        held = Signal(bus_bits(self.config) * (count - 1), reset_less=True)
        position = Signal(range(count))
        complete = read.valid & ((position == count - 1) | read.last)
        with m.If(read.valid):
            m.d.sync += [held.eq(Cat(held, read.data) >> len(read.data)), position.eq(Mux(complete, 0, position + 1))]
        return Cat(held, read.data), complete, position + 1

    def _wanted(self, m: Module, complete, job) -> Signal:
        """Where in the job's column blocks the arriving element stands: whether it is not padding."""
        config = self.config
        parameters = config.parameter_words // config.words_per_beat
        block = config.lanes // config.words_per_beat  # elements of a 16-bit block
        in_weights, finished = Signal(), Signal()
        index = Signal(CHUNK_BITS + config.lanes.bit_length())
        column = Signal(COLUMN_BITS)
        last_element = Signal.like(index)  # of all blocks of a column; a register: parameters come first
        halved = job.eight_bit & ~job.packed if config.packed else job.eight_bit
        together = job.packed if config.packed else 0  # two column blocks
        m.d.sync += last_element.eq(Mux(halved, job.chunks * (block // 2), job.chunks * block) - 1)
        last = Mux(together, 2 * parameters - 1, parameters - 1) if config.packed else parameters - 1
        following = column + 1 + together if config.packed else column + 1
        ends = following >= job.columns if config.packed else following == job.columns
        with m.If(complete):
            m.d.sync += index.eq(index + 1)
            with m.If(~in_weights & (index == last)):
                m.d.sync += [index.eq(0), in_weights.eq(1)]
            with m.If(in_weights & (index == last_element)):
                m.d.sync += [index.eq(0), in_weights.eq(0), column.eq(following)]
                with m.If(ends):
                    m.d.sync += finished.eq(1)
            with m.If(self.read.last):
                m.d.sync += [index.eq(0), in_weights.eq(0), column.eq(0), finished.eq(0)]
        return ~finished
