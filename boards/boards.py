# SPDX-License-Identifier: Apache-2.0
"""The boards: what each device holds, how its memory is reached, and which build of the core goes on it. Facts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models.compatibility import StrEnum
from edgemoe.models.errors import EdgemoeError


class Family(StrEnum):
    ZYNQ_ULTRASCALE_PLUS = "zynquplus"
    ECP5 = "ecp5"


@dataclass(frozen=True)
class Board:
    """One board.

    resources: what the device has, by the names of `edgemoe report`: lut, ff, dsp (DSP48E2, or ECP5's 18 x 18
    multipliers), bram (BRAM36, or ECP5's 18-kbit blocks; the larger unit counts as one, half of it as 0.5), uram
    (UltraRAM, 288 kbit). clock_mhz: what the build asks of place and route, not a measurement.
    memory_ports: one port of the device's memory for each AXI4 master of the core. memory_bytes: kept for the core
    behind each of them.
    """

    name: str
    title: str
    family: Family
    part: str
    resources: Mapping[str, int]
    clock_mhz: float
    memory_ports: tuple[str, ...]
    memory_bytes: int
    hardware: HardwareConfig
    why: str
    board_part: str = ""  # Vivado's board file, any version
    core_address: int = 0  # of the registers, as the processor sees them
    ultra_ram: bool = False  # put the large memories into UltraRAM
    checkpoint: str = "m3vit-micro"  # one that it has room for
    linux: str = ""  # images with plain Linux and with PYNQ, for the README

    def carrying(self, hardware: HardwareConfig) -> Board:
        """The board with another build of the core; EdgemoeError if its memory ports are not for that one."""
        ports = len(self.memory_ports)
        if hardware.masters > ports:
            raise EdgemoeError(
                f"hardware {hardware.name!r} has {hardware.masters} masters; board {self.name!r} has {ports} memory "
                f"port for them"
            )
        if hardware.data_bits != self.hardware.data_bits:
            raise EdgemoeError(
                f"hardware {hardware.name!r} has data_bits {hardware.data_bits}; the memory ports of board "
                f"{self.name!r} are "
                f"{self.hardware.data_bits} bits wide"
            )
        return replace(self, hardware=hardware, memory_ports=self.memory_ports[: hardware.masters])


MIB = 1 << 20
REGISTERS_AT = 0xA000_0000  # first address of M_AXI_HPM0_FPD

BOARDS: Mapping[str, Board] = {
    b.name: b
    for b in (
        Board(
            "zcu102",
            "AMD ZCU102",
            Family.ZYNQ_ULTRASCALE_PLUS,
            "xczu9eg-ffvb1156-2-e",
            {"lut": 274_080, "ff": 548_160, "dsp": 2520, "bram": 912, "uram": 0},
            300,
            ("HP0", "HP1"),
            64 * MIB,
            preset("zcu102"),
            "32 x 32 multipliers are two fifths of the device's; two 128-bit ports stream the weights that they take",
            board_part="xilinx.com:zcu102",
            core_address=REGISTERS_AT,
            linux="Plain Linux: Ubuntu 22.04 for ZCU102, or PetaLinux. PYNQ publishes no image for this board: "
            "one has to be built from its sources (https://github.com/Xilinx/PYNQ, folder sdbuild).",
        ),
        Board(
            "kv260",
            "AMD Kria KV260",
            Family.ZYNQ_ULTRASCALE_PLUS,
            "xck26-sfvc784-2LV-c",
            {"lut": 117_120, "ff": 234_240, "dsp": 1248, "bram": 144, "uram": 64},
            250,
            ("HP0",),
            128 * MIB,
            preset("base"),
            "a 32 x 32 array and its epilogue would take every multiplier; the activations lie in UltraRAM, for block "
            "RAM is scarce",
            board_part="xilinx.com:kv260_som",
            core_address=REGISTERS_AT,
            linux="Plain Linux: Ubuntu 22.04 for Kria. PYNQ: the same Ubuntu with https://github.com/Xilinx/Kria-PYNQ "
            "(`sudo bash install.sh -b KV260`).",
            ultra_ram=True,
        ),
        Board(
            "ultra96",
            "Avnet Ultra96-V2",
            Family.ZYNQ_ULTRASCALE_PLUS,
            "xczu3eg-sbva484-1-i",
            {"lut": 70_560, "ff": 141_120, "dsp": 360, "bram": 216, "uram": 0},
            200,
            ("HP0",),
            128 * MIB,
            preset("ultra96"),
            "360 multipliers and 216 block RAMs: 8 x 8, and room for one picture and one task at a time",
            board_part="avnet.com:ultra96v2",
            core_address=REGISTERS_AT,
            linux="Plain Linux: https://github.com/ikwzm/ZynqMP-FPGA-Ubuntu22.04-Console (which brings u-dma-buf), "
            "or PetaLinux. PYNQ: the images of https://github.com/Avnet/Ultra96-PYNQ.",
        ),
        Board(
            "ulx3s",
            "Radiona ULX3S-85F",
            Family.ECP5,
            "LFE5U-85F-6BG381C",
            {"lut": 83_640, "ff": 83_640, "dsp": 156, "bram": 208, "uram": 0},
            60,
            ("SDRAM, 16 bit",),
            32 * MIB,
            preset("ulx3s"),
            "block RAM decides: m3vit-micro's 129 tokens take four fifths of it",
        ),
        Board(
            "schoko",
            "Machdyne Schoko",
            Family.ECP5,
            "LFE5U-45F-6BG256C",
            {"lut": 43_848, "ff": 43_848, "dsp": 72, "bram": 108, "uram": 0},
            60,
            ("SDRAM, 16 bit",),
            32 * MIB,
            preset("schoko"),
            "half a ULX3S, nearly all of its multipliers: pictures of 112 x 112 (50 tokens)",
            checkpoint="m3vit-nano",
        ),
    )
}


def board(name: str) -> Board:
    if name not in BOARDS:
        raise EdgemoeError(f"unknown board {name!r}: choose one of {', '.join(BOARDS)}")
    return BOARDS[name]
