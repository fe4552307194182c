# SPDX-License-Identifier: Apache-2.0
"""Commands that run a model: on the simulated hardware, the emulator or a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from edgemoe.host.cli.options import (
    Baud,
    Bits,
    Bitstream,
    Changes,
    CheckpointName,
    DeviceName,
    Force,
    Hardware,
    Instructions,
    Json,
    Port,
    Resize,
    Resizing,
    Tasks,
    Trace,
    Uio,
    clock_mhz,
    print_json,
    weight_format,
)
from edgemoe.models.errors import EdgemoeError

if TYPE_CHECKING:
    from edgemoe.host.inference import SerialPort
    from edgemoe.hw.contract.config import HardwareConfig
    from edgemoe.models.checkpoint import Checkpoint


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")] = Path("out/demo"),
    scene: Annotated[
        int | None, typer.Option("--scene", help="Seed of another scene; those from 2000000 on are held out.", min=0)
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Instead, rank so many held-out scenes: how the demo's was chosen.", min=1),
    ] = None,
    hardware: Hardware = "base",
    changes: Changes = None,
    force: Force = False,
) -> None:
    """A street scene through the generated hardware, simulated cycle by cycle, as a picture and a film."""
    from edgemoe.host import images, outputs
    from edgemoe.host.studies import demo as study
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import folders

    if rank:
        study.show_ranks(study.rank(rank))
        return
    from edgemoe.host.studies import drawing

    drawing.pyplot("the demo's picture")
    from edgemoe.host.studies import demo_picture, queue_film

    chosen = configured(hardware, changes)
    with folders.OutputFolder(out, force=force) as folder:
        maps = outputs.map_names("scene", study.config(), range(len(study.config().tasks)))
        folder.check(["demo.png", "queues.gif", "scene.png", *maps])
        found = study.run(study.SEED if scene is None else scene, chosen)
        picture = folder.write("demo.png", demo_picture.picture(found))
        film = folder.write("queues.gif", queue_film.film(found))
        folder.write("scene.png", images.png(found.scene.image.transpose(1, 2, 0)))
        outputs.save_maps(folder, "scene", found.config, found.config.task_index("segmentation"), found.classes)
        outputs.save_maps(folder, "scene", found.config, found.config.task_index("depth"), found.depth)
    outputs.table(f"{study.MODEL} on the generated hardware ({chosen.name})", [*found.rows(), ("look at", picture)])
    typer.echo(f"patches filling the experts' queues: {film}")
    if found.mismatching:
        raise typer.Exit(1)


def infer(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="PNG, JPEG and the like, or .npy of uint8 H x W x 3; a folder of them; a pattern. Or -: frames from "
            "standard input, with --frame.",
            metavar="IMAGE...",
        ),
    ] = None,
    context: typer.Context = None,  # type: ignore[assignment]  # Typer gives it
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch", help="The pictures of this folder, also those to come, until Ctrl-C.", metavar="FOLDER"
        ),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option("--frame", help="Size of the raw RGB frames on standard input.", metavar="WIDTHxHEIGHT"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="With --watch or -: end after so many pictures.", min=1)
    ] = None,
    checkpoint: CheckpointName = "m3vit-micro",
    task: Tasks = None,
    program: Annotated[
        Path | None,
        typer.Option(
            "--program",
            help="A file that compile wrote, in place of --checkpoint, --task, --hardware and --weight-bits.",
            metavar="FILE.emoe",
        ),
    ] = None,
    device: Annotated[DeviceName, typer.Option("--device", help="What computes.")] = DeviceName.VERILATOR,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    resize: Resizing = Resize.STRETCH,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for maps and raw predictions.")] = Path("out"),
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
    trace: Trace = None,
    instructions: Instructions = None,
    json: Json = False,
) -> None:
    """Run images through a checkpoint.

    Maps are saved as they come, under the picture's name (with its folder's name or a number where names are alike). A
    picture that cannot be read is left out, and the exit code is then 1.
    """
    from edgemoe.host import batch, inference, outputs, program_file
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import folders

    where = inference.SerialPort.of(port, baud)
    streamed = watch is not None or images == [Path("-")]
    if watch and images or not (streamed or images):
        raise EdgemoeError("give pictures, or --watch FOLDER, or - with --frame: one of them")
    if streamed and (program or save_tokens or trace):
        raise EdgemoeError("a stream takes neither --program nor --save-tokens nor --trace")
    if bool(frame) != (images == [Path("-")]) or limit and not streamed:
        raise EdgemoeError("--frame is for frames from standard input (-), --limit for them or for --watch")
    recording = inference.recording(trace, instructions, device.value)
    if program:
        given = {name: context.get_parameter_source(name) for name in ("checkpoint", "task", "hardware", "weight_bits")}
        said = [name for name, source in given.items() if source and source.name == "COMMANDLINE"]
        if said or changes:
            raise EdgemoeError(f"--program says it all: leave out --{[*said, 'set'][0].replace('_', '-')}")
        compiled, model = program_file.load(program)
        chosen, bits = compiled.hardware, compiled.weight_bits
        tasks = list(dict.fromkeys(stream.task for stream in compiled.streams))
        if save_tokens and not all(result.tokens for result in compiled.results):
            raise EdgemoeError(f"{program} does not store tokens: compile it with --save-tokens")
    else:
        compiled, model, chosen = None, checkpoints.load(checkpoint), configured(hardware, changes)
        tasks, bits = inference.tasks_of(model.config, task), weight_format(weight_bits, chosen)
    if streamed:
        _stream(
            model, tasks, chosen, bits, watch, frame, limit, resize, out, force, device, bitstream, where, uio, json
        )
        return
    paths = batch.picture_files(images or [])
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
            weight_bits=bits,
            program=compiled,
            bitstream=bitstream,
            port=where,
            uio=uio,
            recording=recording,
        )
    summary = {
        "device": device.value,
        "hardware": chosen.name,
        "checkpoint": model.config.name,
    } | result.totals.summary(chosen)
    host = {
        model.config.tasks[number].name: work for number in tasks if (work := inference.host_work(model.config, number))
    }
    if json:
        print_json(
            summary
            | {
                "host": host,
                "pictures": len(paths),
                "streams": result.streams,
                "outputs": result.outputs,
                "failed": result.failed,
            }
        )
    else:
        outputs.table(f"{model.config.name} on {device.value}", result.rows(clock_mhz(chosen), host))
        outputs.pictures_table(result.streams)
        for stream in result.streams:
            if "classes" in stream:
                title = f"{Path(stream['file']).name}, {stream['task']}"
                outputs.table(title, [(label, f"{100 * share:.1f} %") for label, share in stream["classes"].items()])
    if result.failed:
        for failed in result.failed[:5]:
            inference.notice(failed["error"])
        hidden = f" ({len(result.failed) - 5} of them not shown above)" if len(result.failed) > 5 else ""
        inference.notice(
            f"error: {len(result.failed)} of {len(paths)} pictures could not be read{hidden}; the others are done"
        )
        raise typer.Exit(1)


def _stream(
    model: Checkpoint,
    tasks: list[int],
    hardware: HardwareConfig,
    bits: str,
    watch: Path | None,
    frame: str | None,
    limit: int | None,
    resize: Resize,
    out: Path,
    force: bool,
    device: DeviceName,
    bitstream: Path | None,
    port: SerialPort | None,
    uio: str | None,
    json: bool,
) -> None:
    """`infer` of pictures without an end."""
    import re
    import sys

    from edgemoe.host import inference, outputs, streaming
    from edgemoe.host.studies import plan as study
    from edgemoe.models import folders
    from edgemoe.models.numbers.sketch import sketch

    if watch:
        source = streaming.watched(watch, model.config, resize.value)
    else:
        size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", frame or "")
        if not size:
            raise EdgemoeError(f"--frame is {frame!r}, expected WIDTHxHEIGHT, as 1280x720")
        source = streaming.raw_frames(sys.stdin.buffer, int(size[1]), int(size[2]), model.config, resize.value)
    with folders.OutputFolder(out, force=force) as folder:
        found = streaming.stream(
            model,
            source,
            folder,
            tasks=tasks,
            hardware=hardware,
            limit=limit,
            endless=watch is not None,
            device=device.value,
            weight_bits=bits,
            bitstream=bitstream,
            port=port,
            uio=uio,
        )
    found.totals.host_seconds = found.seconds["map"]
    planned = study.plan(sketch(model.config, bits), hardware, tasks=tasks)
    milliseconds = planned.cycles / planned.clock_mhz / 1e3
    if json:
        print_json(
            {
                "device": device.value,
                "hardware": hardware.name,
                "checkpoint": model.config.name,
                "pictures": found.pictures,
                "pictures_per_second": found.rate,
                **found.totals.summary(hardware),
                "work_seconds": found.seconds,
                f"at_{planned.clock_mhz:g}_mhz": found.on_board(milliseconds),
                "failed": found.failed,
            }
        )
    else:
        rows = found.rows(hardware, planned.clock_mhz, milliseconds)
        outputs.table(f"{model.config.name} on {device.value}", rows)
    if found.failed:
        for failed in found.failed[:5]:
            inference.notice(failed["error"])
        inference.notice(f"error: {len(found.failed)} pictures could not be read; the others are done")
        raise typer.Exit(1)


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
