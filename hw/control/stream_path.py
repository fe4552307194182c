# SPDX-License-Identifier: Apache-2.0
"""Stream path: from the word that the streamer asks for to the word that enters the array."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.array import ArrayStream
from edgemoe.hw.compute.softmax import Probabilities, ScoreStream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Attention, Scale, Turn
from edgemoe.hw.contract.layouts import packs
from edgemoe.hw.contract.ports import InputsPort
from edgemoe.hw.control.row_pipeline import TaggedRow
from edgemoe.hw.control.streamer import StreamedWord
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers.arithmetic import STEP_FRACTION


class StreamPath(wiring.Component):
    """A word of activation memory enters the array directly; a word of score memory goes through the exponentials first
    and enters as probabilities, with its tag, which waits beside them. Two words, where the array has rows for them; a
    row's last word may be alone, with zeros beside it.

    Ports:
        streamed (in StreamedWord): the word that is wanted.
        activation, score (out InputsPort): both memories are read at its address.
        scores (out ScoreStream): to the exponentials,
        probabilities (in Probabilities): and back, `probability_latency` cycles later.
        array (out ArrayStream): the word that enters the array, whose data come in the next cycle,
        row (out TaggedRow): and its tag,
        unsigned (out): and whether it is rounded without a sign, where products are packed.
        swap (out): pulse: it is the first of a block.
    Latency: LATENCY = 1 cycle from the address to the tag, a cycle before the word; probabilities enter
        `probability_latency` cycles later still.
    Interval: INTERVAL = 1 cycle between words.
    Limits: a direct word and a word of probabilities never arrive in the same cycle (`Hazards` sees to that).
    Twin: none (no arithmetic).
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, *, probability_latency: int) -> None:
        self.config, self.probability_latency = config, probability_latency
        super().__init__(
            {
                "streamed": In(StreamedWord(config)),
                "activation": Out(InputsPort(config)),
                "score": Out(InputsPort(config)),
                "scores": Out(ScoreStream(config)),
                "probabilities": In(Probabilities(config)),
                "array": Out(ArrayStream(config)),
                "row": Out(TaggedRow(config)),
                "swap": Out(1),
                **({"unsigned": Out(1)} if config.packed else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        streamed, issue, scores, probabilities = self.streamed, self.streamed.issue, self.scores, self.probabilities
        (lanes, word), tag = self._present(m, issue), self.row.tag
        late = delay(m, issue, self.probability_latency, name="probability_issue", reset_less=False)
        direct, instruction = Signal(), streamed.contexts[issue.tag.context].instruction
        summed = issue.tag.column == 0
        if self.config.features:  # where a row is divided by a sum that is there, that stays
            feature = reduce(or_, (instruction.attention == kind for kind in self.config.features))
            summed &= ~(feature & (instruction.scale == Scale.SOFTMAX))
        if len(self.config.weighings) > 1:
            m.d.comb += [scores.kind.eq(instruction.attention), scores.bias.eq(instruction.score_bias)]
        if Attention.COSFORMER in self.config.kinds:
            turn, chunk = instruction.score_bias[STEP_FRACTION:], issue.chunk * self.config.lanes
            rows = turn == Turn.ROWS
            m.d.comb += [
                scores.angle.token.eq(1 + Mux(rows, instruction.row_base + issue.tag.index, chunk)),
                scores.angle.spread.eq(~rows),
                scores.angle.none.eq(turn == Turn.NONE),
                scores.angle.cosine.eq(Mux(rows, issue.chunk >= instruction.chunks >> 1, turn == Turn.COSINE)),
            ]
        if Attention.SOFTPLUS in self.config.kinds:
            m.d.comb += scores.keys.eq(instruction.keys)
        m.d.comb += [
            self.activation.address.eq(streamed.address),
            self.score.address.eq(streamed.address),
            scores.valid.eq(issue.tag.valid & issue.probabilities),
            scores.index.eq(issue.tag.index),
            scores.word.eq(self.score.data),
            scores.lanes.eq(Mux(issue.lanes_left > lanes, lanes, issue.lanes_left)),
            scores.shift.eq(instruction.exponent_shift),
            scores.first.eq(issue.tag.first),
            scores.last.eq(issue.tag.last),
            scores.accumulate.eq(summed),
            direct.eq(issue.tag.valid & ~issue.probabilities),
            self.row.contexts.eq(streamed.contexts),
            tag.eq(Mux(probabilities.valid, late.tag, issue.tag)),
            tag.valid.eq(probabilities.valid | direct),
            self.array.valid.eq(tag.valid),
            self.array.swap.eq(Mux(probabilities.valid, late.swap, issue.swap)),
            self.array.data.eq(Mux(delay(m, probabilities.valid, 1, name="probable"), probabilities.word, word)),
            self.swap.eq(self.array.valid & self.array.swap),
        ]
        if self.config.packed:
            m.d.comb += [
                self.array.packed.eq(~probabilities.valid & packs(instruction)),
                self.unsigned.eq(instruction.unsigned),
            ]
        return m

    def _present(self, m: Module, issue: data.View) -> tuple[ValueLike, ValueLike]:
        """(how many inputs there are, the words of activation memory with zeros beyond them)."""
        lanes, words = self.config.lanes, Value.cast(self.activation.data)
        if self.config.words_at_once == 1:
            return lanes, words
        half, second = len(words) // 2, delay(m, issue.second, 1, name="second")
        return Mux(issue.second, 2 * lanes, lanes), Cat(words[:half], Mux(second, words[half:], 0))
