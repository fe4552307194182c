# SPDX-License-Identifier: Apache-2.0
"""Between bus beats and on-chip words, whichever is wider."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.memory.axi import bus_bits


class BeatsToWords(wiring.Component):
    """Beats -> words, low bits first.

    Ports:
        beats (in stream): as wide as the bus.
        words (out stream): as wide as a memory.
        clear (in): the rest of a beat, or a part of a word, is forgotten.
    Latency: LATENCY = 0 cycles: a word is there with the beat that completes it.
    Interval: INTERVAL = 1 cycle between beats or words, whichever are narrower.
    Twin: none (no arithmetic).
    """

    LATENCY = 0
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "beats": In(stream.Signature(bus_bits(config))),
                "words": Out(stream.Signature(8 * config.word_bytes)),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats, words = self.beats, self.words
        count = max(self.config.beats_per_word, self.config.words_per_beat)
        position = Signal(range(max(2, count)))
        last = position == count - 1
        if self.config.beats_per_word > 1:
            held = Signal(bus_bits(self.config) * (count - 1), reset_less=True)
            moves = beats.valid & beats.ready
            m.d.comb += [
                words.p.eq(Cat(held, beats.p)),
                words.valid.eq(beats.valid & last),
                beats.ready.eq(~last | words.ready),
            ]
            with m.If(moves):
                m.d.sync += held.eq(Cat(held, beats.p)[len(beats.p) :])
        else:
            moves = words.valid & words.ready
            m.d.comb += [
                words.p.eq(beats.p.word_select(position, len(words.p)) if count > 1 else beats.p),
                words.valid.eq(beats.valid),
                beats.ready.eq(words.ready & last),
            ]
        with m.If(self.clear | moves):
            m.d.sync += position.eq(Mux(self.clear | last, 0, position + 1))
        return m


class LastWord(data.StructLayout):
    """A word, and whether it is the last of a transfer."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"word": 8 * config.word_bytes, "last": 1})


class WordsToBeats(wiring.Component):
    """Words -> beats, low bits first; behind the last word the beat is filled up with zeros.

    Ports:
        words (in stream): as wide as a memory, each with `last`.
        beats (out stream): as wide as the bus.
    Latency: LATENCY = 0 cycles: a beat is there with the word that completes it.
    Interval: INTERVAL = 1 cycle between beats or words, whichever are narrower.
    Twin: none (no arithmetic).
    """

    LATENCY = 0
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {"words": In(stream.Signature(LastWord(config))), "beats": Out(stream.Signature(bus_bits(config)))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats, words = self.beats, self.words
        count = max(self.config.beats_per_word, self.config.words_per_beat)
        position = Signal(range(max(2, count)))
        last = position == count - 1
        if self.config.words_per_beat > 1:
            held = Signal(8 * self.config.word_bytes, reset_less=True)
            ends = last | words.p.last
            moves = words.valid & words.ready
            m.d.comb += [
                beats.p.eq(Mux(position == 0, words.p.word, Cat(held, words.p.word))),
                beats.valid.eq(words.valid & ends),
                words.ready.eq(beats.ready | ~ends),
            ]
            with m.If(moves):
                m.d.sync += [held.eq(words.p.word), position.eq(Mux(ends, 0, position + 1))]
        else:
            moves = beats.valid & beats.ready
            m.d.comb += [
                beats.p.eq(words.p.word.word_select(position, len(beats.p)) if count > 1 else words.p.word),
                beats.valid.eq(words.valid),
                words.ready.eq(beats.ready & last),
            ]
            with m.If(moves):
                m.d.sync += position.eq(Mux(last, 0, position + 1))
        return m
