# SPDX-License-Identifier: Apache-2.0
"""What `import edgemoe` shows: load a model, open it on a device, give it pictures, take maps.

    import edgemoe

    model = edgemoe.load("m3vit-micro")
    with edgemoe.open(model, device="emulator", hardware="base") as session:
        result = session.infer(["street.png"], tasks=["depth"])
    result[0]["depth"].save("depth.png")

Nothing is printed: progress is a callback, remarks stand in the results, notices go to the logger "edgemoe". A session
may be used by several threads, one call at a time runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np
from edgemoe.host import inference
from edgemoe.host.images import depth_png, npy, picture_pixels, png, read_image
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.hardware_option import configured
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError, listing
from edgemoe.models.files import write_whole
from numpy.typing import NDArray
from PIL import Image

#: A picture: the path of a file, a Pillow image, or uint8 [height, width, channels].
Picture = Union[str, "os.PathLike[str]", Image.Image, NDArray[np.uint8]]
#: Called now and then with (instructions done, instructions of the pass, what is being done).
Progress = Callable[[int, int, str], None]


def load(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """A checkpoint by the name of a preset that comes along ("m3vit-micro"), or from a .safetensors file.

    EdgemoeError if there is none, or if it does not hold what its configuration says.
    """
    return checkpoints.load(name_or_path)


@dataclass(frozen=True)
class Prediction:
    """What a task gave for a picture.

    kind     "segmentation", "depth", "map", "classification", "features" or "tokens"
    map      [height, width] of the model's picture: class numbers uint8, or metres float32; of kind "map" values as
             they are, float32 [h, w] or [h, w, channels], in a size of its own where a graph decodes; of a classifier
             the probabilities float32 [classes]; features float32 [tokens, width]; None for "tokens"
    tokens   final tokens float32 [tokens, width] of the encoder, where they were asked for (always for "tokens"); else
             None
    """

    task: str
    kind: str
    map: NDArray[Any] | None
    tokens: NDArray[np.float32] | None
    _config: ModelConfig = field(repr=False)

    def colour(self) -> Image.Image:
        """The map as people look at it; of features the first three principal components."""
        if self.map is None or self.kind == "classification":
            what = "tokens" if self.map is None else "classes"
            raise EdgemoeError(f"task {self.task} gives {what}, which have no picture")
        return Image.fromarray(inference.colourised(self._config, self._config.task_index(self.task), self.map))

    def classes(self, most: int = 5) -> dict[str, float]:
        """The likeliest classes, by their labels or numbers, with their probabilities; the first is the likeliest."""
        if self.map is None or self.kind != "classification":
            raise EdgemoeError(f"task {self.task} is of kind {self.kind!r}, which has no classes of a picture")
        return inference.best_classes(self._config, self._config.task_index(self.task), self.map, most)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the map, by the suffix: .png coloured; .npy raw (tokens, too);
        .metres256.png depth as 16 bit, metres x 256.
        """
        target = Path(path)
        if target.suffix.lower() == ".npy":
            values = self.tokens if self.map is None else self.map
            data = npy(values) if values is not None else b""
        elif target.name.lower().endswith(".metres256.png") and self.kind == "depth" and self.map is not None:
            data = depth_png(self.map)
        elif target.suffix.lower() == ".png":
            data = png(np.asarray(self.colour()))
        else:
            raise EdgemoeError(f"cannot save to {target}: its suffix must be .png or .npy")
        write_whole(target, data)
        return target


