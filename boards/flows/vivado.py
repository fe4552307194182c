# SPDX-License-Identifier: Apache-2.0
"""Everything that a Zynq board needs from us: Verilog, Vivado scripts, register map, device tree, PYNQ
class, README.

The scripts are templates; every @WORD@ in them is filled from the board's facts and from the register map.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

from edgemoe.boards import kit
from edgemoe.boards.facts import (
    BOARDS,
    ULTRA_RAM_DEPTH,
    ULTRA_RAM_WIDTH,
    ULTRA_RAM_WORDS,
    Board,
    VivadoBoard,
    ZynqBoard,
)
from edgemoe.boards.flows import processors
from edgemoe.boards.flows.templates import filled
from edgemoe.hw.contract import names, registers
from edgemoe.hw.contract.config import NAME, HardwareConfig
from edgemoe.hw.contract.hardware_option import option
from edgemoe.hw.contract.isa import ENUMERATIONS
from edgemoe.hw.documents import documents
from edgemoe.hw.verilog_text import SYSTEMC_WORDS, core_interfaces, head, legible, named, waived
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.folders import OutputFolder
from edgemoe.sim import simulator

REGISTER_BYTES = 1 << registers.ADDRESS_BITS
MASTER_ADDRESS_BITS = 40
# Device-tree overlays: with the core's interrupt, and without, for a system in which something else holds it (the
# driver then looks at the registers).
_INTERRUPT = "\t\tinterrupt-parent = <&{controller}>;\n\t\tinterrupts = <0 {gic} 4>;\n"
OVERLAYS = {
    "edgemoe.dtso": {"WAITING": "", "INTERRUPT": _INTERRUPT},
    "edgemoe-poll.dtso": {"WAITING": "Without an interrupt.", "INTERRUPT": ""},
}
TEMPLATES = (
    *("package_ip.tcl", "build.tcl", "edgemoe.xdc", "Makefile", "99-edgemoe.rules"),
    *("edgemoe_pynq.py", "README.md"),
)


def vlnv(name: str) -> str:
    """Vivado's name of the packaged core."""
    return f"{names.VENDOR}:{names.LIBRARY}:{name}_ip:1.0"


def ports(verilog: str, module: str = NAME) -> dict[str, tuple[str, int]]:
    """Name -> (input or output, bits) of every port of a generated module."""
    body = re.search(rf"^module {module}\(.*?^endmodule", verilog, re.M | re.S)
    assert body, f"no module {module} in the generated Verilog"
    found = re.findall(r"^\s*(input|output) (?:\[(\d+):0\] )?(\w+);", body[0], re.M)
    return {name: (way, int(high or 0) + 1) for way, high, name in found}


def wrapper(verilog: str, config: HardwareConfig, name: str = NAME) -> str:
    """Module `NAME_ip`: the core's ports with the attributes by which Vivado knows interfaces, and nothing else."""
    buses = ("s_axil", *config.master_names)
    described = {
        "s_axil": f"XIL_INTERFACENAME s_axil, PROTOCOL AXI4LITE, DATA_WIDTH 32, ADDR_WIDTH {registers.ADDRESS_BITS}"
    }
    for master in config.master_names:
        described[master] = (
            f"XIL_INTERFACENAME {master}, PROTOCOL AXI4, DATA_WIDTH {config.data_bits}, ADDR_WIDTH "
            f"{MASTER_ADDRESS_BITS}, ID_WIDTH 1, "
            f"READ_WRITE_MODE READ_WRITE, HAS_BURST 1, SUPPORTS_NARROW_BURST 0, MAX_BURST_LENGTH {config.burst_beats}, "
            f"NUM_READ_OUTSTANDING {config.outstanding}, NUM_WRITE_OUTSTANDING {config.outstanding}"
        )
    single = {
        "aclk": (
            "xilinx.com:signal:clock:1.0 aclk CLK",
            f"XIL_INTERFACENAME aclk, ASSOCIATED_BUSIF {':'.join(buses)}, ASSOCIATED_RESET aresetn",
        ),
        "aresetn": ("xilinx.com:signal:reset:1.0 aresetn RST", "XIL_INTERFACENAME aresetn, POLARITY ACTIVE_LOW"),
        "interrupt": (
            "xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT",
            "XIL_INTERFACENAME interrupt, SENSITIVITY LEVEL_HIGH",
        ),
    }
    declared, connected = [], []
    for port, (way, bits) in ports(verilog, name).items():
        width = f"[{bits - 1}:0] " if bits > 1 or re.search(r"_(ar|aw|r|b)id$", port) else ""
        if port in single:
            info, parameters = single[port]
        else:
            bus, member = next((b, port.removeprefix(f"{b}_")) for b in buses if port.startswith(f"{b}_"))
            info, parameters = f"xilinx.com:interface:aximm:1.0 {bus} {member.upper()}", described.pop(bus, "")
        attributes = (
            f'(* X_INTERFACE_INFO = "{info}"'
            + (f', X_INTERFACE_PARAMETER = "{parameters}"' if parameters else "")
            + " *)"
        )
        text = f"    {attributes}\n    {way} wire {width}{port}"
        declared.append(waived("SYMRSVDWORD", text) if port in SYSTEMC_WORDS else text)
        connected.append(f"      .{port}({port})")
    return (
        "// SPDX-License-Identifier: Apache-2.0\n"
        f"// {name}_ip: the core under the names and attributes that Vivado's IP packager reads.\n"
        f"module {name}_ip (\n"
        + ",\n".join(declared)
        + f"\n);\n  {name} core (\n"
        + ",\n".join(connected)
        + "\n  );\nendmodule\n"
    )


