# SPDX-License-Identifier: Apache-2.0
"""2^-x: one table look-up, one interpolation and one shift a lane."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import half_shift, round_half
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


def falling_table(start, drop) -> Memory:
    """The same with -drop, signed, so that the slice that multiplies it can add `start`."""
    rows = [{"start": int(s), "rise": -int(d)} for s, d in zip(start, drop, strict=True)]
    return Memory(
        shape=data.StructLayout({"start": START_BITS, "rise": signed(DROP_BITS + 1)}), depth=len(rows), init=rows
    )


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
    Latency: LATENCY = 6 cycles from valid to out_valid, a register for each of the STAGES.
    Interval: INTERVAL = 1 cycle between words.
    Format: distance unsigned 17 bit; fine in units of 2^-18, 0..2^18; probability in units of 2^-15, 0..32767 (1.0 is
        32767), rounded half up from fine.
    Limits: shift is 0..15; a distance of 20.0 or more gives 0.
    Twin: `models.numbers.arithmetic.exp2_fine`, and `models.numbers.arithmetic.probability` of it.
    """

    STAGES = Stages("align", "table", "multiply", "interpolate", "shift", "round")
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

        m.submodules[f"table_{lane}"] = table = falling_table(*exp2_table())
        read = table.read_port()

        # align: the upper fraction bits will choose the line
        value = Signal(DISTANCE_BITS + 15, name=f"value_{lane}")
        m.d.comb += value.eq(self.distance[lane] << self.shift)
        value_1, zero_1 = register("value_1", SCORE_FRACTION + 5), register("zero_1", 1)
        with m.If(valids[0]):
            m.d.sync += [value_1.eq(value), zero_1.eq(value[len(value_1) :].any() | ~self.mask[lane])]
        # table: the line
        m.d.comb += [read.addr.eq(value_1[5:SCORE_FRACTION]), read.en.eq(valids[1])]
        whole_2, zero_2, fraction_2 = register("whole_2", 5), register("zero_2", 1), register("fraction_2", 5)
        with m.If(valids[1]):
            m.d.sync += [fraction_2.eq(value_1[:5]), whole_2.eq(value_1[SCORE_FRACTION:]), zero_2.eq(zero_1)]
        # multiply: along it
        whole_3, zero_3, start_3, product_3 = (
            register("whole_3", 5),
            register("zero_3", 1),
            register("start_3", START_BITS),
            register("product_3", signed(DROP_BITS + 6)),
        )
        with m.If(valids[2]):
            m.d.sync += [
                whole_3.eq(whole_2),
                zero_3.eq(zero_2),
                start_3.eq(read.data.start),
                product_3.eq(read.data.rise * fraction_2),
            ]
        # interpolate: 2^-fraction, rounded; the tables keep it positive
        whole_4, zero_4, line_4 = register("whole_4", 5), register("zero_4", 1), register("line_4", START_BITS + 5)
        with m.If(valids[3]):
            line = Cat(Const((1 << 4) - 1, 5), start_3) + product_3
            m.d.sync += [whole_4.eq(whole_3), zero_4.eq(zero_3), line_4.eq(line)]
        # shift: by the whole part, with a place more
        half_5 = register("half_5", FINE_BITS + 1)
        with m.If(valids[4]):
            m.d.sync += half_5.eq(Mux(zero_4, 0, half_shift(line_4[5:], 0) >> whole_4))
        # round: and once more for the array, and clamp
        places = FINE_PROBABILITY_BITS - PROBABILITY_BITS
        rounded = Signal(PROBABILITY_BITS + 1, name=f"rounded_{lane}")
        m.d.comb += rounded.eq((half_5 + (1 + (1 << places))) >> places + 1)  # round_shift of what was rounded
        fine_6, result = register("fine_6", FINE_BITS), register("result", PROBABILITY_BITS)
        with m.If(valids[5]):
            m.d.sync += [
                fine_6.eq(round_half(half_5)),
                result.eq(rounded[:-1] | rounded[-1].replicate(PROBABILITY_BITS)),
            ]
        m.d.comb += [self.fine[lane].eq(fine_6), self.probability[lane].eq(result)]
