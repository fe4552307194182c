# SPDX-License-Identifier: Apache-2.0
"""Pictures with what is true of them: generated scenes, and folders as data sets are published.

| layout | files | what is true |
|---|---|---|
| `street:N` | none: N scenes that neither training nor calibration has seen | segmentation, depth |
| `imagefolder` | `CLASS/PICTURE`; CLASS: a label of the model, a number, or the next of as many | classification |
| `masks` | `images/NAME.*`, `masks/NAME.*`: numbers of classes, or 0 and 255 for 0 and 1 | segmentation |
| `cityscapes` | `leftImg8bit`, `gtFine`; perhaps `disparity`, `camera` | segmentation: its 19 or our 7; depth |
| `nyud` | `images`, `segmentation` (1 to 40), `depth` (metres), `gt_sets/val.txt` | segmentation, depth |

Elsewhere 255 is a pixel that is not counted, in `nyud` 0 is, too, in `cityscapes` what its benchmark leaves out.
What is true of a pixel goes where the pixel goes when a picture is resized: the nearest one's, never a mixture.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host.images import SUFFIXES, decode_image, decode_values, resized_values
from edgemoe.models import scenes
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError, listing
from edgemoe.models.numbers.calibrate import UNSEEN_SCENES, takes_scenes
from numpy.typing import NDArray

STREET = "street"
UNCOUNTED = -1  # label of a pixel that is not counted; of a depth it is NaN
VOID = 255  # the same, in files


@dataclass(frozen=True)
class Entry:
    """A picture of a data set. files: by what they hold; number: of its class, or its seed."""

    name: str
    files: Mapping[str, Path] = field(default_factory=dict)
    number: int = UNCOUNTED

    def read(self) -> dict[str, bytes]:
        """Contents of the files."""
        return {what: path.read_bytes() for what, path in self.files.items()}


@dataclass(frozen=True)
class Sample:
    """image uint8 [C, H, W] of the model's size. truth, by kinds of tasks: classes int16 [H, W], UNCOUNTED where none
    is known; metres float32 [H, W] or NaN; the number of the picture's class."""

    image: NDArray[np.uint8]
    truth: Mapping[str, Any]


