# SPDX-License-Identifier: Apache-2.0
"""Counting resources: the Verilog comes apart into modules, keys do not depend on the generator's numbers, the
committed counts are of this hardware.
"""

import pytest
from edgemoe.hw.contract.config import preset
from edgemoe.sim import modules, synthesis
from edgemoe.sim.simulator import verilog

COUNTER = """module inner(clk, a, y);
  input clk;
  wire clk;
  input [3:0] a;
  wire [3:0] a;
  output [3:0] y;
  wire [3:0] \\port$NUMBER$0 ;
  assign y = \\port$NUMBER$0 ;
endmodule

module edgemoe(clk, a, y);
  input clk;
  inner  first (
    .clk(clk)
  );
  inner  second (
    .clk(clk)
  );
endmodule
"""


def test_modules_and_instances():
    parts = modules.split(COUNTER)
    assert set(parts) == {"inner", "edgemoe"}
    assert list(modules.instances(parts)) == [("", "edgemoe"), ("first", "inner"), ("second", "inner")]
    assert "assign" not in parts["inner"].stub and "output [3:0] y;" in parts["inner"].stub


def test_a_key_ignores_numbers_dealt_out_over_the_design():
    first, second, other = (
        modules.split(text)["inner"].key
        for text in (
            COUNTER.replace("NUMBER", "7"),
            COUNTER.replace("NUMBER", "1234"),
            COUNTER.replace("[3:0] y", "[4:0] y"),
        )
    )
    assert first == second != other


def test_the_whole_core_comes_apart():
    parts = modules.split(verilog(preset("tiny")))
    placed = [module for _, module in modules.instances(parts)]
    assert set(placed) == set(parts), "a module without an instance, or the other way round"
    assert {"array", "epilogue", "softmax"} <= {modules.unit_of(path) for path, _ in modules.instances(parts)}


@pytest.mark.parametrize(("name", "most"), [("base", 400), ("zcu102", 1300)])
def test_committed_counts_are_of_this_hardware(name, most):
    """hw/resources.json must follow a change of the hardware: see its `command`."""
    parts = synthesis.modules_of(preset(name))
    stale = [m.name for m in parts.values() if m.key not in synthesis.committed()]
    assert not stale
    assert synthesis.dsp(preset(name)) <= most


@pytest.mark.parametrize(("family", "slices"), [("xcup", 4), ("xc7", 4), (synthesis.TIMED, 4)])
def test_a_row_of_the_array_is_slices_alone(family, slices, tmp_path):
    parts = synthesis.modules_of(preset("tiny"), family)
    row = next(m for m in parts.values() if m.name.endswith(".array.row_1"))
    counted = synthesis.synthesise(parts, [row], True, tmp_path, family)[row.name]
    assert {kind: counted[kind] for kind in synthesis.KINDS} == dict.fromkeys(synthesis.KINDS, 0) | {"dsp": slices}
    assert synthesis.synthesise(parts, [row], False, tmp_path, family)[row.name] == {"dsp": slices} and row.multiplies


@pytest.mark.parametrize("unit", ["loader", "writer"])
def test_committed_counts_are_what_yosys_counts(unit, tmp_path):
    parts = synthesis.modules_of(preset("base"))
    module = next(m for m in parts.values() if m.name.endswith(f".{unit}"))
    counted = synthesis.synthesise(parts, [module], True, tmp_path)[module.name]
    committed = synthesis.committed()[module.key]
    assert all(counted[kind] == committed[kind] for kind in ("ff", "dsp", "bram", "uram"))
    # How many LUTs the mapper needs also depends on the modules that it maps beside this one.
    assert counted["lut"] == pytest.approx(committed["lut"], rel=0.1)
