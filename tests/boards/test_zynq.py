# SPDX-License-Identifier: Apache-2.0
"""What `edgemoe build` writes for Zynq UltraScale+: scripts against a model of Vivado, addresses against the register
map, Verilog.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from edgemoe.boards import facts
from edgemoe.boards.facts import Family, VivadoBoard
from edgemoe.boards.flows import vivado as flow
from edgemoe.boards.flows.processors import processor_of
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import simulator
from edgemoe.sim.build import verilator_root

from tests.boards.vivado import Refused, Vivado, attributes

from ..programs import needed

ROOT = Path(__file__).resolve().parents[2]
ZYNQ = [board for board in facts.BOARDS.values() if isinstance(board, VivadoBoard)]
ZYNQ.append(facts.BOARDS["kv260"].carrying(preset("kv260-fast")))  # takes more of the board's memory ports


@pytest.fixture(scope="module", params=ZYNQ, ids=lambda b: b.hardware.name)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VivadoBoard, Path]:
    folder = tmp_path_factory.mktemp(request.param.name)
    flow.write(request.param, folder)
    return request.param, folder


def vivado(board: VivadoBoard, folder: Path, **options: float) -> Vivado:
    pytest.importorskip("tkinter", reason="needs a Tcl interpreter (Debian, Ubuntu: apt install python3-tk)")
    newer = f"{board.board_part}:part0:9.10", f"{board.board_part}:part0:9.2"
    return Vivado(folder, parts=(board.part,), board_parts=newer, **options)


def test_scripts_package_and_build(built: tuple[VivadoBoard, Path]) -> None:
    board, folder = built
    packager = vivado(board, folder)
    packager.source("package_ip.tcl")
    assert packager.settings["the_core"]["ipi_drc"] == "ignore_freq_hz true"
    assert packager.settings["block:reg0"] == {"range": "4096", "width": "32", "usage": "register"}

    run = vivado(board, folder)
    run.source("build.tcl")
    assert run.settings["project"]["board_part"].endswith("9.10")  # the newest, by number and not by letter
    assert run.cells["ps"].endswith(":3.5" if board.family is Family.ZYNQ_ULTRASCALE_PLUS else ":5.5")
    assert run.addresses.pop("core/s_axil/reg0") == (board.core_address, 1 << registers.ADDRESS_BITS, "ps/Data")
    assert {space for _, _, space in run.addresses.values()} == {f"core/{name}" for name in board.hardware.master_names}
    assert len(run.addresses) == len(board.ports) == board.hardware.masters
    assert all(segment.endswith(("_DDR_LOW", "_DDR_LOWOCM")) for segment in run.addresses)
    others = 4 if board.family is Family.ZYNQ_ULTRASCALE_PLUS else 0  # what else is behind a port
    assert len(run.excluded) == others * board.hardware.masters and not [
        name for _, name in run.excluded if name in run.addresses
    ]
    settings = run.settings["ps"]
    assert settings[processor_of(board).asked] == f"{board.clock_mhz:g}"
    widths = [value for name, value in settings.items() if re.search(r"SAXIGP\d__DATA|S_AXI_HP\d_DATA", name)]
    assert widths == [str(board.hardware.data_bits)] * board.hardware.masters
    assert (folder / "edgemoe.bit").read_text() == "bits" and (folder / "edgemoe.hwh").exists()


def test_no_bitstream_that_misses_its_clock(built: tuple[VivadoBoard, Path]) -> None:
    board, folder = built
    (folder / "edgemoe.bit").unlink(missing_ok=True)
    with pytest.raises(Refused, match=r"slack is -0\.1 ns at 124\.987500 MHz"):
        vivado(board, folder, slack=-0.1).source("build.tcl", "123")
    assert not (folder / "edgemoe.bit").exists()


@pytest.mark.parametrize("name", ["package_ip.tcl", "build.tcl"])
def test_the_model_of_vivado_refuses_mistakes(built: tuple[VivadoBoard, Path], name: str, tmp_path: Path) -> None:
    """A port renamed in the Verilog must break the script: the check is not vacuous."""
    board, folder = built
    for file in (*folder.glob("*.v"), *folder.glob("*.tcl"), *folder.glob("*.xdc")):
        (tmp_path / file.name).write_text(
            file.read_text().replace("s_axil ", "s_axix ") if file.name == "edgemoe_ip.v" else file.read_text()
        )
    with pytest.raises((Refused, KeyError)):
        vivado(board, tmp_path).source(name)


def test_a_missing_board_file_is_named(built: tuple[VivadoBoard, Path]) -> None:
    board, folder = built
    run = vivado(board, folder)
    run.board_parts = ()
    with pytest.raises(Refused, match=f"no board file {board.board_part}"):
        run.source("build.tcl")


PRESET = """proc apply_preset {IPINST} {
    return [dict create CONFIG.PCW_UIPARAM_DDR_PARTNO {MT41K256M16 RE-125} CONFIG.PCW_UART0_PERIPHERAL_ENABLE {1} ]
}
"""
COMMANDS = "set_property -dict {CONFIG.PCW_UIPARAM_DDR_PARTNO {MT41K256M16 RE-125}} $ps\n"
PARAMETERS = {"PCW_UIPARAM_DDR_PARTNO": "MT41K256M16 RE-125", "PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ": "99"}
XCI = json.dumps(
    {"ip_inst": {"parameters": {"component_parameters": {name: [{"value": v}] for name, v in PARAMETERS.items()}}}}
)
OLD_XCI = '<spirit:design xmlns:spirit="http://www.spiritconsortium.org">{}</spirit:design>'.format(
    "".join(
        f'<spirit:value spirit:referenceId="PARAM_VALUE.{name}">{value}</spirit:value>'
        for name, value in PARAMETERS.items()
    )
)


@pytest.mark.parametrize(
    "name, text", [("a.tcl", PRESET), ("b.tcl", COMMANDS), ("c.xci", XCI), ("d.xci", OLD_XCI)], ids=lambda x: x[:5]
)
def test_a_processor_configured_by_the_user(name: str, text: str, tmp_path: Path) -> None:
    """In place of a board file: what Vivado saves, commands, or another project's .xci, new and old."""
    (tmp_path / name).write_text(text)
    board = replace(facts.BOARDS["pynqz2"], board_part="", processor=str(tmp_path / name))
    flow.write(board, tmp_path / "out")
    pytest.importorskip("tkinter", reason="needs a Tcl interpreter (Debian, Ubuntu: apt install python3-tk)")
    run = Vivado(tmp_path / "out", parts=(board.part,))
    run.source("build.tcl")
    settings = run.settings["ps"]
    assert "board_part" not in run.settings["project"]
    assert settings["CONFIG.PCW_UIPARAM_DDR_PARTNO"] == "MT41K256M16 RE-125"
    assert settings["CONFIG.PCW_S_AXI_HP0_DATA_WIDTH"] == "64", "what the core asks for comes last"


