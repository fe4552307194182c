# SPDX-License-Identifier: Apache-2.0
"""The first run on a board as its folder's README describes it: what it installs, the picture and checkpoint it names,
and the oldest Python and NumPy that boards have."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
from edgemoe.boards import flows, kit
from edgemoe.boards.facts import BOARDS, Board
from edgemoe.boards.kit import PACKAGES
from edgemoe.host import images
from edgemoe.host.inference import infer
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint, metrics, scenes
from edgemoe.models.compatibility import StrEnum
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
OLDEST = (3, 10)
OLD_NUMPY = "1.26.4"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_run_step_runs(board: Board, tmp_path: Path) -> None:
    """Every `edgemoe infer` of the README, on the emulator in the board's place:
    checkpoint and picture fit the hardware, and it sees.
    """
    flows.write(board, tmp_path)
    readme = (tmp_path / "README.md").read_text()
    commands = [shlex.split(line.split("#")[0]) for line in re.findall(r"^ +edgemoe infer .*$", readme, re.M)]
    assert commands
    for words in commands:
        options = dict(zip(words[3::2], words[4::2], strict=True))
        model = checkpoint.load(options.get("--checkpoint", "m3vit-micro"))
        picture, told = images.read_image(tmp_path / words[2], model.config)
        assert not told, "the picture has the size of the checkpoint's"
        found = infer(model, [picture], device="emulator", hardware=preset(options["--hardware"]))
        assert len(found.heads) == len(model.config.tasks)
        street = scenes.cut(scenes.scene(kit.SEED), model.config.image_height, model.config.image_width)
        prediction = found.map(0)
        assert prediction is not None and metrics.mean_iou(prediction, street.labels, len(scenes.CLASSES)) > 0.6


def test_nano_is_micro_on_a_window() -> None:
    nano, micro = checkpoint.load("m3vit-nano"), checkpoint.load("m3vit-micro")
    row, column = (start // 16 for start in scenes.WINDOWS[112, 112])
    for name, tensor in micro.tensors.items():
        if name == "pos_embed":
            window = tensor[1:].reshape(8, 16, -1)[row : row + 7, column : column + 7].reshape(49, -1)
            tensor = np.concatenate([tensor[:1], window])
        assert np.array_equal(nano.tensors[name], tensor)
    assert nano.config.tokens == 50 and nano.calibration and nano.calibration.images == 24


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wheel") / kit.wheel_name()
    path.write_bytes(kit.wheel())
    return path


def test_the_wheel_is_whole(wheel: Path) -> None:
    assert kit.wheel() == wheel.read_bytes(), "the same bytes each time"
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            inside = path.relative_to(ROOT).as_posix().replace("host/front/", "")  # the package itself
            assert files.pop(f"edgemoe/{inside}") == path.read_bytes()
    assert files.pop("edgemoe/py.typed") == b""
    data = ("models/checkpoints/*", "boards/templates/*/*", "boards/facts/*.toml")
    for path in (path for pattern in data for path in ROOT.glob(pattern)):
        assert files.pop(f"edgemoe/{path.relative_to(ROOT).as_posix()}") == path.read_bytes()
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    with zipfile.ZipFile(wheel) as archive:
        for name, digest, size in csv.reader(files[record].decode().splitlines()):
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert name == record or (digest, int(size)) == (f"sha256={expected}", len(data))
    metadata = Parser().parsestr(files[record.replace("RECORD", "METADATA")].decode())
    stated = re.search(r'requires-python = "(.*?)"', PYPROJECT)
    assert stated and metadata["Requires-Python"] == stated[1] == ">=3.10", (
        "install edgemoe again: its metadata is older than pyproject.toml"
    )
    assert "numpy>=1.26" in metadata.get_all("Requires-Dist", [])


def run(python: str | Path, folder: Path, *arguments: str, **environment: str) -> str:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "EDGEMOE_PYTHON", "VIRTUAL_ENV"))
    }
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def scene(folder: Path) -> None:
    Image.fromarray(scenes.scene(kit.SEED).image.transpose(1, 2, 0)).save(folder / "street.png")


def test_the_wheel_installs_and_runs(wheel: Path, tmp_path: Path) -> None:
    """Without network, beside everything else, it is the wheel's code that runs."""
    scene(tmp_path)
    run(
        sys.executable,
        tmp_path,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        "there",
        str(wheel),
    )
    again = "from edgemoe.boards import kit; open('again.whl', 'wb').write(kit.wheel()); print(kit.__file__)"
    assert Path(run(sys.executable, tmp_path, "-c", again, PYTHONPATH=str(tmp_path / "there")).strip()).is_relative_to(
        tmp_path / "there"
    )
    assert (tmp_path / "again.whl").read_bytes() == wheel.read_bytes(), "an installed wheel gives itself"
    arguments = ("infer", "street.png", "--device", "emulator", "--task", "depth")
    run(sys.executable, tmp_path, "-m", "edgemoe.host.cli", *arguments, PYTHONPATH="there")
    found = infer(
        checkpoint.load("m3vit-micro"),
        [scenes.scene(kit.SEED).image],
        tasks=[1],
        device="emulator",
        hardware=preset("base"),
    )
    assert np.array_equal(np.load(tmp_path / "out/street-depth.npy"), found.map(0))


