# SPDX-License-Identifier: Apache-2.0
"""What several commands have in common: their options, and how a result is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgemoe.hw.contract.frames import BAUD
from edgemoe.models.compatibility import StrEnum
from edgemoe.models.numbers.formats import WeightFormat

if TYPE_CHECKING:
    from edgemoe.hw.contract.config import HardwareConfig


class DeviceName(StrEnum):
    """What ``infer`` can run on."""

    VERILATOR = "verilator"
    EMULATOR = "emulator"
    FPGA = "fpga"
    SERIAL = "serial"


class Resize(StrEnum):
    """What happens to a picture of another size than the model's."""

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]
Hardware = Annotated[
    str,
    typer.Option(
        "--hardware",
        help="Hardware preset, or a file of hardware fields (base = another preset).",
        metavar="PRESET|FILE.toml",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a field of the hardware: --set rows=400; may be repeated.", metavar="FIELD=VALUE"
    ),
]
ModuleName = Annotated[
    str, typer.Option("--name", help="Name of the core's module; those of all others begin with it.", metavar="NAME")
]
CheckpointName = Annotated[
    str, typer.Option("--checkpoint", help="Name of a preset, or a .safetensors file.", metavar="NAME|FILE")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="A task of the checkpoint; may be repeated. Default: all.")
]
Bits = Annotated[
    WeightFormat | None, typer.Option("--weight-bits", help="Format of the weights. Default: the hardware preset's.")
]
Resizing = Annotated[
    Resize,
    typer.Option(
        "--resize",
        help="Pictures of another size: stretch all of it, crop its centre to the model's shape, or pad with black.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace files that edgemoe did not write. Its own, listed in .edgemoe-outputs and unchanged since, "
        "it replaces anyway.",
    ),
]
Bitstream = Annotated[
    Path | None,
    typer.Option(
        "--bitstream", help="--device fpga: load this through PYNQ. Default: the UIO device.", metavar="FILE.bit"
    ),
]
Port = Annotated[
    str | None, typer.Option("--port", help="--device serial: the board's serial port.", metavar="/dev/ttyUSB0")
]
Baud = Annotated[int | None, typer.Option("--baud", help=f"--device serial: bits a second. Default: {BAUD}.", min=1)]
Workers = Annotated[
    int, typer.Option("--workers", help="Processes of this machine that share the work (Dask distributed).", min=1)
]
Scheduler = Annotated[
    str,
    typer.Option(
        "--scheduler",
        help="local, or the address of a Dask scheduler, whose workers do it.",
        metavar="local|tcp://HOST:PORT",
    ),
]
Uio = Annotated[
    str | None, typer.Option("--uio", help="--device fpga: which UIO device, where there are several.", metavar="uioN")
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="--device verilator: the core's waveforms, replacing the file; beside it FILE.gtkw for GTKWave, FILE.sucl "
        "for Surfer.",
        metavar="FILE.fst",
    ),
]
Instructions = Annotated[
    str | None,
    typer.Option(
        "--instructions",
        help="--trace: only while these instructions are under way, by their numbers (of check, which stores more, "
        "other ones than of infer).",
        metavar="A..B",
    ),
]


def weight_format(chosen: WeightFormat | None, hardware: HardwareConfig) -> str:
    """What --weight-bits says; the hardware's own if it says nothing."""
    return chosen or hardware.weight_bits


def clock_mhz(hardware: HardwareConfig) -> float:
    """The clock at which milliseconds are told: the board's for which a preset is made, else the target."""
    from edgemoe.boards.facts import BOARDS
    from edgemoe.host.inference import CLOCK_MHZ

    board = BOARDS.get(hardware.name)
    return board.clock_mhz if board else CLOCK_MHZ


def print_json(value: object) -> None:
    """The whole of standard output with --json."""
    import json

    typer.echo(json.dumps(value, indent=1, default=float))
