# SPDX-License-Identifier: Apache-2.0
"""Slowest paths: the delays are those of Yosys' library, the sums those of its own timing analysis, and the committed
figures those of this hardware.
"""

import json
import re

import pytest
from edgemoe.hw.contract.config import preset
from edgemoe.sim import paths, synthesis, timing
from edgemoe.sim.cell_delays import Variant, delays
from edgemoe.sim.yosys import run_yosys

COMMITTED = json.loads(timing.COMMITTED.read_text())


def slice_(**parameters):
    """A DSP slice that multiplies."""
    plain = {"USE_MULT": "MULTIPLY", "USE_DPORT": "FALSE", "ADREG": 0, "CREG": 0, "DREG": 0}
    return Variant("DSP48E1", tuple(sorted((plain | parameters).items())))


def test_delays_are_those_of_the_library():
    bare, full = slice_(AREG=0, BREG=0, MREG=0, PREG=0), slice_(AREG=1, BREG=1, MREG=1, PREG=1)
    memory = {registered: Variant("RAMB36E1", (("DOA_REG", registered),)) for registered in (0, 1)}
    found = delays([Variant("LUT6"), Variant("FDRE"), Variant("CARRY4"), bare, full, *memory.values()])
    assert sorted(ps for _, ps in found[Variant("LUT6")].through["O", 0]) == [127, 238, 407, 472, 631, 642]
    assert found[Variant("FDRE")].arrival == {("Q", 0): 303}
    assert found[Variant("FDRE")].setup == {("D", 0): 0, ("CE", 0): 109, ("R", 0): 404}
    assert (("CI", 0), 114) in found[Variant("CARRY4")].through["CO", 3]
    assert {ps for (pin, _), ps in found[bare].through["P", 0] if pin == "A"} == {2823}
    assert (found[full].arrival["P", 0], found[full].arrival["PCOUT", 0]) == (329, 435)
    assert (found[full].setup["A", 0], found[full].inside) == (254, 1416)
    assert [found[memory[registered]].arrival["DOADO", 0] for registered in (0, 1)] == [2454, 882]


def test_delays_of_a_cell_of_the_array():
    """Weight to the adder 1.283 ns, from there to the product 1.416, and not the library's 2.4 for both in one."""
    registers = dict.fromkeys(("ADREG", "AREG", "BREG", "DREG", "MREG", "PREG"), 1)
    full = slice_(**registers, USE_DPORT="TRUE")
    found = delays([full])[full]
    assert found.inside == 1416 and (found.setup["A", 0], found.setup["D", 0], found.setup["C", 0]) == (254, 248, 1244)
    assert found.setup["PCIN", 0] == 1025


def cell(kind, parameters=None, outputs=("O", "Q", "P"), **connections):
    """As Yosys' JSON has it."""
    pins = {port: net if isinstance(net, list) else [net] for port, net in connections.items()}
    directions = {port: "output" if port in outputs else "input" for port in pins}
    return {"type": kind, "parameters": parameters or {}, "port_directions": directions, "connections": pins}


def netlist(cells, inputs=(), outputs=(), kept=(), **names):
    ports = {name: {"direction": "input", "bits": [bit]} for name, bit in inputs}
    ports |= {name: {"direction": "output", "bits": [bit]} for name, bit in outputs}
    nets = {name: {"bits": [bit], "attributes": {"keep": "1"} if name in kept else {}} for name, bit in names.items()}
    return paths.pruned({"cells": cells, "ports": ports, "netnames": nets})


def slowest(netlists, inside, placed):
    design = paths.Design.of(netlists, inside, "top")
    return paths.Arrivals(design, placed).slowest(9, lambda place: place or "top")


def test_a_path_goes_through_modules():
    """A register, a LUT in a module inside, a LUT, a register; the module passes its input through as well."""
    inner = netlist({"l": cell("LUT2", I0=1, I1=2, O=3)}, [("a", 1), ("b", 2)], [("y", 3), ("same", 1)])
    top = netlist(
        {
            "from": cell("FDRE", C=9, CE="1", D=20, R="0", Q=10),
            "sub": {**cell("inner", a=10, b=11, y=12, same=13), "port_directions": {}},
            "l": cell("LUT2", I0=12, I1=13, O=14),
            "to": cell("FDRE", C=9, CE="1", D=14, R="0", Q=15),
        },
        start=10,
        end=15,
    )
    found = slowest({"top": top, "inner": inner}, {"top": {"sub": "inner"}}, placed=False)["top"][0]
    first = dict(delays([Variant("LUT2")])[Variant("LUT2")].through["O", 0])["I0", 0]
    assert (found.start, found.end) == ("start", "end")
    assert found.picoseconds == 303 + 2 * first
    assert found.through == ("FDRE 303", f"LUT2 {first}", f"LUT2 {first}", "setup 0")


