# SPDX-License-Identifier: Apache-2.0
"""What is shipped runs in a second, four-state simulator, read as Verilog-2005 and as SystemVerilog, with waveforms."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from edgemoe.hw import verilog_text
from edgemoe.hw.contract.config import preset
from edgemoe.sim import bench, serial_board
from edgemoe.sim.simulator import verilog

from ..programs import needed

TINY = preset("tiny")
LANGUAGES = ("2005", "2012")  # -g2012 is what cocotb's runner asks for
FOLDER = Path(__file__).parent
DUMP = """`timescale 1ns/1ps
module dump;
  initial begin
    $dumpfile("{file}");
    $dumpvars(0, edgemoe);
  end
endmodule
"""


def compile_(folder: Path, language: str, tops: tuple[str, ...], *sources: Path) -> Path:
    needed("iverilog", "vvp")
    out = folder / "sim.vvp"
    roots = [part for top in tops for part in ("-s", top)]
    done = subprocess.run(
        ["iverilog", f"-g{language}", *roots, "-o", out, *sources], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    return out


def said(folder: Path, simulation: Path) -> list[str]:
    done = subprocess.run(["vvp", "-n", simulation], cwd=folder, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "dumpfile" not in line]


def signals_of(vcd: Path) -> dict[str, list[str]]:
    """Name (within its innermost scope) of every scalar in a VCD file -> its values in order."""
    from vcd.reader import TokenKind, tokenize

    names: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}
    with open(vcd, "rb") as handle:
        for token in tokenize(handle):
            if token.kind is TokenKind.VAR:
                names.setdefault(token.var.id_code, []).append(token.var.reference)
            elif token.kind is TokenKind.CHANGE_SCALAR:
                values.setdefault(token.scalar_change.id_code, []).append(str(token.scalar_change.value))
    return {name: values.get(code, []) for code, references in names.items() for name in references}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_core_starts(language: str, tmp_path: Path) -> None:
    """Idle after reset, at work after START, and the waveforms show it."""
    (tmp_path / "edgemoe.v").write_text(verilog(TINY))
    simulation = compile_(tmp_path, language, ("start",), FOLDER / "start.v", tmp_path / "edgemoe.v")
    assert said(tmp_path, simulation)[-1] == "PASS"
    signals = signals_of(tmp_path / "start.vcd")
    assert len(signals) > 2000 and signals["memory_arvalid"][-1] == "1"


def test_without_the_mending_it_does_not_start(tmp_path: Path) -> None:
    """The test above is not vacuous: as Yosys wrote it, the core is dead in SystemVerilog."""
    (tmp_path / "edgemoe.v").write_text(verilog_text.unfinished(verilog(TINY)))
    simulation = compile_(tmp_path, "2012", ("start",), FOLDER / "start.v", tmp_path / "edgemoe.v")
    assert said(tmp_path, simulation)[-1] != "PASS"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_board_system_wakes(language: str, tmp_path: Path) -> None:
    text = serial_board.verilog(preset("ulx3s"), clock_hz=60e6, cycles_per_bit=20)
    (tmp_path / "system.v").write_text(text)
    simulation = compile_(tmp_path, language, ("wake",), FOLDER / "wake.v", tmp_path / "system.v")
    assert said(tmp_path, simulation)[-1] == "PASS"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_whole_inference(language: str, tmp_path: Path) -> None:
    """Two inferences between AXI models that nobody here wrote:
    memory as the emulator leaves it, every signal in the waveforms.
    """
    waves = tmp_path / "edgemoe.fst"
    (tmp_path / "edgemoe.v").write_text(verilog(TINY))
    (tmp_path / "dump.v").write_text(DUMP.format(file=waves))
    compile_(tmp_path, language, ("edgemoe", "dump"), tmp_path / "dump.v", tmp_path / "edgemoe.v")
    bench.run_built("icarus", tmp_path, "edgemoe", "tests.axi.test_core", testcase="inference", waves=True)
    kind, _, start, end = struct.unpack(">BQQQ", waves.read_bytes()[:25])
    scopes, variables = struct.unpack(">QQ", waves.read_bytes()[41:57])
    assert kind == 0 and end - start > 30_000_000  # ps
    assert scopes > 50 and variables > 5000
