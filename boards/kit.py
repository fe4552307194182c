# SPDX-License-Identifier: Apache-2.0
"""What a board's folder needs for its first run besides its own files: this very installation as a wheel, and a
picture.

The wheel is made without network, compiler or build backend, from a clone and from a wheel alike. Pure Python with
data, so one wheel runs everywhere; the base install needs neither Amaranth nor PyTorch. Its format is the "Binary
distribution format" of the Python packaging specifications.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

from edgemoe.models import scenes
from edgemoe.models.config import preset
from edgemoe.models.errors import EdgemoeError
from PIL import Image

#: What the packages consist of, and not what lies beside it in a clone (pictures, notes, caches).
FRONT = ("__init__.py", "former.py", "py.typed")  # the package itself; a wheel's has the others inside it
SUFFIXES = {".py", ".v", ".cpp", ".h", ".in", ".json", ".toml", ".safetensors"}
WHEEL = "Wheel-Version: 1.0\nGenerator: edgemoe\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


PACKAGES = ("models", "hw", "sim", "boards", "host")  # the folders, from the lowest to the highest
PICTURE = "street.png"
SEED = 1_000_020  # of its scene, which training never sees


def wheel_name() -> str:
    """File name of the wheel."""
    return f"edgemoe-{importlib.metadata.version('edgemoe')}-py3-none-any.whl"


def sources() -> Iterator[tuple[str, bytes]]:
    """(path in the wheel, contents) of every file of the packages."""
    front = importlib.util.find_spec("edgemoe")
    for place in (front and front.submodule_search_locations) or ():
        yield from (
            (f"edgemoe/{path.name}", path.read_bytes()) for path in sorted(Path(place).glob("*")) if path.name in FRONT
        )
    for package in PACKAGES:
        found = importlib.util.find_spec(f"edgemoe.{package}")
        for place in (found and found.submodule_search_locations) or ():
            folder = Path(place)
            for path in sorted(folder.rglob("*")):
                inside = path.relative_to(folder)
                if inside.parts[0] == "front":  # in a clone, where the package's own folder stands among the host's
                    continue
                if (
                    path.is_file()
                    and (path.suffix in SUFFIXES or inside.parts[0] == "checkpoints")
                    and "__pycache__" not in inside.parts
                ):
                    yield f"edgemoe/{package}/{inside.as_posix()}", path.read_bytes()


def with_kit(texts: Mapping[str, str], checkpoint: str) -> dict[str, bytes]:
    """A folder's files by name, and with them the wheel and a picture of the size that the checkpoint (a preset's name)
    takes.
    """
    config, picture = preset(checkpoint), BytesIO()
    street = scenes.cut(scenes.scene(SEED), config.image_height, config.image_width)
    Image.fromarray(street.image.transpose(1, 2, 0)).save(picture, "PNG")
    return {name: text.encode() for name, text in texts.items()} | {wheel_name(): wheel(), PICTURE: picture.getvalue()}


def wheel() -> bytes:
    """The wheel; the same installation always gives the same bytes."""
    # (What setuptools leaves in a clone as edgemoe.egg-info, and may be old, has another file.)
    installed = [found for found in importlib.metadata.distributions(name="edgemoe") if found.read_text("METADATA")]
    if not installed:
        raise EdgemoeError(
            "this installation of edgemoe has lost its metadata: install it again, then build the board's folder"
        )
    distribution = installed[0]
    information = f"edgemoe-{distribution.version}.dist-info"
    metadata, entry_points = (distribution.read_text(part) or "" for part in ("METADATA", "entry_points.txt"))
    files = dict(sources())
    files |= {f"{information}/METADATA": metadata.encode(), f"{information}/WHEEL": WHEEL.encode()}
    files[f"{information}/entry_points.txt"] = entry_points.encode()
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n".encode()
    result = BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path)  # 1980: no date of ours
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return result.getvalue()
