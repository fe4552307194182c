# SPDX-License-Identifier: Apache-2.0
"""Proofs that a row of the array in DSP slices is the row that simulators run, at full width and for ever.

What a slice does is said by our model of it (`simulator.slice_model`), and, for series 7, by Yosys' as well.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from amaranth.hdl import Assume, Cat, Mux
from edgemoe.hw.compute.array import ArrayRow, half_of
from edgemoe.hw.compute.slice_row import SliceRow
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.sim.simulator import slice_model

from ..mutants import Mutant
from .configurations import small
from .runner import Proof, Property

PLAIN, PACKED = small("cells", lanes=2), small("packed cells", lanes=2, packed=1)
SUM = 48
# Registers of a slice, by the names that our model and Yosys' give them.
REGISTERS = ("a", "d", "chosen", "weight", "value", "product", "operation")
OURS = dict(zip(REGISTERS, ("a2", "d1", "inmode", "ad", "b2", "m", "opmode"), strict=True))
YOSYS = dict(zip(REGISTERS, ("Ar2", "Dr", "INMODEr", "ADr", "Br2", "Mr", "OPMODEr"), strict=True))


def slice_row(kind: DspSlice, index: int, packed: bool, yosys: bool, p: Property, unit: Any) -> None:
    """Whatever is loaded, swapped and multiplied: sums are equal, if what the registers hold at the start means the
    same in both. (It does: all are zero then.)

    Both multiply the same two numbers, which is proven; so adders may stand for all multipliers, the slices' as well.
    """
    m, config = p.m, PACKED if packed else PLAIN
    dut = unit(config, kind, index)
    value, by_column, load_row = p.free(16, "value"), p.free(1, "by_column"), p.free(1, "load_row")
    load, load_column, lane = p.free(2 * dut.bits, "load"), p.free(2, "load_column"), p.free(dut.bits, "lane")
    swap, cascade, above = p.free(1, "swap"), p.free(2 * SUM, "cascade"), p.free(2 * SUM, "above")
    restart, pair = p.free(1, "restart"), p.free(1, "pair")
    p.unit(
        dut,
        value=value,
        load=load if packed else Mux(pair, half_of(load, 1), load),
        load_row=load_row & ~by_column,
        load_column=Mux(by_column, load_column, 0),
        load_lane=lane,
        swap=swap,
        cascade=cascade,
        **({"above": above, "restart": restart} if dut.restarts else {}),
    )
    later, restarted = p.past(value), p.past(restart)
    entering = Mux(restarted, above, cascade) if dut.restarts else 0 if dut.first else cascade
    twin = p.unit(
        ArrayRow(config, 1),
        "twin",
        value=later,
        load=load,
        load_row=load_row,
        by_column=by_column,
        load_column=load_column,
        load_lane=lane,
        swap=swap,
        above=entering,
        **({} if packed else {"pair": pair}),
    )
    p.sources = {"cell.v": dut.source} | ({} if yosys else {"slice.v": slice_model(kind)})
    p.adders = True
    p.libraries = ["+/xilinx/cells_sim.v"] if yosys else []
    # What each register holds, against the twin's.
    bits, wide, names = dut.bits, kind.weight_bits, YOSYS if yosys else OURS
    widths = {"a": 30 if yosys else wide, "d": wide, "chosen": 5, "weight": wide, "value": 18, "product": wide + 18}
    widths |= {"operation": kind.operation_bits}
    operation = Mux(restarted, 0x35, 0x15) if dut.restarts else 0x05 if dut.first else 0x15
    held = []
    for j in range(2):
        own = {key: p.inside(f"dut.cell_{j}.slice.{names[key]}", width) for key, width in widths.items()}
        waiting = Mux(own["chosen"] == 0, own["a"][:wide], own["d"])
        product = p.inside(f"twin.product_{j}", 16 + bits)
        held += [
            (own["chosen"] == 0) | (own["chosen"] == 0b00110),
            waiting.as_signed() == twin.shadow.word_select(j, bits).as_signed(),
            own["weight"].as_signed() == twin.active.word_select(j, bits).as_signed(),
            own["value"].as_signed() == later.as_signed(),
            own["product"].as_signed() == product.as_signed(),
            own["operation"] == operation,
        ]
    same = Cat(held).all() & (Cat(dut.sums) == Cat(twin.sums)) & (Cat(dut.cascade_out) == Cat(dut.sums))
    m.d.comb += Assume(p.begun | same)
    p.check(same)
    p.cover(by_column & (load_column == 1) & p.past(load_row) & swap & (twin.sums[0] == 5) & (twin.sums[1] != 0))
    columns = p.past(by_column & (load_column == 3))
    p.cover((twin.sums[0] != twin.sums[1]) & p.past(p.past(swap & columns)))


def _proof(name: str, kind: DspSlice, index: int, packed: bool = False, yosys: bool = False, **more: Any) -> Proof:
    build = partial(slice_row, kind, index, packed, yosys)
    return Proof(f"slices: {name}", build, SliceRow, 4, induction=True, cover_depth=8, **more)


def _cell(old: str, new: str) -> Mutant:
    """A fault in the cell's Verilog."""
    read = "_SOURCE.read_text()"
    return Mutant(read, f"{read}.replace({old!r}, {new!r})")


FAULTS = {
    "a column is loaded into all cells": Mutant("self.load_column[j]", "self.load_column.any()"),
    "a row's weights come in another order": Mutant("self.load.word_select(j,", "self.load.word_select(1 - j,"),
    "a row leaves the column's weight": _cell(".RSTINMODE(load_row)", ".RSTINMODE(1'b0)"),
    "row and column are added": _cell("5'b00110", "5'b00100"),
    "weights take over at once": _cell(".CEAD(swap)", ".CEAD(1'b1)"),
    "an activation has no sign": _cell("{{2{value[15]}}, value}", "{2'b00, value}"),
}
PROOFS = [
    _proof("DSP48E2", DspSlice.DSP48E2, 1, mutants=FAULTS),
    _proof("DSP48E2, first row", DspSlice.DSP48E2, 0, mutants={
        "something enters the first row": _cell("FIRST == 0", "1'b1")}),
    _proof("DSP48E2, pairs of products", DspSlice.DSP48E2, 1, True, mutants={
        "a pair loses its sign": _cell("{(30 - WEIGHT_BITS) {row_weight[WEIGHT_BITS - 1]}}, row_weight",
                                       "{(31 - WEIGHT_BITS) {row_weight[WEIGHT_BITS - 2]}}, row_weight[25:0]")}),
    _proof("DSP48E2, a chain begins", DspSlice.DSP48E2, 16, True, mutants={
        "a chain begins too early": _cell(".OPMODEREG(1)", ".OPMODEREG(0)"),
        "a chain goes on": _cell("RESTARTS != 0 && restart", "1'b0")}),
    _proof("DSP48E1", DspSlice.DSP48E1, 1, mutants={
        "a column has no sign": _cell("{(30 - WEIGHT_BITS) {column_weight[WEIGHT_BITS - 1]}}",
                                      "{(30 - WEIGHT_BITS) {1'b0}}")}),
    _proof("DSP48E1 by Yosys' model", DspSlice.DSP48E1, 1, yosys=True, mutants=FAULTS),
]  # fmt: skip
