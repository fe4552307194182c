# SPDX-License-Identifier: Apache-2.0
"""The boards: what each device holds, how its memory is reached, and which build of the core goes on it.

The facts are data: a TOML file a board, named after it, beside this file; one of the user's own may lie anywhere. Its
`family` says which fields it has, those of `ZynqBoard`, `Zynq7000Board` or `Ecp5Board`; `hardware` is a preset's name,
or a table of hardware fields as a file for `--hardware` holds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.dsp_slice import DspSlice
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
    ZYNQ_7000 = "zynq7000"
    ECP5 = "ecp5"


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board.

    resources: what the device has, by the names of `edgemoe report`: lut, ff, dsp (DSP48E2, or ECP5's 18 x 18
    multipliers), bram (BRAM36, or ECP5's 18-kbit blocks; the larger unit counts as one, half of it as 0.5), uram
    (UltraRAM, 288 kbit). clock_mhz: what the build asks of place and route, not a measurement.
    memory_ports: those of the device's memory that the core may take, one for each AXI4 master. memory_bytes: kept for
    the core behind each that it takes. why: what decided the hardware. checkpoint: one that it has room for.
    """

    family: ClassVar[Family]

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

    @property
    def beat_cycles(self) -> float:
        """Cycles of the core that a beat of its bus takes in the memory."""
        return 1.0

    @property
    def ports(self) -> tuple[str, ...]:
        """The memory ports that the core takes: one for each of its masters."""
        return self.memory_ports[: self.hardware.masters]

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
        return replace(self, hardware=hardware)


B = TypeVar("B", bound=Board)


@dataclass(frozen=True, kw_only=True)
class VivadoBoard(Board):
    """A device with a processor, built with Vivado.

    board_part: Vivado's board file, any version. processor: in its place, the file that configures the processor's DDR
    and pins: Tcl with `apply_preset`, as Vivado saves it, or the .xci of another project's; a path, from the board's
    file on. core_address: of the registers, as the processor sees them. linux: images with plain Linux and with PYNQ.
    """

    slices: ClassVar[DspSlice]

    board_part: str = ""
    processor: str = ""
    core_address: int
    linux: str

    def __post_init__(self) -> None:
        if bool(self.board_part) == bool(self.processor):
            raise EdgemoeError(
                f"board {self.name!r}: give board_part, the name of Vivado's board file, or processor, a file of yours"
            )


@dataclass(frozen=True, kw_only=True)
class ZynqBoard(VivadoBoard):
    """A Zynq UltraScale+. ultra_ram: put the large memories into UltraRAM. memory_bandwidth: bytes that the memory
    gives in a cycle of the core, if that is less than what the ports could take; 0: it is not.
    """

    family = Family.ZYNQ_ULTRASCALE_PLUS
    slices = DspSlice.DSP48E2

    ultra_ram: bool = False
    memory_bandwidth: float = 0

    @property
    def beat_cycles(self) -> float:
        return max(1.0, self.hardware.bus_bytes / self.memory_bandwidth) if self.memory_bandwidth else 1.0


@dataclass(frozen=True, kw_only=True)
class Zynq7000Board(VivadoBoard):
    """A Zynq-7000: ports of 64 bits, which are AXI3, with bursts of up to 16 beats; multipliers of 25 x 18 bits."""

    family = Family.ZYNQ_7000
    slices = DspSlice.DSP48E1

    PORT_BITS: ClassVar[int] = 64
    LONGEST_BURST: ClassVar[int] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        h = self.hardware
        if h.data_bits != self.PORT_BITS or h.burst_limit > self.LONGEST_BURST:
            raise EdgemoeError(
                f"board {self.name!r}: the memory ports of a Zynq-7000 have {self.PORT_BITS} bits and bursts of up to "
                f"{self.LONGEST_BURST} beats, hardware {h.name!r} has data_bits {h.data_bits} and burst_beats "
                f"{h.burst_beats}; give it data_bits = {self.PORT_BITS}, burst_beats = {self.LONGEST_BURST}"
            )


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
    driven high, and why. seed: nextpnr's, one that reaches the clock. serial: where the serial line is. load, flash:
    what takes a bitstream's name, to load it until power is off and to keep it; loading: what a person must know of
    these.
    """

    family = Family.ECP5

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
    seed: int = 2

    @property
    def beat_cycles(self) -> float:
        return 1054 / 256  # 64 bits over 16, row changes and refreshes among them: tests/hw/test_sdram.py


def from_toml(name: str, text: str, folder: Path | None = None) -> Board:
    """A board from its file's text; EdgemoeError for a field that is missing or unknown. folder: where the file is."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EdgemoeError(f"board {name!r} is no TOML file: {error}") from error
    kinds = {kind.family.value: kind for kind in (ZynqBoard, Zynq7000Board, Ecp5Board)}
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
    values["hardware"] = _hardware(name, values["hardware"])
    if folder and values.get("processor"):
        values["processor"] = str(folder / values["processor"])
    values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    if "pins" in values:
        values["pins"] = {port: Pin(*pin) for port, pin in values["pins"].items()}
    return kind(name=name, **values)


def _hardware(name: str, given: object) -> HardwareConfig:
    """By a preset's name, or a table of fields with perhaps `base`, a preset's name."""
    if isinstance(given, str):
        return preset(given)
    if not isinstance(given, dict):
        raise EdgemoeError(f"board {name!r}: hardware is {given!r}, expected a preset's name or a table of its fields")
    fields_ = dict(given)
    base = fields_.pop("base", None)
    return HardwareConfig.from_fields({"name": name} | fields_, preset(base) if base else None)


def read(path: Path) -> Board:
    """A board of the user's own, from its file; it bears the file's name without its ending."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgemoeError(f"cannot read board {path}: {getattr(error, 'strerror', None) or error}") from error
    name = path.stem
    if not re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII):
        raise EdgemoeError(f"board {path}: files are named after it, so its name must be letters, digits, _ and -")
    return from_toml(name, text, path.parent)


BOARDS: Mapping[str, Board] = {
    name: from_toml(name, file.read_text(encoding="utf-8"))
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name)
    for name, _, ending in [file.name.partition(".")]
    if ending == "toml"
}


def board(name: str) -> Board:
    """By its name, or from a .toml file of the user's own."""
    if name.lower().endswith(".toml"):
        return read(Path(name))
    if name not in BOARDS:
        raise EdgemoeError(f"unknown board {name!r}: choose one of {', '.join(BOARDS)}, or give a file, BOARD.toml")
    return BOARDS[name]
