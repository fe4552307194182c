# SPDX-License-Identifier: Apache-2.0
"""Many pictures: which they are, what results are called, saved as they come, and what is said of those that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host import batch, inference, outputs
from edgemoe.host.images import png
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.folders import RECORD, OutputFolder

from ..models.support import TINY, random_checkpoint, small_disk
from .conftest import Command, refused

ENDS = ["-seg.png", "-seg.npy", "-dep.png", "-dep.npy", "-dep-metres256.png"]  # of TINY's two tasks


@pytest.fixture
def infer(edgemoe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`edgemoe infer` of a small model on the emulator, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(random_checkpoint(TINY), tmp_path / "tiny.safetensors")
    fixed = ("--checkpoint", "tiny.safetensors", "--hardware", "tiny", "--device", "emulator")
    return lambda *arguments: edgemoe("infer", *arguments, *fixed)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)))
    return path


# ------------------------------------------------------------------------------------------------ which pictures


def test_which_pictures(infer: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, a pattern, a name, and any of them again."""
    for name in ("d/b.PNG", "d/a.jpg", "d/c.NPY", "d/notes.txt", "d/.hidden.png", "d/below/e.png", "[x].png", "x.png"):
        picture(tmp_path / name)

    def found(*arguments: str) -> list[str]:
        return [str(path) for path in batch.picture_files([Path(argument) for argument in arguments])]

    assert found("d") == ["d/a.jpg", "d/b.PNG", "d/c.NPY"]
    assert found("d/*.txt", "d/?.jpg") == ["d/notes.txt", "d/a.jpg"]
    assert found("d/**/*.png") == ["d/below/e.png"]
    assert found("[x].png") == ["[x].png"]  # a file of that name comes before the pattern
    assert found("missing.png", "x.png") == ["missing.png", "x.png"]
    assert capsys.readouterr().err == ""
    assert found("x.png", "./x.png", "d/a.jpg", "d") == ["x.png", "d/a.jpg", "d/b.PNG", "d/c.NPY"]
    assert capsys.readouterr().err == "edgemoe: named more than once, computed once: x.png, d/a.jpg\n"
    (tmp_path / "empty").mkdir()
    for argument, what in {"empty": "folder empty holds no pictures", "*.bmp": "no file matches"}.items():
        with pytest.raises(EdgemoeError, match=what):
            found(argument)


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "paths, names",
    [
        (["x.png", "d/x.png", "1-x.png"], ["x", "d-x", "1-x"]),
        (["a/x.png", "b/x.png"], ["a-x", "b-x"]),
        (["x.png", "x.jpg", "x-2.png"], ["x", "x-3", "x-2"]),
        (["a/x.png", "a-x.png", "b/x.png"], ["a-x", "a-x-2", "b-x"]),
        (["p/a/x.png", "q/a/x.png"], ["a-x", "a-x-2"]),
        (["X.png", "x.png"], ["X", "x-2"]),
        (["f\u00fc.png", "fu\u0308.png"], ["f\u00fc", "fu\u0308-2"]),
        (["y.png", "only.png"], ["y", "only"]),
    ],
    ids=lambda value: " ".join(value).encode("ascii", "replace").decode(),
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert batch.result_names([Path(path) for path in paths], ["-segmentation.png"]) == names


def test_names_never_meet() -> None:
    """Whatever the pictures and the tasks are called, no two files get one name, even without regard to case."""
    rng = np.random.default_rng(0)
    parts = ["a", "A", "a-b", "b", "1", "2", "a-2", "\u00df", "ss", "-", "b-metres256"]
    ends = ["-a.png", "-a-b.png", "-b.png", "-b-metres256.png", ".png", "-2-a.png"]
    for _ in range(300):
        drawn = [
            [*rng.choice(parts, rng.integers(0, 3)), rng.choice(parts) + rng.choice([".png", ".jpg"])]
            for _ in range(12)
        ]
        paths = list(dict.fromkeys(Path("/r", *path) for path in drawn))
        chosen = list(rng.choice(ends, rng.integers(1, 5), replace=False))
        names = batch.result_names(paths, chosen)
        files = [(name + end).casefold() for name in names for end in chosen]
        assert len(set(files)) == len(files) == len(paths) * len(chosen)


def test_each_picture_keeps_its_own_maps(infer: Command, tmp_path: Path) -> None:
    given = ["x.png", "d/x.png", "1-x.png", "x.bmp.png", "X.png"]
    paths = [picture(tmp_path / name, seed) for seed, name in enumerate(given)]
    code, text, errors = infer(*paths, "--out", "out", "--json")
    assert code == 0, errors
    report = json.loads(text)
    assert len(report["outputs"]) == len({o.casefold() for o in report["outputs"]}) == len(paths) * len(ENDS)
    assert all(Path(o).is_file() for o in report["outputs"])
    for number, path in enumerate(paths):
        assert infer(path, "--out", f"alone{number}", "--json")[0] == 0
        for stream in (s for s in report["streams"] if s["image"] == number):
            assert stream["file"] == str(path) and stream["cycles"] == 0
            mine = next(o for o in stream["outputs"] if o.endswith(".npy"))
            alone = Path(f"alone{number}", f"{path.stem}-{stream['task']}.npy")
            assert (np.load(mine) == np.load(alone)).all()


