# SPDX-License-Identifier: Apache-2.0
"""Commands that run a model: on the simulated hardware, the emulator or a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("out/demo"),
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
        list[Path],
        typer.Argument(
            help="PNG, JPEG and the like, or .npy of uint8 H x W x 3; a folder of them; a pattern.", metavar="IMAGE..."
        ),
    ],
    context: typer.Context,
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