def test_a_processors_file_that_is_none(tmp_path: Path) -> None:
    board = replace(facts.BOARDS["pynqz2"], board_part="", processor=str(tmp_path / "absent.tcl"))
    with pytest.raises(EdgemoeError, match="cannot read processor .*absent.tcl: No such file"):
        flow.write(board, tmp_path / "out")
    (tmp_path / "x.xci").write_text("{}")
    with pytest.raises(EdgemoeError, match="holds no parameters of a processor"):
        flow.write(replace(board, processor=str(tmp_path / "x.xci")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(EdgemoeError, match="has memory ports HP7; they are HP0, HP1, HP2, HP3"):
        flow.write(replace(facts.BOARDS["pynqz2"], memory_ports=("HP7",)), tmp_path / "out")


def test_verilog_is_clean(built: tuple[VivadoBoard, Path]) -> None:
    board, folder = built
    root = verilator_root()
    command = [
        root / "bin" / "verilator_bin",
        "--lint-only",
        "-Wno-fatal",
        "-Wwarn-lint",
        "-Wno-UNUSED",
        "-Wno-DECLFILENAME",
    ]
    files = [folder / "edgemoe.v", folder / "edgemoe_ip.v", folder / f"{board.slices.lower()}.v"]
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    done = subprocess.run(
        [*command, "--top-module", "edgemoe_ip", *files], capture_output=True, text=True, check=False, env=environment
    )
    wrong = [
        line
        for line in done.stderr.splitlines()
        if re.match(r"%(Error|Warning-(PIN|IMPLICIT|MULTIDRIVEN|LATCH|COMBDLY|BLK))", line)
    ]
    assert done.returncode == 0 and not wrong, "\n".join(wrong[:5])


def test_the_array_is_in_the_devices_slices(built: tuple[VivadoBoard, Path]) -> None:
    """One each, and no multiplication beside them; the model of one is no source of Vivado's."""
    board, folder = built
    text = (folder / "edgemoe.v").read_text()
    cells = len(re.findall(rf"^ +edgemoe_{board.slices.lower()} #\(", text, re.M))
    assert cells == board.hardware.lanes * board.hardware.inputs
    rows = re.findall(r"^module \\edgemoe\.top\.engine\.array\S* .*?^endmodule", text, re.M | re.S)
    assert len(rows) == 1 + board.hardware.inputs and not any(" * " in row for row in rows)
    assert f"module {board.slices} #(" in (folder / f"{board.slices.lower()}.v").read_text() and board.slices in text
    assert f"{board.slices.lower()}.v" not in (folder / "package_ip.tcl").read_text()


def test_a_weight_that_no_slice_holds() -> None:
    """Pairs of weights are wider than a slice of series 7: such a core keeps the cells that any tool maps."""
    packed = replace(facts.BOARDS["pynqz2"].hardware, packed=1)
    assert DspSlice.DSP48E2.holds(packed) and not DspSlice.DSP48E1.holds(packed)
    assert DspSlice.DSP48E1.holds(facts.BOARDS["pynqz2"].hardware)


def test_every_port_has_its_interface(built: tuple[VivadoBoard, Path]) -> None:
    board, folder = built
    text = (folder / "edgemoe_ip.v").read_text()
    found = attributes(text)
    assert set(found) == {"aclk", "aresetn", "interrupt", "s_axil", *board.hardware.master_names}
    assert {port for bus in found.values() for port in bus.values()} == set(
        flow.ports((folder / "edgemoe.v").read_text())
    )
    assert {"AWADDR", "WSTRB", "BRESP", "ARLEN", "RLAST", "RID"} <= set(found[board.hardware.master_names[0]])
    assert "FREQ_HZ" not in text and f"ASSOCIATED_BUSIF s_axil:{':'.join(board.hardware.master_names)}," in text


def test_register_maps_agree(built: tuple[VivadoBoard, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    board, folder = built
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "edgemoe_registers", raising=False)
    python = importlib.import_module("edgemoe_registers")
    header = dict(re.findall(r"#define EDGEMOE_(\w+) (0x[0-9A-F]+)u /\*", (folder / "edgemoe.h").read_text()))
    listed = {r["name"]: r["offset"] for r in json.loads((folder / "registers.json").read_text())["registers"]}
    expected = {r.name: r.offset for r in registers.REGISTERS}
    assert listed == expected == {name: int(value, 16) for name, value in header.items()}
    assert (
        all(getattr(python, name) == value for name, value in expected.items()) and python.ADDRESS == board.core_address
    )
    facts = json.loads((folder / "board.json").read_text())
    assert (
        facts["constants"]["CONFIG_HASH"] == board.hardware.hash and facts["registers"]["address"] == board.core_address
    )


def compiled(folder: Path, name: str) -> str:
    """An overlay as dtc compiles it, without a single warning, and then understands it."""
    needed("dtc")
    done = subprocess.run(
        ["dtc", "-@", "-I", "dts", "-O", "dtb", "-o", f"{name}.dtbo", f"{name}.dtso"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # (Of the compiled overlay dtc complains that labels of the running system are unknown, which is what an overlay
    # is.)
    return subprocess.run(
        ["dtc", "-q", "-q", "-I", "dtb", "-O", "dts", folder / f"{name}.dtbo"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def values(tree: str, node: str, name: str) -> list[int]:
    """The cells of a node's property."""
    body = re.search(rf"{re.escape(node)} \{{(.*?)\}};", tree, re.S)
    assert body, f"no node {node}"
    found = re.search(rf"\s{re.escape(name)} = <(.*?)>;", body[1])
    return [int(cell, 0) for cell in found[1].split()] if found else []


@pytest.mark.parametrize("name", flow.OVERLAYS)
def test_device_tree(built: tuple[VivadoBoard, Path], name: str) -> None:
    board, folder = built
    (folder / "clock.dtsi").write_text(f"assigned-clock-rates = <{round(board.clock_mhz * 1e6)}>;\n")
    tree = compiled(folder, name.removesuffix(".dtso"))
    core = f"edgemoe@{board.core_address:x}"
    plus = board.family is Family.ZYNQ_ULTRASCALE_PLUS
    place = [board.core_address, 1 << registers.ADDRESS_BITS]
    assert values(tree, core, "reg") == ([0, place[0], 0, place[1]] if plus else place)
    number = 121 if plus else 61  # of the GIC: pl_ps_irq0, IRQ_F2P; a level
    assert values(tree, core, "interrupts") == ([] if "poll" in name else [0, number - 32, 4])
    assert values(tree, "clocking0", "assigned-clock-rates") == [round(board.clock_mhz * 1e6)]
    assert f"{core}:interrupt-parent:0" in tree if "poll" not in name else "interrupt" not in tree
    assert re.findall(r'device-name = "(\S+)";', tree) == [f"edgemoe-memory{i}" for i in range(board.hardware.masters)]
    for i in range(board.hardware.masters):
        assert values(tree, f"edgemoe-memory{i}", "size") == [board.memory_bytes]
    assert 'firmware-name = "edgemoe.bit.bin"' in tree


def test_another_clock(built: tuple[VivadoBoard, Path], tmp_path: Path) -> None:
    """`make CLOCK_MHZ=200`: bitstream, overlays and board.json are made again, with the clock that the processor
    gives.
    """
    pytest.importorskip("tkinter", reason="needs a Tcl interpreter (Debian, Ubuntu: apt install python3-tk)")
    needed("make", "dtc")
    board, folder = built
    flow.write(board, tmp_path)
    path, python = shlex.quote(str(ROOT)), shlex.quote(sys.executable)
    model = f"VIVADO=PYTHONPATH={path} {python} -m tests.boards.vivado"

    def make(*arguments: str) -> str:
        targets = ("edgemoe.bit", "edgemoe.dtbo", "edgemoe-poll.dtbo")
        done = subprocess.run(
            ["make", model, *arguments, *targets], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def clocks() -> list[float]:
        facts = json.loads((tmp_path / "board.json").read_text())
        trees = [
            subprocess.run(
                ["dtc", "-q", "-q", "-I", "dtb", "-O", "dts", tmp_path / name],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for name in ("edgemoe.dtbo", "edgemoe-poll.dtbo")
        ]
        return [
            facts["clock_asked_mhz"],
            facts["clock_mhz"],
            *(values(tree, "clocking0", "assigned-clock-rates")[0] / 1e6 for tree in trees),
        ]

    first = make()
    assert "build.tcl" in first and clocks()[0] == board.clock_mhz
    assert all(abs(mhz / board.clock_mhz - 1) < 0.1 for mhz in clocks()[1:])
    assert "build.tcl" not in make() and "dtc" not in make(), "nothing has changed"
    changed = make("CLOCK_MHZ=200") if board.clock_mhz != 200 else make("CLOCK_MHZ=187")
    if board.clock_mhz != 200:
        assert "build.tcl" in changed and clocks() == [200, 187.48125, 187.48125, 187.48125]
        assert "build.tcl" not in make(), "the clock is remembered"
        assert clocks()[0] == 200 and "build.tcl" in make("CLOCK_MHZ=150") and clocks()[1:] == [149.985] * 3
    else:
        assert clocks() == [187, 187.48125, 187.48125, 187.48125] and "build.tcl" in make("CLOCK_MHZ=200")
    assert json.loads((tmp_path / "board.json").read_text())["constants"]["CONFIG_HASH"] == board.hardware.hash


def test_the_rest_is_complete(built: tuple[VivadoBoard, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    board, folder = built
    texts = {
        path.name: path.read_text()
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".v", ".bit", ".hwh", ".whl", ".dtbo", ".png")
    }
    assert not [name for name, text in texts.items() if re.search(r"@[A-Z_]+@", text)]
    pynq = ModuleType("pynq")
    vars(pynq).update(DefaultIP=object, Overlay=object)
    monkeypatch.setitem(sys.modules, "pynq", pynq)
    overlay = runpy.run_path(str(folder / "edgemoe_pynq.py"))
    assert overlay["BANK_BYTES"] == board.memory_bytes and overlay["HARDWARE"] == board.hardware.name
    assert f'"{flow.vlnv("edgemoe")}", "xilinx.com:module_ref:edgemoe_ip:1.0"' in texts["edgemoe_pynq.py"]
    assert set(re.findall(r"files: \[(.*?)\]", texts["edgemoe.core"])) == {
        "edgemoe.v, edgemoe_ip.v",
        f"{board.slices.lower()}.v",
        "edgemoe.xdc",
    }
    assert all(
        (folder / name).exists()
        for name in re.findall(r"([\w.-]+\.(?:tcl|v|xdc|dtso)) *", texts["Makefile"])
        if "/" not in name
    )
    for name in re.findall(r"`([\w.-]+\.\w+)`", texts["README.md"]):
        assert (folder / name).exists() or name in ("edgemoe.bit", "edgemoe.hwh", "edgemoe-poll.dtbo"), name
    assert texts["README.md"].count(f"--hardware {board.hardware.name}") == 2
    needed = (
        "github.com/ikwzm/udmabuf",
        "groupadd",
        "uio_pdrv_genirq.of_id=generic-uio",
        "xmutil unloadapp",
        "edgemoe reset",
        "PYNQ",
        board.linux,
    )
    assert not [word for word in needed if word not in texts["README.md"]] and board.linux
    wheels = re.findall(r"pip install (\./\S+\.whl)`", texts["README.md"])
    assert len(wheels) == 1 and (folder / wheels[0]).is_file()


def test_large_memories_go_to_ultra_ram() -> None:
    board = facts.board("kv260")
    text = flow.with_ultra_ram(simulator.verilog(board.hardware))
    assert text.count("(* ram_style = STYLE *)") == 1
    style = re.search(r"localparam STYLE = \((.*)\) \?", text)
    assert style
    condition = style[1].replace("&&", "and").replace("/", "//")
    memories = re.findall(r"\.DEPTH\(32'd(\d+)\).*?\.WIDTH\(32'd(\d+)\)", text, re.S)
    found = [eval(condition, {"DEPTH": int(depth), "WIDTH": int(width)}) for depth, width in memories]
    assert found == [facts.in_ultra_ram(int(depth), int(width)) for depth, width in memories]
    assert sum(found) >= 3  # activations, keys and values, residual


def test_every_template_bears_the_licence() -> None:
    templates = sorted((ROOT / "boards" / "templates").rglob("*.*"))
    assert len(templates) > 15
    assert not [path.name for path in templates if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()]


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(
        EdgemoeError, match="unknown board 'zcu999': choose one of kv260, pynqz2, schoko, ultra96, ulx3s, zcu102, or"
    ):
        facts.board("zcu999")
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgemoeError):
        flow.write(facts.board("ultra96"), tmp_path / "file")
    with pytest.raises(EdgemoeError, match="'ulx3s' is no Zynq"):
        flow.write(facts.board("ulx3s"), tmp_path / "ulx3s")
    done = subprocess.run(
        [sys.executable, "-m", "edgemoe.host.cli", "build", "--board", "zcu999", "-o", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2 and done.stderr.startswith("edgemoe: error: unknown board 'zcu999'") and done.stdout == ""
    )
