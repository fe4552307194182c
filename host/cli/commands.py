# SPDX-License-Identifier: Apache-2.0
"""The command line. Results go to standard output (with ``--json`` nothing else does), progress and errors to standard
error.

Nothing heavy is imported here: every command imports what it needs when it runs, so that ``--help`` is instant and a
machine without PyTorch or Amaranth can run what does not need them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgemoe.models.compatibility import StrEnum
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.formats import WeightFormat

app = typer.Typer(
    name="edgemoe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: whole on a narrow console, and one without Unicode
    context_settings={"help_option_names": ["-h", "--help"]},
)
importer = typer.Typer(help="Convert foreign checkpoints.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(importer, name="import")


class DeviceName(StrEnum):
    """What ``infer`` can run on."""

    VERILATOR = "verilator"
    EMULATOR = "emulator"
    FPGA = "fpga"
    SERIAL = "serial"


class Stalls(StrEnum):
    """How the memory behaves in ``soak``."""

    RANDOM = "random"
    NONE = "none"


class Resize(StrEnum):
    """What happens to a picture of another size than the model's."""

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


DEMO_SEED = 2_000_020  # a scene that neither training nor calibration sees

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
Baud = Annotated[int | None, typer.Option("--baud", help="--device serial: bits a second. Default: 3000000.", min=1)]
Uio = Annotated[
    str | None, typer.Option("--uio", help="--device fpga: which UIO device, where there are several.", metavar="uioN")
]


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"edgemoe {importlib.metadata.version('edgemoe')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """An FPGA accelerator for multi-task Mixture-of-Experts vision transformers."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("out/demo"),
    hardware: Hardware = "base",
    changes: Changes = None,
    force: Force = False,
) -> None:
    """A street scene through the generated hardware: segmentation and depth, simulated cycle by cycle."""
    import numpy as np
    from edgemoe.host import images, inference, outputs
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint, folders, heads, metrics
    from edgemoe.models.scenes import scene

    chosen = configured(hardware, changes)
    model = checkpoint.load("m3vit-micro")
    config = model.config
    street = scene(DEMO_SEED)
    truth = {"segmentation": heads.colourise_segmentation(street.labels), "depth": heads.colourise_depth(street.depth)}
    blank = np.full((config.image_height, config.image_width, 3), 255, np.uint8)
    rows: list[tuple[str, object]] = []
    row = [("input", street.image.transpose(1, 2, 0))]
    with folders.OutputFolder(out, force=force) as folder:
        folder.check(["demo.png", "scene.png", *outputs.map_names("scene", config, range(len(config.tasks)))])
        result = inference.infer(model, [street.image], hardware=chosen)
        for stream, (_, task) in enumerate(result.streams):
            kind, prediction = config.tasks[task].kind, result.map(stream)
            assert prediction is not None
            coloured = inference.colourised(config, task, prediction)
            row += [(f"{kind}, computed by the RTL", coloured), (f"{kind}, ground truth", truth[kind])]
            if kind == "segmentation":
                share = metrics.mean_iou(prediction, street.labels, config.tasks[task].channels)
                rows.append(("segmentation, mean IoU", f"{100 * share:.1f} %"))
            else:
                rows.append(("depth, RMSE", f"{metrics.depth_rmse(prediction, street.depth):.2f} m"))
            outputs.save_maps(folder, "scene", config, task, result.heads[stream])
        picture = folder.write("demo.png", images.png(outputs.sheet([row[:1] + row[1::2], [("", blank), *row[2::2]]])))
        folder.write("scene.png", images.png(street.image.transpose(1, 2, 0)))
    summary = result.totals().summary(chosen)
    rows += [
        ("clock cycles, both tasks", f"{summary['cycles']:,}"),
        ("at 300 MHz", f"{summary['cycles'] / 300e3:.2f} ms"),
        ("multiplier utilisation", f"{100 * summary['mac_utilisation']:.0f} %"),
        ("simulated in", f"{summary['seconds']:.1f} s"),
        ("look at", picture),
    ]
    outputs.table(f"m3vit-micro on the generated hardware ({chosen.name})", rows)


