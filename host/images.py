# SPDX-License-Identifier: Apache-2.0
"""Pictures in, maps out.

What a picture becomes, by what its file holds; whatever is not listed is refused:

| in the file | read as |
|---|---|
| 1-bit, grey, palette, RGB, RGBX, YCbCr, HSV, L*a*b* (D50), 8 bits a channel | sRGB; grey three times |
| 16-bit grey (PNG, PGM, TIFF, JPEG 2000), uint16 .npy | the high byte of each value, x >> 8, as for 16-bit colour |
| CMYK | by its colour profile, otherwise by the plain formula, with a notice |
| any colour profile but sRGB | converted to sRGB, with a notice |
| transparency, in whatever form | laid on white, with a notice |
| EXIF orientation | turned upright |
| several frames or pages | the first, with a notice |
| 32-bit integers, floating point | refused: what is white is not known |
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

DEPTH_PNG_SCALE = 256  # 16-bit PNG: metres x 256, as the KITTI benchmark does
# what is taken from a folder
SUFFIXES = frozenset(".apng .avif .bmp .gif .jp2 .jpeg .jpg .npy .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
UNREADABLE = "is no picture that can be read (PNG, JPEG or .npy)"
RESIZES = ("stretch", "crop", "pad")
SAME_SHAPE = 1.01  # a ratio of width to height that changes by less is not worth a word
TIFF_BITS_PER_SAMPLE, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0


def read_image(path: Path, config: ModelConfig, resize: str = "stretch") -> tuple[NDArray[np.uint8], list[str]]:
    """(pixels uint8 [C, H, W] of the model's size, what the user should know of how they were read).

    `resize`, for pictures of another size: "stretch" the whole picture to the model's shape, "crop" its centre to that
    shape, or "pad" the whole picture with black. Bilinear, over all pixels that a new one covers. EdgemoeError if it is
    no picture that can be read.
    """
    if os.path.isdir(path):
        raise EdgemoeError(f"image {path} is a folder")
    if not os.path.isfile(path):
        raise EdgemoeError(f"image {path} {'is no regular file' if os.path.exists(path) else 'does not exist'}")
    with open(path, "rb") as file:
        return decode_image(file, str(path), config, resize)


def decode_image(
    file: BinaryIO, name: str, config: ModelConfig, resize: str = "stretch"
) -> tuple[NDArray[np.uint8], list[str]]:
    """As `read_image`, of an open file; name: what an error calls it, with the suffix that says what it holds."""
    remarks: list[str] = []
    if name.lower().endswith((".npy", ".npz")):
        pixels = _as_pixels(read_array(file, name), config.image_channels, name, remarks)
        return _fitted(pixels, config, resize, name, remarks)
    with _decoding(name), Image.open(file) as opened:
        picture = _plain(opened, name, remarks)
    return _fitted(_channels(picture, config, name), config, resize, name, remarks)


def decode_values(file: BinaryIO, name: str) -> NDArray:
    """The numbers of a file as they stand there, [height, width] or [height, width, channels]: of a palette the
    indices, of a 16-bit PNG all bits."""
    if name.lower().endswith((".npy", ".npz")):
        return read_array(file, name)
    with _decoding(name), Image.open(file) as opened:
        return np.asarray(opened)


def picture_pixels(
    picture: Image.Image | NDArray[np.uint8], config: ModelConfig, resize: str, name: str
) -> tuple[NDArray[np.uint8], list[str]]:
    """As `read_image`, for a picture that is in memory already; name: what an error calls it."""
    remarks: list[str] = []
    if isinstance(picture, np.ndarray):
        return _fitted(_as_pixels(picture, config.image_channels, name, remarks), config, resize, name, remarks)
    if not isinstance(picture, Image.Image):
        raise EdgemoeError(f"{name} is a {type(picture).__name__}, expected a path, a Pillow image or an array")
    with _decoding(name):
        plain = _plain(picture, name, remarks)
    return _fitted(_channels(plain, config, name), config, resize, name, remarks)


def _channels(picture: Image.Image, config: ModelConfig, name: str) -> NDArray[np.uint8]:
    if config.image_channels not in (1, 3):
        raise EdgemoeError(
            f"{name} holds colours, model {config.name} takes {config.image_channels} channels: give an array (.npy)"
        )
    pixels = np.asarray(picture.convert("RGB" if config.image_channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], config.image_channels)


def _fitted(
    pixels: NDArray[np.uint8], config: ModelConfig, resize: str, name: str, remarks: list[str]
) -> tuple[NDArray[np.uint8], list[str]]:
    if 0 in pixels.shape:
        raise EdgemoeError(f"{name} holds no pixels: {pixels.shape[1]} x {pixels.shape[0]}")
    pixels = _resized(pixels, config.image_width, config.image_height, resize, remarks)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), remarks


# ------------------------------------------------------------------------------------------------------------- arrays


def read_array(file: BinaryIO, name: str) -> NDArray:
    """The array of a .npy file."""
    try:
        # A file from anywhere: its header may hold anything, and numpy.load may then fail with anything.
        array = np.load(file, allow_pickle=False)
    except Exception as error:
        raise EdgemoeError(f"{name} is no .npy file: {_first_line(error)}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise EdgemoeError(f"{name} is an .npz archive, expected one array; save that with numpy.save")
    return array


def _as_pixels(array: NDArray, channels: int, name: str, remarks: list[str]) -> NDArray[np.uint8]:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype not in (np.uint8, np.uint16) or array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        expected = f"expected uint8 [height, width, {channels}]{_array_hint(array, channels)}"
        raise EdgemoeError(f"{name} holds {array.dtype} {list(array.shape)}, {expected}")
    return array if array.dtype == np.uint8 else _high_byte(array, 16, name, remarks)


def _array_hint(x: NDArray, channels: int) -> str:
    """How it becomes one that can be read."""
    if x.size == 0:
        return ""
    if x.ndim == 2:
        return f": numpy.stack([x] * {channels}, -1) makes it so"
    if x.ndim == 4:
        return ": give one picture a file, x[0]"
    if x.ndim == 3 and x.shape[2] != channels:
        if x.shape[0] == channels:
            return ": x.transpose(1, 2, 0) puts the channels last"
        return f": x[..., :{channels}] keeps the first" if x.shape[2] > channels else ""
    if x.dtype.kind == "f":
        return ": (x * 255).round().astype('uint8') makes it so if its values are 0 to 1"
    return ": x.astype('uint8') makes it so if its values are 0 to 255"


def _high_byte(values: NDArray, bits: int, name: str, remarks: list[str]) -> NDArray[np.uint8]:
    """x >> (bits - 8): gives back exactly what was widened to 16 bits as x * 257 or as x * 256."""
    top = int(values.max(initial=0))
    reduced = (values >> (bits - 8)).astype(np.uint8)
    if top and not reduced.any():
        remedy = f"scale them to {(1 << bits) - 1}, or save 8 bits"
        raise EdgemoeError(f"{name} holds {bits}-bit values up to {top} only, which is black; {remedy}")
    if 0 < top < 1 << (bits - 4):
        most = (1 << bits) - 1
        remarks.append(f"very dark: {bits}-bit values up to {top} of {most} (if they have fewer bits, scale them)")
    return reduced


# ----------------------------------------------------------------------------------------------------------- pictures


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever a decoder fails with is one line. A file from anywhere:
    damage leads Pillow's many decoders to any error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are large but can be read
            yield
    except EdgemoeError:
        raise
    except Image.DecompressionBombError as error:
        raise EdgemoeError(f"{name} is too large to be read ({_first_line(error)}); scale it down") from error
    except UnidentifiedImageError as error:
        raise EdgemoeError(f"{name} {UNREADABLE}: its format is unknown") from error
    except Exception as error:
        raise EdgemoeError(f"{name} {UNREADABLE}: {_first_line(error)}") from error


def _plain(file: Image.Image, name: str, remarks: list[str]) -> Image.Image:
    """An upright picture without transparency in sRGB: mode L or RGB."""
    frames = getattr(file, "n_frames", 1)
    wide = any("RGB;16" in str(tile) for tile in getattr(file, "tile", ()))
    file.load()
    if wide and isinstance(transparent := file.info.get("transparency"), tuple):
        # Of 16-bit colours only the high bytes are there to be compared.
        file.info["transparency"] = tuple(value >> 8 for value in transparent)
    tags = getattr(file, "tag_v2", {})
    bits, photometric = tags.get(TIFF_BITS_PER_SAMPLE, (16,))[0], tags.get(TIFF_PHOTOMETRIC)
    kind = file.format
    picture = _upright(file, remarks)
    if frames > 1 and kind != "MPO":  # a photograph with a smaller copy of itself
        remarks.append(f"the first of its {frames} frames is read")
    if picture.mode.startswith("I;16") or picture.mode == "I" and kind in ("PNG", "PPM"):
        picture = _grey(picture, bits, photometric == TIFF_WHITE_IS_ZERO, name, remarks)
    if picture.mode in ("I", "F"):
        what = "floating-point values" if picture.mode == "F" else "32-bit or signed integers"
        raise EdgemoeError(f"{name} holds {what}, whose white is not known; scale them and save 8 or 16 bits")
    return _in_srgb(_opaque(picture, remarks), remarks)


def _upright(picture: Image.Image, remarks: list[str]) -> Image.Image:
    """Turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        remarks.append("its EXIF data are damaged: read as if upright")
        return picture.copy()


def _grey(picture: Image.Image, bits: int, white_is_zero: bool, name: str, remarks: list[str]) -> Image.Image:
    """8-bit grey, with alpha if one of its values means transparent, from 9 to 16 bits."""
    values = np.asarray(picture.convert("I"))
    if values.min(initial=0) < 0 or values.max(initial=0) >= 1 << bits:
        raise EdgemoeError(f"{name} holds {values.min()} to {values.max()}, expected {bits}-bit values")
    grey = Image.fromarray(_high_byte((1 << bits) - 1 - values if white_is_zero else values, bits, name, remarks))
    if isinstance(transparent := picture.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if profile := picture.info.get("icc_profile"):
        grey.info["icc_profile"] = profile
    return grey


def _opaque(picture: Image.Image, remarks: list[str]) -> Image.Image:
    """Laid on white; without transparency the same picture, palettes resolved."""
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:
        grey = picture.mode in ("1", "L", "LA", "La")
        premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)
        layer = picture.convert(premultiplied).convert("RGBA")
        alpha = np.asarray(layer.getchannel("A"))
        if (share := float((alpha < 255).mean())) > 0:
            remarks.append(f"transparency ({max(share, 0.001):.1%} of its pixels) is laid on white")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        picture = picture.convert("L") if grey else picture
    elif picture.mode in ("1", "L"):
        picture = picture.convert("L")
    elif picture.mode not in ("CMYK", "LAB"):
        picture = picture.convert("RGB")
    if profile:
        picture.info["icc_profile"] = profile
    return picture


def _in_srgb(picture: Image.Image, remarks: list[str]) -> Image.Image:
    """L or RGB, from L, RGB, CMYK or LAB with or without a colour profile."""
    data = picture.info.get("icc_profile")
    if not data and picture.mode in ("L", "RGB"):
        return picture
    from PIL import ImageCms

    srgb = ImageCms.createProfile("sRGB")
    if picture.mode == "LAB":
        lab = ImageCms.profileToProfile(picture, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
        assert lab is not None
        return lab
    plain = picture.convert("RGB") if picture.mode == "CMYK" else picture
    if data:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            space = profile.profile.xcolor_space.strip()
            name = (ImageCms.getProfileDescription(profile).strip() or "unnamed")[:60]
            if picture.mode == "L" and space == "RGB":
                picture = picture.convert("RGB")
            if "sRGB" in name and space == "RGB":
                return plain
            converted = ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
            assert converted is not None
            # Many profiles are sRGB under another name, up to rounding.
            if np.abs(np.asarray(converted, np.int16) - np.asarray(plain.convert("RGB"), np.int16)).max(initial=0) <= 3:
                return plain
            remarks.append(f"colours are converted from profile {name!r} to sRGB")
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            remarks.append("its colour profile cannot be used: read as if it had none")
    if picture.mode == "CMYK":
        remarks.append("CMYK without a usable colour profile: its colours are approximate")
    return plain


# --------------------------------------------------------------------------------------------------------------- size


def _placed(
    old_width: int, old_height: int, width: int, height: int, how: str
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """(what is taken of the old picture: left, top, right, bottom; width and height of that in the new one, whose
    middle it takes)."""
    if how not in RESIZES:
        raise EdgemoeError(f"unknown resize {how!r}: choose one of {', '.join(RESIZES)}")
    wider = width / old_width / (height / old_height)  # by which a stretch changes width against height
    if how == "crop":
        kept_width, kept_height = old_width * min(1, wider), old_height * min(1, 1 / wider)
        left, top = (old_width - kept_width) / 2, (old_height - kept_height) / 2
        return (left, top, left + kept_width, top + kept_height), (width, height)
    size = (width, height)
    if how == "pad":
        size = (max(1, round(width * min(1, 1 / wider))), max(1, round(height * min(1, wider))))
    return (0, 0, old_width, old_height), size


def _resized(pixels: NDArray[np.uint8], width: int, height: int, how: str, remarks: list[str]) -> NDArray[np.uint8]:
    """uint8 [height, width, C] from [any, any, C]."""
    old_height, old_width = pixels.shape[:2]
    box, size = _placed(old_width, old_height, width, height, how)
    if (old_width, old_height) == (width, height):
        return pixels
    wider = width / old_width / (height / old_height)
    shape_changes = max(wider, 1 / wider) > SAME_SHAPE
    sides = f"from {old_width} x {old_height} to {width} x {height} pixels"
    if how == "crop":
        lost = "" if not shape_changes else f", its centre only: {1 - min(wider, 1 / wider):.0%} are cut off"
        remarks.append(f"resized {sides}{lost}")
    elif how == "pad":
        black = f": {size[0]} x {size[1]} and black beside it" if size != (width, height) else ""
        remarks.append(f"resized {sides}{black}")
    else:
        side, by = ("width", wider) if wider > 1 else ("height", 1 / wider)
        stretched = f", which stretches its {side} by {by - 1:.0%} (--resize crop or pad keeps its shape)"
        remarks.append(f"resized {sides}{stretched if shape_changes else ''}")
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    result = np.zeros((height, width, pixels.shape[2]), np.uint8)
    for channel in range(pixels.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(pixels[..., channel]))
        scaled = plane.resize(size, Image.Resampling.BILINEAR, box)
        result[top : top + size[1], left : left + size[0], channel] = np.asarray(scaled)
    return result


def resized_values(values: NDArray, width: int, height: int, how: str, outside: float) -> NDArray:
    """[height, width] of [any, any]: to each pixel the value nearest to where `_resized` takes it from, `outside` to
    those that a picture's padding stands for."""
    (x0, y0, x1, y1), size = _placed(values.shape[1], values.shape[0], width, height, how)
    columns = (x0 + (np.arange(size[0]) + 0.5) * (x1 - x0) / size[0]).astype(np.int64)
    rows = (y0 + (np.arange(size[1]) + 0.5) * (y1 - y0) / size[1]).astype(np.int64)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    result = np.full((height, width), outside, values.dtype)
    result[top : top + size[1], left : left + size[0]] = values[np.ix_(rows, columns)]
    return result


# ------------------------------------------------------------------------------------------------------------- writing


def png(pixels: NDArray) -> bytes:
    """uint8 [H, W] or [H, W, 3], or uint16 [H, W], as a PNG file."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def depth_png(depth: NDArray[np.float32]) -> bytes:
    """Metres as a 16-bit PNG."""
    return png(np.clip(np.round(depth * DEPTH_PNG_SCALE), 0, 65535).astype(np.uint16))


def npy(array: NDArray) -> bytes:
    """An array as a .npy file."""
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()
