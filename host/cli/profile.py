# SPDX-License-Identifier: Apache-2.0
"""The command that explains a run."""

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
    print_json,
    weight_format,
)
from edgemoe.models.errors import EdgemoeError


def profile(
    checkpoint: CheckpointName = "m3vit-micro",
    image: Annotated[Path | None, typer.Option("--image", help="A picture. Default: a generated one.")] = None,
    hardware: Hardware = "base",
    changes: Changes = None,
    weight_bits: Bits = None,
    resize: Resizing = Resize.STRETCH,
    device: Annotated[
        DeviceName | None,
        typer.Option(
            "--device",
            help="Whose cycles: verilator; emulator: the planner's. Default: verilator's where it is installed.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page that needs no network, replacing it.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """One picture through all tasks, explained on a page: what ran when, where cycles and bytes went, who chose which
    expert, who looked at whom, what rounding cost.
    """
    from edgemoe.host import batch, inference, outputs
    from edgemoe.host.studies.profile import page
    from edgemoe.host.studies.profile.gather import profile as study
    from edgemoe.hw.contract.hardware_option import configured
    from edgemoe.models import checkpoint as checkpoints
    from edgemoe.models import extras, folders
    from edgemoe.models.files import write_whole
    from edgemoe.models.numbers.calibrate import UNSEEN_SCENES, takes_scenes, unseen_images

    if device not in (None, DeviceName.VERILATOR, DeviceName.EMULATOR):
        raise EdgemoeError(f"profile takes the cycles of verilator or, as planned, of the emulator, not of {device}")
    if html:
        page.require()
        folders.writable_file(html)
    elif not json:
        raise EdgemoeError("nowhere to put the profile: --html FILE writes a page, --json prints its numbers")
    chosen = configured(hardware, changes)
    if lacking := [] if device else [name for name in ("amaranth", "verilator") if not extras.present(name)]:
        inference.notice(
            f"cycles are the planner's: {lacking[0]} is not installed (to have it: {extras.remedy('sim')})"
        )
        device = DeviceName.EMULATOR
    if not extras.present("torch"):
        remedy = extras.remedy("golden")
        inference.notice(f"PyTorch is not installed: no comparison with the float model (to have it: {remedy})")
    model = checkpoints.load(checkpoint)
    if image:
        paths = batch.picture_files([image])
        if len(paths) > 1:
            raise EdgemoeError(f"{image} are {len(paths)} pictures, a profile is of one")
        name, pixels = paths[0].name, batch.read_images(paths, model.config, resize.value)[0]
    else:
        name, pixels = f"generated picture {UNSEEN_SCENES}", unseen_images(model.config, 1)[0]
        if not takes_scenes(model.config):
            inference.notice(
                "a picture of noise, as no scene has its size: --image with the model's own kind is better"
            )
    found = study(
        model,
        pixels,
        hardware=chosen,
        weight_bits=weight_format(weight_bits, chosen),
        name=name,
        rtl=device is not DeviceName.EMULATOR,
    ).summary()
    if html:
        write_whole(html, page.render(found))
    if json:
        print_json(found)
    else:
        rows = [
            ("cycles", f"{found['cycles']:,}, {'of the RTL' if found['source'] == 'rtl' else 'as planned'}"),
            (f"milliseconds at {found['clock_mhz']} MHz", f"{found['milliseconds']:.3f}"),
            ("of the floor", f"{found['floor_ratio']:.3f}"),
            ("bytes moved, at least", f"{found['bytes_moved']:,}, {found['bytes_minimum']:,}"),
            ("look at", str(html)),
        ]
        outputs.table(f"{model.config.name} on {chosen.name}", rows)
