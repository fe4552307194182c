# SPDX-License-Identifier: Apache-2.0
"""Other people's weights to a calibrated checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host.batch import read_images
from edgemoe.host.images import picture_pixels
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import scenes
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError, brief, notice
from edgemoe.models.files import whole
from edgemoe.models.importers import edge_moe, layouts, sources
from edgemoe.models.importers.vit import Options
from edgemoe.models.numbers.calibrate import CALIBRATION_SCENES, IMAGES, calibrate, default_images, takes_scenes
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import quantise
from edgemoe.sim.build import progress
from numpy.typing import NDArray

FEW = 8  # pictures: a calibration on fewer can miss most of what others need
EDGE_MOE = "edge-moe"
KINDS = ("auto", EDGE_MOE, *layouts.LAYOUTS, "onnx")


def import_edge_moe(
    folder: Path,
    out: Path,
    images: Sequence[Path],
    resize: str = "stretch",
    fill_missing: int | None = None,
    save_image: Path | None = None,
) -> dict[str, Any]:
    """Read Edge-MoE's folder, calibrate on `images` (default: generated street scenes, not the folder's own picture),
    write the checkpoint.

    fill_missing: seed of stand-ins for missing experts. save_image: where the folder's picture goes, uint8 [H, W, 3],
    for measurements. Returns what was done: images used and how many weights and biases each weight format had to
    limit.
    """
    source, filled = edge_moe.load_folder(folder, fill_missing)
    picture = edge_moe.folder_image(folder) if save_image else None
    if filled:
        notice(
            f"{len(filled)} experts' files are missing: stand-ins of seed {fill_missing}, made from the dense layers, "
            f"take their place"
        )
    report = _calibrated(source, out, images, resize)
    if save_image and picture is not None:
        with whole(save_image) as file:  # np.save would add a suffix to another name
            np.save(file, picture.transpose(1, 2, 0))
        report["image"] = str(save_image)
    return report | {"filled": len(filled)}


def import_model(
    kind: str, path: Path, out: Path, images: Sequence[Path], resize: str, options: Options
) -> dict[str, Any]:
    """Read a checkpoint of a kind ("auto": by its tensors' names), calibrate it on `images`, write ours.

    Without images: on generated street scenes, scaled to the model's size. Returns what was done, and what showed the
    layout.
    """
    source = sources.read(path)
    layout, evidence = layouts.recognise(source)
    if kind == "onnx" and source.kind != "onnx":
        raise EdgemoeError(f"{source.shown} is no ONNX file: edgemoe import auto {source.shown} reads what it is")
    if kind not in ("auto", "onnx", layout.name):
        wanted = layouts.LAYOUTS[kind]
        shown = wanted.evidence(source.tensors)
        if not shown:
            raise EdgemoeError(
                f"{source.shown} is not {wanted.what}: {brief(evidence)} shows {layout.what}; edgemoe import auto "
                "takes it as that"
            )
        layout, evidence = wanted, shown
    model = layout.convert(source)
    checkpoint = model.to_checkpoint(options)
    for text in model.notes:
        notice(text)
    config = checkpoint.config
    report = {"layout": f"{layout.what}, as {brief(evidence)} shows"}
    report |= _calibrated(checkpoint, out, images, resize)
    size = f"{config.image_height} x {config.image_width}"
    return report | {
        "pictures": f"{size}, patches of {config.patch}: {config.tokens} tokens",
        "trunk": f"{config.layers} layers, {config.width} wide, {config.heads} heads, MLP {config.hidden}"
        + (f", {config.experts} experts of {config.expert_hidden}" if config.experts else ""),
        "tasks": [f"{task.name} ({task.kind})" for task in config.tasks],
    }


def rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was done, for people."""
    saturated = ", ".join(f"{count:,} in {WeightFormat(bits).label}" for bits, count in report["saturated"].items())
    found = {
        "model": report["model"],
        "read as": report.get("layout", "Edge-MoE's folder"),
        "pictures": report.get("pictures"),
        "layers": report.get("trunk"),
        "tasks": ", ".join(report.get("tasks", [])),
        "calibrated on": f"{report['calibration_images']} pictures: {report['calibrated_on']}",
        "cut off": f"weights and biases beyond their range: {saturated}",
        "stand-ins": f"{report['filled']} experts" if report.get("filled") else None,
        "its picture": report.get("image"),
    }
    return [(name, value) for name, value in found.items() if value]


def _calibrated(source: Checkpoint, out: Path, images: Sequence[Path], resize: str) -> dict[str, Any]:
    """Calibrate and write; what was done."""
    config = source.config
    batch, told = pictures(config, images, resize)
    with progress("calibrating") as report:
        calibration = calibrate(source, batch, progress=lambda step: report(step, 0, None))
    result = replace(source, calibration=calibration)
    saturated = {bits.value: quantise(result, bits).saturated for bits in WeightFormat.plain()}
    checkpoints.save(result, out)
    return {
        "checkpoint": str(out),
        "model": config.name,
        "calibration_images": len(batch),
        "calibrated_on": told,
        "saturated": saturated,
    }


def pictures(config: ModelConfig, images: Sequence[Path], resize: str) -> tuple[NDArray[np.uint8], str]:
    """(what to calibrate on, what that is)."""
    if images:
        if len(images) < FEW:
            count = "one picture" if len(images) == 1 else f"{len(images)} pictures"
            remedy = f"--calibrate with {IMAGES} or more is better"
            notice(f"calibrated on {count}: what reaches further in others is cut off; {remedy}")
        return np.stack(read_images(images, config, resize)), ", ".join(map(str, images))
    seeds = f"seeds {CALIBRATION_SCENES} to {CALIBRATION_SCENES + IMAGES - 1}"
    if takes_scenes(config):
        return default_images(config), f"generated scenes, {seeds}"
    if config.image_channels not in (1, 3):
        notice("calibrated on noise, for pictures of its channels are not known here: give --calibrate IMAGE")
        return default_images(config), f"noise, {seeds}"
    notice("calibrated on generated street scenes: --calibrate with pictures of its own kind is better")
    made = []
    for number in range(IMAGES):
        scene = scenes.scene(CALIBRATION_SCENES + number).image.transpose(1, 2, 0)
        pixels = scene if config.image_channels == 3 else scene.mean(axis=-1, keepdims=True).astype(np.uint8)
        made.append(picture_pixels(pixels, config, "crop", "a generated scene")[0])
    return np.stack(made), f"generated scenes, scaled, {seeds}"


def model_name(path: Path) -> str:
    """A model's name from its file's or folder's."""
    stem = path.resolve().name
    for suffix in (".safetensors", ".onnx", ".tar", ".pth", ".pt", ".bin", ".ckpt"):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "-", stem)[:64].strip("-.") or "imported"


def read_labels(path: Path) -> tuple[str, ...]:
    """A class a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgemoeError(f"labels {brief(path, 80)} cannot be read: {brief(error, 100)}") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise EdgemoeError(f"labels {brief(path, 80)} holds none; write a class a line, in order")
    return labels


def parsed_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH, or one number for both."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if not found or int(found[1]) < 1 or int(found[2] or 1) < 1:
        raise EdgemoeError(f"--image-size {brief(text, 40)}: expected HEIGHTxWIDTH, as in 224x224")
    return int(found[1]), int(found[2] or found[1])


def parsed_channels(option: str, text: str) -> tuple[float, ...]:
    """A number for each channel, with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise EdgemoeError(f"{option} {brief(text, 40)}: expected numbers, as in 0.485,0.456,0.406") from error