# ------------------------------------------------------------------------------------------------ whose files


def test_a_users_file_stays(infer: Command, tmp_path: Path) -> None:
    """Nothing is computed; --force replaces; a second run replaces what the first one wrote, not what was changed
    since.
    """
    x, truth = picture(tmp_path / "x.png"), tmp_path / "x-seg.png"
    truth.write_bytes(b"mine")
    refused(infer(x, "--out", "."), "x-seg.png", "--force")
    assert truth.read_bytes() == b"mine" and not (tmp_path / "x-seg.npy").exists()
    assert infer(x, "--out", ".", "--force")[0] == 0
    assert truth.read_bytes().startswith(b"\x89PNG")
    assert infer(x, "--out", ".")[0] == 0
    truth.write_bytes(b"edited")
    refused(infer(x, "--out", "."), "x-seg.png", "changed since")
    (tmp_path / "folder" / "x-seg.png").mkdir(parents=True)
    refused(infer(x, "--out", "folder", "--force"), "folder/x-seg.png: it is a folder")


def test_a_picture_to_be_read_is_never_written(infer: Command, tmp_path: Path) -> None:
    """Not even with --force: the results of one would be read as the other."""
    x, mine = picture(tmp_path / "x.png"), picture(tmp_path / "x-seg.png", 1)
    before = mine.read_bytes()
    refused(infer(x, mine, "--out", ".", "--force"), "x-seg.png: both a picture to be read and the name of a result")
    refused(
        infer(x, mine, "--out", "out", "--save-tokens", "x-seg.png"),
        "--save-tokens x-seg.png is a picture to be read",
    )
    refused(infer(x, "--out", "out", "--save-tokens", "out/x-dep.npy"), "is the name of a map")
    assert mine.read_bytes() == before and not (tmp_path / "out").exists()


def test_tokens_go_where_they_were_asked_to(infer: Command, tmp_path: Path) -> None:
    """Under exactly that name, of every stream in the order of the report, whatever could not be read between."""
    a, b = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    code, text, _ = infer(a, "missing.png", b, "--save-tokens", "t/tokens", "--json")
    report = json.loads(text)
    assert code == 1 and report["outputs"][-1] == "t/tokens" and all(Path(o).is_file() for o in report["outputs"])
    assert os.listdir("t") == ["tokens"]
    tokens = np.load("t/tokens")
    assert tokens.shape == (4, TINY.tokens, TINY.width) and tokens.dtype == np.float32
    assert infer(b, "--save-tokens", "alone.npy")[0] == 0
    assert (tokens[2:] == np.load("alone.npy")).all() and (tokens[:2] != tokens[2:]).any()


def test_a_full_disk_leaves_no_half_file(infer: Command, tmp_path: Path) -> None:
    x = picture(tmp_path / "x.png")
    with small_disk(200):
        refused(infer(x, "--out", "out"), "cannot write out/x-seg.npy: File too large")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x-seg.png", RECORD}
    with small_disk(2000):
        refused(infer(x, "--out", "other", "--save-tokens", "tokens.npy"), "cannot write tokens.npy: File too large")
    assert not list(tmp_path.glob("*tokens*")) and not list(tmp_path.glob(".edgemoe*"))


# ------------------------------------------------------------------------------------------------ as they come


def test_saved_as_they_come(tmp_path: Path) -> None:
    """When a picture is read, the maps of those in earlier passes are on disk."""
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    found: list[int] = []

    def watched(checkpoint: object, images: Iterator[np.ndarray], **options: object) -> Iterator[inference.Pass]:
        def watch() -> Iterator[np.ndarray]:
            for image in images:
                found.append(len(list((tmp_path / "out").glob("*-seg.npy"))))
                yield image

        return original(checkpoint, watch(), **options)  # type: ignore[arg-type]

    original = batch.stream
    with pytest.MonkeyPatch.context() as patch, OutputFolder(tmp_path / "out") as folder:
        patch.setattr(batch, "stream", watched)
        batch.infer_files(random_checkpoint(TINY), paths, folder, tasks=[0], hardware=preset("tiny"), device="emulator")
    together = inference.images_together(TINY, preset("tiny"), 1)
    assert found == [i // together * together for i in range(5)]


def test_memory_stays(tmp_path: Path) -> None:
    """Of a picture of m3vit-micro (0.4 MB of pixels, values and maps) only lines in the report and the record stay."""
    checkpoint, hardware = checkpoints.load("m3vit-micro"), preset("base")
    pixels = np.random.default_rng(0).integers(0, 256, (128, 256, 3), np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(14)]
    for path in paths:
        path.write_bytes(png(pixels))
    taken = []

    def watched(*given: object, **options: object) -> Iterator[inference.Pass]:
        for part in original(*given, **options):  # type: ignore[arg-type]
            yield part
            del part
            taken.append(tracemalloc.get_traced_memory()[0])

    original = batch.stream
    with pytest.MonkeyPatch.context() as patch, OutputFolder(tmp_path / "out") as folder:
        patch.setattr(batch, "stream", watched)
        tracemalloc.start()
        batch.infer_files(checkpoint, paths, folder, tasks=[0, 1], hardware=hardware, device="emulator")
        tracemalloc.stop()
    assert len(taken) == 14 and taken[-1] - taken[3] < 10 * 10_000, taken


def test_passes_do_not_change_results(tmp_path: Path) -> None:
    """One engine: the stream gives what `infer` collects, in the order of the images."""
    checkpoint, hardware = random_checkpoint(TINY), preset("tiny")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (3, 16, 16), np.uint8) for _ in range(3)]
    whole = inference.infer(checkpoint, images, device="emulator", hardware=hardware)
    assert whole.streams == [(i, t) for i in range(3) for t in range(2)]
    for number, image in enumerate(images):
        alone = inference.infer(checkpoint, [image], device="emulator", hardware=hardware)
        for task in range(2):
            mine, theirs = alone.map(task), whole.map(2 * number + task)
            assert mine is not None and theirs is not None and (mine == theirs).all()


