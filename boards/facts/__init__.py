# SPDX-License-Identifier: Apache-2.0
"""The boards: what each device holds, how its memory is reached, and which build of the core goes on it.

The facts are data: a TOML file a board, named after it, beside this file. Its `family` says which fields it has, those
of `ZynqBoard` or of `Ecp5Board`; `hardware` is a preset's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.resources import files
from typing import Any, ClassVar, TypeVar

from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models.compatibility import StrEnum, tomllib
from edgemoe.models.errors import EdgemoeError, listing

ULTRA_RAM_DEPTH, ULTRA_RAM_WIDTH = 4096, 72  # of a block
ULTRA_RAM_WORDS = 2048  # a shallower memory is no matter of UltraRAM


def in_ultra_ram(depth: int, width: int) -> bool:
    """Whether a memory goes into UltraRAM on boards that have it: where it fills half of the blocks that it takes."""
    return depth > ULTRA_RAM_WORDS and 2 * depth * width >= ultra_ram_blocks(depth, width) * BLOCK_BITS


def ultra_ram_blocks(depth: int, width: int) -> int:
    """How many blocks it takes."""
    return -(-depth // ULTRA_RAM_DEPTH) * -(-width // ULTRA_RAM_WIDTH)


BLOCK_BITS = ULTRA_RAM_DEPTH * ULTRA_RAM_WIDTH


class Family(StrEnum):
    ZYNQ_ULTRASCALE_PLUS = "zynquplus"
    ECP5 = "ecp5"


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board.

    resources: what the device has, by the names of `edgemoe report`: lut, ff, dsp (DSP48E2, or ECP5's 18 x 18
    multipliers), bram (BRAM36, or ECP5's 18-kbit blocks; the larger unit counts as one, half of it as 0.5), uram
    (UltraRAM, 288 kbit). clock_mhz: what the build asks of place and route, not a measurement.
    memory_ports: one port of the device's memory for each AXI4 master of the core. memory_bytes: kept for the core
    behind each of them. beat_cycles: of the core, that a beat of its bus takes in the memory. why: what decided the
    hardware. checkpoint: one that it has room for.
    """

    family: ClassVar[Family]
    beat_cycles: ClassVar[float] = 1.0

    name: str
    title: str
    part: str
    resources: Mapping[str, int]
    clock_mhz: float
    memory_ports: tuple[str, ...]
    memory_bytes: int
    hardware: HardwareConfig
    why: str
    checkpoint: str = "m3vit-micro"

    def carrying(self: B, hardware: HardwareConfig) -> B:
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
                f"{self.name!r} are {self.hardware.data_bits} bits wide"
            )
        return replace(self, hardware=hardware, memory_ports=self.memory_ports[: hardware.masters])


B = TypeVar("B", bound=Board)


@dataclass(frozen=True, kw_only=True)
class ZynqBoard(Board):
    """A Zynq UltraScale+, built with Vivado.

    board_part: Vivado's board file, any version. core_address: of the registers, as the processor sees them. linux:
    images with plain Linux and with PYNQ. ultra_ram: put the large memories into UltraRAM.
    """

    family = Family.ZYNQ_ULTRASCALE_PLUS

    board_part: str
    core_address: int
    linux: str
    ultra_ram: bool = False


@dataclass(frozen=True)
class Pin:
    """A port of the top module: one site for each bit, the lowest first; and what its pads are told besides 3.3 V."""

    sites: str
    pads: str


@dataclass(frozen=True, kw_only=True)
class Ecp5Board(Board):
    """An ECP5, built with the open tools.

    device, package: nextpnr's names. input_mhz: of the oscillator. leds: of the system's eight, which ones there are,
    the lowest first. pins: by ports of the top module. sdram: sites of the memory chip's. high: pins that must be
    driven high, and why. serial: where the serial line is. load, flash: what takes a bitstream's name, to load it
    until power is off and to keep it; loading: what a person must know of these.
    """

    family = Family.ECP5
    beat_cycles = 1054 / 256  # 64 bits over 16, row changes and refreshes among them: tests/hw/test_sdram.py

    device: str
    package: str
    input_mhz: int
    leds: tuple[int, ...]
    pins: Mapping[str, Pin]
    sdram: Mapping[str, str]
    serial: str
    load: str
    flash: str
    loading: str
    high: Mapping[str, str] = field(default_factory=dict)


def from_toml(name: str, text: str) -> Board:
    """A board from its file's text; EdgemoeError for a field that is missing or unknown."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EdgemoeError(f"board {name!r} is no TOML file: {error}") from error
    kinds = {kind.family.value: kind for kind in (ZynqBoard, Ecp5Board)}
    family = values.pop("family", None)
    if family not in kinds:
        raise EdgemoeError(f"board {name!r}: its family is {family!r}, expected one of {listing(kinds)}")
    kind = kinds[family]
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind) if f.name != "name"}
    for what, names in (
        ("lacks", [key for key, needed in known.items() if needed and key not in values]),
        ("has unknown", [key for key in values if key not in known]),
    ):
        if names:
            raise EdgemoeError(f"board {name!r} {what} {listing(names)}")
    values["hardware"] = preset(values["hardware"])
    values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    if "pins" in values:
        values["pins"] = {port: Pin(*pin) for port, pin in values["pins"].items()}
    return kind(name=name, **values)


BOARDS: Mapping[str, Board] = {
    name: from_toml(name, file.read_text(encoding="utf-8"))
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name)
    for name, _, ending in [file.name.partition(".")]
    if ending == "toml"
}


def board(name: str) -> Board:
    if name not in BOARDS:
        raise EdgemoeError(f"unknown board {name!r}: choose one of {', '.join(BOARDS)}")
    return BOARDS[name]
