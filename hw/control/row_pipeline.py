# SPDX-License-Identifier: Apache-2.0
"""Row pipeline: what accompanies a row from the array's entrance to write-back - accumulator index, row scale,
addresses, destination.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.accumulator import RowTag
from edgemoe.hw.compute.epilogue import EpilogueControl, FirstBias
from edgemoe.hw.compute.normalise import ScalePort
from edgemoe.hw.compute.row_maxima import TABLE_BITS
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Activation, Memory, Scale
from edgemoe.hw.contract.layouts import (
    ATTENTION_BITS,
    CONTEXTS,
    ROW_BITS,
    STEP,
    STRIDE_BITS,
    WORD_ADDRESS_BITS,
    packs,
)
from edgemoe.hw.contract.layouts import tag as tag_layout
from edgemoe.hw.memory.pipeline import chain, delay
from edgemoe.models.numbers.words import SCALE_ONE


class TaggedRow(wiring.Signature):
    """A row at the array's input, as its source sees it: its `tag`, and the instructions that the tag refers to."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"tag": Out(tag_layout(config)), "contexts": Out(CONTEXTS)})


class Destination(data.StructLayout):
    """Where a finished word goes. `first` word of its row; `index` of its query and `mask` of lanes that exist, of
    scores; absolute `row` of the residual, for its statistics, and of the table `maxima`, if there are any; `row_sums`:
    statistics are kept whatever the memory; in a build that gates, whether it was `gated`: there are statistics, too;
    where a build keeps more of scores than maxima, their kind of `attention` and the `shift` of their unit.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "memory": Memory,
                "address": 20,
                "copy": 1,  # also to activation memory
                "copy_address": 20,
                "index": ROW_BITS,
                "first": 1,
                "mask": config.lanes,
                "row": ROW_BITS,
                "scatter": 1,
                **({"maxima": TABLE_BITS} if config.packed else {}),
                **({"row_sums": 1} if config.keeps_row_sums else {}),
                **({"gated": 1} if config.gates else {}),
            }
            | ({"attention": ATTENTION_BITS, "shift": 4} if config.keeps_scores else {})
        )


class PackedRow(wiring.Signature):
    """Whether a row of sums is packed, and its step, as who keeps count of it sees it."""

    def __init__(self) -> None:
        super().__init__({"packed": Out(1), "step": Out(STEP)})


class RowPipeline(wiring.Component):
    """The control pipeline of the whole datapath: delays the tag of each row along array, accumulators and epilogue and
    derives every control signal from it.

    Time 0 is the cycle in which the row enters the array; where products are packed, `array` counts the rounding before
    it, too, `accumulator` the row's step behind the accumulators, and `bias` is asked for there. The schedule
    (attribute `TIME`, from the latencies of the units on the way):

    ============  =========================  ====================================================================
    name          time                       what the tag of that cycle decides
    ============  =========================  ====================================================================
    bias          array - 1                  `bias`: the epilogue answers a cycle later
    accumulate    array                      `accumulate`: index, first, last of the sums at the array's output
    destination   entry - 4                  row x stride; a cycle later base + column, another the two addresses, of
                                             which one is `old_address`
    tables        entry - 2                  `norm`, `softmax`: which row's scale is read
    scale         entry - 1                  mantissa and exponent, chosen; they stand beside the sums at entry
    epilogue      entry                      `control` of the epilogue; entry = array + accumulator
    mask          exit - 3                   which lanes of a word of scores exist, through three registers
    row           exit - 1                   the absolute row of the destination, for its statistics
    write         exit                       `destination` of the finished word; exit = entry + epilogue
    ============  =========================  ====================================================================

    *Scatter* of the patch reordering is here: TAG.row is the queue entry's row, so that what the experts compute in
    dense rows lands in the rows of the tokens that asked for it, times the router's score (scale EXPERT), added to the
    residual.

    Ports:
        row (in TaggedRow): with the row at the array's input.
        bias (out FirstBias): what sums start from.
        packed (out PackedRow): a cycle before the accumulators' sums, where products are packed.
        accumulate (out RowTag): beside the array's sums.
        norm, softmax (out ScalePort): the tables of row scales.
        old_address (out): of the residual's word that the epilogue adds.
        control (out): beside the accumulators' sums.
        destination (out): beside the finished word.
        column_done (out): pulse: a column block with parameters has left the epilogue.
        first_written (out): pulse, likewise after the first row of its last column, where products are packed.
        final_written (out): pulse, `settle` cycles after the last write of an instruction, when row tables have taken
            it in, too.
    Latency: varies: by output, as TIME says.
    Interval: INTERVAL = 1 cycle between rows.
    Limits: the two instructions of `row.contexts` stand still while rows of them are under way.
    Twin: none (no arithmetic on data; addresses are the emulator's own).
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
        step_latency: int = 0,
        bias_delay: int = 0,
    ):
        self.config, self.settle = config, settle
        summed = array_latency + accumulator_latency
        self.entry = summed + step_latency
        self.exit = self.entry + epilogue_latency
        self.TIME = {
            "bias": summed + bias_delay - 1 if config.packed else array_latency - 1,
            "accumulate": array_latency,
            **({"packed": summed - 1} if config.packed else {}),
            "destination": self.entry - 4,
            "tables": self.entry - 2,
            "scale": self.entry - 1,
            "epilogue": self.entry,
            "mask": self.exit - 3,
            "row": self.exit - 1,
            "write": self.exit,
        }
        super().__init__(
            {
                "row": In(TaggedRow(config)),
                "bias": Out(FirstBias(config)),
                "accumulate": Out(RowTag(config)),
                **({"packed": Out(PackedRow()), "first_written": Out(1)} if config.packed else {}),
                "norm": Out(ScalePort(config.scale_rows)),
                "softmax": Out(ScalePort(config.tokens)),
                "old_address": Out(WORD_ADDRESS_BITS),  # of the residual's word that the epilogue adds
                "control": Out(EpilogueControl(config)),
                "destination": Out(Destination(config)),
                "column_done": Out(1),  # pulse: a column block with parameters has left the epilogue
                "final_written": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tags = chain(m, self.row.tag, self.exit, name="tag", reset_less=False)

        def tag(name: str):
            return tags[self.TIME[name]]

        def instruction(name: str):
            return self.row.contexts[tag(name).context].instruction

        before = instruction("bias")
        m.d.comb += [
            self.bias.enable.eq(before.bias_first & ~before.stationary[1]),
            self.bias.shift.eq(before.bias_shift),
            self.bias.bank.eq(tag("bias").bank),
            self.accumulate.valid.eq(tag("accumulate").valid),
            self.accumulate.index.eq(tag("accumulate").index),
            self.accumulate.first.eq(tag("accumulate").first),
            self.accumulate.last.eq(tag("accumulate").last),
            self.norm.index.eq(self._scale_row(tag("tables"), instruction("tables"))),
            self.softmax.index.eq(tag("tables").index),
        ]
        if self.config.packed:
            self._packed(m, tag, instruction)
        if self.config.keeps_row_sums:
            m.d.comb += self.destination.row_sums.eq(instruction("write").row_sums)
        self._addresses(m, tag("destination"), instruction("destination"))
        self._scale(m, tag("scale"), instruction("scale"))

        entering = instruction("epilogue")
        m.d.comb += [
            self.control.bank.eq(tag("epilogue").bank),
            self.control.accumulator_shift.eq(entering.accumulator_shift),
            self.control.residual.eq(entering.residual),
            self.control.bias_first.eq(entering.bias_first),
            self.control.activation.eq(entering.activation),
            self.control.residual_shift.eq(entering.residual_shift),
            self.control.output_shift.eq(entering.output_shift),
            self.control.use_parameters.eq(~entering.stationary[1]),
        ]

        remaining = Signal(18)
        masked, before, leaving = instruction("mask"), instruction("row"), instruction("write")
        past = delay(m, tag("mask").column * self.config.lanes, 1, name="past")
        keys = delay(m, masked.keys, 1, name="keys")
        m.d.sync += [
            remaining.eq(Mux(keys > past, keys - past, 0)),
            self.destination.mask.eq(Cat(remaining > lane for lane in range(self.config.lanes))),
            self.destination.row.eq(tag("row").row + Mux(before.scatter, 0, before.row_base)),
        ]
        m.d.comb += [
            self.destination.memory.eq(leaving.memory),
            self.destination.copy.eq(leaving.copy),
            self.destination.scatter.eq(leaving.scatter),
            self.destination.index.eq(tag("write").index),
            self.destination.first.eq((tag("write").column == 0) & ~leaving.append),
            self.column_done.eq(tag("write").valid & tag("write").column_end & ~leaving.stationary[1]),
            self.final_written.eq(
                delay(m, tag("write").valid & tag("write").final, self.settle, name="final", reset_less=False)
            ),
        ]
        if self.config.gates:
            m.d.comb += self.destination.gated.eq(leaving.activation == Activation.GATED)
        if self.config.keeps_scores:
            m.d.comb += [
                self.destination.attention.eq(leaving.attention),
                self.destination.shift.eq(leaving.exponent_shift),
            ]
        return m

    def _packed(self, m: Module, tag, instruction) -> None:
        """What only builds with packed products ask."""
        sums, summed = tag("accumulate"), tag("packed")
        m.d.comb += [
            self.accumulate.packed.eq(packs(instruction("accumulate"))),
            *(getattr(self.accumulate, name).eq(sums[name]) for name in ("emits", "high", "flush")),
            self.packed.packed.eq(packs(instruction("packed"))),
            self.packed.step.eq(summed.step),
            self.destination.maxima.eq(instruction("write").maxima),
            self.control.raised.eq(instruction("epilogue").raised),
        ]
        written, begins = tag("write"), Signal()
        last = written.column + 1 == instruction("write").columns
        m.d.comb += begins.eq(written.valid & written.emits & (written.index == 0) & last)
        m.d.comb += self.first_written.eq(delay(m, begins, self.settle, name="begun", reset_less=False))

    def _scale_row(self, tag, instruction) -> Value:
        """Where 1/sigma of the row stands."""
        if not self.config.head_norms:
            return tag.table_row
        return Cat(tag.table_row[: len(self.norm.index) - 1], instruction.of_heads)

    def _addresses(self, m: Module, tag, instruction) -> None:
        """base + row x stride + column of the destination and of its copy."""
        addresses = []
        for name in ("destination", "copy"):
            base, stride = instruction[f"{name}_base"], instruction[f"{name}_stride"]
            product, start = (
                Signal(ROW_BITS + STRIDE_BITS, name=f"{name}_product"),
                Signal(WORD_ADDRESS_BITS, name=f"{name}_start"),
            )
            address = Signal(WORD_ADDRESS_BITS, name=f"{name}_address")
            m.d.sync += [product.eq(tag.row * stride), start.eq(base + tag.column), address.eq(start + product)]
            addresses.append(address)
        known = self.TIME["destination"] + 2
        m.d.comb += [
            self.old_address.eq(addresses[0]),
            self.destination.address.eq(delay(m, addresses[0], self.exit - known, name="write_address")),
            self.destination.copy_address.eq(delay(m, addresses[1], self.exit - known, name="copy_address")),
        ]

    def _scale(self, m: Module, tag, instruction) -> None:
        """The factor of the whole row: from LayerNorm's table, softmax's, the router's score, or 1."""
        # Each in a register of its own, of which all but one are 0: out of a table it comes late.
        given = []
        for scale, table in ((Scale.NORM, self.norm), (Scale.SOFTMAX, self.softmax)):
            mantissa, exponent = (
                Signal.like(getattr(table, part), name=f"{scale.name.lower()}_{part}")
                for part in ("mantissa", "exponent")
            )
            m.d.sync += [mantissa.eq(table.mantissa), exponent.eq(table.exponent)]
            with m.If(instruction.scale != scale):
                m.d.sync += [mantissa.eq(0), exponent.eq(0)]
            given.append((mantissa, exponent))
        other = Signal.like(self.control.mantissa, name="other_mantissa")
        with m.Switch(instruction.scale):
            with m.Case(Scale.NORM, Scale.SOFTMAX):
                m.d.sync += other.eq(0)
            with m.Case(Scale.EXPERT):
                m.d.sync += other.eq(tag.score)
            with m.Default():
                m.d.sync += other.eq(SCALE_ONE)
        (norm, softmax), exponents = zip(*given, strict=True)
        m.d.comb += [
            self.control.mantissa.eq(norm | softmax | other),
            self.control.exponent.eq(exponents[0] | exponents[1]),
        ]
