# SPDX-License-Identifier: Apache-2.0
"""`import edgemoe`: what the documentation shows works as written, agrees with the command line, and says nothing
unasked.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import edgemoe
import numpy as np
import pytest
from edgemoe.host import inference
from edgemoe.models import scenes
from PIL import Image

from ..models.support import TINY, random_checkpoint

MODEL = random_checkpoint(TINY)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (TINY.image_height, TINY.image_width, 3), np.uint8) for _ in range(count)]


@pytest.fixture
def session():
    with edgemoe.open(MODEL, device="emulator", hardware="tiny", tokens=True) as opened:
        yield opened


def test_paths_pillow_images_and_arrays_give_the_same(session: edgemoe.Session, tmp_path: Path) -> None:
    (array,) = pictures(1)
    path = tmp_path / "x.png"
    Image.fromarray(array).save(path)
    results = session.infer([path, str(path), Image.fromarray(array), array])
    assert [r.source for r in results] == [path, path, None, None]
    for task in session.tasks:
        first = results[0][task]
        assert all(np.array_equal(first.tokens, r[task].tokens) for r in results)
        assert first.map is None or all(np.array_equal(first.map, r[task].map) for r in results)


def test_results_are_those_of_the_engine(session: edgemoe.Session) -> None:
    """Many pictures, several passes: each result belongs to its own picture."""
    given = pictures(5)
    results = session.infer(given)
    for array, result in zip(given, results, strict=True):
        alone = inference.infer(
            MODEL, [array.transpose(2, 0, 1)], hardware=session.hardware, device="emulator", save_tokens=True,
            weight_bits=session.hardware.weight_bits,
        )  # fmt: skip
        for (_, task), tokens in zip(alone.streams, alone.tokens, strict=True):
            assert np.array_equal(result[TINY.tasks[task].name].tokens, tokens)
    assert [r.cycles for r in results] == [None] * 5  # the emulator counts none


def test_the_hardware_counts_cycles() -> None:
    with edgemoe.open(MODEL, device="verilator", hardware="tiny") as opened:
        (result,) = opened.infer(pictures(1), tasks=[TINY.tasks[0].name])
    assert result.cycles is not None and result.cycles > 1000 and list(result) == [TINY.tasks[0].name]


def test_maps_are_saved(session: edgemoe.Session, tmp_path: Path) -> None:
    (result,) = session.infer(pictures(1))
    for task in TINY.tasks:
        prediction = result[task.name]
        raw = np.load(prediction.save(tmp_path / f"{task.name}.npy"))
        assert np.array_equal(raw, prediction.tokens if prediction.map is None else prediction.map)
        if prediction.map is not None:
            shown = prediction.colour()
            assert shown.size == (TINY.image_width, TINY.image_height)
            saved = Image.open(prediction.save(tmp_path / f"{task.name}.png"))
            assert np.array_equal(np.asarray(saved), np.asarray(shown))
            with pytest.raises(edgemoe.EdgemoeError, match="suffix must be .png or .npy"):
                prediction.save(tmp_path / "x.bmp")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, p: s.infer(p, tasks=[]), "tasks must be names in a list"),
        (lambda s, p: s.infer(p, tasks="depth"), "tasks must be names in a list"),
        (lambda s, p: s.infer(p, tasks=["no-such-task"]), "no-such-task"),
        (lambda s, p: s.infer(p[0]), "put the one into brackets"),
        (lambda s, p: s.infer(["/nonexistent.png"]), "does not exist"),
        (lambda s, p: s.infer([7]), "expected a path, a Pillow image or an array"),
        (lambda s, p: s.infer([p[0].astype(np.float32)]), "picture 0 holds float32"),
        (lambda s, p: s.infer(p)[0]["no-such-task"], "no result of a task"),
        (lambda s, p: edgemoe.open(MODEL, device="abacus"), "unknown device 'abacus'"),
        (lambda s, p: edgemoe.open(MODEL, hardware="no-such"), "no-such"),
        (lambda s, p: edgemoe.open("no-such-model"), "no-such-model"),
    ],
)
def test_mistakes_are_one_clear_error(session: edgemoe.Session, call, message: str) -> None:
    with pytest.raises(edgemoe.EdgemoeError, match=message):
        call(session, pictures(1))


def test_a_closed_session(session: edgemoe.Session) -> None:
    assert session.infer([]) == []
    session.close()
    session.close()
    with pytest.raises(edgemoe.EdgemoeError, match="session is closed"):
        session.infer(pictures(1))


def test_several_threads_share_a_session(session: edgemoe.Session) -> None:
    given = pictures(6)
    task = TINY.tasks[0].name
    expected = [session.infer([p], [task])[0][task].tokens for p in given]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        found[number] = session.infer([given[number]], [task])[0][task].tokens

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], tokens) for number, tokens in enumerate(expected))


def test_progress_is_a_callback(session: edgemoe.Session) -> None:
    seen: list[tuple[int, int, str]] = []
    session.infer(pictures(1), progress=lambda done, total, step: seen.append((done, total, step)))
    assert seen and all(0 <= done <= total and step for done, total, step in seen)


SCRIPT = """
import warnings
warnings.simplefilter("error")
import edgemoe, numpy as np
model = edgemoe.load("m3vit-micro")
with edgemoe.open(model, device="emulator", hardware="base") as session:
    result = session.infer(["street.png", np.zeros((64, 64, 3), np.uint8)], tasks=["depth"])
result[0]["depth"].save("depth.png")
assert result[1].remarks and result[0]["depth"].map.shape == (128, 256)
assert edgemoe.__version__ and set(edgemoe.__all__) <= set(dir(edgemoe))
"""


def test_nothing_is_printed(tmp_path: Path) -> None:
    """The documentation's lines, in a process of their own, in a folder of the user's."""
    Image.fromarray(scenes.scene(3).image.transpose(1, 2, 0)).save(tmp_path / "street.png")
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "depth.png").stat().st_size > 1000
