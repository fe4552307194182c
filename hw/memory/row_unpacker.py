# SPDX-License-Identifier: Apache-2.0
"""From elements of the prefetch FIFO to rows of weights, and the promise of how many will come without a gap."""

from amaranth import Array, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import word
from edgemoe.models.numbers.words import WORD_BITS


class RowUnpacker(wiring.Component):
    """Element -> rows of N words, low word first; a word of 8-bit weights holds two rows, low half first, sign-
    extended.

    An element is a beat or a word, whichever is wider: `words` = words_per_beat words.

    Ports:
        valid, element (in): what stands at the FIFO's output.
        eight_bit (in): each of its words is two rows.
        leaves (out): its last row goes to the register in this cycle, so that the next element may stand there in the
            following one.
        row (out stream): words, each a row of a block (input lane k's weights) or one parameter word.
    Latency: LATENCY = 1 cycle from valid to the row: the output register.
    Interval: INTERVAL = 1 cycle between rows.
    Format: weights signed, 8 bit extended to 16.
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
                "eight_bit": In(1),
                "leaves": Out(1),
                "row": Out(stream.Signature(word(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, bits = self.words, 8 * self.config.word_bytes
        step = Signal(range(2 * words))
        advance = self.valid & (~self.row.valid | self.row.ready)
        m.d.comb += self.leaves.eq(advance & (step == Mux(self.eight_bit, 2 * words - 1, words - 1)))
        whole = [self.element.word_select(i, bits) for i in range(words)]
        halves = Array(self.element.word_select(i, bits // 2) for i in range(2 * words))
        wide = Array(whole)[step[: exact_log2(words)]] if words > 1 else whole[0]
        narrow = halves[step]
        with m.If(self.row.ready):
            m.d.sync += self.row.valid.eq(0)
        with m.If(advance):
            m.d.sync += [
                self.row.valid.eq(1),
                step.eq(Mux(self.leaves, 0, step + 1)),
            ]
            for lane in range(self.config.lanes):
                small = narrow.word_select(lane, WORD_BITS // 2).as_signed()
                m.d.sync += self.row.p[lane].eq(
                    Mux(self.eight_bit, small, wide.word_select(lane, WORD_BITS).as_signed())
                )
        return m


class LevelPromise(wiring.Component):
    """`level` rows, at most 2 N, can be taken in this and the following cycles without a gap; 0 as long as none stands
    at the output.

    A row counts from the cycle in which it could stand at the output: two cycles through the FIFO, one through the
    unpacker.

    Ports:
        arriving (in): rows of the element that enters the FIFO in this cycle.
        taken (in): a row is taken.
        level (out): the promise.
    Latency: LATENCY = 3 cycles from `arriving` to `level`; 1 from `taken`.
    Interval: INTERVAL = 1 cycle between elements, and between rows.
    Limits: `depth` elements in the FIFO.
    Twin: none (no arithmetic).
    """

    LATENCY = 3
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, depth: int) -> None:
        self.config, self.depth = config, depth
        super().__init__(
            {
                "arriving": In(range(2 * config.words_per_beat + 1)),
                "taken": In(1),
                "level": Out(range(2 * config.lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        most, words = 2 * self.config.lanes, self.config.words_per_beat
        earlier, arrived = Signal.like(self.arriving), Signal.like(self.arriving)
        rows = Signal(range(self.depth * 2 * words + 2 * words + 1))
        kept, fewer = Signal.like(rows), Signal.like(rows)

        def promised(count: Signal):
            return Mux(count[exact_log2(most) :].any(), most, count)

        # `taken` is late in its cycle: both outcomes are made, and it only chooses.
        m.d.comb += [kept.eq(rows + arrived), fewer.eq(rows + arrived - 1)]
        m.d.sync += [
            earlier.eq(self.arriving),
            arrived.eq(earlier),
            rows.eq(Mux(self.taken, fewer, kept)),
            self.level.eq(Mux(self.taken, promised(fewer), promised(kept))),
        ]
        return m
