# SPDX-License-Identifier: Apache-2.0
"""The SDRAM's commands: initialisation, refresh, rows, and one READ or WRITE for each 64-bit beat."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.periphery.sdram_config import (
    ADDRESS_PINS,
    BURST_WORDS,
    DQ_BITS,
    MODE_CYCLES,
    Access,
    ReadBeat,
    SdramConfig,
    SdramPins,
)

# {ras_n, cas_n, we_n}; a cycle without a command has cs_n high.
ACTIVE, READ, WRITE, PRECHARGE, REFRESH, LOAD_MODE = 0b011, 0b101, 0b100, 0b010, 0b001, 0b000
COMMAND_BITS = 3
STROBES = DQ_BITS // 8
PRECHARGE_ALL = 1 << 10  # address bit


class SdramCommands(wiring.Component):
    """Beats, in order -> the commands of the chip. At most one row is open; it stays open until another one or a
    refresh is wanted.

    A refresh waits for the beat under way and no longer: no two of them are farther apart than config.refresh_interval.

    Ports:
        access (in stream): beats to read or write; taken at most every four cycles.
        beat, beat_valid (out): what was read, in order; no back-pressure, so ask only for what has room.
        pins (out SdramPins): the chip. All outputs are registers; `dq_i` goes into one. The chip's clock is the inverse
            of this one: it sees a command half a cycle after the register has it.
    Latency: LATENCY = 5 + CAPTURE cycles from taking a read of the open row to `beat_valid`; CAPTURE = cas_latency +
        pad_registers cycles from the register with READ to that which captures the first word from `dq_i`.
    Interval: CYCLES_PER_BEAT = 4 cycles between beats, while the row stays the same and reads and writes do not
        alternate.
    Limits: those of `config`, an SdramConfig.
    Twin: none (no arithmetic).
    """

    CYCLES_PER_BEAT = BURST_WORDS

    def __init__(self, config: SdramConfig) -> None:
        self.config = config
        self.CAPTURE = config.cas_latency + config.pad_registers
        self.LATENCY = 2 + self.CAPTURE + BURST_WORDS - 1
        access, pins = In(stream.Signature(Access(config))), Out(SdramPins())
        super().__init__({"access": access, "beat": Out(ReadBeat()), "beat_valid": Out(1), "pins": pins})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c, pins = self.config, self.pins
        command, address = Signal(COMMAND_BITS), Signal(ADDRESS_PINS)  # of this cycle; `inhibit`: there is none
        inhibit = Signal()
        # The beat to be done next, while `valid`; `hit`: it lies in the open row.
        current, valid, hit = Signal(Access(c)), Signal(), Signal()
        longest_wait = max(c.refresh_cycle, c.row_precharge, c.row_to_column, BURST_WORDS, MODE_CYCLES)
        wait = Signal(range(longest_wait))  # until the next command
        close = Signal(range(c.longest_close))  # until a row may be closed
        turn = Signal(range(c.read_to_write))  # until a write may follow a read
        for counter in (wait, close, turn):
            with m.If(counter != 0):
                m.d.sync += counter.eq(counter - 1)

        # A row that is open is that of the beat before, which `current` still holds.
        m.d.comb += self.access.ready.eq(~valid & (wait <= 1))
        with m.If(self.access.valid & self.access.ready):
            new, old = self.access.p.address, current.address
            m.d.sync += [current.eq(self.access.p), valid.eq(1), hit.eq((new.row == old.row) & (new.bank == old.bank))]

        refresh, due = self._refresh(m)
        reads, writes = Signal(), Signal()
        m.d.comb += inhibit.eq(1)
        m.d.sync += pins.cke.eq(1)

        def issue(what: int, then: int) -> None:
            m.d.comb += [inhibit.eq(0), command.eq(what)]
            m.d.sync += wait.eq(then - 1)

        with m.FSM() as fsm:
            self._initialise(m, issue, wait, address, refresh, due)
            with m.State("CLOSED"):
                with m.If((wait == 0) & due):
                    issue(REFRESH, c.refresh_cycle)
                    m.d.comb += refresh.eq(1)
                with m.Elif((wait == 0) & valid):
                    issue(ACTIVE, c.row_to_column)
                    m.d.comb += address.eq(current.address.row)
                    m.d.sync += [hit.eq(1), close.eq(c.row_active - 1)]
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += address.eq(current.address.column << exact_log2(BURST_WORDS))
                with m.If(due | valid & ~hit):
                    with m.If(close == 0):
                        issue(PRECHARGE, c.row_precharge)
                        m.d.comb += address.eq(PRECHARGE_ALL)
                        m.next = "CLOSED"
                with m.Elif(valid & (wait == 0) & ~current.write):
                    issue(READ, BURST_WORDS)
                    m.d.comb += reads.eq(1)
                    m.d.sync += [valid.eq(0), close.eq(c.read_to_close - 1), turn.eq(c.read_to_write - 1)]
                with m.Elif(valid & (wait == 0) & (turn == 0)):
                    issue(WRITE, BURST_WORDS)
                    m.d.comb += writes.eq(1)
                    m.d.sync += [valid.eq(0), close.eq(c.write_to_close - 1)]
        initial = ~(fsm.ongoing("CLOSED") | fsm.ongoing("OPEN"))
        m.d.sync += [
            pins.cs_n.eq(inhibit),
            Cat(pins.we_n, pins.cas_n, pins.ras_n).eq(command | inhibit.replicate(COMMAND_BITS)),
            pins.a.eq(address),
            pins.ba.eq(Mux(initial, 0, current.address.bank)),  # LOAD MODE wants 0; a beat may be waiting already
        ]
        self._write_words(m, current, writes, initial)
        self._read_words(m, current, reads)
        return m

    def _initialise(self, m: Module, issue, wait: Signal, address: Signal, refresh: Signal, due: Signal) -> None:
        """The states from power-up until the chip may be used: all closed, refreshes, the mode."""
        c = self.config
        refreshes = Signal(range(c.init_refreshes))
        with m.State("POWER_UP"):
            with m.If(due):
                issue(PRECHARGE, c.row_precharge)
                m.d.comb += address.eq(PRECHARGE_ALL)
                m.next = "INITIAL_REFRESH"
        with m.State("INITIAL_REFRESH"):
            with m.If(wait == 0):
                issue(REFRESH, c.refresh_cycle)
                m.d.comb += refresh.eq(1)
                m.d.sync += refreshes.eq(refreshes + 1)
                with m.If(refreshes == c.init_refreshes - 1):
                    m.next = "LOAD_MODE"
        with m.State("LOAD_MODE"):
            with m.If(wait == 0):
                issue(LOAD_MODE, MODE_CYCLES)
                m.d.comb += address.eq(c.mode)
                m.next = "CLOSED"

    def _refresh(self, m: Module) -> tuple[Signal, Signal]:
        """The counter of refreshes, which counts the silence after power-up first."""
        c = self.config
        refresh, due = Signal(), Signal()
        left = Signal(range(max(c.power_up, c.refresh_wait) + 1), init=c.power_up)
        with m.If(refresh):
            m.d.sync += [left.eq(c.refresh_wait), due.eq(0)]
        with m.Elif(left == 0):
            m.d.sync += due.eq(1)
        with m.Else():
            m.d.sync += left.eq(left - 1)
        return refresh, due

    def _write_words(self, m: Module, current: data.View, writes: Signal, initial: Signal) -> None:
        """The first word goes with its command; `current` moves down by a word a cycle and is not loaded before the
        last one.
        """
        pins = self.pins
        more = Signal(BURST_WORDS - 1)
        drive = Signal()
        m.d.comb += drive.eq(writes | more.any())
        m.d.sync += [more.eq(Cat(writes, more)), pins.dq_oe.eq(drive), pins.dq_o.eq(current.data[:DQ_BITS])]
        m.d.sync += pins.dqm.eq(Mux(drive, ~current.strobe[:STROBES], initial.replicate(STROBES)))
        with m.If(drive & ~(self.access.valid & self.access.ready)):
            m.d.sync += [current.data.eq(current.data >> DQ_BITS), current.strobe.eq(current.strobe >> STROBES)]

    def _read_words(self, m: Module, current: data.View, reads: Signal) -> None:
        """What is on the wires is captured every cycle; a line of marks knows when four words are a beat."""
        word, before = Signal(DQ_BITS), Signal((BURST_WORDS - 1) * DQ_BITS)
        m.d.sync += [word.eq(self.pins.dq_i), before.eq(Cat(before, word)[DQ_BITS:])]
        mark = Cat(reads, current.last, current.fault)
        for i in range(self.LATENCY - 1):
            after = Signal(len(mark), name=f"mark{i}")
            m.d.sync += after.eq(mark)
            mark = after
        m.d.comb += [self.beat_valid.eq(mark[0]), self.beat.last.eq(mark[1]), self.beat.fault.eq(mark[2])]
        m.d.comb += self.beat.data.eq(Cat(before, word))