def with_ultra_ram(verilog: str) -> str:
    """The core with its deep memories marked for UltraRAM."""
    plain = "  reg [WIDTH - 1:0] memory[0:DEPTH - 1];"
    if verilog.count(plain) != 1:
        raise AssertionError("block_memory.v does not declare its memory as expected")
    d, w = ULTRA_RAM_DEPTH, ULTRA_RAM_WIDTH
    half = f"2 * DEPTH * WIDTH >= ((DEPTH + {d - 1}) / {d}) * ((WIDTH + {w - 1}) / {w}) * {d * w}"
    deep = f"DEPTH > {ULTRA_RAM_WORDS} && {half}"
    style = f'  localparam STYLE = ({deep}) ? "ultra" : "block";\n  (* ram_style = STYLE *)\n'
    return verilog.replace(plain, style + plain)


def registers_python(board: VivadoBoard) -> str:
    """The register map as a Python module."""
    lines = [
        '"""Register offsets and field masks of the core. Generated: do not edit."""',
        "",
        f"ADDRESS = {board.core_address:#x}",
    ]
    for r in registers.REGISTERS:
        lines.append(f"{r.name} = {r.offset:#05x}  # {r.access.value}: {r.doc}")
        lines += [f"{r.name}_{f.name} = {f.mask:#x}" for f in r.fields]
    for e in ENUMERATIONS:
        lines += [
            "",
            f"# {e.doc}",
            *(f"{e.name.upper()}_{value.name} = {int(value)}  # {doc}" for value, doc in e.meanings.items()),
        ]
    return "\n".join(lines) + "\n"


def facts(board: VivadoBoard, name: str = NAME) -> dict[str, object]:
    """The board and its core for programs."""
    config = board.hardware
    return {
        "board": board.name,
        "part": board.part,
        "hardware": config.name,
        "clock_mhz": board.clock_mhz,  # build.tcl puts the clock that the processor really gives in its place
        "clock_asked_mhz": board.clock_mhz,
        "registers": {"address": board.core_address, "bytes": REGISTER_BYTES, "module": vlnv(name)},
        "memory": [
            {"master": master, "port": port, "bytes": board.memory_bytes}
            for master, port in zip(config.master_names, board.ports, strict=True)
        ],
        "constants": registers.constants(config),
    }


def _buffers(board: Board) -> str:
    """Device-tree nodes of the memory."""
    text = ""
    for i in range(board.hardware.masters):
        lines = (
            'compatible = "ikwzm,u-dma-buf";',
            f'device-name = "{names.MEMORY}{i}";',
            f"size = <{board.memory_bytes:#x}>;",
        )
        text += f"\n\t{names.MEMORY}{i} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t};\n"
    return text


