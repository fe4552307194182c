# SPDX-License-Identifier: Apache-2.0
"""Loader: brings the next stationary block into the array's shadow registers while the present one is in use."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.compute.array import ArrayLoad
from edgemoe.hw.compute.epilogue import ParameterLoad
from edgemoe.hw.contract.config import PARAMETER_WORDS, HardwareConfig
from edgemoe.hw.contract.isa import Stationary
from edgemoe.hw.contract.layouts import JOB, packs
from edgemoe.hw.contract.ports import ReadPort, WeightRowPort
from edgemoe.hw.control.key_value_addresses import KeyValueAddresses
from edgemoe.hw.memory.banked_memory import BankedMemory
from edgemoe.hw.memory.pipeline import delay

SWAP_DELAY = 2  # from the wave's entrance into the array to the swap of its first row: two registers
KEY_VALUE_LATENCY = BankedMemory.LATENCY


class Loader(wiring.Component):
    """Stationary operands of MATMUL jobs, in the order in which the streamer consumes them (column blocks outer, chunks
    inner).

    Weights come as words from the weight stream, which puts the parameter words of a column block before its first
    block: a row each, of 8-bit weights two, or, packed, a row of two column blocks, whose parameters come together;
    keys and values come from key/value memory, a word a cycle: keys fill columns, values fill rows; beyond `valid` keys
    zeros are loaded. A block of an array with rows for two words is that of two chunks, its lower rows first; a column
    of keys then comes in two halves. What is left of an odd number of chunks fills the lower half alone: zeros stream
    past the other one.

    A block of rows is announced when its first row is presented: rows then follow without a gap, and the wave that
    swaps needs row k only k cycles later. A block of columns is announced with its last column, that of the first
    chunk, as the wave reaches the rows of the second one no sooner than these have theirs. The next load starts when
    the array has swapped; pairs of rows, which would overtake the wave, when it is half-way down, columns when it has
    left the last row of the first chunk. Parameter words go to the epilogue's banks in turn, of which there are two, or
    four where products are packed.

    With a `lead`, the least number of cycles from a row's issue to the array, pairs of rows are announced up to `lead`
    cycles before their loading begins: when all words of the block are there, behind those of the block that is being
    loaded, and when by then the wave will be half-way down. The block before has been loaded by then too: its loading
    began before its swap and takes as long as the wave takes half-way. The swap comes later, so it finds the first
    rows, and blocks of half as many rows as the array has follow each other without a gap, if the way is not longer.

    Ports:
        jobs (in stream): MATMULs.
        completed (in): instructions that have written all their results, modulo 256.
        weights (in WeightRowPort): parameter words, and words of a row or two.
        key_value (out ReadPort): key/value memory,
        key_value_taken (in): unless DMA has its port: nothing can be read.
        load (out ArrayLoad): a row, two rows or a column of the next block.
        parameter (out ParameterLoad): a parameter word.
        ready (out): pulse: a block may be swapped in, `lead` + 1 cycles later at the earliest.
        swap (in): pulse: the wave that swaps enters the array in this cycle.
        column_done (in): pulse: a column block with parameters has left the epilogue, which returns its bank.
        waits_for_weights (out): a block could be loaded, if its weights were there.
    Latency: varies: with weights and results; a row passes in its own cycle, a word of key/value memory two after its
        address.
    Interval: none (a chunk takes `lanes` cycles, of 8-bit weights half as many, and the next follows without a gap if
        weights are there and the wave allows it).
    Limits: one block ahead of the one in use.
    Twin: none (no arithmetic).
    """

    def __init__(self, config: HardwareConfig, *, lead: int = 0):
        self.config, self.lead = config, lead
        super().__init__(
            {
                "jobs": In(stream.Signature(JOB)),
                "completed": In(8),  # instructions that have written all their results, modulo 256
                "weights": In(WeightRowPort(config)),
                "key_value": Out(ReadPort(config)),
                "key_value_taken": In(1),  # DMA has the memories' ports: nothing can be read
                "load": Out(ArrayLoad(config)),
                "parameter": Out(ParameterLoad(config)),
                "ready": Out(1),  # pulse: a block may be swapped in, `lead` + 1 cycles later at the earliest
                "swap": In(1),  # the wave that swaps enters the array in this cycle
                "column_done": In(1),  # a column block with parameters has left the epilogue
                "waits_for_weights": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.lanes
        job, first = Signal(JOB), self.jobs.payload.instruction
        instruction = job.instruction
        column, chunk, index = Signal(10), Signal(10), Signal(range(lanes))
        by_column, by_pair, packed, end = self._kind(m)
        last_chunk, before_last, last_column = Signal(), Signal(), Signal()  # the present one, or the one before
        loading, advance, begins, ends = Signal(), Signal(), Signal(), Signal()  # a block: under way; its words
        bits, banks = self.parameter.bank.shape().width, 4 if self.config.packed else 2
        bank, banks_free, take_bank = Signal(bits), Signal(range(banks + 1), init=banks), Signal()
        m.d.sync += banks_free.eq(banks_free - take_bank + self.column_done)
        shadow = shadow_free, _, passed, _ = self._shadow(m)
        m.d.comb += [
            begins.eq(advance & ~loading),
            ends.eq(advance & (index == Mux(by_pair, lanes // 2 - 1, lanes - 1))),
        ]
        # A block takes two cycles at least: by its end its place is known.
        one_chunk = instruction.chunks == 1
        m.d.sync += [before_last.eq(chunk + 2 == instruction.chunks), last_column.eq((column | packed) >= end)]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.jobs.ready.eq(1)
                with m.If(self.jobs.valid):
                    m.d.sync += [job.eq(self.jobs.payload), column.eq(0), chunk.eq(0), index.eq(0)]
                    with m.If((first.stationary == Stationary.KEYS) | (first.stationary == Stationary.VALUES)):
                        m.next = "DEPENDENCY"
                    with m.Else():
                        m.next = "PARAMETERS"
            with m.State("DEPENDENCY"):
                m.d.sync += last_chunk.eq(one_chunk)
                with m.If(~instruction.wait_load | (self.completed == job.sequence)):
                    m.next = "KEY_VALUE"
            with m.State("PARAMETERS"):
                m.d.sync += last_chunk.eq(one_chunk)
                m.d.comb += self.waits_for_weights.eq(1)
                m.d.comb += self.weights.ready.eq((banks_free != 0) | (index != 0))
                self._take_parameter(m, index, bank, take_bank, packed)
            with m.State("WEIGHTS"):
                self._stream_weights(m, advance, begins, loading, by_pair, chunk, last_chunk, shadow)
                with m.If(ends & last_chunk):
                    m.next = "PARAMETERS"
                    with m.If(last_column):
                        m.next = "IDLE"
            with m.State("KEY_VALUE"):
                # A gap while DMA reads the memory does no harm: the rows that could meet it stream only when DMA is
                # done.
                start = shadow_free & Mux(by_column, passed, 1)
                m.d.comb += advance.eq((loading | start) & ~self.key_value_taken)
                with m.If(ends & last_chunk & last_column):
                    m.next = "IDLE"

        with m.If(advance):
            m.d.sync += index.eq(index + 1)
        with m.If(begins):
            m.d.sync += [loading.eq(1), shadow_free.eq(0)]
        with m.If(ends):  # chunks inner, column blocks outer
            m.d.sync += [loading.eq(self._goes_on(chunk, last_chunk)), index.eq(0)]
            m.d.sync += column.eq(column + Cat(last_chunk & ~packed, last_chunk & packed))
            m.d.sync += [
                chunk.eq(Mux(last_chunk, 0, chunk + 1)),
                last_chunk.eq(Mux(last_chunk, one_chunk, before_last)),
            ]
        addresses = self._addresses(m, instruction, by_column)
        read = advance & fsm.ongoing("KEY_VALUE")
        m.d.comb += [
            addresses.column.eq(column),
            addresses.chunk.eq(chunk),
            addresses.advance.eq(read),
            addresses.next_block.eq(ends),
            addresses.last_chunk.eq(last_chunk),
            self.parameter.bank.eq(bank),
            self.parameter.index.eq(index),
            self.parameter.data.eq(self.weights.word),
        ]
        inside = Cat(index, addresses.key[len(index) :]) < instruction.keys
        place = Cat(index, chunk[0]) if self.config.words_at_once > 1 else index
        self._present(m, read, place, inside, by_column, by_pair, fsm.ongoing("WEIGHTS"), packed)
        return m

    def _kind(self, m: Module) -> tuple[Signal, Signal, Value, Signal]:
        """What is made out of an instruction when it is taken: (columns of keys; rows of weights come in pairs; two
        column blocks at a time; its last column).
        """
        instruction, by_column, by_pair, end = self.jobs.payload.instruction, Signal(), Signal(), Signal(10)
        pairs, packed = instruction.stationary == Stationary.WEIGHTS8, Const(0, 1)
        with m.If(self.jobs.valid & self.jobs.ready):
            if self.config.packed:
                packed = Signal()
                pairs &= ~packs(instruction)
                m.d.sync += packed.eq(packs(instruction))
            m.d.sync += [by_column.eq(instruction.stationary == Stationary.KEYS), by_pair.eq(pairs)]
            m.d.sync += end.eq(instruction.columns - 1)
        return by_column, by_pair, packed, end

    def _promised(self, words: int, last_chunk: Value) -> Value:
        """Whether all words of a block will come without a gap, so many of a chunk."""
        enough = self.weights.level[exact_log2(words) :].any()
        if self.config.words_at_once == 1:
            return enough
        return Mux(last_chunk, enough, self.weights.level[exact_log2(2 * words) :].any())

    def _goes_on(self, chunk: Value, last_chunk: Value) -> ValueLike:
        """Whether the block has another chunk."""
        return 0 if self.config.words_at_once == 1 else ~chunk[0] & ~last_chunk

    def _take_parameter(self, m: Module, index, bank, take_bank, packed) -> None:
        """A word of parameters, if it is there; behind the last one come weights."""
        with m.If(self.weights.valid & self.weights.ready):
            m.d.comb += [self.parameter.valid.eq(index < PARAMETER_WORDS), take_bank.eq(index == 0)]
            m.d.sync += index.eq(index + 1)
            with m.If(index == self.config.parameter_words - 1):
                m.d.sync += [index.eq(0), bank.eq(bank + 1 if self.config.packed else ~bank)]
                with m.If(self._all_parameters(m, packed)):
                    m.next = "WEIGHTS"

    def _all_parameters(self, m: Module, packed) -> Value:
        """With the word that is taken in this cycle those of the block, or of both column blocks of a packed one, are
        there.
        """
        if not self.config.packed:
            return Const(1)
        second = Signal()
        m.d.sync += second.eq(packed & ~second)
        return ~packed | second

    def _addresses(self, m: Module, instruction, by_column) -> KeyValueAddresses:
        """The addresses in key/value memory, of this instruction."""
        m.submodules.addresses = addresses = KeyValueAddresses(self.config)
        m.d.comb += [
            addresses.start.eq(self.jobs.valid & self.jobs.ready),
            addresses.base.eq(self.jobs.payload.instruction.stationary_base),
            addresses.stride.eq(instruction.stationary_stride),
            addresses.by_column.eq(by_column),
            self.key_value.address.eq(addresses.address),
        ]
        return addresses

    def _stream_weights(self, m: Module, advance, begins, loading, by_pair, chunk, last_chunk, shadow) -> None:
        """Blocks of weights, which are announced only when all their words will stream."""
        lanes, (shadow_free, half_way, _, soon) = self.config.lanes, shadow
        half, whole = (self._promised(n, last_chunk) for n in (lanes // 2, lanes))
        if self.lead:
            announced = Signal()  # and not begun
            both = self.weights.level[
                exact_log2(self.config.inputs) :
            ].any()  # what is left of this block, and the next
            between = last_chunk | self._goes_on(chunk, last_chunk)  # no block follows this word's, or not yet
            possible = shadow_free & Mux(by_pair, soon & ~(loading & between), ~loading)
            ready = possible & Mux(loading, both, Mux(by_pair, half, whole))
            start = (announced | self.ready) & (half_way | ~by_pair)
            m.d.sync += announced.eq((announced | self.ready) & ~begins)
            with m.If(self.ready):
                m.d.sync += shadow_free.eq(0)
        else:
            start = shadow_free & Mux(by_pair, half & half_way, whole)
            ready, possible = begins, shadow_free & ~loading & (half_way | ~by_pair)
        m.d.comb += [advance.eq(loading | start), self.weights.ready.eq(advance), self.ready.eq(ready)]
        m.d.comb += self.waits_for_weights.eq(possible)

    def _shadow(self, m: Module) -> tuple[Signal, Signal, Signal, Value]:
        """(the array's shadow registers can take rows, the wave of the last swap is so far that two rows a cycle do not
        overtake it, it has left the last row, so that they can take columns, two rows a cycle may come in `lead`
        cycles).

        Rows follow the wave, so they are free at once; whoever starts to fill them clears the first flag.
        """
        last, half = self.config.lanes + SWAP_DELAY, self.config.inputs // 2 - 1 - bool(self.lead)
        free, half_way, passed = Signal(init=1), Signal(), Signal()
        since_swap = Signal(range(last + 1), init=last)
        m.d.comb += [half_way.eq(since_swap >= half if half else 1), passed.eq(since_swap == last)]
        with m.If(self.swap):
            m.d.sync += [free.eq(1), since_swap.eq(0)]
        with m.Elif(~passed):
            m.d.sync += since_swap.eq(since_swap + 1)
        soon = since_swap >= half - self.lead if half > self.lead else Const(1)
        return free, half_way, passed, soon

    def _present(self, m: Module, read, place, inside, by_column, by_pair, weights, packed) -> None:
        """A word to the array: weights directly, key/value words as they come behind their address (`read`), zeros
        beyond the last key. place: in the block; of pairs of rows, in its chunk half of it.
        """
        lanes = self.config.lanes
        doubled = Cat(Const(0, 1), place[:-2], place[-1]) if self.config.words_at_once > 1 else place << 1
        asked = {"index": place, "inside": inside, "by_column": by_column}
        late = {name: delay(m, value, KEY_VALUE_LATENCY, name=f"late_{name}") for name, value in asked.items()}
        arrives = delay(m, read, KEY_VALUE_LATENCY, name="arrives", reset_less=False)
        # Where there is a lead, a block is announced while its word is on the way.
        announces = read & Mux(by_column, place == lanes - 1, place == 0)
        on_the_way = 1 if self.lead else KEY_VALUE_LATENCY
        with m.If(delay(m, announces, on_the_way, name="announces", reset_less=False)):
            m.d.comb += self.ready.eq(1)
        with m.If(arrives):
            m.d.comb += [
                self.load.valid.eq(1),
                self.load.by_column.eq(late["by_column"]),
                self.load.index.eq(late["index"]),
                self.load.data.eq(Mux(late["inside"], Cat(*self.key_value.data), 0)),
            ]
        with m.Elif(weights):
            m.d.comb += [
                self.load.valid.eq(self.weights.ready),
                self.load.pair.eq(by_pair),
                self.load.index.eq(Mux(by_pair, doubled, place)),
                self.load.data.eq(Cat(*self.weights.word)),
            ]
            if self.config.packed:
                m.d.comb += self.load.packed.eq(packed)
