# SPDX-License-Identifier: Apache-2.0
"""The processors beside the programmable logic, as the block design and the device tree call their parts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from edgemoe.boards.facts import Family, VivadoBoard
from edgemoe.models.errors import EdgemoeError

PRESET = "processor.tcl"  # in a board's folder: the user's own configuration of the processor


@dataclass(frozen=True)
class MemoryPort:
    """interface, clock: pins of the processor. settings: that switch it on ({bits}: its width). segment: of addresses,
    the one behind it that holds the core's memory.
    """

    interface: str
    clock: str
    settings: tuple[tuple[str, str], ...]
    segment: str


@dataclass(frozen=True)
class Processor:
    """ip, rule: of Vivado; automation: what the rule is told besides the board's preset. clock, reset, interrupt,
    registers, registers_clock: pins; asked, given: properties of the clock. settings: besides those of the ports.
    arch: bootgen's. overlay: template of the device tree. gic, controller: number of the interrupt among the GIC's
    shared ones, and the GIC's label.
    """

    ip: str
    rule: str
    automation: str
    clock: str
    reset: str
    interrupt: str
    registers: str
    registers_clock: str
    asked: str
    given: str
    settings: tuple[tuple[str, str], ...]
    ports: dict[str, MemoryPort]
    arch: str
    overlay: str
    gic: int
    controller: str


PROCESSORS = {
    Family.ZYNQ_ULTRASCALE_PLUS: Processor(
        ip="xilinx.com:ip:zynq_ultra_ps_e",
        rule="xilinx.com:bd_rule:zynq_ultra_ps_e",
        automation="",
        clock="pl_clk0",
        reset="pl_resetn0",
        interrupt="pl_ps_irq0",
        registers="M_AXI_HPM0_FPD",
        registers_clock="maxihpm0_fpd_aclk",
        asked="CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
        given="CONFIG.PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ",
        settings=(
            ("CONFIG.PSU__FPGA_PL0_ENABLE", "1"),
            ("CONFIG.PSU__USE__IRQ0", "1"),
            ("CONFIG.PSU__USE__M_AXI_GP0", "1"),
            ("CONFIG.PSU__MAXIGP0__DATA_WIDTH", "32"),
            ("CONFIG.PSU__USE__M_AXI_GP1", "0"),
            ("CONFIG.PSU__USE__M_AXI_GP2", "0"),
        ),
        ports={
            f"HP{i}": MemoryPort(
                f"S_AXI_HP{i}_FPD",
                f"saxihp{i}_fpd_aclk",
                ((f"CONFIG.PSU__USE__S_AXI_GP{i + 2}", "1"), (f"CONFIG.PSU__SAXIGP{i + 2}__DATA_WIDTH", "{bits}")),
                f"SAXIGP{i + 2}/HP{i}_DDR_LOW",
            )
            for i in range(4)
        },
        arch="zynqmp",
        overlay="edgemoe.dtso",
        gic=89,
        controller="gic",
    ),
    Family.ZYNQ_7000: Processor(
        ip="xilinx.com:ip:processing_system7",
        rule="xilinx.com:bd_rule:processing_system7",
        automation='make_external "FIXED_IO, DDR" Master "Disable" Slave "Disable" ',
        clock="FCLK_CLK0",
        reset="FCLK_RESET0_N",
        interrupt="IRQ_F2P",
        registers="M_AXI_GP0",
        registers_clock="M_AXI_GP0_ACLK",
        asked="CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ",
        given="CONFIG.PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ",
        settings=(
            ("CONFIG.PCW_EN_CLK0_PORT", "1"),
            ("CONFIG.PCW_USE_FABRIC_INTERRUPT", "1"),
            ("CONFIG.PCW_IRQ_F2P_INTR", "1"),
            ("CONFIG.PCW_USE_M_AXI_GP0", "1"),
        ),
        ports={
            f"HP{i}": MemoryPort(
                f"S_AXI_HP{i}",
                f"S_AXI_HP{i}_ACLK",
                ((f"CONFIG.PCW_USE_S_AXI_HP{i}", "1"), (f"CONFIG.PCW_S_AXI_HP{i}_DATA_WIDTH", "{bits}")),
                f"S_AXI_HP{i}/HP{i}_DDR_LOWOCM",
            )
            for i in range(4)
        },
        arch="zynq",
        overlay="edgemoe-7000.dtso",
        gic=29,
        controller="intc",
    ),
}


def processor_of(board: VivadoBoard) -> Processor:
    return PROCESSORS[board.family]


def words(board: VivadoBoard) -> dict[str, object]:
    """What the templates' @WORDS@ about the processor stand for."""
    ps, config = processor_of(board), board.hardware
    unknown = [name for name in board.memory_ports if name not in ps.ports]
    if unknown:
        raise EdgemoeError(
            f"board {board.name!r} has memory ports {', '.join(unknown)}; they are {', '.join(ps.ports)}"
        )
    ports = [ps.ports[name] for name in board.ports]
    settings = [
        *ps.settings,
        *((name, value.format(bits=config.data_bits)) for p in ports for name, value in p.settings),
    ]
    return {
        "PS_IP": ps.ip,
        "PS_RULE": ps.rule,
        "PS_AUTOMATION": f'{ps.automation}apply_board_preset "{int(bool(board.board_part))}"',
        "PS_CLOCK": ps.clock,
        "PS_RESET": ps.reset,
        "PS_INTERRUPT": ps.interrupt,
        "PS_REGISTERS": ps.registers,
        "PS_REGISTERS_CLOCK": ps.registers_clock,
        "PS_ASKED": ps.asked,
        "PS_GIVEN": ps.given,
        "PS_SETTINGS": "".join(f"    {name} {value} \\\n" for name, value in settings),
        "PORTS": " ".join(
            f"{m} {p.interface} {p.clock} {p.segment}" for m, p in zip(config.master_names, ports, strict=True)
        ),
        "ARCH": ps.arch,
        "GIC": ps.gic,
    }


