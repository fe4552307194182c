# SPDX-License-Identifier: Apache-2.0
"""Commands that measure: cycles, resources, agreement with the twins, quality of the maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from edgemoe.host.cli.options import (
    Bits,
    Changes,
    CheckpointName,
    DeviceName,
    Hardware,
    Instructions,
    Json,
    Resize,
    Resizing,
    Trace,
    clock_mhz,
    print_json,
    weight_format,
)
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.formats import WeightFormat

if TYPE_CHECKING:
    from edgemoe.hw.contract.config import HardwareConfig

Bandwidth = Annotated[
    float,
    typer.Option(
        "--bandwidth",
        help="Bytes a cycle that the memory gives, reads and writes together. Default: as many as the bus takes.",
        min=0,
    ),
]


def bench(
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Name of a preset, or a .safetensors file.", metavar="NAME|FILE")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A model preset with seeded random weights.", metavar="NAME")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="An image; may be repeated. Default: generated ones.")
    ] = None,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    tasks: Annotated[int, typer.Option("--tasks", help="The first so many tasks of each image.", min=1)] = 1,
    images: Annotated[
        int | None, typer.Option("--images", help="How many images. Default: those given, or one.", min=1)
    ] = None,
    latency: Annotated[
        int, typer.Option("--latency", help="Cycles from a read's address to its first beat.", min=0)
    ] = 64,
    stalls: Annotated[
        float,
        typer.Option(
            "--stalls",
            help="Share of the cycles in which each channel of each master holds back, at random.",
            min=0,
            max=0.9,
        ),
    ] = 0.0,
    bandwidth: Bandwidth = 0.0,
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="The README's table: presets, weight formats, images and tasks, without and with stalls."
        ),
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            help="Kinds of attention side by side, on a small model: errors, cycles, resources (--hardware family).",
            metavar="all|KIND",
        ),
    ] = None,
    resize: Resizing = Resize.STRETCH,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Stacked bars of what the cycles went into.", metavar="FILE.png")
    ] = None,
    json: Json = False,
) -> None:
    """Cycles of the RTL and what they went into, bytes, utilisation, DSP slices, and the distance to the floor."""
    from dataclasses import replace

    from edgemoe.host import batch
    from edgemoe.host.studies import benchmark, drawing, headlines
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import config as models
    from edgemoe.models.numbers.calibrate import default_images

    if checkpoint and model:
        raise EdgemoeError("give --checkpoint or --model, not both")
    if attention:
        if checkpoint or model or image or images or table or stalls or bandwidth or weight_bits or tasks != 1:
            raise EdgemoeError("--attention has a model of its own: it takes --hardware, --set, --plot and --json")
        _attention(attention, configured("family" if hardware == "base" else hardware, changes), plot, json)
        return
    if table and (plot or stalls or bandwidth or weight_bits or tasks != 1 or images or hardware != "base" or changes):
        raise EdgemoeError("--table has rows of its own: it takes --checkpoint or --model, --image and --latency alone")
    chosen = configured(hardware, changes)
    if plot:
        drawing.plottable(plot)
    used = benchmark.random_checkpoint(models.preset(model)) if model else checkpoints.load(checkpoint or "m3vit-micro")
    given = batch.read_images(image or [], used.config, resize.value)
    count = headlines.IMAGES if table else images or len(given) or 1
    given = [*given, *default_images(used.config, count)][:count]
    if table:
        reports = headlines.reports_of(used, given, headlines.ROWS, latency)
        if json:
            print_json([row.summary() for row in reports])
        else:
            typer.echo(headlines.table(reports))
        return
    bits = weight_format(weight_bits, chosen)
    report = benchmark.benchmark(
        used, given, hardware=chosen, weight_bits=bits, tasks=tasks, latency=latency, stalls=stalls, bandwidth=bandwidth
    )
    report = replace(report, dsp=benchmark.count_dsp(chosen))
    if plot:
        benchmark.plot(report, plot)
    if json:
        print_json(report.summary())
    else:
        benchmark.table(report, clock_mhz(chosen))


def _attention(wanted: str, hardware: HardwareConfig, plot: Path | None, json: bool) -> None:
    """Kinds of attention side by side."""
    from edgemoe.host.studies import attention, drawing

    kinds = attention.kinds_of(wanted, hardware)
    if plot:
        drawing.plottable(plot)
    found = attention.study(kinds, hardware)
    if plot:
        attention.plot(found, plot)
    if json:
        print_json({"hardware": hardware.name, "kinds": [kind.summary() for kind in found]})
    else:
        attention.table(found, hardware)


def plan(
    model: Annotated[
        str | None, typer.Option("--model", help="A model preset; no weights are needed.", metavar="NAME")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", help="Name of a preset, or a .safetensors file. Default: m3vit-micro.", metavar="NAME|FILE"
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Preset or file. Default: base, or the board's.", metavar="PRESET|FILE.toml"),
    ] = None,
    changes: Changes = None,
    board: Annotated[
        str | None, typer.Option("--board", help="At this board's clock and with its memory.", metavar="NAME|FILE.toml")
    ] = None,
    weight_bits: Bits = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="A task of the model; may be repeated. Default: the first, as bench."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", help="With --checkpoint: plan with this image's routes; may be repeated. Default: balanced ones."
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", help="How many images. Default: those given, or one.", min=1)
    ] = None,
    latency: Annotated[
        int, typer.Option("--latency", help="Cycles from a read's address to its first beat.", min=0)
    ] = 64,
    bandwidth: Bandwidth = 0.0,
    every: Annotated[
        bool, typer.Option("--instructions", help="The schedule by instruction, not by part of the model.")
    ] = False,
    resize: Resizing = Resize.STRETCH,
    json: Json = False,
) -> None:
    """What a model takes on a hardware, within seconds and without a simulator: schedule, cycles, bytes, capacities."""
    from edgemoe.host import batch, inference
    from edgemoe.host.studies import plan as study
    from edgemoe.hw.contract.hardware_option import changed, configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import config as models
    from edgemoe.models.numbers.quantise import quantise
    from edgemoe.models.numbers.sketch import sketch

    if checkpoint and model:
        raise EdgemoeError("give --checkpoint or --model, not both")
    if image and model:
        raise EdgemoeError("--image needs weights to route it: give --checkpoint in place of --model")
    if image and images:
        raise EdgemoeError("give --image or --images, not both")
    beat, clock_mhz, device_bytes = 1.0, float(study.CLOCK_MHZ), None
    if board:
        from edgemoe.boards.facts import board as board_named

        device = board_named(board)
        chosen = configured(hardware, changes) if hardware else changed(device.hardware, changes)
        device = device.carrying(chosen)
        beat, clock_mhz = device.beat_cycles, device.clock_mhz
        device_bytes = chosen.masters * device.memory_bytes
    else:
        chosen = configured(hardware or "base", changes)
    if bandwidth:
        beat = max(beat, chosen.bus_bytes / bandwidth)
    bits = weight_format(weight_bits, chosen)
    used = None if model else checkpoints.load(checkpoint or "m3vit-micro")
    quantised = sketch(models.preset(model or ""), bits) if used is None else quantise(used, bits)
    tasks = inference.tasks_of(quantised.config, task or [quantised.config.tasks[0].name])
    routes = None
    try:
        if image:
            assert used is not None
            given = batch.read_images(image, used.config, resize.value)
            images = len(given)
            options: dict[str, Any] = dict(tasks=tasks, hardware=chosen, weight_bits=bits, model=quantised)
            routes = study.emulated(inference.infer(used, given, device="emulator", **options).runs)
        found = study.plan(
            quantised,
            chosen,
            tasks=tasks,
            images=images or 1,
            routes=routes,
            dram=study.Dram(latency, beat),
            clock_mhz=clock_mhz,
            device_bytes=device_bytes,
        )
    except study.Shortage as shortage:
        if json:
            print_json({"model": quantised.config.name, "hardware": chosen.name} | study.shortage_summary(shortage))
        else:
            study.show_capacities(shortage.needs)
        raise
    if json:
        print_json(found.summary())
    else:
        study.show(found, every)


def report(
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Preset or file. Default: base, or the board's.", metavar="PRESET|FILE.toml"),
    ] = None,
    changes: Changes = None,
    board: Annotated[
        str | None, typer.Option("--board", help="Compare with what this board's device has.", metavar="NAME|FILE.toml")
    ] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Also the slowest paths in ns of logic.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="With --board: shares of the device by unit.", metavar="FILE.png")
    ] = None,
    json: Json = False,
) -> None:
    """Resources of the hardware by unit, as Yosys counts them (minutes, once), against a board's, and its slowest
    paths.
    """
    from edgemoe.host.studies import drawing, reporting
    from edgemoe.hw.contract.hardware_option import changed, configured

    if plot and not board:
        raise EdgemoeError("--plot shows shares of a device: name it with --board")
    if board:
        from edgemoe.boards.facts import board as board_named
        from edgemoe.host.studies import fit

        device = board_named(board)
        if plot:
            drawing.plottable(plot)
        chosen = configured(hardware, changes) if hardware else changed(device.hardware, changes)
        resources = fit.report(device, chosen)
        if plot:
            fit.plot(resources, device, plot)
    else:
        chosen = configured(hardware or "base", changes)
        resources = reporting.resources(chosen)
    paths = reporting.timing(chosen) if timing else None
    if json:
        print_json(resources | ({"timing": paths} if paths else {}))
    elif board:
        fit.show(resources, device)
        reporting.show(None, paths)
    else:
        reporting.show(resources, paths)


def growth(
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Cycles against each quantity.", metavar="FILE.png")
    ] = None,
    lanes: Annotated[
        list[int] | None, typer.Option("--lanes", help="Array sides to build; may be repeated. Default: 4, 8, 16, 32.")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Softmax and linear attention instead, up to 1,201 tokens.")
    ] = False,
    json: Json = False,
) -> None:
    """Cycles of the RTL against tokens, experts, streams, the memory's latency and the array's side, on a narrow
    model.
    """
    from dataclasses import asdict

    from edgemoe.host.studies import attention_growth, drawing
    from edgemoe.host.studies import growth as study
    from edgemoe.hw.contract.config import preset

    if plot:
        drawing.plottable(plot)
    if attention:
        hardware = preset("family")
        found = attention_growth.study(hardware)
        if plot:
            attention_growth.plot(found, plot)
        if json:
            print_json([asdict(point) for point in found])
        else:
            attention_growth.table(found, hardware)
        return
    points = study.study(tuple(lanes) if lanes else study.LANES)
    if plot:
        study.plot(points, plot)
    if json:
        print_json([asdict(point) for point in points])
    else:
        study.table(points)


def check(
    checkpoint: CheckpointName = "m3vit-micro",
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="An image; may be repeated. Default: generated scenes.")
    ] = None,
    scenes: Annotated[
        int,
        typer.Option(
            "--scenes",
            help="Without --image: so many scenes that calibration never saw; the worst decibels count.",
            min=1,
        ),
    ] = 1,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    resize: Resizing = Resize.STRETCH,
    device: Annotated[
        DeviceName,
        typer.Option(
            "--device", help="What is compared with the emulator: verilator; emulator: nothing, the float model alone."
        ),
    ] = DeviceName.VERILATOR,
    table: Annotated[bool, typer.Option("--table", help="All weight formats, as a table of the decibels.")] = False,
    trace: Trace = None,
    instructions: Instructions = None,
    json: Json = False,
) -> None:
    """Compare every instruction's result between emulator and RTL, and both with the float model."""
    import importlib.util

    from edgemoe.host import batch, inference
    from edgemoe.host.studies import checking
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import extras
    from edgemoe.models.numbers.calibrate import UNSEEN_SCENES, takes_scenes, unseen_images

    if device not in (DeviceName.VERILATOR, DeviceName.EMULATOR):
        raise EdgemoeError(
            f"check compares the emulator with verilator, or with the float model alone (emulator), not {device.value}"
        )
    if trace and table:
        raise EdgemoeError(
            "--trace keeps the waveforms of one format of the weights, --table compares all: give one of them"
        )
    recording = inference.recording(trace, instructions, device.value)
    chosen = configured(hardware, changes)
    model = checkpoints.load(checkpoint)
    paths = batch.picture_files(image or [])
    names = [path.name for path in paths] or [f"generated picture {UNSEEN_SCENES + index}" for index in range(scenes)]
    given = batch.read_images(paths, model.config, resize.value) or list(unseen_images(model.config, scenes))
    if not paths and not takes_scenes(model.config):
        inference.notice(
            "compared on noise, as no scene has the size of its pictures: --image with its own kind is better"
        )
    golden = importlib.util.find_spec("torch") is not None
    if not golden:
        inference.notice(
            f"PyTorch is not installed: no comparison with the float model (to have it: {extras.remedy('golden')})"
        )
    if table and not golden or device is DeviceName.EMULATOR and not golden:
        raise EdgemoeError(
            f"there is nothing to compare without the float model, which needs PyTorch ({extras.remedy('golden')})"
        )
    formats = (
        [f.value for f in WeightFormat if chosen.packed or not f.fast]
        if table
        else [weight_format(weight_bits, chosen)]
    )
    rtl = device is DeviceName.VERILATOR
    comparison: dict[str, Any] = dict(hardware=chosen, golden=golden, rtl=rtl, names=names, recording=recording)
    reports = [checking.check(model, given, weight_bits=bits, **comparison) for bits in formats]
    if reports[0].calibrated_on:
        found = ", ".join(reports[0].calibrated_on)
        inference.notice(
            f"the checkpoint was calibrated on {found}: its decibels there flatter; take a picture that calibration "
            f"never saw"
        )
    if json:
        print_json([found.summary() for found in reports] if table else reports[0].summary())
    elif table:
        typer.echo(checking.accuracy_table(reports))
    else:
        checking.show(reports[0])
    if any(found.mismatches for found in reports):
        raise typer.Exit(1)