@app.command()
def infer(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="PNG, JPEG and the like, or .npy of uint8 H x W x 3; a folder of them; a pattern.", metavar="IMAGE..."
        ),
    ],
    checkpoint: CheckpointName = "m3vit-micro",
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task of the checkpoint; may be repeated. Default: all.")
    ] = None,
    device: Annotated[DeviceName, typer.Option("--device", help="What computes.")] = DeviceName.VERILATOR,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    resize: Resizing = Resize.STRETCH,
    out: Annotated[Path, typer.Option("--out", help="Folder for maps and raw predictions.")] = Path("out"),
    force: Force = False,
    save_tokens: Annotated[
        Path | None,
        typer.Option(
            "--save-tokens", help="Write the encoder's final tokens here, replacing the file.", metavar="FILE.npy"
        ),
    ] = None,
    bitstream: Bitstream = None,
    port: Port = None,
    baud: Baud = None,
    uio: Uio = None,
    json: Json = False,
) -> None:
    """Run images through a checkpoint.

    Maps are saved as they come, under the picture's name (with its folder's name or a number where names are alike). A
    picture that cannot be read is left out, and the exit code is then 1.
    """
    from edgemoe.host import batch, inference, outputs
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import folders

    where = inference.SerialPort.of(port, baud)
    chosen = configured(hardware, changes)
    model = checkpoints.load(checkpoint)
    tasks = inference.tasks_of(model.config, task)
    paths = batch.picture_files(images)
    with folders.OutputFolder(out, force=force) as folder:
        if save_tokens:
            folders.writable_file(save_tokens)
        result = batch.infer_files(
            model,
            paths,
            folder,
            tasks=tasks,
            hardware=chosen,
            resize=resize.value,
            tokens=save_tokens,
            device=device.value,
            weight_bits=weight_bits.value if weight_bits else chosen.weight_bits,
            bitstream=bitstream,
            port=where,
            uio=uio,
        )
    summary = {
        "device": device.value,
        "hardware": chosen.name,
        "checkpoint": model.config.name,
    } | result.totals.summary(chosen)
    if json:
        _print_json(
            summary
            | {"pictures": len(paths), "streams": result.streams, "outputs": result.outputs, "failed": result.failed}
        )
    else:
        rows = [*summary.items(), ("pictures", f"{len(paths) - len(result.failed)} of {len(paths)}")]
        more = [f"and {len(result.outputs) - 12} more"] if len(result.outputs) > 12 else []
        rows.append(("outputs", "\n".join(result.outputs[:12] + more)))
        outputs.table(f"{model.config.name} on {device.value}", rows)
    if result.failed:
        for failed in result.failed[:5]:
            inference.notice(failed["error"])
        hidden = f" ({len(result.failed) - 5} of them not shown above)" if len(result.failed) > 5 else ""
        inference.notice(
            f"error: {len(result.failed)} of {len(paths)} pictures could not be read{hidden}; the others are done"
        )
        raise typer.Exit(1)


@app.command()
def reset(
    device: Annotated[DeviceName, typer.Option("--device", help="fpga or serial.")] = DeviceName.FPGA,
    bitstream: Bitstream = None,
    port: Port = None,
    baud: Baud = None,
    uio: Uio = None,
) -> None:
    """Stop a board's core that an earlier process left running: abandon the run, drain the bus."""
    from edgemoe.host import inference

    inference.reset(device.value, bitstream, inference.SerialPort.of(port, baud), uio)
    typer.echo(f"{device.value}: the core is idle")


@importer.command("edge-moe")
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
        _print_json(report)
    else:
        outputs.table(f"{out}", list(report.items()))


@app.command()
def verilog(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.", metavar="DIR")],
    hardware: Hardware = "base",
    changes: Changes = None,
    name: ModuleName = "edgemoe",
    force: Force = False,
) -> None:
    """Write the hardware as Verilog, with its register map and instruction set as documents."""
    from edgemoe.hw import documents
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.hw.verilog_text import checked_name
    from edgemoe.models import folders
    from edgemoe.sim.simulator import verilog as generate

    config, name = configured(hardware, changes), checked_name(name)
    with folders.OutputFolder(out, force=force) as folder:
        for path in folder.write_all(documents.hardware_files(config, generate(config), name)):
            typer.echo(path)


