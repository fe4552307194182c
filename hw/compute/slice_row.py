# SPDX-License-Identifier: Apache-2.0
"""A row of the array in DSP slices of AMD devices, registers and adders included."""

from pathlib import Path

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, NAME, WORD_BITS, HardwareConfig
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.models.numbers.words import FINE_BITS, PACKED_CHAIN

_SOURCE = Path(__file__).with_name("slice_cell.v.in")


def cell_module(kind: DspSlice) -> str:
    """The name of the Verilog module that is a cell."""
    return f"{NAME}_{kind.lower()}"


def cell_source(kind: DspSlice) -> str:
    """Its text."""
    return kind.filled(_SOURCE.read_text(), MODULE=cell_module(kind))


class SliceRow(wiring.Component):
    """An `ArrayRow` of N slices and no logic beside them; sums go from row to row by the slices' own cascade.

    Why not left to synthesis: the two weights of a cell, one behind the other and each written in two ways, are more
    than tools put into a slice by themselves, and Yosys leaves the sums outside as well.

    Ports:
        value (in): the row's input lane; the slices register it.
        load, load_row (in): all weights of the next block.
        load_column, load_lane (in): one weight of it, that of the column whose bit is set; never with load_row.
        swap (in): the loaded weights take over in the following cycle.
        cascade (in): `cascade_out` of the row before, added two cycles after the values of their products came.
        above, restart (in): of a row that can begin a packed chain: what it adds instead, where restart was set a cycle
            before.
        cascade_out, sums (out): partial sums of this row.
    Latency: LATENCY = 3 cycles from value to sums: value, product, sum.
    Interval: INTERVAL = 1 cycle between values.
    Format: that of ArrayRow.
    Twin: `hw.compute.array.ArrayRow`, to which it is formally equal.
    """

    LATENCY = 3
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, kind: DspSlice, index: int):
        self.lanes, self.kind = config.lanes, kind
        self.bits = bits = FINE_BITS if config.packed else WORD_BITS
        self.first, self.restarts = index == 0, bool(config.packed and index and index % PACKED_CHAIN == 0)
        sums = layouts.sums(config)
        super().__init__(
            {
                "value": In(WORD_BITS),
                "load": In(config.lanes * bits),
                "load_row": In(1),
                "load_column": In(config.lanes),
                "load_lane": In(bits),
                "swap": In(1),
                "cascade": In(sums),
                **({"above": In(sums), "restart": In(1)} if self.restarts else {}),
                "cascade_out": Out(sums),
                "sums": Out(sums),
            }
        )

    @property
    def source(self) -> str:
        """The Verilog module that its cells are."""
        return cell_source(self.kind)

    def elaborate(self, platform):
        m = Module()
        for j in range(self.lanes):
            above = self.above.as_value().word_select(j, ACCUMULATOR_BITS) if self.restarts else 0
            m.submodules[f"cell_{j}"] = Instance(
                cell_module(self.kind),
                p_WEIGHT_BITS=self.bits,
                p_FIRST=int(self.first),
                p_RESTARTS=int(self.restarts),
                i_clk=ClockSignal(),
                i_value=self.value,
                i_load_row=self.load_row,
                i_row_weight=self.load.word_select(j, self.bits),
                i_load_column=self.load_column[j],
                i_column_weight=self.load_lane,
                i_swap=self.swap,
                i_restart=self.restart if self.restarts else 0,
                i_above=above,
                i_cascade=self.cascade.as_value().word_select(j, ACCUMULATOR_BITS),
                o_cascade_out=self.cascade_out.as_value().word_select(j, ACCUMULATOR_BITS),
                o_sum=self.sums.as_value().word_select(j, ACCUMULATOR_BITS),
            )
        return m