@dataclass(frozen=True)
class PictureResult(Mapping[str, Prediction]):
    """What the tasks gave for one picture, by their names.

    source    its path, or None
    remarks   how it was read, where that was not plain: resized, laid on white, ...
    cycles    of the passes that it took part in, shared evenly among their streams; None where the device counts none
              (the emulator)
    """

    source: Path | None
    remarks: tuple[str, ...]
    cycles: float | None
    predictions: Mapping[str, Prediction]

    def __getitem__(self, task: str) -> Prediction:
        if task not in self.predictions:
            raise EdgemoeError(f"there is no result of a task {task!r}: there are {listing(self.predictions)}")
        return self.predictions[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    def __contains__(self, task: object) -> bool:
        return task in self.predictions


class Session:
    """A model on a device. Made by `open`; closing it (or leaving its `with`) gives the device back.

    The device is opened and the weights are loaded with the first call of `infer`, later calls find them there.
    """

    def __init__(self, engine: inference.Session, resize: str) -> None:
        self._engine, self._resize = engine, resize
        self._lock = threading.Lock()
        self._closed = False

    @property
    def model(self) -> Checkpoint:
        """The checkpoint that it runs."""
        return self._engine.checkpoint

    @property
    def hardware(self) -> HardwareConfig:
        """The build that it runs on."""
        return self._engine.hardware

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the model's tasks."""
        return tuple(task.name for task in self._engine.config.tasks)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the device back. May be repeated."""
        with self._lock:
            self._engine.close()
            self._closed = True

    def infer(
        self, pictures: Sequence[Picture], tasks: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> list[PictureResult]:
        """Every picture through the named tasks (default: all), as many in a pass as the hardware has rows for.

        EdgemoeError, before anything runs, if a picture cannot be read or a task is unknown; also if `tasks` is empty,
        or the session closed. No pictures give no results.
        """
        config = self._engine.config
        if isinstance(pictures, str | os.PathLike | Image.Image | np.ndarray):
            raise EdgemoeError("infer takes a list of pictures: put the one into brackets")
        if isinstance(tasks, str) or tasks is not None and not tasks:
            raise EdgemoeError(f"tasks must be names in a list, some of {listing(self.tasks)}, or None for all of them")
        numbers = inference.tasks_of(config, tasks)
        read = [self._read(picture, number) for number, picture in enumerate(pictures)]
        predictions: list[dict[str, Prediction]] = [{} for _ in read]
        cycles: list[float | None] = [None] * len(read)
        with self._lock:
            if self._closed:
                raise EdgemoeError("this session is closed: open another one")
            images = [pixels for _, pixels, _ in read]
            for part in self._engine.passes(images, numbers, lambda done, share: progress):
                for place, (image, task) in enumerate(part.streams):
                    name, kind = config.tasks[task].name, config.tasks[task].kind
                    tokens = part.run.tokens[place]
                    shown = inference.prediction(self.model, task, part.images[place], part.run.heads[place], tokens)
                    predictions[image][name] = Prediction(name, kind, shown, tokens, config)
                    if part.run.cycles:
                        cycles[image] = (cycles[image] or 0.0) + part.run.cycles / len(part.streams)
        return [
            PictureResult(source, tuple(remarks), cycles[i], predictions[i])
            for i, (source, _, remarks) in enumerate(read)
        ]

    def _read(self, picture: Picture, number: int) -> tuple[Path | None, NDArray[np.uint8], list[str]]:
        """(its path, uint8 [channels, height, width] of the model's size, remarks)."""
        if isinstance(picture, str | os.PathLike):
            path = Path(picture)
            return path, *read_image(path, self._engine.config, self._resize)
        return None, *picture_pixels(picture, self._engine.config, self._resize, f"picture {number}")


def open(  # the name that io.open has in its module, and Image.open in Pillow's
    model: Checkpoint | str | os.PathLike[str],
    *,
    device: str = "verilator",
    hardware: HardwareConfig | str = "base",
    weight_bits: str | None = None,
    tokens: bool = False,
    resize: str = "stretch",
    bitstream: str | os.PathLike[str] | None = None,
    uio: str | None = None,
    port: str | None = None,
    baud: int | None = None,
) -> Session:
    """A model, ready to be run on a device.

    model        what `load` gives, or what it takes
    device       "emulator", "verilator", "fpga" or "serial"
    hardware     name of a preset, a .toml file, or a HardwareConfig: what the device was built as
    weight_bits  "16", "8" or "mixed"; default: the hardware's own
    tokens       predictions carry the encoder's final tokens, too
    resize       what happens to pictures of another size: "stretch", "crop" or "pad"
    bitstream, uio: for "fpga"; port, baud: for "serial", as the commands' options of these names
    """
    checkpoint = model if isinstance(model, Checkpoint) else load(model)
    chosen = hardware if isinstance(hardware, HardwareConfig) else configured(hardware)
    if device not in inference.DEVICES:
        raise EdgemoeError(f"unknown device {device!r}: choose one of {', '.join(inference.DEVICES)}")
    engine = inference.Session(
        checkpoint,
        device=device,
        hardware=chosen,
        weight_bits=weight_bits or chosen.weight_bits,
        save_tokens=tokens,
        bitstream=Path(bitstream) if bitstream else None,
        port=inference.SerialPort.of(port, baud),
        uio=uio,
    )
    return Session(engine, resize)


__all__ = ["Picture", "PictureResult", "Prediction", "Progress", "Session", "load", "open"]
