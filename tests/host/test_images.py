# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind are read right, refused in one line, or read with a notice; never wrongly without a word."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host.images import SUFFIXES, depth_png, npy, png, read_image
from edgemoe.models import scenes
from edgemoe.models.config import PRESETS, ModelConfig
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ..models.support import ODD

CONFIG = PRESETS["m3vit-micro"]
SCENE: NDArray[np.uint8] = np.ascontiguousarray(scenes.scene(2_000_100).image.transpose(1, 2, 0))
GREY: NDArray[np.uint8] = np.asarray(Image.fromarray(SCENE).convert("L"))


def read(path: Path, config: ModelConfig = CONFIG, resize: str = "stretch") -> tuple[NDArray[np.uint8], list[str]]:
    """uint8 [H, W, C] and the remarks."""
    pixels, remarks = read_image(path, config, resize)
    assert pixels.dtype == np.uint8 and pixels.shape == (config.image_channels, config.image_height, config.image_width)
    assert pixels.flags.c_contiguous
    return pixels.transpose(1, 2, 0), remarks


def refusal(path: Path, config: ModelConfig = CONFIG) -> str:
    with pytest.raises(EdgemoeError) as error:
        read_image(path, config)
    assert path.name in str(error.value) and len(str(error.value)) <= 400 + len(str(path))
    return str(error.value)


