# SPDX-License-Identifier: Apache-2.0
"""Activation functions for N lanes: ReLU minus a small correction from a table, interpolated."""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME, Activation
from edgemoe.hw.memory.pipeline import Stages, behind_memory, delay
from edgemoe.models.numbers.arithmetic import (
    ACTIVATION_LIMIT,
    ACTIVATION_SEGMENT_BITS,
    CORRECTIONS,
    correction_table,
    raised,
)

VALUE_BITS = 32  # wide enough for the epilogue's sum of a product and a shifted residual
KIND_BITS = BY_NAME["activation"].bits
_LIMIT_BITS = ACTIVATION_LIMIT.bit_length() - 1  # |x| has no bit from here up below the limit
_HALF = 8  # of the last bit of delta, which is 2^-16, in units of the tables, 2^-20


class ActivationFunction(wiring.Component):
    """result = f(value) with the function f that `kind` names, or value; f(x) = max(x, 0) - delta(|x|), lane by lane;
    with `raised`, where products are packed, f(x) + as much as f falls below zero.

    delta = round_shift(start[i] + round_shift(rise[i] * f, 10), 4) with i the upper 9 and f the lower 10 bits of |x| <
    8, and 0 from 8 on; of SiLU and softplus, which reach further, of |x| / 2 < 8. ReLU has none; that of softplus is
    negative. Both roundings fall into one addition: floor((rise * f + (start << 10) + 2^9 + 2^13) / 2^14); the table
    holds start + 8. One memory for each two lanes, with 512 words for each of the build's functions but ReLU.

    Ports:
        kind (in): Activation: what to apply to the word; one that the build has,
        raised (in): whether to raise it, where products are packed.
        value (in): N signed numbers of VALUE_BITS, N = config.lanes.
        result (out): of the word LATENCY cycles before.
    Latency: LATENCY = 6 cycles from value to result, a register for each of the STAGES; `table` is the memory's own.
    Interval: INTERVAL = 1 cycle between words.
    Format: 32-bit signed, 16 fractional bits, in and out.
    Limits: any 32-bit value.
    Twin: `models.numbers.arithmetic.activation`, `models.numbers.arithmetic.raised`.
    """

    STAGES = Stages("magnitude", "table", "operand", "product", "sum", "difference")
    LATENCY = len(STAGES)
    INTERVAL = 1

    def __init__(self, config: HardwareConfig):
        self.lanes, self.packed = config.lanes, config.packed
        # A memory cannot be empty.
        self.kinds = [kind for kind in config.functions if kind in CORRECTIONS] or ["gelu"]
        tables = [correction_table(kind) for kind in self.kinds]
        self.segments = [
            {"start": int(start) + _HALF, "rise": int(rise)}
            for starts, rises in tables
            for start, rise in zip(starts, rises, strict=True)
        ]
        starts = [segment["start"] for segment in self.segments]
        below = min(starts) < 0  # of softplus, which is above ReLU
        start = max(bits_for(value, require_sign_bit=below) for value in (min(starts), max(starts)))
        rise = max(bits_for(segment["rise"], require_sign_bit=True) for segment in self.segments)
        self.segment = data.StructLayout({"start": signed(start) if below else start, "rise": signed(rise)})
        word = data.ArrayLayout(signed(VALUE_BITS), config.lanes)
        more = {"raised": In(1)} if config.packed else {}
        super().__init__({"kind": In(KIND_BITS), **more, "value": In(word), "result": Out(word)})

    def elaborate(self, platform):
        m = Module()
        table, corrected, halved, above = self.choice(m)
        for lane in range(self.lanes):
            if lane % 2 == 0:
                m.submodules[f"table_{lane}"] = memory = Memory(
                    shape=self.segment, depth=len(self.segments), init=self.segments
                )
            port = memory.read_port()

            value = self.value[lane]
            magnitude = Signal(VALUE_BITS, name=f"magnitude_{lane}", reset_less=True)
            base = Signal(signed(VALUE_BITS), name=f"base_{lane}", reset_less=True)
            m.d.sync += [
                magnitude.eq(Mux(value < 0, -value, value)),
                base.eq(Mux((self.kind != Activation.NONE) & (value < 0), 0, value)),
            ]

            place = Mux(halved, magnitude[1:], magnitude)
            m.d.comb += [port.addr.eq(Cat(place[ACTIVATION_SEGMENT_BITS:_LIMIT_BITS], table)), port.en.eq(corrected)]
            correct = Signal(name=f"correct_{lane}", reset_less=True)
            m.d.sync += correct.eq(corrected & ~place[_LIMIT_BITS:].any())

            segment = behind_memory(m, port.data, name=f"segment_{lane}")
            fraction = delay(m, place[:ACTIVATION_SEGMENT_BITS], 2, name=f"fraction_{lane}")

            product = Signal(
                signed(len(segment.rise) + ACTIVATION_SEGMENT_BITS), name=f"product_{lane}", reset_less=True
            )
            m.d.sync += product.eq(segment.rise * fraction)
            start = delay(m, segment.start, 1, name=f"start_{lane}")

            shape = Shape(len(start) + ACTIVATION_SEGMENT_BITS, start.shape().signed)
            total = Signal(shape, name=f"total_{lane}", reset_less=True)
            m.d.sync += total.eq(Cat(Const(1 << ACTIVATION_SEGMENT_BITS - 1, ACTIVATION_SEGMENT_BITS), start) + product)

            delta = total[ACTIVATION_SEGMENT_BITS + 4 :]
            delta = delta.as_signed() if shape.signed else delta
            delta = Mux(delay(m, correct, 3, name=f"correct_{lane}"), delta, 0)
            late = 4
            if self.packed:
                lifted = Signal(signed(VALUE_BITS), name=f"lifted_{lane}", reset_less=True)
                m.d.sync += lifted.eq(base + above)
                base, late = lifted, 3
            m.d.sync += self.result[lane].eq(delay(m, base, late, name=f"base_{lane}") - delta)
        return m

    def choice(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        """Of the word in the stage `magnitude`: which table is its function's, whether it has one, whether that takes
        half of |x|, by how much it is raised.
        """
        table = Signal(max(1, ceil_log2(len(self.kinds))), reset_less=True)
        corrected, halved = Signal(reset_less=True), Signal(reset_less=True)
        above = Signal(max(1, max(map(raised, self.kinds)).bit_length()), reset_less=True)
        m.d.sync += [corrected.eq(0), halved.eq(0)]
        if self.packed:
            m.d.sync += above.eq(0)
        with m.Switch(self.kind):
            for number, kind in enumerate(self.kinds):
                with m.Case(Activation.of(kind)):
                    m.d.sync += [table.eq(number), corrected.eq(1), halved.eq(CORRECTIONS[kind].halvings)]
                    if self.packed:
                        m.d.sync += above.eq(Mux(self.raised, raised(kind), 0))
            with m.Default():
                pass
        return table, corrected, halved, above
