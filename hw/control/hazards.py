# SPDX-License-Identifier: Apache-2.0
"""Hazards: when the streamer may go on."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

IN_FLIGHT = 2  # MATMULs: one streams while the one before drains


class Hazards(wiring.Component):
    """Counts what is under way, so that nothing is read before it is written and nothing overtakes.

    A block may start when the loader has announced one more than have started, and not sooner than `block_spacing`
    cycles after the start of the last: with few rows the accumulators and row tables would be revisited before they are
    written. The same holds for rows that flush packed sums, for which no block is needed.

    A MATMUL may begin when at most one other is under way - none, if it waits for results - and when no row of an
    earlier one is still on its way through the exponentials, `probability_latency` cycles longer than the direct way,
    unless its own rows take that way, too. With `follow` one that waits may begin when the first row of the last column
    has been written by the one under way: its rows come one a cycle, as fast as rows are streamed. So may an operation,
    which else is alone. A sweep takes a row a cycle, too: a MATMUL right behind it goes on beside it, if it has
    `follow`; nothing else begins until the sweep ends.

    Ports:
        announced (in): pulse: the loader has a block.
        block_starts (in): pulse.
        flush_starts (in): pulse: rows without a block begin, where products are packed.
        probability_issued (in): a row takes the long way in this cycle.
        accepted, retired (in): pulses: an instruction was taken, has completed.
        first_written (in): pulse: the first row of a MATMUL's last column has been written, where products are packed.
        matmul_begins, sweep_begins, operation_ends (in): pulses, likewise; who ends a sweep retires it.
        wait_stream, follow, probabilities (in): of the present instruction, which counts as under way.
        block_may_start, flush_may_start, matmul_may_begin, operation_may_begin (out): the rules.
        alone (out): nothing else is under way.
        empty (out): nor is the present instruction.
    Latency: LATENCY = 1 cycle: outputs are those of the events up to the cycle before.
    Interval: INTERVAL = 1 cycle between events.
    Limits: at most one block is announced ahead.
    Twin: none (no arithmetic); `tests/formal` proves it.
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, *, block_spacing: int, probability_latency: int, packed: bool = False):
        self.block_spacing, self.probability_latency, self.packed = block_spacing, probability_latency, packed
        pulses = ("flush_starts", "first_written", "matmul_begins", "sweep_begins", "operation_ends", "follow")
        more = {**{name: In(1) for name in pulses}, "flush_may_start": Out(1), "operation_may_begin": Out(1)}
        super().__init__(
            {
                "announced": In(1),
                "block_starts": In(1),
                "probability_issued": In(1),
                "accepted": In(1),
                "retired": In(1),
                "wait_stream": In(1),
                "probabilities": In(1),
                "block_may_start": Out(1),
                "matmul_may_begin": Out(1),
                "alone": Out(1),
                "empty": Out(1),
                **(more if packed else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        block_ready = Signal()
        spacing = Signal(range(self.block_spacing + 1), init=self.block_spacing)
        with m.If(self.announced):
            m.d.sync += block_ready.eq(1)
        with m.Elif(self.block_starts):
            m.d.sync += block_ready.eq(0)
        with m.If((self.block_starts | self.flush_starts) if self.packed else self.block_starts):
            m.d.sync += spacing.eq(1)
        with m.Elif(spacing != self.block_spacing):
            m.d.sync += spacing.eq(spacing + 1)
        m.d.comb += self.block_may_start.eq(block_ready & (spacing == self.block_spacing))
        if self.packed:
            m.d.comb += self.flush_may_start.eq(spacing == self.block_spacing)

        # Cycles after which a row on the direct way comes behind one on the long way.
        passed = self.probability_latency + 1
        since_probabilities = Signal(range(passed + 1), init=passed)
        with m.If(self.probability_issued):
            m.d.sync += since_probabilities.eq(0)
        with m.Elif(since_probabilities != passed):
            m.d.sync += since_probabilities.eq(since_probabilities + 1)

        # Instructions taken and not complete, the present one among them, and a sweep.
        in_flight = Signal(range(IN_FLIGHT + 2 + self.packed))
        m.d.sync += in_flight.eq(in_flight + self.accepted - self.retired)
        results = Mux(self.wait_stream, self.alone, in_flight <= IN_FLIGHT)
        if self.packed:
            being_written = Signal()  # of the one before the present, if they are the only ones: its last column
            with m.If(self.retired):
                m.d.sync += being_written.eq(0)
            with m.Elif(self.first_written):
                m.d.sync += being_written.eq(1)
            sweeps, passed_by = Signal(), Signal()  # a sweep goes on; a MATMUL has begun since
            with m.If(self.operation_ends):
                m.d.sync += [sweeps.eq(0), passed_by.eq(0)]
            with m.Elif(self.sweep_begins):
                m.d.sync += sweeps.eq(1)
            with m.Elif(self.matmul_begins):
                m.d.sync += passed_by.eq(sweeps)
            others = in_flight - sweeps
            led = self.follow & ((others == 1) | being_written & (others == IN_FLIGHT))
            results = results & ~sweeps | led & ~passed_by
            m.d.comb += self.operation_may_begin.eq(self.alone | led & ~sweeps)
        m.d.comb += [
            self.alone.eq(in_flight == 1),
            self.empty.eq(in_flight == 0),
            self.matmul_may_begin.eq(results & (self.probabilities | (since_probabilities == passed))),
        ]
        return m