def test_what_fails_is_said_at_the_end(infer: Command, tmp_path: Path) -> None:
    good = [picture(tmp_path / f"{i}.png", i) for i in range(3)]
    bad = [f"missing{i}.png" for i in range(7)]
    code, text, errors = infer(*bad[:4], *good, *bad[4:], "--out", "out", "--json")
    report = json.loads(text)
    assert code == 1 and [f["file"] for f in report["failed"]] == bad and report["pictures"] == 10
    assert sorted({s["image"] for s in report["streams"]}) == [4, 5, 6]
    lines = errors.splitlines()
    assert lines[:5] == [f"edgemoe: image missing{i}.png does not exist" for i in range(5)] and len(lines) == 6
    assert (
        lines[5]
        == "edgemoe: error: 7 of 10 pictures could not be read (2 of them not shown above); the others are done"
    )
    refused(infer(*bad, "--out", "none"), "missing0.png does not exist", "nor can the 6 other pictures be read")
    assert not (tmp_path / "none").exists()


def test_notices_are_counted_not_repeated(infer: Command, tmp_path: Path) -> None:
    for number in range(30):
        path = tmp_path / "d" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(np.zeros((32, 32 if number < 20 else 32 + number, 3), np.uint8)))
    code, _, errors = infer("d", "--out", "out")
    lines = errors.splitlines()
    assert code == 0 and lines[0] == "edgemoe: 00.png: resized from 32 x 32 to 16 x 16 pixels"
    assert "edgemoe: 19 more: resized from 32 x 32 to 16 x 16 pixels" in lines
    assert (
        lines[-1] == "edgemoe: 1 other notices of this sort are not shown" and len(lines) == inference.Notices.MOST + 2
    )


def test_a_table_of_a_large_batch_is_short(infer: Command, tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "d" / f"{number}.png", number)
    code, text, _ = infer("d", "--out", "out")
    assert code == 0 and "5 files in out" in text and text.count("5 files") == 4


def test_names_are_shown_as_they_are(infer: Command, tmp_path: Path) -> None:
    """Brackets, colons and control characters in a name are no markup, no emoji and no second line."""
    for name in ("frame[left].png", "x[/red].png", ":car:.png"):
        code, text, errors = infer(picture(tmp_path / name), "--out", "run[/red]")
        assert code == 0 and errors == "" and "5 files in run[/red]" in text and Path(name).name in text
    path = tmp_path / "two\nlines.png"
    path.write_bytes(png(np.zeros((32, 32, 3), np.uint8)))
    code, _, errors = infer(path, "--out", "out", "--json")
    assert code == 0 and errors == "edgemoe: two\\nlines.png: resized from 32 x 32 to 16 x 16 pixels\n"


def test_tasks_without_a_head_are_not_lost_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from edgemoe.models.config import TaskConfig

    config = replace(TINY, tasks=(TaskConfig(name="bare", kind="tokens"),))
    given = [picture(tmp_path / "x.png")]
    with OutputFolder(tmp_path / "out") as folder:
        options = dict(tasks=[0], hardware=preset("tiny"), device="emulator")
        result = batch.infer_files(random_checkpoint(config), given, folder, **options)  # type: ignore[arg-type]
    assert result.outputs == [] and "task bare has no head" in capsys.readouterr().err


def test_nothing_on_standard_error_without_need(tmp_path: Path) -> None:
    """As a log file sees it: no bar, no empty line."""
    checkpoints.save(random_checkpoint(TINY), tmp_path / "tiny.safetensors")
    picture(tmp_path / "x.png")
    command = [sys.executable, "-m", "edgemoe.host.cli", "infer", "x.png", "--checkpoint", "tiny.safetensors"]
    command += ["--hardware", "tiny", "--device", "emulator"]
    for terminal in ({}, {"TERM": "dumb"}):
        environment = {**os.environ, **terminal}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0 and done.stderr == ""


def test_files_of_a_task() -> None:
    assert outputs.map_names("", TINY, [0, 1]) == ENDS
