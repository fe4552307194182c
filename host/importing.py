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
from edgemoe.models import edge_moe
from edgemoe.models.calibration import calibrate, default_images
from edgemoe.models.quantise import WEIGHT_BITS, quantise
from edgemoe.sim.build import progress


def import_edge_moe(folder: Path, out: Path, images: Sequence[Path], resize: str = "stretch") -> dict[str, Any]:
    """Read the folder, calibrate on `images` (default: the folder's own image and generated street scenes), write the checkpoint.

    Returns what was done: images used and how many weights and biases each weight format had to limit.
    """
    source = edge_moe.load_folder(folder)
    config = source.config
    if images:
        batch = np.stack(read_images(images, config, resize))
    else:
        batch = np.concatenate([edge_moe.folder_image(folder)[None], default_images(config)])
    with progress("calibrating") as report:
        calibration = calibrate(source, batch, progress=lambda step: report(step, 0, None))
    result = replace(source, calibration=calibration)
    saturated = {bits: quantise(result, bits).saturated for bits in WEIGHT_BITS}
    checkpoints.save(result, out)
    return {"checkpoint": str(out), "model": config.name, "calibration_images": len(batch), "saturated": saturated}
