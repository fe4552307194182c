# SPDX-License-Identifier: Apache-2.0
"""Features of cosFormer: what of a score is above zero, times the sine or cosine of a token's position."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import FINE_BITS, START_BITS, line_table
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.hw.contract.config import WORD_BITS
from edgemoe.hw.memory.pipeline import Stages, chain, delay
from edgemoe.models.numbers.arithmetic import PHASE_FRACTION, SINE_SEGMENT_BITS, STEP_FRACTION, sine_table
from edgemoe.models.numbers.words import FINE_PROBABILITY_BITS, PROBABILITY_BITS

TOKEN_BITS = 17
STEP_BITS = STEP_FRACTION + 1
RISE_BITS = 9

ANGLE = data.StructLayout({"token": TOKEN_BITS, "spread": 1, "cosine": 1, "none": 1})
"""Whose position a word's weights turn by: that of `token`, or, with `spread`, of as many from there on as there are
lanes; its sine or its `cosine`, or `none`.
"""


class CosFormer(wiring.Component):
    """mask ? max(score, 0) * sin(token * step quarter turns) : 0 for `lanes` scores, or the cosine.

    The phase of the first lane is one product; each lane adds its own steps. One table of 256 lines for each two lanes,
    and one multiplication a lane.

    Ports:
        score (in): of each lane.
        mask (in): the lanes that count.
        angle (in): of the word, ANGLE.
        step, shift (in): of the word; a token is step * 2^(-14 - shift) of a quarter turn.
        fine, probability (out): the result, LATENCY cycles later.
    Latency: LATENCY = 6 cycles, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between words.
    Format: score signed 16 bit; factors in units of 2^-16, 0..2^16; probability in the unit of the score, 0..32767;
        fine eight times finer.
    Limits: an angle beyond a quarter turn counts as one.
    Twin: `models.numbers.arithmetic.turned_fine` with `models.numbers.arithmetic.position_factor`.
    """

    STAGES = Stages("steps", "phase", "table", "line", "multiply", "round")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(
            {
                "score": In(data.ArrayLayout(signed(WORD_BITS), lanes)),
                "mask": In(lanes),
                "angle": In(ANGLE),
                "step": In(STEP_BITS),
                "shift": In(4),
                "fine": Out(data.ArrayLayout(FINE_BITS, lanes)),
                "probability": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        first = Signal(TOKEN_BITS + STEP_BITS, reset_less=True)
        m.d.sync += first.eq(self.angle.token * self.step)
        angles, shift = chain(m, self.angle, 3, name="angle"), delay(m, self.shift, 1, name="shift")
        for lane in range(self.lanes):
            if lane % 2 == 0:
                m.submodules[f"table_{lane}"] = table = line_table(*sine_table())
            self.lane(m, lane, table.read_port(), first, angles, shift)
        return m

    def lane(self, m: Module, lane: int, read, first, angles, shift) -> None:
        def register(name: str, shape) -> Signal:
            return Signal(shape, name=f"{name}_{lane}", reset_less=True)

        one = 1 << PHASE_FRACTION
        # steps: of this lane beyond the first
        beyond_1 = register("beyond_1", STEP_BITS + 5)
        m.d.sync += beyond_1.eq(Mux(self.angle.spread, self.step * lane, 0))
        # phase: of the quarter turn, from its other end for the cosine
        turned = Signal(TOKEN_BITS + STEP_BITS + 1 + PHASE_FRACTION - STEP_FRACTION, name=f"turned_{lane}")
        phase, phase_2 = Signal(PHASE_FRACTION + 1, name=f"phase_{lane}"), register("phase_2", PHASE_FRACTION + 1)
        m.d.comb += [
            turned.eq(((first + beyond_1) << PHASE_FRACTION - STEP_FRACTION) >> shift),
            phase.eq(Mux(turned[PHASE_FRACTION:].any(), one, turned[:PHASE_FRACTION])),
        ]
        m.d.sync += phase_2.eq(Mux(angles[1].none, one, Mux(angles[1].cosine, one - phase, phase)))
        # table: the upper bits choose the line
        m.d.comb += read.addr.eq(phase_2[SINE_SEGMENT_BITS:PHASE_FRACTION])
        fraction_3, end_3 = register("fraction_3", SINE_SEGMENT_BITS), register("end_3", 1)
        m.d.sync += [fraction_3.eq(phase_2[:SINE_SEGMENT_BITS]), end_3.eq(phase_2[-1])]
        # line: along it
        start, rise = read.data[:START_BITS], read.data[START_BITS : START_BITS + RISE_BITS]
        factor_4 = register("factor_4", PHASE_FRACTION + 1)
        m.d.sync += factor_4.eq(Mux(end_3, one, start + round_shift(rise * fraction_3, SINE_SEGMENT_BITS)))
        # multiply
        score = self.score[lane]
        counts = Mux(self.mask[lane] & (score >= 0), score[:PROBABILITY_BITS], 0)
        positive_4 = delay(m, counts, 4, name=f"positive_{lane}")
        product_5 = register("product_5", PROBABILITY_BITS + PHASE_FRACTION + 1)
        m.d.sync += product_5.eq(positive_4 * factor_4)
        # round: for the sums, and once more for the array, and clamp
        beyond = FINE_PROBABILITY_BITS - PROBABILITY_BITS
        fine = round_shift(product_5, PHASE_FRACTION - beyond)
        rounded = Signal(PROBABILITY_BITS + 1, name=f"rounded_{lane}")
        m.d.comb += rounded.eq(round_shift(fine, beyond))
        fine_6, result = register("fine_6", FINE_BITS), register("result", PROBABILITY_BITS)
        m.d.sync += [fine_6.eq(fine), result.eq(rounded[:-1] | rounded[-1].replicate(PROBABILITY_BITS))]
        m.d.comb += [self.fine[lane].eq(fine_6), self.probability[lane].eq(result)]


__all__ = ["ANGLE", "CosFormer"]
