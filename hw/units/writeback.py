# SPDX-License-Identifier: Apache-2.0
"""Write-back: what accompanies a row behind the array - accumulator index, row scale, addresses, destination."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import HardwareConfig
from ..isa import Memory, Scale
from ..layouts import JOB, ROW_BITS, TAG
from .epilogue import EpilogueControl


class Writeback(wiring.Component):
    """Delays the tag of each row along array (A), accumulator (C) and epilogue (E) and derives every control signal from it.

    With t = 0 when the row enters the array: accumulator at `array_latency`; epilogue at `entry` = array_latency + accumulator_latency;
    write at `entry` + epilogue_latency. Destination address = base + row x stride + column, computed just before `entry`, where the
    residual word is read. `final_written` follows the last write by `settle` cycles, when row tables have taken it in too.
    """

    def __init__(self, config: HardwareConfig, *, array_latency: int, accumulator_latency: int, epilogue_latency: int, settle: int):
        self.config, self.settle = config, settle
        self.array_latency = array_latency
        self.entry = array_latency + accumulator_latency
        self.exit = self.entry + epilogue_latency
        super().__init__(
            {
                "tag": In(TAG),  # with the row at the array's input
                "contexts": In(data.ArrayLayout(JOB, 2)),
                "accumulate": Out(TAG),  # with the sums at the array's output
                "bias_enable": Out(1),  # one cycle before `accumulate`: the accumulator starts from the bias
                "bias_shift": Out(5),
                "bias_bank": Out(1),
                "scale_tag": Out(TAG),  # two cycles before the epilogue: read row tables
                "norm_mantissa": In(16),  # one cycle after scale_tag
                "norm_exponent": In(5),
                "softmax_mantissa": In(16),
                "softmax_exponent": In(5),
                "residual_address": Out(20),  # one cycle before the epilogue
                "epilogue": Out(TAG),
                "mantissa": Out(16),
                "exponent": Out(5),
                "control": Out(EpilogueControl),
                "write": Out(TAG),  # with the word at the epilogue's output
                "write_memory": Out(Memory),
                "write_address": Out(20),
                "write_copy": Out(1),
                "copy_address": Out(20),
                "write_mask": Out(config.lanes),  # lanes that exist, of scores
                "write_scatter": Out(1),
                "write_row": Out(ROW_BITS),  # absolute row of the destination, for its statistics
                "column_done": Out(1),
                "final_written": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tags = [Signal(TAG, name=f"tag{i}") for i in range(self.exit + 1)]
        m.d.comb += tags[0].eq(self.tag)
        for before, after in zip(tags, tags[1:], strict=False):
            m.d.sync += after.eq(before)

        def instruction(time: int):
            return self.contexts[tags[time].context].instruction

        def delay(value, cycles: int):
            for _ in range(cycles):
                later = Signal.like(value)
                m.d.sync += later.eq(value)
                value = later
            return value

        before = instruction(self.array_latency - 1)  # the epilogue gives the first bias one cycle later
        m.d.comb += [
            self.accumulate.eq(tags[self.array_latency]),
            self.bias_enable.eq(before.bias_first & ~before.stationary[1]),
            self.bias_shift.eq(before.bias_shift),
            self.bias_bank.eq(tags[self.array_latency - 1].bank),
        ]

        # Addresses: product at entry - 2, sum at entry - 1.
        early, tag = instruction(self.entry - 3), tags[self.entry - 3]
        addresses = []
        for base, stride in ((early.destination_base, early.destination_stride), (early.copy_base, early.copy_stride)):
            product, start, address = Signal(ROW_BITS + 10), Signal(20), Signal(20)
            m.d.sync += [product.eq(tag.row * stride), start.eq(base + tag.column), address.eq(start + product)]
            addresses.append(address)
        m.d.comb += self.residual_address.eq(addresses[0])
        written = self.exit - self.entry + 1
        m.d.comb += [self.write_address.eq(delay(addresses[0], written)), self.copy_address.eq(delay(addresses[1], written))]

        # Row scale: tables are read at entry - 2, chosen at entry - 1.
        m.d.comb += self.scale_tag.eq(tags[self.entry - 2])
        chosen = instruction(self.entry - 1)
        with m.Switch(chosen.scale):
            with m.Case(Scale.NORM):
                m.d.sync += [self.mantissa.eq(self.norm_mantissa), self.exponent.eq(self.norm_exponent)]
            with m.Case(Scale.SOFTMAX):
                m.d.sync += [self.mantissa.eq(self.softmax_mantissa), self.exponent.eq(self.softmax_exponent)]
            with m.Case(Scale.EXPERT):
                m.d.sync += [self.mantissa.eq(tags[self.entry - 1].score), self.exponent.eq(0)]
            with m.Default():
                m.d.sync += [self.mantissa.eq(1 << 15), self.exponent.eq(0)]

        entering = instruction(self.entry)
        m.d.comb += [
            self.epilogue.eq(tags[self.entry]),
            self.control.accumulator_shift.eq(entering.accumulator_shift),
            self.control.residual.eq(entering.residual),
            self.control.bias_first.eq(entering.bias_first),
            self.control.gelu.eq(entering.gelu),
            self.control.residual_shift.eq(entering.residual_shift),
            self.control.output_shift.eq(entering.output_shift),
            self.control.use_parameters.eq(~entering.stationary[1]),
        ]

        leaving, tag = instruction(self.exit), tags[self.exit]
        remaining = Signal(18)
        earlier, before = instruction(self.exit - 2), instruction(self.exit - 1)
        past = tags[self.exit - 2].column * self.config.lanes
        m.d.sync += [
            remaining.eq(Mux(earlier.valid > past, earlier.valid - past, 0)),
            self.write_mask.eq(Cat(remaining > lane for lane in range(self.config.lanes))),
        ]
        m.d.sync += self.write_row.eq(tags[self.exit - 1].row + Mux(before.scatter, 0, before.row_base))
        m.d.comb += [
            self.write.eq(tag),
            self.write_memory.eq(leaving.memory),
            self.write_copy.eq(leaving.copy),
            self.write_scatter.eq(leaving.scatter),
            self.column_done.eq(tag.valid & tag.column_end & ~leaving.stationary[1]),
            self.final_written.eq(delay(tag.valid & tag.final, self.settle)),
        ]
        return m