def three(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([grey] * 3, -1)


def assert_read(path: Path, expected: NDArray[np.uint8], *remarks: str, tolerance: int = 0) -> None:
    pixels, found = read(path)
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= tolerance
    assert len(found) == len(remarks), found
    assert all(part in remark for part, remark in zip(remarks, found, strict=True)), found


# ------------------------------------------------------------------------------------------------ modes


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.ppm", "x.webp", "x.PNG"])
def test_colours(tmp_path: Path, name: str) -> None:
    lossless = {"lossless": True} if name.endswith("webp") else {}
    assert_read(saved(tmp_path / name, Image.fromarray(SCENE), **lossless), SCENE)


def test_one_bit_and_grey(tmp_path: Path) -> None:
    assert_read(
        saved(tmp_path / "1.png", Image.fromarray(GREY > 100)), three(np.where(GREY > 100, 255, 0).astype(np.uint8))
    )
    assert_read(saved(tmp_path / "l.png", Image.fromarray(GREY)), three(GREY))


def test_palettes(tmp_path: Path) -> None:
    palette = Image.fromarray(SCENE).quantize(64)
    assert_read(saved(tmp_path / "p.png", palette), np.asarray(palette.convert("RGB")))
    assert_read(saved(tmp_path / "p.gif", palette), np.asarray(palette.convert("RGB")))


def test_eight_and_sixteen_bits_are_the_same_picture(tmp_path: Path) -> None:
    """Grey widened to 16 bits as x * 257 and as x * 256, in every format that holds it: 8 bits come back exactly."""
    for factor in (257, 256):
        wide = Image.fromarray(GREY.astype(np.uint16) * factor)
        for name in ("x.png", "x.tif"):
            assert_read(saved(tmp_path / name, wide), three(GREY))
    header = f"P5 {GREY.shape[1]} {GREY.shape[0]} 65535\n".encode()
    (tmp_path / "x.pgm").write_bytes(header + (GREY.astype(">u2") * 257).tobytes())
    assert_read(tmp_path / "x.pgm", three(GREY))
    swapped = Image.frombytes("I;16B", (256, 128), (GREY.astype(">u2") * 257).tobytes())
    assert_read(saved(tmp_path / "big-endian.tif", swapped), three(GREY))
    for order in ("<u2", ">u2"):
        np.save(tmp_path / "x.npy", (SCENE.astype(np.uint16) * 257).astype(order))
        assert_read(tmp_path / "x.npy", SCENE)


def test_twelve_bits(tmp_path: Path) -> None:
    """PGM and TIFF that say so themselves: widened as x * 4095 / 255, 8 bits come back exactly."""
    twelve = GREY.astype(np.uint16) << 4 | GREY >> 4
    (tmp_path / "x.pgm").write_bytes(b"P5 256 128 4095\n" + twelve.astype(">u2").tobytes())
    assert_read(tmp_path / "x.pgm", three(GREY))
    pairs = twelve.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    data = packed.astype(np.uint8).tobytes()
    # Width, height, bits, no compression, black is zero, where the one strip begins, channels, its bytes.
    entries = {256: 256, 257: 128, 258: 12, 259: 1, 262: 1, 273: 110, 277: 1, 279: len(data)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    (tmp_path / "x.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, 8) + directory + bytes(4) + data)
    assert_read(tmp_path / "x.tif", three(GREY))


def png16(path: Path, values: NDArray[np.uint16], kind: int, transparent: tuple[int, ...] = ()) -> Path:
    """A PNG of 16 bits a channel, which Pillow cannot write:
    [H, W, channels] of colour type 2 (RGB), 4 (grey, alpha), 6 (RGBA).
    """
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    marked = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    parts = chunk(b"IHDR", header) + marked + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """By the same rule as grey, whatever lies in the low byte."""
    noise = np.random.default_rng(0).integers(0, 256, SCENE.shape).astype(np.uint16)
    opaque = np.full((*GREY.shape, 1), 65535, np.uint16)
    assert_read(png16(tmp_path / "rgb.png", SCENE.astype(np.uint16) * 256 + noise, 2), SCENE)
    assert_read(
        png16(tmp_path / "rgba.png", np.concatenate([SCENE.astype(np.uint16) * 256 + noise, opaque], -1), 6), SCENE
    )
    assert_read(
        png16(tmp_path / "la.png", np.concatenate([GREY[..., None].astype(np.uint16) * 257, opaque], -1), 4),
        three(GREY),
    )
    grey = Image.fromarray(GREY.astype(np.uint16) * 256 + noise[..., 0])
    assert_read(saved(tmp_path / "grey.png", grey), three(GREY))


def test_sixteen_bits_that_hold_fewer(tmp_path: Path) -> None:
    """Twelve bits in sixteen are nearly black and said to be; eight in sixteen would be all black and are refused."""
    twelve = saved(tmp_path / "12.png", Image.fromarray(GREY.astype(np.uint16) << 4))
    assert_read(twelve, three(GREY >> 4), "very dark: 16-bit values up to")
    assert "which is black" in refusal(saved(tmp_path / "8.png", Image.fromarray(GREY.astype(np.uint16))))
    np.save(tmp_path / "8.npy", SCENE.astype(np.uint16))
    assert "which is black" in refusal(tmp_path / "8.npy")
    black = np.zeros((128, 256), np.uint16)
    assert_read(saved(tmp_path / "black.png", Image.fromarray(black)), three(black.astype(np.uint8)))


def test_a_tiff_whose_white_is_zero(tmp_path: Path) -> None:
    for name, values in {"8": GREY, "16": GREY.astype(np.uint16) * 257}.items():
        picture = Image.fromarray(values)
        data = io.BytesIO()
        picture.save(data, "TIFF")
        entry = struct.pack("<HHI", 262, 3, 1)  # the tag that says what zero is
        place = data.getvalue().index(entry) + len(entry)
        changed = bytearray(data.getvalue())
        assert changed[place] == 1
        changed[place] = 0
        (tmp_path / f"{name}.tif").write_bytes(changed)
        assert_read(tmp_path / f"{name}.tif", three(255 - GREY))


@pytest.mark.parametrize(
    "values, part",
    [
        (GREY.astype(np.float32) / 255, "floating-point values"),
        (GREY.astype(np.int32) * 1000, "32-bit or signed integers"),
        (GREY.astype(np.int32) - 5, "32-bit or signed integers"),
    ],
    ids=["float", "32 bit", "signed"],
)
def test_values_whose_white_is_unknown_are_refused(tmp_path: Path, values: NDArray, part: str) -> None:
    assert part in refusal(saved(tmp_path / "x.tif", Image.fromarray(values)))


def test_cmyk(tmp_path: Path) -> None:
    """A TIFF, and JPEGs as Adobe writes them (inverted): the colours come back, and it is said that they are
    approximate.
    """
    ink = Image.fromarray(SCENE).convert("CMYK")
    for name, tolerance in {"x.tif": 0, "x.jpg": 40}.items():
        path = saved(tmp_path / name, ink, **({"quality": 100, "subsampling": 0} if name == "x.jpg" else {}))
        assert_read(path, SCENE, "CMYK without a usable colour profile", tolerance=tolerance)


def test_lab_and_ycbcr(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(
        Image.fromarray(SCENE), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert_read(saved(tmp_path / "lab.tif", lab), SCENE, tolerance=12)  # L*a*b* in 8 bits is coarse
    assert_read(saved(tmp_path / "ycbcr.tif", Image.fromarray(SCENE).convert("YCbCr")), SCENE, tolerance=3)


# ------------------------------------------------------------------------------------------------ transparency

HOLE = np.zeros(GREY.shape, bool)
HOLE[:, 64:128] = True
ALPHA = np.where(HOLE, 0, 255).astype(np.uint8)
ON_WHITE = np.where(HOLE[..., None], np.uint8(255), SCENE)
SHARE = "transparency (25.0% of its pixels) is laid on white"


def with_alpha(picture: Image.Image, alpha: NDArray[np.uint8] = ALPHA) -> Image.Image:
    picture = picture.copy()
    picture.putalpha(Image.fromarray(alpha))
    return picture


def test_what_hides_under_transparency_does_not_count(tmp_path: Path) -> None:
    colour, grey = Image.fromarray(SCENE), Image.fromarray(GREY)
    assert_read(saved(tmp_path / "rgba.png", with_alpha(colour)), ON_WHITE, SHARE)
    assert_read(saved(tmp_path / "rgba.webp", with_alpha(colour), lossless=True, exact=True), ON_WHITE, SHARE)
    assert_read(saved(tmp_path / "la.png", with_alpha(grey)), np.where(HOLE[..., None], 255, three(GREY)), SHARE)
    half = np.full(GREY.shape, 128, np.uint8)
    expected = np.round((SCENE * 128.0 + 255 * 127) / 255).astype(np.uint8)
    assert_read(saved(tmp_path / "half.png", with_alpha(colour, half)), expected, "transparency (100.0%", tolerance=1)


def test_one_colour_that_means_transparent(tmp_path: Path) -> None:
    """PNG's tRNS in grey of 8 and 16 bits, colour and palette; GIF."""
    marked = np.where(HOLE, 7, np.maximum(GREY, 8)).astype(np.uint8)
    expected = three(np.where(HOLE, 255, marked).astype(np.uint8))
    assert_read(saved(tmp_path / "l.png", Image.fromarray(marked), transparency=7), expected, SHARE)
    wide = Image.fromarray(marked.astype(np.uint16) * 257)
    assert_read(saved(tmp_path / "16.png", wide, transparency=7 * 257), expected, SHARE)
    assert_read(saved(tmp_path / "rgb.png", Image.fromarray(three(marked)), transparency=(7, 7, 7)), expected, SHARE)
    colours = three(marked).astype(np.uint16) * 256 + 99
    assert_read(png16(tmp_path / "rgb16.png", colours, 2, (7 * 256 + 99,) * 3), expected, SHARE)
    for name in ("p.png", "p.gif"):
        indices = Image.fromarray(marked)
        indices = Image.frombytes("P", indices.size, indices.tobytes())
        indices.putpalette([value for value in range(256) for _ in range(3)])
        assert_read(saved(tmp_path / name, indices, transparency=7), expected, SHARE)


def test_opaque_alpha_needs_no_word(tmp_path: Path) -> None:
    assert_read(
        saved(tmp_path / "x.png", with_alpha(Image.fromarray(SCENE), np.full(GREY.shape, 255, np.uint8))), SCENE
    )


# ------------------------------------------------------------------------------------------------ what comes beside the
# pixels

# How a camera that was turned stores a picture: EXIF orientation -> the stored picture.
TURNED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda p: p,
    2: lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda p: p.transpose(Image.Transpose.ROTATE_180),
    4: lambda p: p.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda p: p.transpose(Image.Transpose.TRANSPOSE),
    6: lambda p: p.transpose(Image.Transpose.ROTATE_90),
    7: lambda p: p.transpose(Image.Transpose.TRANSVERSE),
    8: lambda p: p.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("grey16", [False, True], ids=["colour", "16-bit grey"])
def test_orientation(tmp_path: Path, orientation: int, grey16: bool) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    upright = Image.fromarray(GREY.astype(np.uint16) * 257) if grey16 else Image.fromarray(SCENE)
    path = saved(tmp_path / "x.png", TURNED[orientation](upright), exif=exif)
    assert_read(path, three(GREY) if grey16 else SCENE)


def test_damaged_exif_is_no_obstacle(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.jpg", Image.fromarray(SCENE), quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels, _ = read(path)
    assert np.abs(pixels.astype(int) - SCENE).mean() < 5


def profile(kind: str) -> bytes:
    """A colour profile: sRGB, or "wide": sRGB with red and blue exchanged, which nobody can mistake for it."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if kind == "wide":
        count = struct.unpack(">I", made[128:132])[0]
        places = {bytes(made[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
        red, blue = places[b"rXYZ"], places[b"bXYZ"]
        made[red + 4 : red + 12], made[blue + 4 : blue + 12] = made[blue + 4 : blue + 12], made[red + 4 : red + 12]
        name = "sRGB".encode("utf-16-be")
        at = made.find(name)
        while at >= 0:
            made[at : at + len(name)] = "Wide".encode("utf-16-be")
            at = made.find(name)
    return bytes(made)


def test_colour_profiles(tmp_path: Path) -> None:
    picture = Image.fromarray(SCENE)
    assert_read(saved(tmp_path / "srgb.png", picture, icc_profile=profile("srgb")), SCENE)
    wide = saved(tmp_path / "wide.png", picture, icc_profile=profile("wide"))
    assert_read(wide, SCENE[..., ::-1], "colours are converted from profile 'Wide", tolerance=4)
    broken = saved(tmp_path / "broken.png", picture, icc_profile=b"no profile")
    assert_read(broken, SCENE, "its colour profile cannot be used")
    assert_read(saved(tmp_path / "grey.png", Image.fromarray(GREY), icc_profile=profile("srgb")), three(GREY))
    laid = saved(tmp_path / "both.png", with_alpha(picture), icc_profile=profile("wide"))
    assert_read(laid, ON_WHITE[..., ::-1], SHARE, "colours are converted", tolerance=4)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.tif", "x.webp"])
def test_several_frames(tmp_path: Path, name: str) -> None:
    first = Image.fromarray(SCENE).quantize(64)
    second = Image.fromarray(SCENE[::-1]).quantize(64)
    frames = [first, second] if name.endswith("gif") else [first.convert("RGB"), second.convert("RGB")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    assert_read(path, np.asarray(first.convert("RGB")), "the first of its 2 frames")


# ------------------------------------------------------------------------------------------------ size

TALL = np.ascontiguousarray(np.tile(SCENE, (1, 2, 1))[:, ::2][:, :128])  # 128 x 128


def test_stretch(tmp_path: Path) -> None:
    same_shape = saved(tmp_path / "twice.png", Image.fromarray(SCENE).resize((512, 256)))
    assert read(same_shape)[1] == ["resized from 512 x 256 to 256 x 128 pixels"]
    pixels, remarks = read(saved(tmp_path / "square.png", Image.fromarray(SCENE).resize((200, 200))))
    assert remarks == [
        "resized from 200 x 200 to 256 x 128 pixels, which stretches its width by 100% (--resize crop or pad keeps its "
        "shape)"
    ]
    assert np.abs(pixels.astype(int) - SCENE).mean() < 6
    assert (
        "stretches its height by 100%"
        in read(saved(tmp_path / "w.png", Image.fromarray(SCENE).resize((400, 100))))[1][0]
    )
    assert "stretches" not in read(saved(tmp_path / "nearly.png", Image.fromarray(SCENE).resize((509, 256))))[1][0]


def test_large_pictures_are_averaged(tmp_path: Path) -> None:
    """Every pixel counts: a fine chequerboard becomes grey, not black or white."""
    board = (np.indices((1024, 2048)).sum(0) % 2 * 255).astype(np.uint8)
    pixels, _ = read(saved(tmp_path / "x.png", Image.fromarray(board)))
    assert np.abs(pixels.astype(int) - 128).max() < 10


def test_crop(tmp_path: Path) -> None:
    """The centre of a picture with a border above and below, or left and right, is the picture without it."""
    for size, place, lost in (((256, 256), (0, 64), "50%"), ((512, 128), (128, 0), "50%")):
        canvas = Image.new("RGB", size, "red")
        canvas.paste(Image.fromarray(SCENE), place)
        pixels, remarks = read(saved(tmp_path / "x.png", canvas), resize="crop")
        assert (pixels == SCENE).all() and f"its centre only: {lost} are cut off" in remarks[0]


def test_pad(tmp_path: Path) -> None:
    pixels, remarks = read(saved(tmp_path / "x.png", Image.new("RGB", (100, 200), "red")), resize="pad")
    assert remarks == ["resized from 100 x 200 to 256 x 128 pixels: 64 x 128 and black beside it"]
    assert (pixels[:, 96:160] == (255, 0, 0)).all() and not pixels[:, :96].any() and not pixels[:, 160:].any()
    line, _ = read(saved(tmp_path / "line.png", Image.new("RGB", (1, 3000), "red")), resize="pad")
    assert line.any(axis=-1).sum() == 128
    same = saved(tmp_path / "same.png", Image.fromarray(SCENE))
    assert read(same, resize="pad")[1] == read(same, resize="crop")[1] == []


def test_unknown_resize(tmp_path: Path) -> None:
    with pytest.raises(EdgemoeError, match="unknown resize 'squash': choose one of stretch, crop, pad"):
        read_image(saved(tmp_path / "x.png", Image.new("RGB", (9, 9))), CONFIG, "squash")


# ------------------------------------------------------------------------------------------------ arrays


def test_arrays(tmp_path: Path) -> None:
    for name in ("x.npy", "X.NPY"):
        with open(tmp_path / name, "wb") as file:
            np.save(file, SCENE)
        assert_read(tmp_path / name, SCENE)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(SCENE))
    assert_read(tmp_path / "fortran.npy", SCENE)


@pytest.mark.parametrize(
    "array, hint",
    [
        (GREY, "numpy.stack([x] * 3, -1)"),
        (SCENE.transpose(2, 0, 1), "x.transpose(1, 2, 0)"),
        (SCENE[None], "x[0]"),
        (np.concatenate([SCENE, ALPHA[..., None]], -1), "x[..., :3]"),
        (SCENE / 255, "(x * 255).round().astype('uint8')"),
        (SCENE.astype(np.float32), "(x * 255).round().astype('uint8')"),
        (SCENE.astype(np.int64), "x.astype('uint8')"),
        (SCENE > 9, "x.astype('uint8')"),
        (np.zeros((0, 9, 3), np.uint8), "[0, 9, 3]"),
        (np.uint8(7), "expected uint8 [height, width, 3]"),
    ],
    ids=["grey", "channels first", "batch", "RGBA", "float64", "float32", "int64", "bool", "empty", "scalar"],
)
def test_arrays_that_are_no_pictures(tmp_path: Path, array: NDArray, hint: str) -> None:
    np.save(tmp_path / "x.npy", array)
    assert hint in refusal(tmp_path / "x.npy")


def test_archives_and_rubbish(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=SCENE)
    (tmp_path / "packed.npy").write_bytes((tmp_path / "x.npz").read_bytes())
    for name in ("x.npz", "packed.npy"):
        assert "is an .npz archive" in refusal(tmp_path / name)
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    whole = npy(SCENE)
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    (tmp_path / "huge.npy").write_bytes(whole.replace(b"(128, 256, 3)", b"(1<<60, 9, 3)"))
    (tmp_path / "empty.npy").touch()
    for name in ("object.npy", "cut.npy", "huge.npy", "empty.npy"):
        assert "is no .npy file" in refusal(tmp_path / name)


def test_another_number_of_channels(tmp_path: Path) -> None:
    """A model of one channel takes pictures as grey and arrays of one channel."""
    grey = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    saved(tmp_path / "x.png", Image.fromarray(three(grey)))
    np.save(tmp_path / "x.npy", grey[..., None])
    for name in ("x.png", "x.npy"):
        assert (read(tmp_path / name, ODD)[0][..., 0] == grey).all()


# ------------------------------------------------------------------------------------------------ what is no picture


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    good = png(SCENE)
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "none.png").write_bytes(good.replace(struct.pack(">II", 256, 128), struct.pack(">II", 0, 128), 1))
    for name in ("cut.png", "text.png", "empty.jpg", "none.png"):
        assert "is no picture that can be read" in refusal(tmp_path / name)
    assert "does not exist" in refusal(tmp_path / "missing.png")
    with pytest.raises(EdgemoeError, match="does not exist"):
        read_image(tmp_path / ("n" * 300 + ".png"), CONFIG)
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.png")
    assert "is no regular file" in refusal(Path("/dev/null"))


def test_pictures_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(SCENE))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # beyond it a warning, beyond twice of it an error
    assert_read(path, SCENE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert "is too large to be read" in refusal(path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif", "x.tif", "x.webp", "x.bmp", "x.npy"])
def test_any_damage_is_an_error_or_a_picture(tmp_path: Path, name: str) -> None:
    """A hundred damaged copies of each: nothing but an EdgemoeError comes out."""
    rng = np.random.default_rng(0)
    if name.endswith("npy"):
        whole = npy(SCENE)
    else:
        saved(tmp_path / name, Image.fromarray(SCENE))
        whole = (tmp_path / name).read_bytes()
    refused = 0
    for _ in range(100):
        data = bytearray(whole)
        for place in rng.integers(0, rng.choice([200, len(data)]), rng.integers(1, 20)):
            data[place % len(data)] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
        try:
            read(tmp_path / name)
        except EdgemoeError:
            refused += 1
    assert refused


# ------------------------------------------------------------------------------------------------ out


def test_what_is_written(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(png(SCENE))) as shown:
        assert (np.asarray(shown) == SCENE).all()
    metres = np.array([[0.5, 10, 100, 300]], np.float32)
    with Image.open(io.BytesIO(depth_png(metres))) as shown:
        assert np.asarray(shown).tolist() == [[128, 2560, 25600, 65535]]
    assert (np.load(io.BytesIO(npy(metres))) == metres).all()


def test_suffixes_of_a_folder_are_known_formats() -> None:
    known = Image.registered_extensions()
    assert all(known[suffix] in Image.OPEN for suffix in SUFFIXES - {".npy"})
