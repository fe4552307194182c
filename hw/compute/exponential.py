# SPDX-License-Identifier: Apache-2.0
"""2^-x: one table look-up, one interpolation and one shift a lane."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import half_shift, round_half, round_shift
from edgemoe.hw.memory.pipeline import Stages, chain
from edgemoe.models.numbers.arithmetic import exp2_table
from edgemoe.models.numbers.words import DISTANCE_BITS, FINE_PROBABILITY_BITS, PROBABILITY_BITS, SCORE_FRACTION

START_BITS = 19  # table nodes: 1.0 is 2^18
DROP_BITS = 11
FINE_BITS = FINE_PROBABILITY_BITS + 1  # 1.0 included


def interpolate(start: Value, product: Value, bits: int) -> Value:
    """start - round_shift(product, bits) in one subtraction: the half that rounds stands below `start`.
    The tables keep it positive.
    """
    return (Cat(Const((1 << (bits - 1)) - 1, bits), start) - product)[bits : bits + len(start)]


def line_table(start, drop) -> Memory:
    """A read-only memory of (start, drop) pairs, `drop` above `start`."""
    rows = [int(s) | int(d) << START_BITS for s, d in zip(start, drop, strict=True)]
    return Memory(shape=START_BITS + DROP_BITS, depth=len(rows), init=rows)


class Exponential(wiring.Component):
    """mask ? 2^-(distance * 2^shift / 2^12) : 0 for `lanes` values, as the array multiplies them and, finer, for sums.

    One table of 128 lines and one multiplication a lane.

    Ports:
        valid (in): a word is presented.
        distance (in): of each lane, maximum - score, 0 or more.
        mask (in): the lanes that count; the others may hold anything.
        shift (in): of the word; 2^(shift - 12) is the unit of a distance.
        out_valid (out): LATENCY cycles after `valid`.
        fine, probability (out): the result; both keep their values until the next.
    Latency: LATENCY = 5 cycles from valid to out_valid, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between words.
    Format: distance unsigned 17 bit; fine in units of 2^-18, 0..2^18; probability in units of 2^-15, 0..32767 (1.0 is
        32767), rounded half up from fine.
    Limits: shift is 0..15; a distance of 20.0 or more gives 0.
    Twin: `models.numbers.arithmetic.exp2_fine`, and `models.numbers.arithmetic.probability` of it.
    """

    STAGES = Stages("align", "multiply", "interpolate", "shift", "round")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(
            {
                "valid": In(1),
                "distance": In(data.ArrayLayout(DISTANCE_BITS, lanes)),
                "mask": In(lanes),
                "shift": In(4),
                "out_valid": Out(1),
                "fine": Out(data.ArrayLayout(FINE_BITS, lanes)),
                "probability": Out(data.ArrayLayout(PROBABILITY_BITS, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valids = chain(m, self.valid, self.LATENCY, name="valid", reset_less=False)
        m.d.comb += self.out_valid.eq(valids[-1])
        for lane in range(self.lanes):
            self.lane(m, lane, valids)
        return m

    def lane(self, m: Module, lane: int, valids) -> None:
        def register(name: str, shape) -> Signal:
            return Signal(shape, name=f"{name}_{lane}", reset_less=True)

        m.submodules[f"table_{lane}"] = table = line_table(*exp2_table())
        read = table.read_port()
        start, drop = read.data[:START_BITS], read.data[START_BITS:]

        # align: the upper fraction bits choose the line
        value = Signal(DISTANCE_BITS + 15, name=f"value_{lane}")
        m.d.comb += [
            value.eq(self.distance[lane] << self.shift),
            read.addr.eq(value[5:SCORE_FRACTION]),
            read.en.eq(valids[0]),
        ]
        whole_1, zero_1, fraction_1 = register("whole_1", 5), register("zero_1", 1), register("fraction_1", 5)
        with m.If(valids[0]):
            m.d.sync += [
                fraction_1.eq(value[:5]),
                whole_1.eq(value[SCORE_FRACTION:]),
                zero_1.eq(value[SCORE_FRACTION + 5 :].any() | ~self.mask[lane]),
            ]
        # multiply: along the line
        whole_2, zero_2, start_2, product_2 = (
            register("whole_2", 5),
            register("zero_2", 1),
            register("start_2", START_BITS),
            register("product_2", 16),
        )
        with m.If(valids[1]):
            m.d.sync += [whole_2.eq(whole_1), zero_2.eq(zero_1), start_2.eq(start), product_2.eq(drop * fraction_1)]
        # interpolate: 2^-fraction
        whole_3, zero_3, line_3 = register("whole_3", 5), register("zero_3", 1), register("line_3", START_BITS)
        with m.If(valids[2]):
            m.d.sync += [whole_3.eq(whole_2), zero_3.eq(zero_2), line_3.eq(interpolate(start_2, product_2, 5))]
        # shift: by the whole part, and round
        fine_4 = register("fine_4", FINE_BITS)
        with m.If(valids[3]):
            m.d.sync += fine_4.eq(Mux(zero_3, 0, round_half(half_shift(line_3, 0) >> whole_3)))
        # round: once more for the array, and clamp
        rounded = Signal(PROBABILITY_BITS + 1, name=f"rounded_{lane}")
        m.d.comb += rounded.eq(round_shift(fine_4, FINE_PROBABILITY_BITS - PROBABILITY_BITS))
        fine_5, result = register("fine_5", FINE_BITS), register("result", PROBABILITY_BITS)
        with m.If(valids[4]):
            m.d.sync += [fine_5.eq(fine_4), result.eq(rounded[:-1] | rounded[-1].replicate(PROBABILITY_BITS))]
        m.d.comb += [self.fine[lane].eq(fine_5), self.probability[lane].eq(result)]
