# SPDX-License-Identifier: Apache-2.0
"""Write-back: what accompanies a row behind the array - accumulator index, row scale, addresses, destination."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.epilogue import EpilogueControl
from edgemoe.hw.compute.pipeline import chain, delay
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Scale
from edgemoe.hw.contract.layouts import JOB, ROW_BITS, TAG
from edgemoe.models.numbers.words import SCALE_ONE


class Writeback(wiring.Component):
    """Delays the tag of each row along array, accumulators and epilogue and derives every control signal from it.

    Time 0 is the cycle in which the row enters the array. The schedule (attribute `TIME`, from the latencies of the
    units on the way):

    ============  =========================  ====================================================================
    name          time                       what the tag of that cycle decides
    ============  =========================  ====================================================================
    bias          array - 1                  bias_enable, bias_shift, bias_bank: the epilogue answers a cycle later
    accumulate    array                      index, first, last of the sums at the array's output
    destination   entry - 3                  row x stride; a cycle later base + column, another the two addresses
    tables        entry - 2                  scale_tag: which row's scale is read; residual_address a cycle later
    scale         entry - 1                  mantissa and exponent, chosen; they stand beside the sums at entry
    epilogue      entry                      control of the epilogue; entry = array + accumulator
    mask          exit - 2                   which lanes of a word of scores exist, through two registers
    row           exit - 1                   the absolute row of the destination, for its statistics
    write         exit                       memory and addresses of the finished word; exit = entry + epilogue
    ============  =========================  ====================================================================

    *Scatter* of the patch reordering is here: TAG.row is the queue entry's row, so that what the experts compute in
    dense rows lands in the rows of the tokens that asked for it, times the router's score (scale EXPERT), added to the
    residual.

    `final_written` follows the last write of an instruction by `settle` cycles, when row tables have taken it in too.
    LATENCY of each output as above; INTERVAL = 1. Twin: none (no arithmetic on data; addresses are the emulator's own).
    """

    INTERVAL = 1

    def __init__(
        self,
        config: HardwareConfig,
        *,
        array_latency: int,
        accumulator_latency: int,
        epilogue_latency: int,
        settle: int,
    ):
        self.config, self.settle = config, settle
        self.entry = array_latency + accumulator_latency
        self.exit = self.entry + epilogue_latency
        self.TIME = {
            "bias": array_latency - 1,
            "accumulate": array_latency,
            "destination": self.entry - 3,
            "tables": self.entry - 2,
            "scale": self.entry - 1,
            "epilogue": self.entry,
            "mask": self.exit - 2,
            "row": self.exit - 1,
            "write": self.exit,
        }
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
        tags = chain(m, self.tag, self.exit, name="tag", reset_less=False)

        def tag(name: str):
            return tags[self.TIME[name]]

        def instruction(name: str):
            return self.contexts[tag(name).context].instruction

        before = instruction("bias")
        m.d.comb += [
            self.accumulate.eq(tag("accumulate")),
            self.bias_enable.eq(before.bias_first & ~before.stationary[1]),
            self.bias_shift.eq(before.bias_shift),
            self.bias_bank.eq(tag("bias").bank),
            self.scale_tag.eq(tag("tables")),
        ]
        self._addresses(m, tag("destination"), instruction("destination"))
        self._scale(m, tag("scale"), instruction("scale"))

        entering = instruction("epilogue")
        m.d.comb += [
            self.epilogue.eq(tag("epilogue")),
            self.control.accumulator_shift.eq(entering.accumulator_shift),
            self.control.residual.eq(entering.residual),
            self.control.bias_first.eq(entering.bias_first),
            self.control.gelu.eq(entering.gelu),
            self.control.residual_shift.eq(entering.residual_shift),
            self.control.output_shift.eq(entering.output_shift),
            self.control.use_parameters.eq(~entering.stationary[1]),
        ]

        remaining = Signal(18)
        masked, before, leaving = instruction("mask"), instruction("row"), instruction("write")
        past = tag("mask").column * self.config.lanes
        m.d.sync += [
            remaining.eq(Mux(masked.keys > past, masked.keys - past, 0)),
            self.write_mask.eq(Cat(remaining > lane for lane in range(self.config.lanes))),
            self.write_row.eq(tag("row").row + Mux(before.scatter, 0, before.row_base)),
        ]
        m.d.comb += [
            self.write.eq(tag("write")),
            self.write_memory.eq(leaving.memory),
            self.write_copy.eq(leaving.copy),
            self.write_scatter.eq(leaving.scatter),
            self.column_done.eq(tag("write").valid & tag("write").column_end & ~leaving.stationary[1]),
            self.final_written.eq(
                delay(m, tag("write").valid & tag("write").final, self.settle, name="final", reset_less=False)
            ),
        ]
        return m

    def _addresses(self, m: Module, tag, instruction) -> None:
        """base + row x stride + column of the destination and of its copy."""
        addresses = []
        for name in ("destination", "copy"):
            base, stride = instruction[f"{name}_base"], instruction[f"{name}_stride"]
            product, start = Signal(ROW_BITS + 10, name=f"{name}_product"), Signal(20, name=f"{name}_start")
            address = Signal(20, name=f"{name}_address")
            m.d.sync += [product.eq(tag.row * stride), start.eq(base + tag.column), address.eq(start + product)]
            addresses.append(address)
        known = self.TIME["destination"] + 2
        m.d.comb += [
            self.residual_address.eq(addresses[0]),
            self.write_address.eq(delay(m, addresses[0], self.exit - known, name="write_address")),
            self.copy_address.eq(delay(m, addresses[1], self.exit - known, name="copy_address")),
        ]

    def _scale(self, m: Module, tag, instruction) -> None:
        """The factor of the whole row: from LayerNorm's table, softmax's, the router's score, or 1."""
        with m.Switch(instruction.scale):
            with m.Case(Scale.NORM):
                m.d.sync += [self.mantissa.eq(self.norm_mantissa), self.exponent.eq(self.norm_exponent)]
            with m.Case(Scale.SOFTMAX):
                m.d.sync += [self.mantissa.eq(self.softmax_mantissa), self.exponent.eq(self.softmax_exponent)]
            with m.Case(Scale.EXPERT):
                m.d.sync += [self.mantissa.eq(tag.score), self.exponent.eq(0)]
            with m.Default():
                m.d.sync += [self.mantissa.eq(SCALE_ONE), self.exponent.eq(0)]