@app.command()
def build(
    board: Annotated[str, typer.Option("--board", help="Name of a board.", metavar="NAME")],
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
    from edgemoe.boards import boards, ecp5, zynq
    from edgemoe.host import outputs
    from edgemoe.hw.contract.hardware_option import changed, configured
    from edgemoe.hw.verilog_text import checked_name

    chosen, name = boards.board(board), checked_name(name)
    chosen = chosen.carrying(configured(hardware, changes) if hardware else changed(chosen.hardware, changes))
    figures = None
    if chosen.family is boards.Family.ECP5:
        paths, figures = ecp5.build(chosen, out, name, with_bitstream=bitstream, force=force)
    elif bitstream:
        raise EdgemoeError(
            f"--bitstream is for ECP5 boards: that of {board!r} comes from Vivado, by the folder's README.md"
        )
    else:
        paths = zynq.build(chosen, out, name, force=force)
    if json:
        _print_json({"board": board, "files": [str(path) for path in paths]} | ({"report": figures} if figures else {}))
        return
    typer.echo("\n".join(map(str, paths)))
    if figures:
        rows = [(name, value) for name, value in figures.items() if name not in ("used", "share")]
        rows += [
            (kind, f"{count:,} ({figures['share'][kind]:.0%} of the device)") for kind, count in figures["used"].items()
        ]
        outputs.table(f"{board}, by nextpnr", rows)


@app.command()
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
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="The README's table: presets, weight formats, one and two tasks, without and with stalls."
        ),
    ] = False,
    resize: Resizing = Resize.STRETCH,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Stacked bars of what the cycles went into.", metavar="FILE.png")
    ] = None,
    json: Json = False,
) -> None:
    """Cycles of the RTL and what they went into, bytes, utilisation, DSP slices, and the distance to the floor."""
    from dataclasses import replace

    from edgemoe.host import batch
    from edgemoe.host.studies import benchmark
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import config as models
    from edgemoe.models.numbers.calibrate import default_images

    if checkpoint and model:
        raise EdgemoeError("give --checkpoint or --model, not both")
    if table and (plot or stalls or weight_bits or tasks != 1 or hardware != "base" or changes):
        raise EdgemoeError(
            "--table has rows of its own: it takes --checkpoint or --model, --image, --images and --latency alone"
        )
    chosen = configured(hardware, changes)
    if plot:
        benchmark.plottable(plot)
    used = benchmark.random_checkpoint(models.preset(model)) if model else checkpoints.load(checkpoint or "m3vit-micro")
    given = batch.read_images(image or [], used.config, resize.value)
    count = images or len(given) or 1
    given = [*given, *default_images(used.config, count)][:count]
    if table:
        reports = benchmark.headlines(
            used, given, [(configured(name), bits) for name, bits in benchmark.HEADLINES], latency
        )
        if json:
            _print_json([row.summary() for row in reports])
        else:
            typer.echo(benchmark.headline_table(reports))
        return
    bits = weight_bits.value if weight_bits else chosen.weight_bits
    report = benchmark.benchmark(
        used, given, hardware=chosen, weight_bits=bits, tasks=tasks, latency=latency, stalls=stalls
    )
    report = replace(report, dsp=benchmark.count_dsp(chosen))
    if plot:
        benchmark.plot(report, plot)
    if json:
        _print_json(report.summary())
    else:
        benchmark.table(report)


@app.command()
def report(
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Preset or file. Default: base, or the board's.", metavar="PRESET|FILE.toml"),
    ] = None,
    changes: Changes = None,
    board: Annotated[
        str | None, typer.Option("--board", help="Compare with what this board's device has.", metavar="NAME")
    ] = None,
    timing: Annotated[bool, typer.Option("--timing", help="Also the deepest paths in LUT levels.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="With --board: shares of the device by unit.", metavar="FILE.png")
    ] = None,
    json: Json = False,
) -> None:
    """Resources of the hardware by unit, as Yosys counts them (minutes, once), against a board's, and its deepest
    paths.
    """
    from edgemoe.host.studies import benchmark, reporting
    from edgemoe.hw.contract.hardware_option import changed, configured

    if plot and not board:
        raise EdgemoeError("--plot shows shares of a device: name it with --board")
    if board:
        from edgemoe.boards import boards
        from edgemoe.host.studies import fit

        device = boards.board(board)
        if plot:
            benchmark.plottable(plot)
        chosen = configured(hardware, changes) if hardware else changed(device.hardware, changes)
        resources = fit.report(device, chosen)
        if plot:
            fit.plot(resources, device, plot)
    else:
        chosen = configured(hardware or "base", changes)
        resources = reporting.resources(chosen)
    paths = reporting.timing(chosen) if timing else None
    if json:
        _print_json(resources | ({"timing": paths} if paths else {}))
    elif board:
        fit.show(resources, device)
        reporting.show(None, paths)
    else:
        reporting.show(resources, paths)


@app.command()
def growth(
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Cycles against each quantity.", metavar="FILE.png")
    ] = None,
    lanes: Annotated[
        list[int] | None, typer.Option("--lanes", help="Array sides to build; may be repeated. Default: 4, 8, 16, 32.")
    ] = None,
    json: Json = False,
) -> None:
    """Cycles of the RTL against tokens, experts, streams, the memory's latency and the array's side, on a narrow
    model.
    """
    from dataclasses import asdict

    from edgemoe.host.studies import benchmark
    from edgemoe.host.studies import growth as study

    if plot:
        benchmark.plottable(plot)
    points = study.study(tuple(lanes) if lanes else study.LANES)
    if plot:
        study.plot(points, plot)
    if json:
        _print_json([asdict(point) for point in points])
    else:
        study.table(points)