def words(board: VivadoBoard, name: str = NAME) -> dict[str, str]:
    """What the templates' @WORDS@ stand for."""
    config = board.hardware
    total = config.masters * board.memory_bytes >> 20
    values: dict[str, object] = {
        "TITLE": board.title,
        "PART": board.part,
        "MODULE": name,
        "VLNV": vlnv(name),
        "VENDOR_NAME": vlnv(name).rpartition(":")[0],
        "VENDOR": names.VENDOR,
        "LIBRARY": names.LIBRARY,
        "UIO": names.UIO,
        "MEMORY": names.MEMORY,
        "VERSION": importlib.metadata.version("edgemoe"),
        "HARDWARE": config.name,
        "HARDWARE_OPTION": option(config, f"{name}.toml"),
        "LANES": config.lanes,
        "ROWS": config.inputs,
        "SLICE": board.slices,
        "SLICE_MODEL": f"{board.slices.lower()}.v",
        "WHY": board.why,
        "INTERFACES": " ".join(("aclk", "aresetn", "interrupt", "s_axil", *config.master_names)),
        "MASTERS": " ".join(config.master_names),
        "MASTER_COUNT": config.masters,
        "DATA_BITS": config.data_bits,
        "MASTER_BYTES": 1 << MASTER_ADDRESS_BITS,
        "REGISTER_BYTES": REGISTER_BYTES,
        "REGISTER_BYTES_HEX": f"{REGISTER_BYTES:#x}",
        "CORE_ADDRESS": f"{board.core_address:#x}",
        "CORE_ADDRESS_DIGITS": f"{board.core_address:x}",
        "CLOCK_MHZ": f"{board.clock_mhz:g}",
        "WHEEL": kit.wheel_name(),
        "LINUX": board.linux,
        "SLOW_MHZ": f"{board.clock_mhz * 2 / 3:.0f}",
        "PORT_LIST": ", ".join(board.ports),
        "BOARD_PART": board.board_part,
        **processors.words(board),
        "BANK_BYTES": board.memory_bytes,
        "BUFFERS": _buffers(board),
        "CMA_MIB": total + 64,
    }
    return {name: str(value) for name, value in values.items()}


def overlay(board: VivadoBoard, values: dict[str, str], more: dict[str, str]) -> str:
    """A device-tree overlay."""
    ps = processors.processor_of(board)
    told = {name: text.format(gic=ps.gic, controller=ps.controller) for name, text in more.items()}
    return filled("vivado", ps.overlay, values | told)


def write(board: Board, folder: Path, name: str = NAME, *, force: bool = False) -> list[Path]:
    """Write everything, the core as module `name`; return the paths. force:
    replace files that edgemoe did not write.
    """
    if not isinstance(board, VivadoBoard):
        others = ", ".join(name for name, other in BOARDS.items() if isinstance(other, VivadoBoard))
        raise EdgemoeError(
            f"board {board.name!r} is no Zynq ({others}); the Verilog alone: edgemoe verilog --hardware "
            f"{board.hardware.name}"
        )
    interfaces = core_interfaces(board.hardware)
    verilog = legible(named(simulator.verilog(board.hardware, board.slices), name), name, interfaces)
    values = words(board, name)
    texts = {
        f"{name}.v": head(board.hardware, name, interfaces)
        + (with_ultra_ram(verilog) if isinstance(board, ZynqBoard) and board.ultra_ram else verilog),
        f"{name}_ip.v": wrapper(verilog, board.hardware, name),
        f"{board.slices.lower()}.v": simulator.slice_model(board.slices),
        **documents(board.hardware, name),
        f"{name}_registers.py": registers_python(board),
        "board.json": json.dumps(facts(board, name), indent=1) + "\n",
        "clock.dtsi": f"assigned-clock-rates = <{round(board.clock_mhz * 1e6)}>;\n",
        f"{name}.core": filled("vivado", "edgemoe.core", values),
        **{file: filled("vivado", file, values) for file in TEMPLATES},
        **{file: overlay(board, values, more) for file, more in OVERLAYS.items()},
        **processors.preset_of(board),
    }
    with OutputFolder(folder, force=force) as outputs:
        return outputs.write_all(kit.with_kit(texts, board.checkpoint))
