# SPDX-License-Identifier: Apache-2.0
"""Commands that make checkpoints: by training, and from those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgemoe.host.cli.options import Force, Json, Resize, Resizing, print_json
from edgemoe.models.errors import EdgemoeError


def train(
    config: Annotated[str, typer.Argument(help="Model preset.", metavar="PRESET")] = "m3vit-micro",
    out: Annotated[
        Path | None, typer.Option("--out", help="Checkpoint to write. Default: out/PRESET.safetensors.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and order.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. Default: the recipe's.", min=1)] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; the result depends on their number.", min=1)] = 1,
    force: Force = False,
) -> None:
    """Train a checkpoint on generated street scenes, calibrate it, and write its model card beside it. m3vit-nano:
    cut from m3vit-micro.
    """
    import time
    from dataclasses import replace

    from edgemoe.host.studies import evaluation
    from edgemoe.hw.contract.config import preset as hardware_preset
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import folders
    from edgemoe.models.config import preset
    from edgemoe.models.evaluate import HARDWARE_FORMATS, card, evaluate
    from edgemoe.models.numbers.calibrate import calibrate
    from edgemoe.models.train import STEPS, WINDOWED, windowed
    from edgemoe.models.train import train as run

    chosen = preset(config)
    out = out or Path("out") / f"{chosen.name}.safetensors"
    folders.writable_file(out)
    folder, model_card = folders.OutputFolder(out.parent, force=force), out.with_suffix(".md").name
    folder.check([model_card])
    started = time.monotonic()
    if config in WINDOWED:
        if steps:
            raise EdgemoeError(f"{config} is cut from {WINDOWED[config]}, no step is taken: leave out --steps")
        trained = windowed(checkpoints.load(WINDOWED[config]), chosen)
    else:
        trained, _ = run(config, seed=seed, out=out, threads=threads, steps=steps or STEPS)
    seconds = time.monotonic() - started
    result = replace(trained, calibration=calibrate(trained))
    checkpoints.save(result, out)
    figures = evaluate(trained)
    computed = {
        bits: evaluation.evaluate(result, figures.scenes, hardware=hardware_preset("base"), weight_bits=bits).metrics
        for bits in HARDWARE_FORMATS
    }
    written = folder.write(model_card, card(trained, figures, computed, seed, steps or STEPS, threads, seconds))
    typer.echo(out)
    typer.echo(written)


def import_edge_moe(
    folder: Annotated[Path, typer.Argument(help="Folder of raw float32 files.", metavar="DIR")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Checkpoint to write.", metavar="FILE.safetensors")],
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            help="Images for calibration; may be repeated. Default: 24 generated scenes.",
            metavar="IMAGE",
        ),
    ] = None,
    fill_missing: Annotated[
        int | None,
        typer.Option(
            "--fill-missing",
            help="Stand-ins of this seed for experts' files that are not there.",
            min=0,
            metavar="SEED",
        ),
    ] = None,
    save_image: Annotated[
        Path | None,
        typer.Option(
            "--save-image", help="Write the folder's picture here, for infer, bench and check.", metavar="FILE.npy"
        ),
    ] = None,
    resize: Resizing = Resize.STRETCH,
    json: Json = False,
) -> None:
    """Convert the raw weights of the Edge-MoE project (folder `weights` of https://github.com/sharc-lab/Edge-MoE)."""
    from edgemoe.host import outputs
    from edgemoe.host.importing import import_edge_moe as run
    from edgemoe.models import folders

    folders.writable_file(out)
    if save_image:
        folders.writable_file(save_image)
    report = run(folder, out, calibrate or [], resize.value, fill_missing, save_image)
    if json:
        print_json(report)
    else:
        outputs.table(f"{out}", list(report.items()))
