# SPDX-License-Identifier: Apache-2.0
"""Commands that make checkpoints: by training, and from those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgemoe.host.cli.options import Force, Json, Resize, Resizing, print_json
from edgemoe.models.errors import EdgemoeError


def _checkpoint_file(path: Path) -> Path:
    """A path that a checkpoint can be written to and, by its ending, read from again."""
    from edgemoe.models import folders

    if path.suffix != ".safetensors":
        raise EdgemoeError(f"cannot write checkpoint {path}: its name must end in .safetensors")
    return folders.writable_file(path)


def train(
    config: Annotated[str, typer.Argument(help="Model preset.", metavar="PRESET")] = "m3vit-micro",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Checkpoint to write. Default: out/PRESET.safetensors.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and order.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. Default: the recipe's.", min=1)] = None,
    z_loss: Annotated[
        float,
        typer.Option("--z-loss", help="Weight of the classes' z-loss, 1e-5 to 1e-3. Default: none.", min=0, max=1),
    ] = 0.0,
    threads: Annotated[int, typer.Option(help="CPU threads; the result depends on their number.", min=1)] = 1,
    device: Annotated[
        str, typer.Option(help="What computes: cpu, or cuda, if PyTorch has it and a GPU.", metavar="NAME")
    ] = "cpu",
    force: Force = False,
) -> None:
    """Train a checkpoint on generated street scenes, calibrate it, and write its model card beside it. m3vit-nano:
    cut from m3vit-micro.
    """
    import time
    from dataclasses import replace

    from edgemoe.host.studies import demo
    from edgemoe.host.studies.data import Street
    from edgemoe.host.studies.evaluation import evaluate as evaluate_hardware
    from edgemoe.hw.contract.config import preset as hardware_preset
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import folders
    from edgemoe.models.config import preset
    from edgemoe.models.evaluate import HARDWARE_FORMATS, card, evaluate
    from edgemoe.models.numbers.calibrate import calibrate
    from edgemoe.models.train import STEPS, WINDOWED, device_name, windowed
    from edgemoe.models.train import train as run

    chosen = preset(config)
    out = out or Path("out") / f"{chosen.name}.safetensors"
    _checkpoint_file(out)
    folder, model_card = folders.OutputFolder(out.parent, force=force), out.with_suffix(".md").name
    folder.check([model_card, out.with_suffix(".png").name])
    started = time.monotonic()
    if config in WINDOWED:
        if steps:
            raise EdgemoeError(f"{config} is cut from {WINDOWED[config]}, no step is taken: leave out --steps")
        trained = windowed(checkpoints.load(WINDOWED[config]), chosen)
    else:
        trained, _ = run(
            config, seed=seed, out=out, threads=threads, steps=steps or STEPS, z_loss=z_loss, device=device
        )
    seconds = time.monotonic() - started
    result = replace(trained, calibration=calibrate(trained))
    checkpoints.save(result, out)
    figures = evaluate(trained)
    hardware = replace(hardware_preset("base"), attention=chosen.weighings)
    computed = {
        bits: evaluate_hardware(result, Street.of(figures.scenes), hardware=hardware, weight_bits=bits).metrics
        for bits in HARDWARE_FORMATS
    }
    sample = folder.write(out.with_suffix(".png").name, demo.sample(result, hardware))
    trainer = "" if device == "cpu" else device_name(device)
    text = card(trained, figures, computed, seed, steps or STEPS, threads, seconds, sample.name, trainer)
    written = folder.write(model_card, text)
    for path in (out, written, sample):
        typer.echo(path)


def import_model(
    layout: Annotated[
        str,
        typer.Argument(
            help="What wrote it: auto (by its tensors' names; may be left out), edge-moe, m3vit, timm, torchvision, "
            "huggingface, clip or onnx.",
            metavar="[LAYOUT]",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Checkpoint to write.", metavar="FILE.safetensors")],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A .safetensors, .pth, .pt, .bin, .tar or .onnx file; a folder of Hugging Face, M3ViT or Edge-MoE.",
            metavar="SOURCE",
        ),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Attention heads, where the files do not say.", min=1, metavar="N")
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option("--image-size", help="Size of its pictures; positions are interpolated.", metavar="HEIGHTxWIDTH"),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.", metavar="FILE")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of each channel, of pixels scaled to 0..1.", metavar="M,M,M")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of each channel, likewise.", metavar="S,S,S")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Name of a task; may be repeated.", metavar="NAME")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Experts a token, of M3ViT; default 2.", min=1, metavar="K")
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            help="What weighs values if not softmax: sigmoid, relu, two-pass, softplus, rela, performer, cosformer or "
            "soft.",
            metavar="KIND",
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help="Function of the MLPs, where files do not say: gelu (default), gelu-tanh, quick-gelu, silu, relu.",
            metavar="NAME",
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            help="What M3ViT's scores are the softmax of: all experts, or the top-k chosen; default: as tensors show.",
            metavar="all|top-k",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the file's.", metavar="NAME")] = None,
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
            help="edge-moe: stand-ins of this seed for experts' files that are not there.",
            min=0,
            metavar="SEED",
        ),
    ] = None,
    save_image: Annotated[
        Path | None,
        typer.Option(
            "--save-image",
            help="edge-moe: write the folder's picture here, for infer, bench and check.",
            metavar="FILE.npy",
        ),
    ] = None,
    resize: Resizing = Resize.STRETCH,
    json: Json = False,
) -> None:
    """Make a checkpoint of someone else's Vision Transformer, calibrated for the hardware.

    timm's ViT and DeiT, torchvision's vit_*, Hugging Face's ViT, DeiT, DINOv2 and CLIP, ViTs as ONNX, trainings of
    M3ViT, and Edge-MoE's raw files (folder `weights` of https://github.com/sharc-lab/Edge-MoE).
    """
    from edgemoe.host import importing, outputs
    from edgemoe.models import folders
    from edgemoe.models.importers.vit import Options

    kind, path = ("auto", Path(layout)) if source is None else (layout, source)
    if kind not in importing.KINDS:
        raise EdgemoeError(f"unknown layout {kind!r}: choose one of {', '.join(importing.KINDS)}")
    options = Options(
        name=name or importing.model_name(path),
        heads=heads,
        image_size=importing.parsed_size(image_size) if image_size else None,
        mean=importing.parsed_channels("--mean", mean) if mean else None,
        std=importing.parsed_channels("--std", std) if std else None,
        labels=importing.read_labels(labels) if labels else None,
        tasks=tuple(task) if task else None,
        top_k=top_k or 2,
        attention=attention or "softmax",
        activation=activation,
        gate=gate,
    )
    if kind == "auto" and importing.edge_moe.is_folder(path):
        kind = importing.EDGE_MOE
    given: dict[str, object] = {"--heads": heads, "--image-size": image_size, "--labels": labels, "--mean": mean}
    given |= {"--std": std, "--task": task, "--top-k": top_k, "--name": name, "--activation": activation}
    given |= {"--gate": gate, "--attention": attention}
    other: dict[str, object] = {"--fill-missing": fill_missing, "--save-image": save_image}
    for option, value in (given if kind == importing.EDGE_MOE else other).items():
        if value is not None:
            raise EdgemoeError(f"{option} is not for {kind}")
    _checkpoint_file(out)
    if save_image:
        folders.writable_file(save_image)
    if kind == importing.EDGE_MOE:
        report = importing.import_edge_moe(path, out, calibrate or [], resize.value, fill_missing, save_image)
    else:
        report = importing.import_model(kind, path, out, calibrate or [], resize.value, options)
    if json:
        print_json(report)
    else:
        outputs.table(str(out), importing.rows(report))
