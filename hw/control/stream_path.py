# SPDX-License-Identifier: Apache-2.0
"""Stream path: from the word that the streamer asks for to the word that enters the array."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.array import ArrayStream
from edgemoe.hw.compute.pipeline import delay
from edgemoe.hw.compute.softmax import Probabilities, ScoreStream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import JOB, TAG
from edgemoe.hw.contract.ports import ReadPort
from edgemoe.hw.control.streamer import ISSUE


class StreamPath(wiring.Component):
    """A word of activation memory enters the array directly; a word of score memory goes through the exponentials first
    and enters as probabilities, with its tag, which waits beside them.

    Ports
    -----
    address : of the word, to both memories (`activation`, `score`); one cycle later
    issue : what it is. contexts : the instructions that its tag refers to.
    scores, probabilities : to the exponentials and back, `probability_latency` cycles later.
    array, tag : the word that enters the array in this cycle, and its tag. swap : pulse, it is the first of a block.

    LATENCY = 1 from `address`; probabilities enter `probability_latency` cycles later still. INTERVAL = 1. Limits: a
    direct word and a word of probabilities never arrive in the same cycle (`Hazards` sees to that). Twin: none (no
    arithmetic).
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, *, probability_latency: int) -> None:
        self.config, self.probability_latency = config, probability_latency
        super().__init__(
            {
                "address": In(20),
                "issue": In(ISSUE),
                "contexts": In(data.ArrayLayout(JOB, 2)),
                "activation": Out(ReadPort(config)),
                "score": Out(ReadPort(config)),
                "scores": Out(ScoreStream(config)),
                "probabilities": In(Probabilities(config)),
                "array": Out(ArrayStream(config)),
                "tag": Out(TAG),
                "swap": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, issue, scores, probabilities = self.config.lanes, self.issue, self.scores, self.probabilities
        late = delay(m, issue, self.probability_latency, name="probability_issue", reset_less=False)
        direct = Signal()
        m.d.comb += [
            self.activation.address.eq(self.address),
            self.score.address.eq(self.address),
            scores.valid.eq(issue.tag.valid & issue.probabilities),
            scores.index.eq(issue.tag.index),
            scores.word.eq(self.score.data),
            scores.lanes.eq(Mux(issue.lanes_left > lanes, lanes, issue.lanes_left)),
            scores.shift.eq(self.contexts[issue.tag.context].instruction.exponent_shift),
            scores.first.eq(issue.tag.first),
            scores.last.eq(issue.tag.last),
            scores.accumulate.eq(issue.tag.column == 0),
            direct.eq(issue.tag.valid & ~issue.probabilities),
            self.tag.eq(Mux(probabilities.valid, late.tag, issue.tag)),
            self.tag.valid.eq(probabilities.valid | direct),
            self.array.valid.eq(self.tag.valid),
            self.array.swap.eq(Mux(probabilities.valid, late.swap, issue.swap)),
            self.array.data.eq(Mux(probabilities.valid, probabilities.word, self.activation.data)),
            self.swap.eq(self.array.valid & self.array.swap),
        ]
        return m
