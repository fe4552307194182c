# SPDX-License-Identifier: Apache-2.0
"""Commands that write the hardware: its Verilog, and all that a board's tools need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgemoe.host.cli.options import (
    Bits,
    Changes,
    CheckpointName,
    Force,
    Hardware,
    Json,
    ModuleName,
    Tasks,
    print_json,
    weight_format,
)
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.models.errors import EdgemoeError


def compile_program(
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write, replacing it.", metavar="FILE.emoe")],
    checkpoint: CheckpointName = "m3vit-micro",
    task: Tasks = None,
    images: Annotated[int, typer.Option("--images", help="Pictures that a run takes.", min=1)] = 1,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    save_tokens: Annotated[bool, typer.Option("--save-tokens", help="Also store the encoder's final tokens.")] = False,
    json: Json = False,
) -> None:
    """Compile a checkpoint to one file: program, weights, buffers and checksums, for infer --program and for C."""
    from edgemoe.host import inference, outputs, program_file
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import folders
    from edgemoe.models.numbers.formats import WeightFormat

    folders.writable_file(out)
    chosen, model = configured(hardware, changes), checkpoints.load(checkpoint)
    streams = [(image, number) for image in range(images) for number in inference.tasks_of(model.config, task)]
    bits = weight_format(weight_bits, chosen)
    program = program_file.compiled(model, streams, chosen, bits, save_tokens=save_tokens)
    program_file.save(program, model, out)
    tasks = list(dict.fromkeys(model.config.tasks[number].name for _, number in streams))
    size = out.stat().st_size
    if json:
        print_json(
            {
                "file": str(out),
                "checkpoint": model.config.name,
                "hardware": chosen.name,
                "tasks": tasks,
                "images": images,
                "weight_bits": bits,
                "instructions": len(program.instructions),
                "bytes": size,
                "device_memory": program.memory_size,
            }
        )
        return
    rows = [
        ("file", f"{out}, {size / 1e6:.2f} MB"),
        ("a run takes", f"{images} picture{'s' if images > 1 else ''} through {', '.join(tasks)}"),
        ("weights", WeightFormat(bits).label),
        ("instructions", f"{len(program.instructions):,}"),
        ("memory it needs", f"{program.memory_size / 1e6:.2f} MB of the device's"),
    ]
    outputs.table(f"program of {model.config.name} for {chosen.name}", rows)


def verilog(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.", metavar="DIR")],
    hardware: Hardware = "base",
    changes: Changes = None,
    name: ModuleName = "edgemoe",
    slices: Annotated[
        DspSlice | None,
        typer.Option("--slices", help="AMD's slices to put the array in. Default: what any tool maps by itself."),
    ] = None,
    force: Force = False,
) -> None:
    """Write the hardware as Verilog, with its register map and instruction set as documents."""
    from edgemoe.hw import documents
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.hw.verilog_text import checked_name
    from edgemoe.models import folders
    from edgemoe.sim.simulator import slice_model
    from edgemoe.sim.simulator import verilog as generate

    config, name = configured(hardware, changes), checked_name(name)
    files = documents.hardware_files(config, generate(config, slices), name)
    if slices:
        files[f"{slices.lower()}.v"] = slice_model(slices)
    with folders.OutputFolder(out, force=force) as folder:
        for path in folder.write_all(files):
            typer.echo(path)


def build(
    board: Annotated[
        str, typer.Option("--board", help="Name of a board, or a file of its facts.", metavar="NAME|FILE.toml")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.", metavar="DIR")],
    bitstream: Annotated[
        bool, typer.Option("--bitstream", help="ECP5: also build the bitstream, with open tools (15 minutes).")
    ] = False,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Preset or file. Default: the board's hardware.", metavar="PRESET|FILE.toml"),
    ] = None,
    changes: Changes = None,
    name: ModuleName = "edgemoe",
    force: Force = False,
    json: Json = False,
) -> None:
    """Write all that a board's tools need: Verilog, scripts, register map, README of the steps to a running board."""
    from edgemoe.boards import flows
    from edgemoe.boards.facts import Ecp5Board
    from edgemoe.boards.facts import board as board_named
    from edgemoe.host import outputs
    from edgemoe.hw.contract.hardware_option import changed, configured
    from edgemoe.hw.verilog_text import checked_name

    chosen, name = board_named(board), checked_name(name)
    chosen = chosen.carrying(configured(hardware, changes) if hardware else changed(chosen.hardware, changes))
    if bitstream and not isinstance(chosen, Ecp5Board):
        raise EdgemoeError(
            f"--bitstream is for ECP5 boards: that of {board!r} comes from Vivado, by the folder's README.md"
        )
    paths, figures = flows.write(chosen, out, name, force=force), None
    if bitstream and isinstance(chosen, Ecp5Board):
        from edgemoe.boards.flows.bitstream import build as build_bitstream
        from edgemoe.sim.build import progress

        with progress(f"building the bitstream of board {board!r}") as report:
            figures = build_bitstream(chosen, out, report, name)
        paths += [out / "report.json", out / f"{chosen.name}.bit"]
    if json:
        print_json(
            {"board": chosen.name, "files": [str(path) for path in paths]} | ({"report": figures} if figures else {})
        )
        return
    typer.echo("\n".join(map(str, paths)))
    if figures:
        from edgemoe.host.studies.fit import NAMES

        rows = [
            ("part", figures["part"]),
            ("clock", f"{figures['fmax_mhz']:g} MHz of {figures['goal_mhz']:g} asked for"),
            ("from a register to its pad", f"{figures['to_pads_ns']:g} ns" if figures["to_pads_ns"] else "none"),
            *(
                (NAMES[chosen.family][kind], f"{count:,}, {figures['share'][kind]:.0%} of the device")
                for kind, count in figures["used"].items()
            ),
        ]
        outputs.table(f"{chosen.name}, by nextpnr", rows)
