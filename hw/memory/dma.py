# SPDX-License-Identifier: Apache-2.0
"""DMA: LOAD, STORE and IMAGE, between DRAM and the on-chip memories."""

from amaranth import Cat, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.hw.contract.layouts import word
from edgemoe.hw.memory.axi import BEAT_COUNT_BITS, OFFSET_BITS, Request, bus_bits
from edgemoe.hw.memory.gearbox import BeatsToWords, WordsToBeats
from edgemoe.hw.memory.image import ImagePixels

STORE_WORDS = 16  # read from a memory and on their way to the writer


class DmaCommand(data.StructLayout):
    """One instruction, its fields named as in the instruction set; `opcode` LOAD, STORE or IMAGE.
    `beats` is used by IMAGE alone.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "opcode": unsigned(4),
                "memory": Memory,
                "base": 20,
                "stride": 10,
                "rows": 16,
                "columns": 10,
                "gather": 1,
                "address": OFFSET_BITS,
                "beats": BEAT_COUNT_BITS,
                "across": 10,
                "down": 10,
                "channels": 4,
                "patch": 6,
            }
        )


def move(config: HardwareConfig) -> data.StructLayout:
    """A word on its way to its address: column in its row, contents and lanes (LOAD, IMAGE), the last of the command
    (STORE).
    """
    return data.StructLayout({"column": 10, "word": 8 * config.word_bytes, "lanes": config.lanes, "last": 1})


class Dma(wiring.Component):
    """One command at a time. Word j of row i stands on chip at base + row(i) * stride + j, row(i) = i or, with
    `gather`, the row of the queue's i-th entry; in DRAM the words follow each other without gaps. IMAGE: see
    ImagePixels; patch t is row t of activation memory, a pixel is its value 0..255.

    Ports
      start, command    pulse; the command must stand still until `done`
      done              pulse: everything is written (STORE: and answered). rows = 0 or columns = 0: nothing is moved
      request, valid, data, release          to the Reader; its client must be given CAPACITY beats
      write_request, write_beats, write_done to the Writer. STORE fills up its last beat with zeros
      write_valid, write_memory, write_address, write_word, write_lanes   a word to an on-chip memory; an enable for
                        each lane (all of them set for LOAD)
      read_valid, read_memory, read_address -> read_data one cycle later
      entry_index -> entry_row one cycle later: the queue of the current expert
      stop              forgets everything; hold until Reader and Writer are idle

    ADDRESS_LATENCY: cycles from a word's turn to its write or read. Rate: a word, or G pixels, a cycle while the bus
    keeps up. Twin: the emulator's LOAD, STORE and IMAGE instructions.
    """

    ADDRESS_LATENCY = 4

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.CAPACITY = 2 * config.burst_limit
        super().__init__(
            {
                "start": In(1),
                "command": In(DmaCommand()),
                "done": Out(1),
                "request": Out(stream.Signature(Request())),
                "valid": In(1),
                "data": In(bus_bits(config)),
                "release": Out(4),
                "write_request": Out(stream.Signature(Request())),
                "write_beats": Out(stream.Signature(bus_bits(config))),
                "write_done": In(1),
                "write_valid": Out(1),
                "write_memory": Out(Memory),
                "write_address": Out(20),
                "write_word": Out(word(config)),
                "write_lanes": Out(config.lanes),
                "read_valid": Out(1),
                "read_memory": Out(Memory),
                "read_address": Out(20),
                "read_data": In(word(config)),
                "entry_index": Out(16),
                "entry_row": In(16),
                "stop": In(1),
            }
        )

    def elaborate(self, platform: object) -> ResetInserter:
        m = Module()
        config, command = self.config, self.command
        image, store = command.opcode == Opcode.IMAGE, command.opcode == Opcode.STORE
        m.submodules.beats = beats = SyncFIFOBuffered(width=bus_bits(config), depth=self.CAPACITY)
        m.submodules.pixels = pixels = ImagePixels(config)
        m.submodules.words = words = BeatsToWords(config)
        running, finished = Signal(), Signal()  # words have their turns; the last one has had it
        row, column = Signal(16), Signal(10)
        last = (row + 1 == command.rows) & (column + 1 == command.columns)
        room = Signal()
        turn = running & ~image & Mux(store, room, words.words.valid)
        with m.If(turn):
            m.d.sync += column.eq(column + 1)
            with m.If(column + 1 == command.columns):
                m.d.sync += [column.eq(0), row.eq(row + 1)]
        with m.If(self.start):
            m.d.sync += [row.eq(0), column.eq(0)]
        m.d.comb += [
            beats.w_data.eq(self.data),
            beats.w_en.eq(self.valid),
            words.beats.p.eq(beats.r_data),
            words.beats.valid.eq(beats.r_rdy & running & ~image),
            words.words.ready.eq(1),
            words.clear.eq(self.start),
            pixels.start.eq(self.start),
            pixels.across.eq(command.across),
            pixels.down.eq(command.down),
            pixels.channels.eq(command.channels),
            pixels.patch.eq(command.patch),
            pixels.data.eq(beats.r_data),
            pixels.data_valid.eq(beats.r_rdy & running & image),
            # What is left of the last beats is thrown away.
            beats.r_en.eq(finished | Mux(image, pixels.data_taken, words.beats.ready & running)),
            self.entry_index.eq(row),
        ]
        m.d.sync += self.release.eq(beats.r_rdy & beats.r_en)

        # Turn -> row of the queue -> row * stride -> address.
        moved = Signal(move(config))
        turns = turn | pixels.valid
        m.d.comb += [
            moved.last.eq(last),
            moved.column.eq(Mux(image, pixels.word, column)),
            moved.word.eq(words.words.p),
            moved.lanes.eq(~0),
        ]
        on_the_way = Signal(self.ADDRESS_LATENCY)
        m.d.sync += on_the_way.eq(Cat(turns, on_the_way))
        stages = [moved]
        for i in range(self.ADDRESS_LATENCY):
            stage = Signal(move(config), reset_less=True, name=f"moved{i}")
            m.d.sync += stage.eq(stages[-1])
            if i == 1:  # where the pixels of the turn before come out
                with m.If(image):
                    m.d.sync += stage.lanes.eq(pixels.lanes)
                    m.d.sync += [
                        stage.word.word_select(k, 16).eq(pixels.pixels.word_select(k, 8)) for k in range(config.lanes)
                    ]
            stages.append(stage)
        own_row, row_number, product, address = (Signal(n, reset_less=True) for n in (16, 16, 26, 20))
        m.d.sync += [
            own_row.eq(Mux(image, pixels.token, row)),
            row_number.eq(Mux(command.gather & ~image, self.entry_row, own_row)),
            product.eq(row_number * command.stride),
            address.eq(product + command.base + stages[-2].column),
        ]
        memory = Mux(image, Memory.ACTIVATION, command.memory)
        m.d.comb += [
            self.write_valid.eq(on_the_way[-1] & ~store),
            self.write_memory.eq(memory),
            self.write_address.eq(address),
            self.write_word.as_value().eq(stages[-1].word),
            self.write_lanes.eq(stages[-1].lanes),
            self.read_valid.eq(on_the_way[-1] & store),
            self.read_memory.eq(memory),
            self.read_address.eq(address),
        ]
        self._store(m, turn & store, self.read_valid, stages[-1].last, room)
        self._steps(m, running, finished, turn & last | pixels.valid & pixels.last, ~on_the_way.any())
        return ResetInserter(self.stop)(m)

    def _store(self, m: Module, turn, read, last, room) -> None:
        """Words read -> beats to the writer. A word gets its turn only when there is room for it behind the memory."""
        config = self.config
        m.submodules.stored = stored = SyncFIFOBuffered(width=8 * config.word_bytes + 1, depth=STORE_WORDS)
        m.submodules.store_beats = store_beats = WordsToBeats(config)
        free = Signal(range(STORE_WORDS + 1), init=STORE_WORDS)
        arrives, arrives_last = Signal(), Signal()
        m.d.sync += [arrives.eq(read), arrives_last.eq(last), free.eq(free - turn + (stored.r_rdy & stored.r_en))]
        m.d.comb += [
            room.eq(free != 0),
            stored.w_en.eq(arrives),
            stored.w_data.eq(Cat(self.read_data, arrives_last)),
            store_beats.words.valid.eq(stored.r_rdy),
            store_beats.words.p.eq(stored.r_data),
            stored.r_en.eq(store_beats.words.ready),
            self.write_beats.valid.eq(store_beats.beats.valid),
            self.write_beats.p.eq(store_beats.beats.p),
            store_beats.beats.ready.eq(self.write_beats.ready),
        ]

    def _steps(self, m: Module, running, finished, last_turn, quiet) -> None:
        """IDLE -> how many words -> how many beats -> ask for them -> move words -> wait for the end."""
        config, command = self.config, self.command
        image, store = command.opcode == Opcode.IMAGE, command.opcode == Opcode.STORE
        words, left = Signal(26), Signal(26)  # of the command; beats not yet taken from the FIFO
        for request in (self.request, self.write_request):
            m.d.comb += [request.p.address.eq(command.address), request.p.beats.eq(left)]
        with m.If(self.release != 0):
            m.d.sync += left.eq(left - 1)
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.sync += words.eq(command.rows * command.columns)
                m.next = "BEATS"
            with m.State("BEATS"):
                beats = (words + config.words_per_beat - 1) >> (config.words_per_beat - 1)
                m.d.sync += left.eq(Mux(image, command.beats, beats * config.beats_per_word))
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [
                    self.request.valid.eq((left != 0) & ~store),
                    self.write_request.valid.eq((left != 0) & store),
                ]
                with m.If(left == 0):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(Mux(store, self.write_request.ready, self.request.ready)):
                    m.d.sync += running.eq(1)
                    m.next = "MOVE"
            with m.State("MOVE"):
                with m.If(last_turn):
                    m.d.sync += [running.eq(0), finished.eq(1)]
                    m.next = "FINISH"
            with m.State("FINISH"):
                with m.If(Mux(store, self.write_done, quiet & (left == 0))):
                    m.d.sync += [self.done.eq(1), finished.eq(0)]
                    m.next = "IDLE"