@dataclass(frozen=True)
class DataSet(ABC):
    """Where pictures come from. entries: all of them, in an order that is always the same."""

    title: str
    entries: Sequence[Entry]

    @abstractmethod
    def scored(self, config: ModelConfig) -> Mapping[str, str]:
        """Tasks of a model of which something is true here, and of which kind that is."""

    @abstractmethod
    def sample(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Sample:
        """A picture, of the contents of its files."""

    def classes(self, task: TaskConfig) -> list[str]:
        """Names of a task's classes."""
        return list(task.labels) or [str(number) for number in range(task.channels)]


def _labels(values: NDArray, name: str, classes: int) -> NDArray[np.int16]:
    """Numbers of a file as classes."""
    if values.ndim != 2 or values.dtype.kind not in "uib":
        raise EdgemoeError(f"{name} holds {values.dtype} {list(values.shape)}, expected a class number of each pixel")
    found = values.astype(np.int64)
    found[found == VOID] = UNCOUNTED
    if found.size and not -1 <= found.min() <= found.max() < classes:
        raise EdgemoeError(
            f"{name} holds the class {int(found.max())}, the model has {classes}: expected 0 to {classes - 1}, or "
            f"{VOID} for what is not counted"
        )
    return found.astype(np.int16)


def _fitted(values: NDArray, config: ModelConfig, resize: str, outside: float) -> NDArray:
    return resized_values(values, config.image_width, config.image_height, resize, outside)


@dataclass(frozen=True)
class Street(DataSet):
    """Generated scenes."""

    @classmethod
    def of(cls, count: int) -> Street:
        seeds = range(UNSEEN_SCENES, UNSEEN_SCENES + count)
        return cls(f"{STREET}:{count}", [Entry(f"scene {seed}", number=seed) for seed in seeds])

    def scored(self, config: ModelConfig) -> Mapping[str, str]:
        found = {
            task.name: task.kind
            for task in config.tasks
            if task.kind == "depth" or (task.kind == "segmentation" and task.channels == len(scenes.CLASSES))
        }
        if found and not takes_scenes(config):
            raise EdgemoeError(
                f"model {config.name} takes pictures of {config.image_channels} x {config.image_height} x "
                f"{config.image_width}, the scenes are 3 x {scenes.HEIGHT} x {scenes.WIDTH}"
            )
        return found

    def sample(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Sample:
        street = scenes.cut(scenes.scene(entry.number), config.image_height, config.image_width)
        return Sample(street.image, {"segmentation": street.labels.astype(np.int16), "depth": street.depth})

    def classes(self, task: TaskConfig) -> list[str]:
        return list(scenes.CLASSES)


class _Files(DataSet):
    """A folder's pictures."""

    def sample(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Sample:
        image, _ = decode_image(io.BytesIO(files["image"]), str(entry.files["image"]), config, resize)
        return Sample(image, self.truth(entry, files, config, resize))

    @abstractmethod
    def truth(
        self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str
    ) -> Mapping[str, Any]: ...


def _pictures(folder: Path) -> list[Path]:
    """Those in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _beside(path: Path, folder: Path, what: str) -> Path:
    """The file of the same stem in another folder."""
    found = [other for other in sorted(folder.glob(f"{path.stem}.*")) if other.suffix.lower() in SUFFIXES]
    if not found:
        raise EdgemoeError(f"{path} has no {what}: expected {folder / path.stem}.png or .npy")
    return found[0]


def _by_number(names: Sequence[str]) -> list[str]:
    """Sorted; numbers by their value."""
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else sorted(names)


@dataclass(frozen=True)
class ImageFolder(_Files):
    """A folder for each class."""

    names: Sequence[str] = ()

    @classmethod
    def of(cls, folder: Path) -> ImageFolder:
        names = _by_number([path.name for path in folder.glob("[!.]*") if _pictures(path)])
        entries = [
            Entry(f"{name}/{path.name}", {"image": path}, number)
            for number, name in enumerate(names)
            for path in _pictures(folder / name)
        ]
        return cls(str(folder), entries, names)

    def _numbers(self, task: TaskConfig) -> list[int]:
        """The model's number of each class of the folder; none if they are not the model's."""
        if set(self.names) <= set(task.labels):
            return [task.labels.index(name) for name in self.names]
        if all(name.isascii() and name.isdigit() and int(name) < task.channels for name in self.names):
            return [int(name) for name in self.names]
        return list(range(task.channels)) if len(self.names) == task.channels else []

    def scored(self, config: ModelConfig) -> Mapping[str, str]:
        tasks = [task for task in config.tasks if task.kind == "classification"]
        found = {task.name: task.kind for task in tasks if self._numbers(task)}
        if tasks and not found:
            raise EdgemoeError(
                f"{self.title} has folders for {len(self.names)} classes ({listing(self.names, most=3)}), model "
                f"{config.name} has {tasks[0].channels}: name them by its labels or numbers"
            )
        return found

    def truth(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Mapping[str, Any]:
        numbers = (self._numbers(task) for task in config.tasks if task.kind == "classification")
        return {"classification": next(filter(None, numbers))[entry.number]}


@dataclass(frozen=True)
class Masks(_Files):
    """Pictures, and a mask for each."""

    @classmethod
    def of(cls, folder: Path) -> Masks:
        paths = _pictures(folder / "images")
        pairs = [{"image": path, "mask": _beside(path, folder / "masks", "mask")} for path in paths]
        return cls(str(folder), [Entry(pair["image"].name, pair) for pair in pairs])

    def scored(self, config: ModelConfig) -> Mapping[str, str]:
        return {task.name: task.kind for task in config.tasks if task.kind == "segmentation"}

    def truth(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Mapping[str, Any]:
        name = str(entry.files["mask"])
        values = decode_values(io.BytesIO(files["mask"]), name)
        if set(np.unique(values).tolist()) == {0, VOID}:
            values = values == VOID
        classes = min(task.channels for task in config.tasks if task.kind == "segmentation")
        return {"segmentation": _fitted(_labels(values, name, classes), config, resize, UNCOUNTED)}


# Cityscapes' classes in the order of its benchmark: number in gtFine_labelIds, and the scenes' class.
_CITY = {
    "road": (7, "road"), "sidewalk": (8, "road"), "building": (11, "building"), "wall": (12, "building"),
    "fence": (13, "building"), "pole": (17, "pole"), "traffic light": (19, "pole"), "traffic sign": (20, "pole"),
    "vegetation": (21, "vegetation"), "terrain": (22, "vegetation"), "sky": (23, "sky"), "person": (24, "person"),
    "rider": (25, "person"), "car": (26, "car"), "truck": (27, "car"), "bus": (28, "car"), "train": (31, "car"),
    "motorcycle": (32, "car"), "bicycle": (33, "car"),
}  # fmt: skip
_DISPARITY_SCALE = 256  # a 16-bit PNG holds disparity x 256 + 1, and 0 where there is none


@dataclass(frozen=True)
class Cityscapes(_Files):
    """Cityscapes; its validation, or the only part that is there."""

    @classmethod
    def of(cls, folder: Path) -> Cityscapes:
        splits = sorted(path.name for path in (folder / "leftImg8bit").glob("[!.]*") if path.is_dir())
        split = "val" if "val" in splits or not splits else splits[0]
        entries = []
        for path in sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.*")):
            city, name = path.parent.name, path.stem.removesuffix("_leftImg8bit")
            files = {
                "image": path,
                "labels": folder / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
                "disparity": folder / "disparity" / split / city / f"{name}_disparity.png",
                "camera": folder / "camera" / split / city / f"{name}_camera.json",
            }
            entries.append(Entry(name, {what: file for what, file in files.items() if file.is_file()}))
        return cls(str(folder), entries)

    def _has(self, *files: str) -> bool:
        return all(set(files) <= set(entry.files) for entry in self.entries)

    def scored(self, config: ModelConfig) -> Mapping[str, str]:
        known = (len(_CITY), len(scenes.CLASSES))
        segmentations = [t for t in config.tasks if t.kind == "segmentation" and t.channels in known]
        depths = [t for t in config.tasks if t.kind == "depth"] if self._has("disparity", "camera") else []
        return {task.name: task.kind for task in [*(segmentations if self._has("labels") else []), *depths]}

    def truth(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Mapping[str, Any]:
        truth: dict[str, Any] = {}
        if "labels" in files:
            seven = any(t.kind == "segmentation" and t.channels == len(scenes.CLASSES) for t in config.tasks)
            table = np.full(256, UNCOUNTED, np.int16)
            for number, (identity, street) in enumerate(_CITY.values()):
                table[identity] = scenes.CLASSES.index(street) if seven else number
            values = decode_values(io.BytesIO(files["labels"]), str(entry.files["labels"]))
            truth["segmentation"] = _fitted(table[values.astype(np.uint8)], config, resize, UNCOUNTED)
        if "disparity" in files and "camera" in files:
            camera = json.loads(files["camera"])
            metres = camera["extrinsic"]["baseline"] * camera["intrinsic"]["fx"]
            values = decode_values(io.BytesIO(files["disparity"]), str(entry.files["disparity"])).astype(np.float32)
            known = values > 1
            depth = np.where(known, metres * _DISPARITY_SCALE / np.where(known, values - 1, 1), np.nan)
            truth["depth"] = _fitted(depth.astype(np.float32), config, resize, np.nan)
        return truth

    def classes(self, task: TaskConfig) -> list[str]:
        return list(_CITY if task.channels == len(_CITY) else scenes.CLASSES)


@dataclass(frozen=True)
class Nyud(_Files):
    """NYUD-v2 as multi-task learning uses it."""

    CLASSES = 40

    @classmethod
    def of(cls, folder: Path) -> Nyud:
        chosen = folder / "gt_sets" / "val.txt"
        stems = chosen.read_text().split() if chosen.is_file() else None
        entries = []
        for path in _pictures(folder / "images"):
            if stems is None or path.stem in stems:
                labels = _beside(path, folder / "segmentation", "segmentation")
                entries.append(
                    Entry(
                        path.stem, {"image": path, "labels": labels, "depth": _beside(path, folder / "depth", "depth")}
                    )
                )
        return cls(str(folder), entries)

    def scored(self, config: ModelConfig) -> Mapping[str, str]:
        """(A map of one channel that is called depth holds metres, too.)"""
        return {
            task.name: "segmentation" if task.kind == "segmentation" else "depth"
            for task in config.tasks
            if (task.kind == "segmentation" and task.channels == self.CLASSES)
            or task.kind == "depth"
            or (task.kind == "map" and task.channels == 1 and task.name == "depth")
        }

    def truth(self, entry: Entry, files: Mapping[str, bytes], config: ModelConfig, resize: str) -> Mapping[str, Any]:
        labels = decode_values(io.BytesIO(files["labels"]), str(entry.files["labels"])).astype(np.int64)
        labels = np.where((labels == 0) | (labels == VOID), VOID, labels - 1)
        depth = decode_values(io.BytesIO(files["depth"]), str(entry.files["depth"])).astype(np.float32)
        return {
            "segmentation": _fitted(
                _labels(labels, str(entry.files["labels"]), self.CLASSES), config, resize, UNCOUNTED
            ),
            "depth": _fitted(np.where(depth > 0, depth, np.float32(np.nan)), config, resize, np.nan),
        }


LAYOUTS = {"imagefolder": ImageFolder, "cityscapes": Cityscapes, "nyud": Nyud, "masks": Masks}
_SHOWN_BY = {"cityscapes": "leftImg8bit", "nyud": "segmentation", "masks": "masks"}  # a folder that only they have


def data_set(data: str, layout: str | None = None) -> DataSet:
    """What --data and --layout name; without a layout it is recognised by the folder's folders."""
    name, colon, count = data.partition(":")
    if name == STREET and (colon or not Path(data).exists()):
        if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= 1_000_000:
            raise EdgemoeError(f"data is {data!r}, expected {STREET}:N, N generated scenes (1 to 1000000), or a folder")
        if layout:
            raise EdgemoeError(f"--layout is for a folder, {data} has none")
        return Street.of(int(count))
    folder = Path(data)
    if not folder.is_dir():
        raise EdgemoeError(f"data is {data!r}, expected {STREET}:N, N generated scenes, or a folder with pictures")
    shown = (name for name, inside in _SHOWN_BY.items() if (folder / inside).is_dir())
    chosen = layout or next(shown, "imagefolder")
    found = LAYOUTS[chosen].of(folder)  # type: ignore[attr-defined]
    if not found.entries:
        raise EdgemoeError(f"{folder} holds no pictures in the layout {chosen} (--layout: {', '.join(LAYOUTS)})")
    return found


def samples(
    data: DataSet, part: Sequence[tuple[Entry, Mapping[str, bytes] | None]], config: ModelConfig, resize: str
) -> Iterator[Sample]:
    """Of a part's entries; files that did not come with it are read here."""
    for entry, files in part:
        yield data.sample(entry, entry.read() if files is None else files, config, resize)
