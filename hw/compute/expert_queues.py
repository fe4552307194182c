# SPDX-License-Identifier: Apache-2.0
"""One queue of (row, score) entries per expert."""

from amaranth.hdl import Array, Const, Module, Mux, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import EXPERT_BITS, SCORE_BITS, index_shape
from edgemoe.hw.memory.arbiter import first
from edgemoe.hw.memory.banked_memory import BankedMemory
from edgemoe.hw.memory.pipeline import delay


def entry_layout(config: HardwareConfig) -> data.StructLayout:
    return data.StructLayout({"row": index_shape(config.rows), "score": SCORE_BITS})


class ExpertQueues(wiring.Component):
    """config.experts queues in one memory; entries keep the order in which they were pushed.

    Ports:
        reset (in): empties every queue: counts are 0 in the next cycle. A push in the same cycle is forgotten, too.
        push, push_expert, push_entry (in): appends an entry (row, score); one a cycle, to any queue.
        entry_expert, entry_index (in): which entry is read; the expert stands since the cycle before.
        entry (out): it, ENTRY_LATENCY cycles later.
        count_expert (in): whose length is asked for.
        count (out): it, in the same cycle: of all pushes but that of the cycle before.
        next_from (in): the lowest expert that counts.
        next_found, next_expert (out): the first from there on whose queue is not empty, of the same pushes.
    Latency: PUSH_DELAY = 3 cycles from a push to the cycle in which its entry may be asked for; ENTRY_LATENCY = 2
        cycles from entry_index to entry; NEXT_LATENCY = 1 cycle from next_from to next_expert.
    Interval: INTERVAL = 1 cycle between pushes.
    Format: score unsigned, 2^15 is 1.0.
    Limits: at most config.rows entries a queue between two resets; expert numbers below config.experts (next_from may
        be anything).
    Twin: `models.numbers.twins.ExpertQueues`.
    """

    INTERVAL = 1
    PUSH_DELAY = 3
    ENTRY_LATENCY = BankedMemory.LATENCY
    NEXT_LATENCY = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        expert, entry = index_shape(config.experts), entry_layout(config)
        super().__init__(
            {
                "reset": In(1),
                "push": In(1),
                "push_expert": In(expert),
                "push_entry": In(entry),
                "entry_expert": In(expert),
                "entry_index": In(index_shape(config.rows)),
                "entry": Out(entry),
                "count_expert": In(expert),
                "count": Out(range(config.rows + 1)),
                "next_from": In(EXPERT_BITS),
                "next_found": Out(1),
                "next_expert": Out(EXPERT_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        # Counts are a small memory with asynchronous reads; flags say which of them are more than zero, so that all can
        # be emptied at once. A push reads in its own cycle and writes in the next; one right behind it takes what it
        # writes.
        filled = Signal(config.experts)
        m.submodules.counts = counts = Memory(
            shape=Shape.cast(range(config.rows + 1)), depth=max(2, config.experts), init=[]
        )
        tally, current, shown = counts.write_port(), counts.read_port(domain="comb"), counts.read_port(domain="comb")
        expert = delay(m, self.push_expert, 1, name="expert")
        pushes = delay(m, self.push & ~self.reset, 1, name="pushes", reset_less=False)
        position, before, newest = (
            Signal(range(config.rows + 1), name=name) for name in ("position", "before", "newest")
        )
        again = delay(m, pushes & (expert == self.push_expert), 1, name="again")
        m.d.sync += [
            before.eq(Mux(self._of(filled, self.push_expert), current.data, 0)),
            newest.eq(tally.data),
        ]
        m.d.comb += [
            current.addr.eq(self.push_expert),
            position.eq(Mux(again, newest, before)),
            tally.addr.eq(expert),
            tally.data.eq(position + 1),
            tally.en.eq(pushes),
            shown.addr.eq(self.count_expert),
            self.count.eq(Mux(self._of(filled, self.count_expert), shown.data, 0)),
        ]
        with m.If(self.reset):
            m.d.sync += filled.eq(0)
        with m.Elif(pushes):
            m.d.sync += filled.eq(filled | (Const(1, 1) << expert))

        layout = entry_layout(config)
        m.submodules.entries = entries = BankedMemory(layout.size, config.experts * config.rows)
        # Where a queue begins: a small table and its register, instead of a multiplier.
        begins = Array(Const(k * config.rows, entries.address_bits) for k in range(config.experts))
        pushed, asked = (
            delay(m, begins[expert], 1, name=name)
            for name, expert in (("pushed", self.push_expert), ("asked", self.entry_expert))
        )
        write_address = Signal.like(entries.write_address, reset_less=True)
        m.d.sync += write_address.eq(pushed + position)
        m.d.comb += [
            entries.write_enable.eq(delay(m, pushes, 1, name="write", reset_less=False)),
            entries.write_address.eq(write_address),
            entries.write_data.eq(delay(m, self.push_entry, 2, name="entry").as_value()),
            entries.read_address.eq(asked + self.entry_index),
            self.entry.eq(entries.read_data),
        ]

        found, lowest, _ = first([filled[k] & (self.next_from <= k) for k in range(config.experts)])
        m.d.sync += [self.next_found.eq(found), self.next_expert.eq(lowest)]
        return m

    @staticmethod
    def _of(flags: Signal, expert: Signal):
        return flags.bit_select(expert, 1)
