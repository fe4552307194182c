# SPDX-License-Identifier: Apache-2.0
"""GELU for N lanes: ReLU minus a small correction from a table, interpolated."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.pipeline import Stages, delay
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.numbers.arithmetic import GELU_LIMIT, GELU_SEGMENT_BITS, gelu_table

VALUE_BITS = 32  # wide enough for the epilogue's sum of a product and a shifted residual
_LIMIT_BITS = GELU_LIMIT.bit_length() - 1  # |x| has no bit from here up below the limit
_SEGMENT = data.StructLayout({"start": 18, "rise": signed(14)})


class Gelu(wiring.Component):
    """result = GELU(value) where `enable` came with the value, else value; GELU(x) = max(x, 0) - delta(|x|),
    delta(|x|) = |x| Phi(-|x|), lane by lane.

    delta = round_shift(start[i] + round_shift(rise[i] * f, 10), 4) with i the upper 9 and f the lower 10 bits of |x| <
    8, and 0 from 8 on. Both roundings fall into one addition: floor((rise * f + (start << 10) + 2^9 + 2^13) / 2^14);
    the table holds start + 8. One table of 512 x 32 bits for each two lanes.

    Ports:
        enable (in): whether to apply GELU to the word.
        value (in): N signed numbers of VALUE_BITS, N = config.lanes.
        result (out): of the word LATENCY cycles before.
    Latency: LATENCY = 6 cycles from value to result, a register for each of the STAGES; `table` is the memory's own.
    Interval: INTERVAL = 1 cycle between words.
    Format: 32-bit signed, 16 fractional bits, in and out.
    Limits: any 32-bit value.
    Twin: `models.numbers.arithmetic.gelu`.
    """

    STAGES = Stages("magnitude", "table", "operand", "product", "sum", "difference")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, config: HardwareConfig):
        self.lanes = config.lanes
        word = data.ArrayLayout(signed(VALUE_BITS), config.lanes)
        super().__init__({"enable": In(1), "value": In(word), "result": Out(word)})

    def elaborate(self, platform):
        m = Module()
        half = 8  # of the last bit of delta, which is 2^-16, in units of the table, 2^-20
        starts, rises = gelu_table()
        table = [{"start": int(start) + half, "rise": int(rise)} for start, rise in zip(starts, rises, strict=True)]
        enable = delay(m, self.enable, 1, name="enable")
        for lane in range(self.lanes):
            if lane % 2 == 0:
                m.submodules[f"table_{lane}"] = memory = Memory(shape=_SEGMENT, depth=len(table), init=table)
            port = memory.read_port()

            value = self.value[lane]
            magnitude = Signal(VALUE_BITS, name=f"magnitude_{lane}", reset_less=True)
            base = Signal(signed(VALUE_BITS), name=f"base_{lane}", reset_less=True)
            m.d.sync += [magnitude.eq(Mux(value < 0, -value, value)), base.eq(Mux(self.enable & (value < 0), 0, value))]

            m.d.comb += [port.addr.eq(magnitude[GELU_SEGMENT_BITS:_LIMIT_BITS]), port.en.eq(enable)]
            correct = Signal(name=f"correct_{lane}", reset_less=True)
            m.d.sync += correct.eq(enable & ~magnitude[_LIMIT_BITS:].any())

            segment = delay(m, port.data, 1, name=f"segment_{lane}")
            fraction = delay(m, magnitude[:GELU_SEGMENT_BITS], 2, name=f"fraction_{lane}")

            product = Signal(signed(14 + GELU_SEGMENT_BITS), name=f"product_{lane}", reset_less=True)
            m.d.sync += product.eq(segment.rise * fraction)
            start = delay(m, segment.start, 1, name=f"start_{lane}")

            total = Signal(18 + GELU_SEGMENT_BITS, name=f"total_{lane}", reset_less=True)
            m.d.sync += total.eq(Cat(Const(1 << GELU_SEGMENT_BITS - 1, GELU_SEGMENT_BITS), start) + product)

            delta = Mux(delay(m, correct, 3, name=f"correct_{lane}"), total[GELU_SEGMENT_BITS + 4 :], 0)
            m.d.sync += self.result[lane].eq(delay(m, base, 4, name=f"base_{lane}") - delta)
        return m