def test_placed_puts_the_late_input_on_the_fast_pin():
    chain = {
        "from": cell("FDRE", C=9, CE="1", D=20, R="0", Q=1),
        "early": cell("FDRE", C=9, CE="1", D=21, R="0", Q=2),
        "l1": cell("LUT2", I0=1, I1="0", O=3),
        "l2": cell("LUT2", I0=3, I1=2, O=4),
        "to": cell("FDRE", C=9, CE="1", D=4, R="0", Q=5),
    }
    times = sorted(ps for _, ps in delays([Variant("LUT2")])[Variant("LUT2")].through["O", 0])
    mapped, placed = (slowest({"top": netlist(chain, end=5)}, {}, at_best)["top"][0] for at_best in (False, True))
    assert (mapped.picoseconds, placed.picoseconds) == (303 + 2 * times[1], 303 + 2 * times[0])


@pytest.mark.parametrize(
    ("enables", "kept", "setup"), [((50, 50), (), 254), ((50, 51), (), 1416), ((50, 50), ("bit",), 1416)]
)
def test_placed_takes_registers_into_a_slice(enables, kept, setup):
    """Only where one enable rules the whole port, and no register is kept where it is; the path that was at its
    register's data is then at the slice."""
    cells = {"from": cell("FDRE", C=9, CE="1", D=20, R="0", Q=1)}
    for bit, enable in enumerate(enables):
        cells[f"a{bit}"] = cell("FDRE", C=9, CE=enable, D=1, R="0", Q=100 + bit)
    registers = {"AREG": 0, "BREG": 1, "MREG": 1, "PREG": 1, "ADREG": 0, "CREG": 0, "DREG": 0}
    registers |= {"USE_MULT": "MULTIPLY", "USE_DPORT": "FALSE"}
    cells["m"] = cell("DSP48E1", registers, CLK=9, A=[100, 101, *["0"] * 28], P=[*range(300, 348)])
    held = netlist(cells, start=1, product=300, bit=101, kept=kept)
    found = slowest({"top": held}, {}, placed=True)["top"]
    assert [path.picoseconds for path in found if path.end == "product (A)"] == [303 + setup]
    mapped = slowest({"top": netlist(cells, start=1, product=300)}, {}, placed=False)["top"]
    assert [path.picoseconds for path in mapped if path.end == "product (A)"] == [303 + 1416]


def test_sums_are_those_of_yosys(tmp_path):
    """Of a module without others, DSP slices and block RAM: on those `sta` stops."""
    parts = synthesis.modules_of(preset("zcu102"), synthesis.TIMED)
    module = next(m for m in parts.values() if m.name.endswith(".dma_splitter"))
    result = synthesis.synthesise(parts, [module], True, tmp_path, synthesis.TIMED)[module.name]
    run_yosys(
        tmp_path,
        "read_json netlist.json\ndelete =A:blackbox\nread_verilog -lib -specify +/xilinx/cells_sim.v\n"
        f"tee -q -o sta.txt sta \\{module.name}\n",
    )
    latest = re.search(r"Latest arrival time in \S+ is (\d+)", (tmp_path / "sta.txt").read_text())
    mapped = paths.Arrivals(paths.Design.of(result["netlists"], {}, ""), False).slowest(1, lambda _: "")
    assert latest and int(latest[1]) == max(path[0].picoseconds for path in mapped.values())
    assert timing.alone(result["netlists"]) == pytest.approx(
        COMMITTED["modules"][module.key]["ns"], rel=0.1
    )  # the mapper looks around


def test_committed_figures_are_of_this_hardware():
    """hw/timing.json must follow a change of the hardware: see its `command`."""
    assert {m.key for m in synthesis.modules_of(preset(timing.PRESET)).values()} == set(COMMITTED["modules"])


def test_no_path_takes_longer_than_promised():
    assert max(entry["ns"] for entry in COMMITTED["units"].values()) <= timing.LIMIT
    assert all(entry["mapped_ns"] >= entry["ns"] for entry in COMMITTED["units"].values())


def test_the_page_shows_the_committed_figures():
    assert timing.table(COMMITTED["units"]) in timing.PAGE.read_text()


@pytest.mark.full
def test_committed_figures_of_all_units():
    """But for what the mapper makes otherwise with other modules beside."""
    found = timing.timing(preset(timing.PRESET))
    assert {unit: entry["ns"] for unit, entry in found.items()} == {
        unit: pytest.approx(entry["ns"], rel=0.1) for unit, entry in COMMITTED["units"].items()
    }
