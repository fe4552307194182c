# SPDX-License-Identifier: Apache-2.0
"""Commands that do the same for many pictures or many configurations, in several processes or on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgemoe.host.cli.options import (
    Bits,
    Changes,
    CheckpointName,
    DeviceName,
    Hardware,
    Json,
    Resize,
    Resizing,
    Scheduler,
    Workers,
    print_json,
    weight_format,
)
from edgemoe.models.compatibility import StrEnum


class Layout(StrEnum):
    """How a folder's pictures and what is true of them are laid out."""

    IMAGEFOLDER = "imagefolder"
    CITYSCAPES = "cityscapes"
    NYUD = "nyud"
    MASKS = "masks"


class Against(StrEnum):
    """What else sees the same pictures."""

    FLOAT = "float"


class Stalls(StrEnum):
    """How the memory behaves in ``soak``."""

    RANDOM = "random"
    NONE = "none"


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="street:N, N generated scenes that the model has never seen; or a folder.",
            metavar="street:N|FOLDER",
        ),
    ] = "street:200",
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--layout",
            help="Of the folder. Default: by its folders. imagefolder: CLASS/PICTURE; masks: images/NAME.*, "
            "masks/NAME.*; cityscapes and nyud: as published.",
        ),
    ] = None,
    checkpoint: CheckpointName = "m3vit-micro",
    device: Annotated[
        DeviceName, typer.Option("--device", help="What computes; all give the same.")
    ] = DeviceName.EMULATOR,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    resize: Resizing = Resize.STRETCH,
    against: Annotated[
        Against | None, typer.Option("--against", help="float: the float model's figures on the same pictures, too.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows", help="Write a row of each picture, as JSON lines or Parquet.", metavar="FILE.jsonl|FILE.parquet"
        ),
    ] = None,
    workers: Workers = 1,
    scheduler: Scheduler = "local",
    json: Json = False,
) -> None:
    """Quality of the predictions as the hardware computes them, with 95 % confidence: mean IoU, depth errors, accuracy.

    Interrupted, it goes on where it was when the same command comes again.
    """
    from edgemoe.host.studies import evaluation
    from edgemoe.host.studies.data import data_set
    from edgemoe.host.studies.scheduler import Where
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints

    where, chosen = Where(scheduler, workers), configured(hardware, changes)
    found = data_set(data, layout and layout.value)
    if rows:
        evaluation.check_rows_file(rows)
    report = evaluation.evaluate(
        checkpoints.load(checkpoint),
        found,
        hardware=chosen,
        weight_bits=weight_format(weight_bits, chosen),
        device=device.value,
        resize=resize.value,
        against=against is not None,
        where=where,
    )
    if rows:
        evaluation.write_rows(report.rows, rows)
    if json:
        print_json(report.summary())
    else:
        evaluation.show(report)


def soak(
    images: Annotated[int, typer.Option("--images", help="How many generated scenes.", min=1)] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of the scenes and of the stalls.", min=0)] = 0,
    stalls: Annotated[
        Stalls,
        typer.Option("--stalls", help="Random stalls on every channel of the bus, another memory each image; or none."),
    ] = Stalls.RANDOM,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    workers: Workers = 1,
    scheduler: Scheduler = "local",
    json: Json = False,
) -> None:
    """Many scenes through the RTL over a memory that stalls at random, each compared with the emulator."""
    from edgemoe.host.studies import soak as study
    from edgemoe.host.studies.scheduler import Where
    from edgemoe.hw.contract.hardware_option import configured

    where, chosen = Where(scheduler, workers), configured(hardware, changes)
    report = study.soak(images, seed, stalls.value, chosen, weight_format(weight_bits, chosen), where)
    if json:
        print_json(report.summary())
    else:
        study.show(report)
    if report.mismatches:
        raise typer.Exit(1)


def explore(
    board: Annotated[str, typer.Option("--board", help="The board that it is to fit.", metavar="NAME")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="A model preset, with random weights where any are needed.", metavar="NAME"),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", help="Name of a preset, or a .safetensors file. Default: m3vit-micro.", metavar="NAME|FILE"
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task of the model; may be repeated. Default: all.")
    ] = None,
    weight_bits: Bits = None,
    attention: Annotated[
        list[str] | None,
        typer.Option(
            "--attention",
            help="A kind of attention to try; may be repeated. Default: the model's own.",
            metavar="KIND",
        ),
    ] = None,
    measure: Annotated[
        int, typer.Option("--measure", help="Run the fastest so many of the best on the RTL, too.", min=0)
    ] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Milliseconds against DSP slices.", metavar="FILE.png")
    ] = None,
    workers: Workers = 1,
    scheduler: Scheduler = "local",
    json: Json = False,
) -> None:
    """Which configuration for a model on a board? Array sides, masters, streams, prefetch, formats and kinds of
    attention are planned, and their resources predicted; what remains is what no other beats in milliseconds, DSP
    slices, block RAM and decibels.
    """
    import importlib.util

    from edgemoe.boards.facts import board as board_named
    from edgemoe.host import inference
    from edgemoe.host.studies import benchmark, drawing
    from edgemoe.host.studies import explore as study
    from edgemoe.host.studies.scheduler import Where
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import config as models
    from edgemoe.models import extras
    from edgemoe.models.errors import EdgemoeError

    if checkpoint and model:
        raise EdgemoeError("give --checkpoint or --model, not both")
    where, device = Where(scheduler, workers), board_named(board)
    if plot:
        drawing.plottable(plot)
    used = None if model else checkpoints.load(checkpoint or "m3vit-micro")
    config = used.config if used else models.preset(model or "")
    formats = [weight_bits] if weight_bits else study.formats_of(config)
    kinds = [study.weighed(config, kind).attention for kind in dict.fromkeys(attention or [config.attention])]
    decibels: dict[tuple[str, str], float] | None = None
    if importlib.util.find_spec("torch") is None:
        inference.notice(f"PyTorch is not installed: no decibels (to have them: {extras.remedy('golden')})")
    else:
        own = used if kinds == [config.attention] else None
        if not own:
            why = "no weights" if not used else "weights for one kind of attention"
            inference.notice(f"a model with {why}: decibels are those of random ones, trained ones have others")
        decibels = {}
        for kind in kinds:
            decibels |= study.decibels(own or study.stand_in(config, kind), formats, device.hardware)
    tasks = inference.tasks_of(config, task)
    report = study.explore(config, device, tasks=tasks, formats=formats, kinds=kinds, decibels=decibels, where=where)
    if measure:
        study.measure(report, used or benchmark.random_checkpoint(config), measure)
    if plot:
        study.plot(report, plot)
    if json:
        print_json(report)
    else:
        study.show(report)
