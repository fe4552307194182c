# SPDX-License-Identifier: Apache-2.0
"""Re-weighting of positive scores by how far they are above their row's mean, as exponents of weights."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import DISTANCE_BITS
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.hw.compute.lane_tree import add, reduce_lanes, tree_stages
from edgemoe.hw.compute.logarithm import LOGARITHM_BITS, Logarithm
from edgemoe.hw.compute.running_sums import EXPONENT_BITS
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import index_shape
from edgemoe.hw.memory.pipeline import Stages, delay
from edgemoe.models.numbers.arithmetic import LOGARITHM_FRACTION
from edgemoe.models.numbers.words import MOST_KEYS, PROBABILITY_SUM_BITS, SCORE_FRACTION, SHARPNESS

KEYS_BITS = MOST_KEYS.bit_length()
EXCESS_BITS = PROBABILITY_SUM_BITS + 1


class Reweighting(wiring.Component):
    """distance = 15 (log2(keys * maximum - sum) - log2(keys * score - sum)) of the scores above their row's mean, which
    makes 2^-distance = ((keys * score - sum) / (keys * maximum - sum))^15; the sum of each row's scores is kept here.

    A lane more than the array has takes the maximum along. Nothing is divided, so rows of equal scores have no weights
    at all, and the others are as exact as logarithms are.

    ============  ===============================================================================
    stage         value of a lane
    ============  ===============================================================================
    sum           the score; beside it the sum and the maximum of its row, out of their tables
    times keys    keys * score
    excess        ... - sum
    coarse to     log2 of it
    result
    difference    that of the maximum - that of the score
    power         15 times that, rounded to 12 bits below the point
    ============  ===============================================================================

    Ports:
        score_valid, score_index, score_first, score_word (in): a word of scores of a query, to be added to its sum;
            `score_first` starts it afresh.
        score_mask (in): the lanes that count.
        valid, index, word, keys (in): scores of query `index` that become weights; how many keys the row has.
        maximum (in): of that query, a cycle later.
        distance (out): LATENCY cycles after `valid`: exponents in units of 2^-12.
        counts (out): beside them, the lanes above the mean; the others have no weight.
    Latency: LATENCY = 9 cycles from valid to distance, a register for each of the STAGES; SUM_DELAY = 1 + tree cycles
        from a score word to the first `valid` that may see it in its sum.
    Interval: INTERVAL = 1 cycle between words, on both sides at once; REVISIT = 1 cycle between words of the same
        index, on either side.
    Format: scores signed 16 bit, sums modulo 2^30; distances unsigned 17 bit, saturated, exact but for the logarithms,
        which are in units of 2^-18.
    Limits: a lane that counts is never above `maximum`.
    Twin: `models.numbers.arithmetic.reweighted_fine`, of which the exponential is the last step.
    """

    STAGES = Stages("sum", "times keys", "excess", *Logarithm.STAGES, "difference", "power")
    LATENCY = len(STAGES)
    INTERVAL = 1
    REVISIT = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.SUM_DELAY = 1 + self.stages
        index = index_shape(config.tokens)
        super().__init__(
            {
                "score_valid": In(1),
                "score_index": In(index),
                "score_first": In(1),
                "score_word": In(layouts.word(config)),
                "score_mask": In(config.lanes),
                "valid": In(1),
                "index": In(index),
                "word": In(layouts.word(config)),
                "keys": In(KEYS_BITS),
                "maximum": In(signed(EXPONENT_BITS)),
                "distance": Out(data.ArrayLayout(DISTANCE_BITS, config.lanes)),
                "counts": Out(config.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        total = delay(m, self.sums(m).data, 1, name="total")
        keys = delay(m, self.keys, 1, name="keys")
        word = delay(m, self.word, 1, name="word")
        logarithms, counts = [], []
        for lane in range(self.config.lanes + 1):
            score = word[lane] if lane < self.config.lanes else self.maximum
            product = Signal(signed(EXPONENT_BITS + KEYS_BITS), name=f"product_{lane}", reset_less=True)
            excess = Signal(signed(EXCESS_BITS), name=f"excess_{lane}", reset_less=True)
            m.submodules[f"logarithm_{lane}"] = logarithm = Logarithm()
            m.d.sync += [product.eq(score * keys), excess.eq(product - total)]
            m.d.comb += logarithm.value.eq(excess)
            logarithms.append(logarithm.result)
            counts.append(excess > 0)
        for lane in range(self.config.lanes):
            difference = Signal(LOGARITHM_BITS, name=f"difference_{lane}", reset_less=True)
            power = round_shift(difference * SHARPNESS, LOGARITHM_FRACTION - SCORE_FRACTION)
            m.d.sync += [
                difference.eq(logarithms[-1] - logarithms[lane]),
                self.distance[lane].eq(Mux(power[DISTANCE_BITS:].any(), (1 << DISTANCE_BITS) - 1, power)),
            ]
            above = delay(m, counts[lane], self.LATENCY - self.STAGES.after("excess"), name=f"above_{lane}")
            m.d.comb += self.counts[lane].eq(above)
        return m

    def sums(self, m: Module):
        """The port at which the sum of the row of `index` is read."""
        sums = Memory(shape=signed(PROBABILITY_SUM_BITS), depth=max(2, self.config.tokens), init=[])
        m.submodules.sums = sums
        write, asked = sums.write_port(), sums.read_port()
        read = sums.read_port(transparent_for=[write])
        masked = [Mux(self.score_mask[lane], self.score_word[lane], 0) for lane in range(self.config.lanes)]
        masked = [value.as_signed() if not value.shape().signed else value for value in masked]
        partial = reduce_lanes(m, self.score_valid, masked, add, name="sum")
        first = delay(m, self.score_first, self.stages, name="first")
        m.d.comb += [
            read.addr.eq(delay(m, self.score_index, self.stages - 1, name="score_index")),
            read.en.eq(delay(m, self.score_valid, self.stages - 1, name="reading", reset_less=False)),
            write.en.eq(delay(m, self.score_valid, self.stages, name="writing", reset_less=False)),
            write.addr.eq(delay(m, read.addr, 1, name="write_index")),
            write.data.eq(partial + Mux(first, 0, read.data)),
            asked.addr.eq(self.index),
            asked.en.eq(self.valid),
        ]
        return asked


__all__ = ["KEYS_BITS", "Reweighting"]
