# SPDX-License-Identifier: Apache-2.0
"""The logistic function of biased scores: one table for both signs, one interpolation a lane."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.exponential import DROP_BITS, FINE_BITS, START_BITS, interpolate, line_table
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.hw.contract.config import WORD_BITS
from edgemoe.hw.memory.pipeline import Stages, chain, delay
from edgemoe.models.numbers.arithmetic import SIGMOID_LIMIT, SIGMOID_SEGMENT_BITS, sigmoid_table
from edgemoe.models.numbers.words import FINE_PROBABILITY_BITS, PROBABILITY_BITS

LIMIT_BITS = SIGMOID_LIMIT.bit_length() - 1  # a magnitude has no bit from here up below the limit


class Sigmoid(wiring.Component):
    """mask ? 1 / (1 + exp(-x)) : 0 with x = (score + bias) * 2^shift / 2^12 for `lanes` scores, as the array multiplies
    them and, finer, for sums.

    The table holds the half below 1/2, by |x|; the other half is 1 minus that. One table of 1024 lines for each two
    lanes, and one multiplication a lane.

    Ports:
        valid (in): a word is presented.
        score (in): of each lane.
        mask (in): the lanes that count; the others may hold anything.
        bias, shift (in): of the word.
        out_valid (out): LATENCY cycles after `valid`.
        fine, probability (out): the result; both keep their values until the next.
    Latency: LATENCY = 6 cycles from valid to out_valid, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between words.
    Format: score and bias signed 16 bit; fine in units of 2^-18, 0..2^18; probability in units of 2^-15, 0..32767 (1.0
        is 32767), rounded half up from fine.
    Limits: shift is 0..15; |x| of 16 or more gives 0 or 1.
    Twin: `models.numbers.arithmetic.sigmoid_fine`, and `models.numbers.arithmetic.probability` of it.
    """

    STAGES = Stages("magnitude", "align", "multiply", "interpolate", "side", "round")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(
            {
                "valid": In(1),
                "score": In(data.ArrayLayout(signed(WORD_BITS), lanes)),
                "mask": In(lanes),
                "bias": In(signed(WORD_BITS)),
                "shift": In(4),
                "out_valid": Out(1),
                "fine": Out(data.ArrayLayout(FINE_BITS, lanes)),
                "probability": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valids = chain(m, self.valid, self.LATENCY, name="valid", reset_less=False)
        shift = delay(m, self.shift, 1, name="shift")
        m.d.comb += self.out_valid.eq(valids[-1])
        for lane in range(self.lanes):
            if lane % 2 == 0:
                m.submodules[f"table_{lane}"] = table = line_table(*sigmoid_table())
            self.lane(m, lane, table, valids, shift)
        return m

    def lane(self, m: Module, lane: int, table: Memory, valids, shift) -> None:
        def register(name: str, shape) -> Signal:
            return Signal(shape, name=f"{name}_{lane}", reset_less=True)

        read = table.read_port()
        start, drop = read.data[:START_BITS], read.data[START_BITS:]

        # magnitude: both signs at once, the sum's own says which it is
        score, counts = self.score[lane], self.mask[lane]
        plus, minus = score + self.bias, -self.bias - score
        above = chain(m, ~plus[-1], 5, name=f"above_{lane}")
        mask = chain(m, counts, 5, name=f"mask_{lane}")
        magnitude_1 = register("magnitude_1", WORD_BITS + 1)
        with m.If(valids[0]):
            m.d.sync += magnitude_1.eq(Mux(plus < 0, minus, plus))
        # align: the upper bits choose the line
        value = Signal(WORD_BITS + 1 + 15, name=f"value_{lane}")
        m.d.comb += [
            value.eq(magnitude_1 << shift),
            read.addr.eq(value[SIGMOID_SEGMENT_BITS:LIMIT_BITS]),
            read.en.eq(valids[1]),
        ]
        fraction_2, end_2 = register("fraction_2", SIGMOID_SEGMENT_BITS), register("end_2", 1)
        with m.If(valids[1]):
            m.d.sync += [fraction_2.eq(value[:SIGMOID_SEGMENT_BITS]), end_2.eq(value[LIMIT_BITS:].any())]
        # multiply: along the line
        start_3, product_3 = register("start_3", START_BITS), register("product_3", DROP_BITS + SIGMOID_SEGMENT_BITS)
        end_3 = register("end_3", 1)
        with m.If(valids[2]):
            m.d.sync += [start_3.eq(start), product_3.eq(drop * fraction_2), end_3.eq(end_2)]
        # interpolate: the half below 1/2
        line_4 = register("line_4", START_BITS)
        with m.If(valids[3]):
            m.d.sync += line_4.eq(Mux(end_3, 0, interpolate(start_3, product_3, SIGMOID_SEGMENT_BITS)))
        # side: or the one above it
        fine_5 = register("fine_5", FINE_BITS)
        with m.If(valids[4]):
            m.d.sync += fine_5.eq(Mux(mask[4], Mux(above[4], (1 << FINE_PROBABILITY_BITS) - line_4, line_4), 0))
        # round: once more for the array, and clamp
        rounded = Signal(PROBABILITY_BITS + 1, name=f"rounded_{lane}")
        m.d.comb += rounded.eq(round_shift(fine_5, FINE_PROBABILITY_BITS - PROBABILITY_BITS))
        fine_6, result = register("fine_6", FINE_BITS), register("result", PROBABILITY_BITS)
        with m.If(valids[5]):
            m.d.sync += [fine_6.eq(fine_5), result.eq(rounded[:-1] | rounded[-1].replicate(PROBABILITY_BITS))]
        m.d.comb += [self.fine[lane].eq(fine_6), self.probability[lane].eq(result)]
