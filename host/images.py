# SPDX-License-Identifier: Apache-2.0
"""Pictures in, maps out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

DEPTH_PNG_SCALE = 256  # 16-bit PNG: metres x 256, as the KITTI benchmark does


def read_image(path: Path, config: ModelConfig, notice: Callable[[str], None] = lambda text: None) -> NDArray[np.uint8]:
    """uint8 [C, H, W] of the model's size from PNG, JPEG or .npy (uint8 H x W x 3); other sizes are resized, with a notice."""
    height, width = config.image_height, config.image_width
    if not path.is_file():
        raise EdgemoeError(f"image {path} does not exist")
    if path.suffix == ".npy":
        try:
            pixels = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise EdgemoeError(f"{path} is no .npy file: {error}") from error
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != config.image_channels or 0 in pixels.shape:
            raise EdgemoeError(f"{path} holds {pixels.dtype} {list(pixels.shape)}, expected uint8 [height, width, {config.image_channels}]")
        picture = Image.fromarray(pixels)
    else:
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise EdgemoeError(f"{path} is no picture that can be read (PNG, JPEG or .npy): {str(error).splitlines()[0]}") from error
    if picture.size != (width, height):
        notice(f"{path.name}: resized from {picture.size[0]} x {picture.size[1]} to {width} x {height} pixels")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def writable_folder(path: Path) -> Path:
    """Create a folder, or say why not - before any long work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".edgemoe-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EdgemoeError(f"cannot write to folder {path}: {error.strerror or error}") from error
    return path


def save_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def save_depth_png(path: Path, depth: NDArray[np.float32]) -> Path:
    """Metres as a 16-bit PNG."""
    Image.fromarray(np.clip(np.round(depth * DEPTH_PNG_SCALE), 0, 65535).astype(np.uint16)).save(path)
    return path
