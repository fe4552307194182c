# SPDX-License-Identifier: Apache-2.0
"""Foreign weights to a calibrated checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host.batch import read_images
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.importers import edge_moe
from edgemoe.models.errors import notice
from edgemoe.models.files import whole
from edgemoe.models.numbers.calibrate import CALIBRATION_SCENES, IMAGES, calibrate, default_images
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import quantise
from edgemoe.sim.build import progress


def import_edge_moe(
    folder: Path,
    out: Path,
    images: Sequence[Path],
    resize: str = "stretch",
    fill_missing: int | None = None,
    save_image: Path | None = None,
) -> dict[str, Any]:
    """Read the folder, calibrate on `images` (default: generated street scenes, not the folder's own picture), write
    the checkpoint.

    fill_missing: seed of stand-ins for missing experts. save_image: where the folder's picture goes, uint8 [H, W, 3],
    for measurements. Returns what was done: images used and how many weights and biases each weight format had to
    limit.
    """
    source, filled = edge_moe.load_folder(folder, fill_missing)
    picture = edge_moe.folder_image(folder) if save_image else None
    config = source.config
    if images:
        batch = np.stack(read_images(images, config, resize))
    else:
        batch = default_images(config)
    if filled:
        notice(
            f"{len(filled)} experts' files are missing: stand-ins of seed {fill_missing}, made from the dense layers, "
            f"take their place"
        )
    with progress("calibrating") as report:
        calibration = calibrate(source, batch, progress=lambda step: report(step, 0, None))
    result = replace(source, calibration=calibration)
    saturated = {bits: quantise(result, bits).saturated for bits in WeightFormat}
    written = {"checkpoint": str(out)}
    if save_image and picture is not None:
        with whole(save_image) as file:  # np.save would add a suffix to another name
            np.save(file, picture.transpose(1, 2, 0))
        written["image"] = str(save_image)
    checkpoints.save(result, out)
    scenes = f"generated scenes, seeds {CALIBRATION_SCENES} to {CALIBRATION_SCENES + IMAGES - 1}"
    return {
        **written,
        "model": config.name,
        "filled": len(filled),
        "calibration_images": len(batch),
        "calibrated_on": scenes if not images else ", ".join(map(str, images)),
        "saturated": saturated,
    }
