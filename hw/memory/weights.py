# SPDX-License-Identifier: Apache-2.0
"""Weight prefetch: DRAM beats ahead of need in block RAM, rows of N words out, one a cycle."""

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.memory.axi import BEAT_COUNT_BITS, OFFSET_BITS, Request, bus_bits
from edgemoe.hw.memory.row_unpacker import LevelPromise, RowUnpacker, WeightRow

JOBS = 4  # whose beats may be under way at the same time


class WeightJob(data.StructLayout):
    """The weight stream of one MATMUL: `columns` column blocks of parameter words and `chunks` blocks of N rows (both
    at least 1).
    """

    def __init__(self) -> None:
        super().__init__(
            {"address": OFFSET_BITS, "beats": BEAT_COUNT_BITS, "eight_bit": 1, "chunks": 10, "columns": 10}
        )


class Weights(wiring.Component):
    """Jobs -> read requests -> beats -> elements in a FIFO -> rows. Reads ahead across jobs as far as the FIFO has
    room.

    An element is a beat or a word, whichever is wider; a column block is a whole number of elements. Beats behind the
    last column block (padding) never enter the FIFO. 8-bit words become two rows, low half first, sign-extended. All
    `config.parameter_words` parameter words come out, also the filling one.

    Ports
      job                     stream of WeightJob
      request, valid, data, last, release   to the Reader; its client must be given CAPACITY beats
      row                     stream of WeightRow
      level                   rows that can be taken in this and the following cycles without a gap, at most 2 N:
                              row.valid = (level != 0)
      stop                    empties everything; hold until the Reader is idle

    LATENCY: cycles from the `valid` that completes an element to its first row. Rate: a row a cycle, without a gap
    across blocks, jobs and widths, as long as `level` says so. Twin: none (the layout is the compiler's).
    """

    LATENCY = 4

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.DEPTH = config.prefetch_beats // config.beats_per_word  # elements: beats or words, whichever is wider
        self.CAPACITY = self.DEPTH * config.beats_per_word
        super().__init__(
            {
                "job": In(stream.Signature(WeightJob())),
                "request": Out(stream.Signature(Request())),
                "valid": In(1),
                "data": In(bus_bits(config)),
                "last": In(1),
                "release": Out(4),
                "row": Out(stream.Signature(WeightRow(config))),
                "level": Out(range(2 * config.lanes + 1)),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> ResetInserter:
        m = Module()
        config = self.config
        structure = data.StructLayout({"eight_bit": 1, "chunks": 10, "columns": 10})
        m.submodules.jobs = jobs = SyncFIFO(width=structure.size, depth=JOBS)
        p = self.job.p
        m.d.comb += [
            self.request.valid.eq(self.job.valid & jobs.w_rdy),
            self.request.p.eq(Cat(p.address, p.beats)),
            self.job.ready.eq(self.request.ready & jobs.w_rdy),
            jobs.w_en.eq(self.job.valid & self.job.ready & (p.beats != 0)),
            jobs.w_data.eq(Cat(p.eight_bit, p.chunks, p.columns)),
        ]
        job = data.View(structure, jobs.r_data)
        m.d.comb += jobs.r_en.eq(self.valid & self.last)

        element, complete, beats = self._assemble(m)
        parameter, wanted = self._classify(m, complete, job)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=len(element) + 2, depth=self.DEPTH)
        m.d.sync += [
            fifo.w_en.eq(complete & wanted),
            fifo.w_data.eq(Cat(element, parameter, job.eight_bit & ~parameter)),
        ]
        m.submodules.unpacker = unpacker = RowUnpacker(config)
        connect(m, unpacker.row, flipped(self.row))
        m.submodules.promise = promise = LevelPromise(config, self.DEPTH)
        words = config.words_per_beat
        m.d.comb += [
            unpacker.valid.eq(fifo.r_rdy),
            unpacker.element.eq(fifo.r_data[:-2]),
            unpacker.parameter.eq(fifo.r_data[-2]),
            unpacker.eight_bit.eq(fifo.r_data[-1]),
            fifo.r_en.eq(unpacker.leaves),
            promise.arriving.eq(Mux(fifo.w_en, Mux(fifo.w_data[-1], 2 * words, words), 0)),
            promise.taken.eq(self.row.valid & self.row.ready),
            self.level.eq(promise.level),
        ]
        dropped = Mux(complete & ~wanted, beats, 0)
        m.d.sync += self.release.eq(dropped + Mux(unpacker.leaves, config.beats_per_word, 0))
        return ResetInserter(self.stop)(m)

    def _assemble(self, m: Module):
        """Beats -> element: (its bits, it is complete in this cycle, its beats).
        Beats that do not fill one at the end complete it too.
        """
        count = self.config.beats_per_word
        if count == 1:
            return self.data, self.valid, Const(1)
        held = Signal(bus_bits(self.config) * (count - 1), reset_less=True)
        position = Signal(range(count))
        complete = self.valid & ((position == count - 1) | self.last)
        with m.If(self.valid):
            m.d.sync += [held.eq(Cat(held, self.data) >> len(self.data)), position.eq(Mux(complete, 0, position + 1))]
        return Cat(held, self.data), complete, position + 1

    def _classify(self, m: Module, complete, job) -> tuple[Signal, Signal]:
        """Where in the job's column blocks the arriving element stands: (it holds parameters, it is not padding)."""
        config = self.config
        parameters = config.parameter_words // config.words_per_beat
        block = config.lanes // config.words_per_beat  # elements of a 16-bit block
        in_weights, finished = Signal(), Signal()
        index = Signal(10 + config.lanes.bit_length())
        column = Signal(10)
        elements = Signal.like(index)  # of all blocks of a column
        m.d.comb += elements.eq(Mux(job.eight_bit, job.chunks * (block // 2), job.chunks * block))
        with m.If(complete):
            m.d.sync += index.eq(index + 1)
            with m.If(~in_weights & (index == parameters - 1)):
                m.d.sync += [index.eq(0), in_weights.eq(1)]
            with m.If(in_weights & (index + 1 == elements)):
                m.d.sync += [index.eq(0), in_weights.eq(0), column.eq(column + 1)]
                with m.If(column + 1 == job.columns):
                    m.d.sync += finished.eq(1)
            with m.If(self.last):
                m.d.sync += [index.eq(0), in_weights.eq(0), column.eq(0), finished.eq(0)]
        return ~in_weights, ~finished
