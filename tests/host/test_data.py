# SPDX-License-Identifier: Apache-2.0
"""Data sets as they are published: what is true of a pixel stays with it, and what does not fit is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host.images import npy, png
from edgemoe.host.studies import evaluation
from edgemoe.host.studies.data import DataSet, Masks, Sample, data_set
from edgemoe.hw.contract.config import preset
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError

from ..models.support import TINY, random_checkpoint

SIDE = TINY.image_height


def pixels(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def only(data: DataSet, config: ModelConfig = TINY, resize: str = "stretch") -> Sample:
    [entry] = data.entries
    return data.sample(entry, entry.read(), config, resize)


def classifier(labels: tuple[str, ...] = (), channels: int = 3) -> ModelConfig:
    task = TaskConfig(name="what", kind="classification", channels=channels, pool="mean", labels=labels)
    return replace(TINY, tasks=(task,))


def segmenting(channels: int, depth: str = "depth") -> ModelConfig:
    tasks = (
        TaskConfig(name="semseg", kind="segmentation", channels=channels, grid=2),
        TaskConfig(name="depth", kind=depth, channels=1, grid=2),
    )
    return replace(TINY, tasks=tasks)


@pytest.mark.parametrize(
    "data", ["street", "street:", "street:0", "street:-1", "street:x", "street:\u0661", "city:5", "street:99999999999"]
)
def test_data_that_is_none(data: str) -> None:
    with pytest.raises(EdgemoeError, match="expected street:N"):
        data_set(data)


def test_street_needs_no_layout() -> None:
    with pytest.raises(EdgemoeError, match="--layout is for a folder"):
        data_set("street:3", "masks")


def test_classes_are_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("dog", "cat", "cow")):
        write(tmp_path / name / "1.png", png(pixels(number)))
        write(tmp_path / name / "notes.txt", "no picture")
    data = data_set(str(tmp_path))
    assert [entry.name for entry in data.entries] == ["cat/1.png", "cow/1.png", "dog/1.png"]

    def numbers(config: ModelConfig) -> list[int]:
        return [data.sample(e, e.read(), config, "stretch").truth["classification"] for e in data.entries]

    assert numbers(classifier()) == [0, 1, 2]
    assert numbers(classifier(("dog", "horse", "cow", "cat"), 4)) == [3, 2, 0]
    assert np.array_equal(data.sample(data.entries[0], data.entries[0].read(), classifier(), "stretch").image, (
        pixels(1).transpose(2, 0, 1)))  # fmt: skip
    with pytest.raises(EdgemoeError, match=r"folders for 3 classes \(cat, cow, dog\), model tiny-model has 5"):
        data.scored(classifier(channels=5))


def test_folders_that_are_numbers(tmp_path: Path) -> None:
    for name in ("2", "10"):
        write(tmp_path / name / "x.png", png(pixels(0)))
    data, config = data_set(str(tmp_path)), classifier(channels=12)
    assert [data.sample(e, e.read(), config, "stretch").truth["classification"] for e in data.entries] == [2, 10]


def test_masks_go_where_their_pixels_go(tmp_path: Path) -> None:
    """Stretched, cropped and padded alike; a palette's indices; what lies beside a padded picture is not counted."""
    mask = np.zeros((40, 80), np.uint8)
    mask[:, 40:], mask[:10] = 2, 255
    write(tmp_path / "images" / "a.png", png(np.repeat(mask[..., None], 3, axis=-1)))
    write(tmp_path / "masks" / "a.png", png(mask))
    data = data_set(str(tmp_path))
    assert isinstance(data, Masks) and data.scored(TINY) == {"seg": "segmentation"}
    for resize in ("stretch", "crop", "pad"):
        sample = only(data, resize=resize)
        labels, picture = sample.truth["segmentation"], sample.image[0].astype(np.int16)
        inside = np.zeros((SIDE, SIDE), bool)
        inside[SIDE // 4 : -SIDE // 4 if resize == "pad" else SIDE] = True
        inside = inside if resize == "pad" else np.ones_like(inside)
        sure = inside & np.isin(picture, (0, 2, 255))
        assert np.array_equal(labels[sure], np.where(picture[sure] == 255, -1, picture[sure])), resize
        assert set(labels[~inside]) <= {-1} and {0, 2} <= set(labels[inside]) and sure.mean() > 0.3


def test_masks_of_two_classes_may_be_black_and_white(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[3:7] = 255
    write(tmp_path / "images" / "a.png", png(pixels(0)))
    write(tmp_path / "masks" / "a.png", png(mask))
    assert np.array_equal(only(data_set(str(tmp_path))).truth["segmentation"], (mask > 0).astype(np.int16))


def test_masks_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", png(pixels(0)))
    (tmp_path / "masks").mkdir()
    with pytest.raises(EdgemoeError, match=r"a\.png has no mask: expected .*masks/a\.png or \.npy"):
        data_set(str(tmp_path))
    write(tmp_path / "masks" / "a.png", png(np.full((SIDE, SIDE), 7, np.uint8)))
    with pytest.raises(EdgemoeError, match="holds the class 7, the model has 3: expected 0 to 2, or 255"):
        only(data_set(str(tmp_path)))
    write(tmp_path / "masks" / "a.png", png(pixels(1)))
    with pytest.raises(EdgemoeError, match="expected a class number of each pixel"):
        only(data_set(str(tmp_path)))


def test_cityscapes(tmp_path: Path) -> None:
    """Its numbers become those of its benchmark, or the scenes' classes; disparity becomes metres."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[4:8], labels[8:12], labels[12:] = 7, 26, 8  # nothing, road, car, sidewalk
    disparity = np.zeros((SIDE, SIDE), np.uint16)
    disparity[8:] = 10 * 256 + 1
    for split, name in (("val", "ulm_000_1"), ("train", "bonn_0_2")):
        city = name.split("_")[0]
        write(tmp_path / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", png(pixels(0)))
        write(tmp_path / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", png(labels))
        write(tmp_path / f"disparity/{split}/{city}/{name}_disparity.png", png(disparity))
        camera = {"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 2000.0}}
        write(tmp_path / f"camera/{split}/{city}/{name}_camera.json", json.dumps(camera))
    data = data_set(str(tmp_path))
    assert [entry.name for entry in data.entries] == ["ulm_000_1"]
    for classes, wanted in ((19, [-1, 0, 13, 1]), (7, [-1, 1, 3, 1])):
        config = segmenting(classes)
        assert data.scored(config) == {"semseg": "segmentation", "depth": "depth"}
        truth = only(data, config).truth
        assert truth["segmentation"][::4, 0].tolist() == wanted
        assert np.isnan(truth["depth"][:8]).all() and truth["depth"][8:] == pytest.approx(40.0)
    assert data.classes(segmenting(19).tasks[0])[13] == "car" and data.classes(segmenting(7).tasks[0])[3] == "car"
    assert data.scored(segmenting(5)) == {"depth": "depth"}


def test_nyud(tmp_path: Path) -> None:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[8:] = 40
    depth = np.where(labels > 0, np.float32(2.5), np.float32(0))
    for name in ("1", "2"):
        write(tmp_path / f"images/{name}.png", png(pixels(0)))
        write(tmp_path / f"segmentation/{name}.png", png(labels))
        write(tmp_path / f"depth/{name}.npy", npy(depth))
    write(tmp_path / "gt_sets/val.txt", "2\n")
    data, config = data_set(str(tmp_path)), segmenting(40, "map")
    assert [entry.name for entry in data.entries] == ["2"]
    assert data.scored(config) == {"semseg": "segmentation", "depth": "depth"}
    truth = only(data, config).truth
    assert set(truth["segmentation"][:8].flat) == {-1} and set(truth["segmentation"][8:].flat) == {39}
    assert np.isnan(truth["depth"][:8]).all() and (truth["depth"][8:] == 2.5).all()


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    for layout in (None, "masks", "cityscapes", "nyud"):
        with pytest.raises(EdgemoeError, match=f"no pictures in the layout {layout or 'imagefolder'}"):
            data_set(str(tmp_path), layout)


VOC = "examples/semantic_segmentation/data_dataset_voc"


@pytest.mark.full
def test_photographs_with_masks_that_people_drew(tmp_path: Path) -> None:
    """Street and indoor photographs of the package labelme, as its own users lay them out."""
    pytest.importorskip("torch")
    fetch = ["download", "--quiet", "--no-deps", "--no-binary", "labelme", "labelme==6.0.0", "-d", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", *fetch], check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("labelme*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    voc = next(tmp_path.glob(f"labelme*/{VOC}"))
    for source in sorted((voc / "JPEGImages").glob("*.jpg")):
        write(tmp_path / "set" / "images" / source.name, source.read_bytes())
        mask = (voc / "SegmentationClass" / source.name).with_suffix(".png")
        write(tmp_path / "set" / "masks" / mask.name, mask.read_bytes())
    task = TaskConfig(name="voc", kind="segmentation", channels=21, grid=2)
    model = random_checkpoint(replace(TINY, image_height=32, image_width=48, patch=16, tasks=(task,)))
    data = data_set(str(tmp_path / "set"))
    found = evaluation.evaluate(model, data, hardware=preset("base"), weight_bits="16", against=True)
    assert found.pictures >= 3 and 0 <= found.metrics["voc"]["mean_iou"] < 0.5
    truths = [data.sample(e, e.read(), model.config, "stretch").truth["segmentation"] for e in data.entries]
    assert len(set(np.concatenate(truths).flat)) > 3
    true = np.sum([row["voc"]["true"] for row in found.rows], axis=0)
    assert true.tolist() == [int((np.stack(truths) == number).sum()) for number in range(21)]