def test_sources_are_python_3_10() -> None:
    """Every file is in the language of the oldest Python; lint and types look at the library through its eyes."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            ast.parse(path.read_text(), str(path), feature_version=OLDEST)
    assert 'target-version = "py310"' in PYPROJECT and 'python_version = "3.10"' in PYPROJECT
    assert "sys.version_info < (3, 10)" in (ROOT / "edgemoe").read_text()


def test_what_stands_in_for_newer_functions() -> None:
    class Colour(StrEnum):
        RED = "red"

    assert (str(Colour.RED), f"{Colour.RED}", f"{Colour.RED:>5}", Colour.RED == "red", Colour("red")) == (
        "red",
        "red",
        "  red",
        True,
        Colour.RED,
    )
    if sys.version_info >= (3, 11):
        assert all(2.0**x == math.exp2(x) for x in range(-1080, 1024))


# What numbers come out of the arithmetic's tables, of quantisation and of the emulator: printed by either installation.
DIGEST = """
import hashlib, sys
import numpy as np
from edgemoe.host.inference import infer
from edgemoe.host.images import read_image
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint
from edgemoe.models.numbers import arithmetic
from pathlib import Path
digest = hashlib.sha256()
def take(*values):
    for value in values:
        digest.update(np.ascontiguousarray(value).tobytes())
for table in (arithmetic.exp2_table, arithmetic.reciprocal_table, arithmetic.rsqrt_table):
    take(*table())
for kind in arithmetic.CORRECTIONS:
    take(*arithmetic.correction_table(kind))
every = np.arange(1 << 16, dtype=np.int64)
for shift in range(5):
    take(arithmetic.exp2_fine(every, shift))
for model in map(checkpoint.load, ("m3vit-micro", "m3vit-nano")):
    for bits in ("16", "8", "mixed"):
        image, _ = read_image(Path("street.png"), model.config)
        found = infer(model, [image], device="emulator", hardware=preset("base"), weight_bits=bits, save_tokens=True)
        take(*found.heads, *found.tokens)
print(digest.hexdigest())
"""


def old_python() -> str:
    """A Python 3.10: EDGEMOE_PYTHON310, on the path, or of pyenv;
    else the present one, with the old NumPy all the same.
    """
    there = (
        os.environ.get("EDGEMOE_PYTHON310"),
        shutil.which("python3.10"),
        *Path.home().glob(".pyenv/versions/3.10*/bin/python3.10"),
    )
    for name in filter(None, there):
        asked = subprocess.run(
            [name, "-c", "import sys, venv; print(sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if asked.stdout.strip() == str(OLDEST):
            return str(name)
    if sys.version_info >= (3, 13):
        pytest.skip(
            f"needs a Python 3.10 to 3.12 (EDGEMOE_PYTHON310 names one): NumPy {OLD_NUMPY} has no wheel for this one"
        )
    return sys.executable


@pytest.mark.full
def test_the_oldest_python_and_numpy(wheel: Path, tmp_path: Path) -> None:
    """The README's pip line in a fresh environment: no Amaranth, no PyTorch, NumPy 1.26, and not one bit comes out
    different.
    """
    scene(tmp_path)
    run(old_python(), tmp_path, "-m", "venv", "venv")
    python = tmp_path / "venv/bin/python"
    run(
        python,
        tmp_path,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        str(wheel),
        f"numpy=={OLD_NUMPY}",
    )
    run(python, tmp_path, "-m", "pip", "check")
    run(
        tmp_path / "venv/bin/edgemoe",
        tmp_path,
        "infer",
        "street.png",
        "--device",
        "emulator",
        "--checkpoint",
        "m3vit-nano",
        "--json",
    )
    absent = "import importlib.util as u, numpy; assert not (u.find_spec('amaranth') or u.find_spec('torch')); "
    absent += "print(numpy.__version__)"
    assert run(python, tmp_path, "-c", absent).strip() == OLD_NUMPY
    assert run(python, tmp_path, "-W", "error", "-c", DIGEST) == run(sys.executable, tmp_path, "-c", DIGEST)
