# SPDX-License-Identifier: Apache-2.0
"""Write-back: a finished word to its memory, and to the row tables that follow what is written there."""

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.epilogue import FinishedWord
from edgemoe.hw.compute.layernorm import RowStatistics
from edgemoe.hw.compute.row_maxima import MaximaWrite
from edgemoe.hw.compute.softmax import ScoreWrite
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory
from edgemoe.hw.contract.ports import ResultPort
from edgemoe.hw.control.row_pipeline import Destination


class Writeback(wiring.Component):
    """The epilogue's word, where the row pipeline says: any word to its memory, maybe with a copy in activation memory;
    a word of scores also to the running maxima, a word of the residual also to the row statistics (or any, where heads
    are normalised), a word of activation memory to the maxima of its row, where products are packed. Of a word that was
    gated what it was before goes to the row statistics.

    Ports:
        finished (in FinishedWord): a word,
        destination (in): with where it goes, in the same cycle.
        result (out ResultPort): to the memories.
        score (out ScoreWrite): to the maxima.
        statistics (out RowStatistics): to the sums of rows.
        maxima (out MaximaWrite): to the maxima of rows, where products are packed.
    Latency: LATENCY = 0 cycles.
    Interval: INTERVAL = 1 cycle between words.
    Twin: none (no arithmetic).
    """

    LATENCY = 0
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "finished": In(FinishedWord(config)),
                "destination": In(Destination(config)),
                "result": Out(ResultPort(config)),
                "score": Out(ScoreWrite(config)),
                "statistics": Out(RowStatistics(config)),
                **({"maxima": Out(MaximaWrite(config))} if config.packed else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        finished, destination = self.finished, self.destination
        summed, counted = destination.memory == Memory.RESIDUAL, finished.word
        if self.config.keeps_row_sums:
            summed = summed | destination.row_sums
        if self.config.gates:
            summed, counted = summed | destination.gated, Mux(destination.gated, finished.old, finished.word)
        m.d.comb += [
            self.result.valid.eq(finished.valid),
            self.result.memory.eq(destination.memory),
            self.result.address.eq(destination.address),
            self.result.word.eq(finished.word),
            self.result.copy_valid.eq(finished.valid & destination.copy),
            self.result.copy_address.eq(destination.copy_address),
            self.score.valid.eq(finished.valid & (destination.memory == Memory.SCORE)),
            self.score.index.eq(destination.index),
            self.score.first.eq(destination.first),
            self.score.word.eq(finished.word),
            self.score.mask.eq(destination.mask),
            self.statistics.valid.eq(finished.valid & summed),
            self.statistics.row.eq(destination.row),
            self.statistics.first.eq(destination.first & ~destination.scatter),
            self.statistics.subtract_old.eq(destination.scatter),
            self.statistics.new.eq(counted),
            self.statistics.old.eq(finished.old),
        ]
        if self.config.keeps_scores:
            m.d.comb += [self.score.kind.eq(destination.attention), self.score.shift.eq(destination.shift)]
        if self.config.packed:
            here = (destination.memory == Memory.ACTIVATION) | destination.copy
            m.d.comb += [
                self.maxima.valid.eq(finished.valid & here & (destination.maxima != 0)),
                self.maxima.table.eq(destination.maxima),
                self.maxima.row.eq(destination.row),
                self.maxima.first.eq(destination.first),
                self.maxima.word.eq(finished.copy),
                self.result.copy_word.eq(finished.copy),
            ]
        return m