def preset_of(board: VivadoBoard) -> dict[str, str]:
    """The user's own configuration of the processor as a file of the folder; none where a board file brings it."""
    if not board.processor:
        return {}
    path = Path(board.processor)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgemoeError(f"cannot read processor {path}: {getattr(error, 'strerror', None) or error}") from error
    if path.suffix.lower() == ".tcl":
        return {PRESET: text}
    if path.suffix.lower() != ".xci":
        raise EdgemoeError(f"processor {path}: expected a .tcl or an .xci file")
    found = _xci_parameters(text)
    if not found:
        raise EdgemoeError(f"processor {path} holds no parameters of a processor (PCW_..., PSU__...)")
    listed = "".join(f"        CONFIG.{name} {{{value}}} \\\n" for name, value in found.items())
    return {
        PRESET: f"# From {path.name}.\nproc apply_preset {{cell}} {{\n    return [dict create \\\n{listed}    ]\n}}\n"
    }


def _xci_parameters(text: str) -> dict[str, str]:
    """Name -> value of the processor's parameters in an .xci, JSON or, before Vivado 2021, XML."""
    found: dict[str, str] = {}
    try:
        listed = json.loads(text)["ip_inst"]["parameters"]["component_parameters"]
        found = {name: str(values[0]["value"]) for name, values in listed.items()}
    except (ValueError, KeyError, IndexError, TypeError):
        try:
            for element in ElementTree.fromstring(text).iter():
                name = next((v for k, v in element.attrib.items() if k.endswith("referenceId")), "")
                if name.startswith("PARAM_VALUE."):
                    found[name.removeprefix("PARAM_VALUE.")] = element.text or ""
        except ElementTree.ParseError:
            return {}
    # What Vivado derives from the others is refused when it is set; lists in braces stay whole.
    derived = re.compile(r"_ACT_|ACT_FREQMHZ|^Component_Name$")
    return {n: v for n, v in found.items() if n.startswith(("PCW_", "PSU_")) and v and not derived.search(n)}