@app.command()
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
    json: Json = False,
) -> None:
    """Compare every instruction's result between emulator and RTL, and both with the float model."""
    import importlib.util

    from edgemoe.host import batch, inference, outputs
    from edgemoe.host.studies import checking
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import extras
    from edgemoe.models.numbers.calibrate import UNSEEN_SCENES, unseen_images

    if device not in (DeviceName.VERILATOR, DeviceName.EMULATOR):
        raise EdgemoeError(
            f"check compares the emulator with verilator, or with the float model alone (emulator), not {device.value}"
        )
    chosen = configured(hardware, changes)
    model = checkpoints.load(checkpoint)
    paths = batch.picture_files(image or [])
    names = [path.name for path in paths] or [f"generated picture {UNSEEN_SCENES + index}" for index in range(scenes)]
    given = batch.read_images(paths, model.config, resize.value) or list(unseen_images(model.config, scenes))
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
        [bits.value for bits in WeightFormat] if table else [weight_bits.value if weight_bits else chosen.weight_bits]
    )
    rtl = device is DeviceName.VERILATOR
    reports = [
        checking.check(model, given, hardware=chosen, weight_bits=bits, golden=golden, rtl=rtl, names=names)
        for bits in formats
    ]
    if reports[0].calibrated_on:
        found = ", ".join(reports[0].calibrated_on)
        inference.notice(
            f"the checkpoint was calibrated on {found}: its decibels there flatter; take a picture that calibration "
            f"never saw"
        )
    if json:
        _print_json([found.summary() for found in reports] if table else reports[0].summary())
    elif table:
        typer.echo(checking.accuracy_table(reports))
    else:
        outputs.table(f"{reports[0].checkpoint} on {reports[0].hardware}", list(reports[0].summary().items()))
    if any(found.mismatches for found in reports):
        raise typer.Exit(1)


@app.command()
def evaluate(
    data: Annotated[
        str, typer.Option("--data", help="street:N: N generated scenes that the model has never seen.")
    ] = "street:200",
    checkpoint: CheckpointName = "m3vit-micro",
    device: Annotated[
        DeviceName, typer.Option("--device", help="What computes; all give the same.")
    ] = DeviceName.EMULATOR,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    json: Json = False,
) -> None:
    """Quality of the maps as the hardware computes them: mean IoU of segmentation, RMSE of depth."""
    from edgemoe.host import outputs
    from edgemoe.host.studies import evaluation
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints

    chosen, count = configured(hardware, changes), evaluation.pictures_of(data)
    bits = weight_bits.value if weight_bits else chosen.weight_bits
    report = evaluation.evaluate(
        checkpoints.load(checkpoint), count, hardware=chosen, weight_bits=bits, device=device.value
    )
    if json:
        _print_json(report.summary())
        return
    rows = [
        (f"{task}, {name.replace('_', ' ')}", f"{value:.4f}")
        for task, found in report.metrics.items()
        for name, value in found.items()
    ]
    outputs.table(f"{report.checkpoint}, {report.weight_bits.label}, {data}", rows)


@app.command()
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
    json: Json = False,
) -> None:
    """Many scenes through the RTL over a memory that stalls at random, each compared with the emulator."""
    from edgemoe.host import outputs
    from edgemoe.host.studies.soak import soak as run
    from edgemoe.hw.contract.hardware_option import configured

    chosen = configured(hardware, changes)
    report = run(images, seed, stalls.value, chosen, weight_bits.value if weight_bits else chosen.weight_bits).summary()
    if json:
        _print_json(report)
    else:
        outputs.table(f"soak on {chosen.name}", list(report.items()))
    if report["mismatches"]:
        raise typer.Exit(1)


@app.command()
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


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed, what is missing, and how to get it."""
    from edgemoe.host.studies.doctor import examine, show

    findings = examine()
    show(findings, as_json=json)
    if lacking := [finding for finding in findings if finding.needed and not finding.present]:
        first = lacking[0]
        others = f"; also {', '.join(finding.name for finding in lacking[1:])}" if lacking[1:] else ""
        raise EdgemoeError(f"{first.name} is missing or cannot be used ({first.purpose}): {first.remedy}{others}")


@app.command()
def test(
    full: Annotated[bool, typer.Option("--full", help="Also the long tests.")] = False,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Handed to pytest (after --).", metavar="[-- PYTEST...]")
    ] = None,
) -> None:
    """Lint, types and all tests."""
    from edgemoe.host.studies.suite import run

    raise typer.Exit(run(full=full, arguments=arguments or []))


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=1, default=float))
