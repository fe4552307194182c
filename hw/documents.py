# SPDX-License-Identifier: Apache-2.0
"""What goes to people and to other languages beside a core's Verilog: registers, instructions, the configuration."""

from edgemoe.hw.contract import isa, registers
from edgemoe.hw.contract.config import NAME, HardwareConfig
from edgemoe.hw.contract.hardware_option import to_toml
from edgemoe.hw.verilog_text import core_interfaces, head, legible, named


def documents(config: HardwareConfig, name: str = NAME) -> dict[str, str]:
    """File name -> text: register map and instruction set for people and other languages;
    the configuration for `--hardware`.
    """
    return {
        "registers.md": registers.to_markdown(config, name),
        "registers.json": registers.to_json(config, name),
        f"{name}.h": registers.to_c_header(config, name),
        "instructions.md": isa.to_markdown(),
        f"{name}.toml": to_toml(config),
    }


def hardware_files(config: HardwareConfig, verilog: str, name: str = NAME) -> dict[str, str]:
    """File name -> text: the core's Verilog under a name, and what explains it."""
    interfaces = core_interfaces(config)
    text = legible(named(verilog, name), name, interfaces)
    return {f"{name}.v": head(config, name, interfaces) + text, **documents(config, name)}
