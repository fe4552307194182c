# SPDX-License-Identifier: Apache-2.0
"""DMA: LOAD, STORE and IMAGE, between DRAM and the on-chip memories."""

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.hw.contract.layouts import (
    BEAT_COUNT_BITS,
    COLUMN_BITS,
    ROW_BITS,
    STRIDE_BITS,
    WORD_ADDRESS_BITS,
)
from edgemoe.hw.contract.ports import DmaPort, OperationPort
from edgemoe.hw.memory.axi import ReadClient, WriteClient, bus_bits
from edgemoe.hw.memory.gearbox import BeatsToWords, WordsToBeats
from edgemoe.hw.memory.image import TOKEN_BITS, ImagePixels
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers.words import WORD_BITS

STORE_WORDS = 16  # read from a memory and on their way to the writer
PIXEL_BITS = 8


def move(config: HardwareConfig) -> data.StructLayout:
    """A word on its way to its address: column in its row, contents and lanes (LOAD, IMAGE), the last of the command
    (STORE).
    """
    return data.StructLayout({"column": COLUMN_BITS, "word": 8 * config.word_bytes, "lanes": config.lanes, "last": 1})


class Dma(wiring.Component):
    """LOAD, STORE and IMAGE, one at a time. Word j of row i stands on chip at destination_base + row(i) *
    destination_stride + j, row(i) = i or, with `gather` or `scatter`, the row of the queue's i-th entry; in DRAM the
    words follow each other without gaps. IMAGE: see ImagePixels; patch t is row t of activation memory, a pixel is
    its value 0..255.

    Ports:
        operation (in OperationPort): the instruction. `done`: everything is written (STORE: and answered). Of rows = 0
            or columns = 0 nothing is moved. `beats` is used by IMAGE alone.
        read (out ReadClient): to the Reader, whose client must be given CAPACITY beats.
        write (out WriteClient): to the Writer. STORE fills up its last beat with zeros.
        memories (out DmaPort): words to and from the on-chip memories; LOAD writes all lanes.
        reads (out): a word of STORE: `memories.read_address` is meant in this cycle.
        stop (in): forgets everything; hold until Reader and Writer are idle.
    Latency: varies: with the bus; ADDRESS_LATENCY = 6 cycles from a word's turn to its write or read: own row, that of
        the queue's entry in two, row * stride in two, address.
    Interval: INTERVAL = 1 cycle between words, or groups of G pixels, while the bus keeps up.
    Limits: those that the sequencer checks: every word within its memory, a picture's patches within the rows.
    Twin: none (no arithmetic); the patches of IMAGE are `models.numbers.twins.image_patches`.
    """

    INTERVAL = 1
    ADDRESS_LATENCY = 6
    PIXEL_STAGE = ImagePixels.LATENCY  # where in that time the pixels of a turn come out

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.CAPACITY = 2 * config.burst_limit
        super().__init__(
            {
                "operation": In(OperationPort()),
                "read": Out(ReadClient(config)),
                "write": Out(WriteClient(config)),
                "memories": Out(DmaPort(config)),
                "reads": Out(1),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> ResetInserter:
        m = Module()
        config, job = self.config, self.operation.job
        instruction = job.instruction
        self.image = instruction.opcode == Opcode.IMAGE
        self.store = instruction.opcode == Opcode.STORE
        m.submodules.beats = beats = SyncFIFOBuffered(width=bus_bits(config), depth=self.CAPACITY)
        m.submodules.pixels = pixels = ImagePixels(config)
        m.submodules.words = words = BeatsToWords(config)
        running, finished = Signal(), Signal()  # words have their turns; the last one has had it
        row, column = Signal(ROW_BITS), Signal(COLUMN_BITS)
        rows_left, columns_left = Signal(ROW_BITS), Signal(COLUMN_BITS)  # an end is then a comparison and not a sum
        last_column = columns_left == 1
        last = (rows_left == 1) & last_column
        room = Signal()
        turn = running & ~self.image & Mux(self.store, room, words.words.valid)
        with m.If(turn):
            m.d.sync += [column.eq(column + 1), columns_left.eq(columns_left - 1)]
            with m.If(last_column):
                m.d.sync += [column.eq(0), columns_left.eq(instruction.columns), row.eq(row + 1)]
                m.d.sync += rows_left.eq(rows_left - 1)
        with m.If(self.operation.start):
            m.d.sync += [row.eq(0), column.eq(0), rows_left.eq(job.rows), columns_left.eq(instruction.columns)]
        m.d.comb += [
            beats.w_data.eq(self.read.data),
            beats.w_en.eq(self.read.valid),
            words.beats.p.eq(beats.r_data),
            words.beats.valid.eq(beats.r_rdy & running & ~self.image),
            words.words.ready.eq(1),
            words.clear.eq(self.operation.start),
            pixels.start.eq(self.operation.start),
            pixels.across.eq(instruction.across),
            pixels.down.eq(instruction.down),
            pixels.channels.eq(instruction.channels),
            pixels.patch.eq(instruction.patch),
            pixels.data.eq(beats.r_data),
            pixels.data_valid.eq(beats.r_rdy & running & self.image),
            # What is left of the last beats is thrown away.
            beats.r_en.eq(finished | Mux(self.image, pixels.data_taken, words.beats.ready & running)),
            self.memories.entry_index.eq(row),
        ]
        m.d.sync += self.read.release.eq(beats.r_rdy & beats.r_en)

        moved = Signal(move(config))
        m.d.comb += [
            moved.last.eq(last),
            moved.column.eq(Mux(self.image, pixels.word, column)),
            moved.word.eq(words.words.p),
            moved.lanes.eq(~0),
        ]
        on_the_way, last_read = self._address(m, turn | pixels.valid, moved, row, pixels)
        self._store(m, turn & self.store, last_read, room)
        self._steps(m, running, finished, turn & last | pixels.valid & pixels.last, ~on_the_way.any())
        return ResetInserter(self.stop)(m)

    def _address(self, m: Module, turn, moved: Signal, row: Signal, pixels: ImagePixels):
        """Turn -> row of the queue -> row * stride, twice -> address, a word's way to its memory: (which stages hold
        one, the one that arrives is the last).
        """
        config, instruction, memories = self.config, self.operation.job.instruction, self.memories
        on_the_way = Signal(self.ADDRESS_LATENCY)
        m.d.sync += on_the_way.eq(Cat(turn, on_the_way))
        stages = [moved]
        for i in range(self.ADDRESS_LATENCY):
            stage = Signal(move(config), reset_less=True, name=f"moved{i}")
            m.d.sync += stage.eq(stages[-1])
            if i == self.PIXEL_STAGE:
                with m.If(self.image):
                    m.d.sync += stage.lanes.eq(pixels.lanes)
                    m.d.sync += [
                        stage.word.word_select(k, WORD_BITS).eq(pixels.pixels.word_select(k, PIXEL_BITS))
                        for k in range(config.lanes)
                    ]
            stages.append(stage)
        own_row, row_number = Signal(TOKEN_BITS, reset_less=True), Signal(TOKEN_BITS, reset_less=True)
        product, kept = (
            Signal(TOKEN_BITS + STRIDE_BITS, reset_less=True, name=name) for name in ("product", "kept")
        )  # both in the multiplier's slice
        address = Signal(WORD_ADDRESS_BITS, reset_less=True)
        queued = instruction.gather | instruction.scatter
        m.d.sync += [
            own_row.eq(Mux(self.image, pixels.token, row)),
            row_number.eq(Mux(queued & ~self.image, memories.entry_row, delay(m, own_row, 1, name="own"))),
            product.eq(row_number * instruction.destination_stride),
            kept.eq(product),
            address.eq(kept + instruction.destination_base + stages[-2].column),
        ]
        memory = Mux(self.image, Memory.ACTIVATION, instruction.memory)
        m.d.comb += [
            memories.write_valid.eq(on_the_way[-1] & ~self.store),
            memories.write_memory.eq(memory),
            memories.write_address.eq(address),
            memories.write_word.as_value().eq(stages[-1].word),
            memories.write_lanes.eq(stages[-1].lanes),
            self.reads.eq(on_the_way[-1] & self.store),
            memories.read_memory.eq(memory),
            memories.read_address.eq(address),
        ]
        return on_the_way, stages[-1].last

    def _store(self, m: Module, turn, last_read, room: Signal) -> None:
        """Words read -> beats to the writer. A word gets its turn only when there is room for it behind the memory."""
        config = self.config
        m.submodules.stored = stored = SyncFIFOBuffered(width=8 * config.word_bytes + 1, depth=STORE_WORDS)
        m.submodules.store_beats = store_beats = WordsToBeats(config)
        free = Signal(range(STORE_WORDS + 1), init=STORE_WORDS)
        arrives = delay(m, self.reads, 2, name="arrives", reset_less=False)
        arrives_last = delay(m, last_read, 2, name="arrives_last")
        m.d.sync += free.eq(free - turn + (stored.r_rdy & stored.r_en))
        m.d.comb += [
            room.eq(free != 0),
            stored.w_en.eq(arrives),
            stored.w_data.eq(Cat(self.memories.read_data, arrives_last)),
        ]
        connect(m, stored.r_stream, store_beats.words)
        connect(m, store_beats.beats, flipped(self.write.beats))

    def _steps(self, m: Module, running: Signal, finished: Signal, last_turn, quiet) -> None:
        """IDLE -> how many words -> the same -> how many beats -> ask for them -> move words -> wait for the end."""
        config, job = self.config, self.operation.job
        beats_of_word, words_of_beat = exact_log2(config.beats_per_word), exact_log2(config.words_per_beat)
        product, words = Signal(ROW_BITS + COLUMN_BITS), Signal(ROW_BITS + COLUMN_BITS)  # of the command
        nothing, used_up = Signal(), Signal()  # there are no beats; none is left, a cycle later
        left = Signal(max(BEAT_COUNT_BITS, len(words) + beats_of_word))  # beats not yet taken from the FIFO
        answered = Signal()  # a long way from the writer, and another to who waits: half of it a cycle later
        read, write = self.read.request, self.write.request
        for request in (read, write):
            m.d.comb += [request.p.address.eq(job.address), request.p.beats.eq(left)]
        with m.If(self.read.release != 0):
            m.d.sync += left.eq(left - 1)
        m.d.sync += [self.operation.done.eq(0), answered.eq(self.write.done), used_up.eq(left == 0)]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.operation.start):
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.sync += product.eq(job.rows * job.instruction.columns)
                m.next = "KEPT"
            with m.State("KEPT"):
                m.d.sync += words.eq(product)
                m.next = "BEATS"
            with m.State("BEATS"):
                beats = ((words + config.words_per_beat - 1) >> words_of_beat) << beats_of_word
                m.d.sync += [
                    left.eq(Mux(self.image, job.instruction.beats, beats)),
                    nothing.eq(Mux(self.image, job.instruction.beats, words) == 0),
                ]
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [read.valid.eq(~nothing & ~self.store), write.valid.eq(~nothing & self.store)]
                with m.If(nothing):
                    m.d.sync += self.operation.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(Mux(self.store, write.ready, read.ready)):
                    m.d.sync += running.eq(1)
                    m.next = "MOVE"
            with m.State("MOVE"):
                with m.If(last_turn):
                    m.d.sync += [running.eq(0), finished.eq(1)]
                    m.next = "FINISH"
            with m.State("FINISH"):
                with m.If(Mux(self.store, answered, quiet & used_up)):
                    m.d.sync += [self.operation.done.eq(1), finished.eq(0)]
                    m.next = "IDLE"
