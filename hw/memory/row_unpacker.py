# SPDX-License-Identifier: Apache-2.0
"""From elements of the prefetch memory to words of weights, and the promise of how many will come without a gap."""

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import word


class RowUnpacker(wiring.Component):
    """Element -> words, low one first.

    An element is a beat or a word, whichever is wider: `words` = words_per_beat words.

    Ports:
        valid, element (in): what stands at the queue's output.
        leaves (out): its last word goes to the register in this cycle, so that the next element may stand there in the
            following one.
        row (out stream): words, each a row of a block (input lane k's weights), two rows of 8-bit weights, or one
            parameter word.
    Latency: LATENCY = 1 cycle from valid to the row: the output register.
    Interval: INTERVAL = 1 cycle between words.
    Twin: none (no arithmetic); the layout is that of `hw.contract.weight_stream`.
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.words = config.words_per_beat
        super().__init__(
            {
                "valid": In(1),
                "element": In(self.words * 8 * config.word_bytes),
                "leaves": Out(1),
                "row": Out(stream.Signature(word(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = Signal(range(self.words)) if self.words > 1 else Const(0)
        advance = self.valid & (~self.row.valid | self.row.ready)
        m.d.comb += self.leaves.eq(advance & (step == self.words - 1))
        with m.If(self.row.ready):
            m.d.sync += self.row.valid.eq(0)
        with m.If(advance):
            m.d.sync += [
                self.row.valid.eq(1),
                self.row.p.as_value().eq(self.element.word_select(step, 8 * self.config.word_bytes)),
            ]
            if self.words > 1:
                m.d.sync += step.eq(Mux(self.leaves, 0, step + 1))
        return m


class LevelPromise(wiring.Component):
    """`level` words, at most 2 N, can be taken in this and the following cycles without a gap; 0 as long as none stands
    at the output.

    A word counts from the cycle in which it could stand at the output: two cycles through the FIFO, one through the
    unpacker.

    Ports:
        arriving (in): an element enters the FIFO in this cycle.
        taken (in): a word is taken.
        level (out): the promise.
    Latency: LATENCY = 3 cycles from `arriving` to `level`; 1 from `taken`.
    Interval: INTERVAL = 1 cycle between elements, and between words.
    Limits: `depth` elements in the FIFO.
    Twin: none (no arithmetic).
    """

    LATENCY = 3
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, depth: int) -> None:
        self.config, self.depth = config, depth
        super().__init__(
            {
                "arriving": In(1),
                "taken": In(1),
                "level": Out(range(2 * config.lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        most, words = 2 * self.config.lanes, self.config.words_per_beat
        earlier, arrived, net = Signal(), Signal(range(words + 1)), Signal(range(-1, words), init=-1)
        rows = Signal(range(self.depth * words + words + 1))
        kept, fewer = Signal.like(rows), Signal.like(rows)

        def promised(count: Signal):
            return Mux(count[exact_log2(most) :].any(), most, count)

        # `taken` is late in its cycle: both outcomes are made, and it only chooses.
        m.d.comb += [kept.eq(rows + arrived), fewer.eq(rows + net)]
        m.d.sync += [
            earlier.eq(self.arriving),
            arrived.eq(Mux(earlier, words, 0)),
            net.eq(Mux(earlier, words - 1, -1)),
            rows.eq(Mux(self.taken, fewer, kept)),
            self.level.eq(Mux(self.taken, promised(fewer), promised(kept))),
        ]
        return m
