# SPDX-License-Identifier: Apache-2.0
"""Pictures of a command line: which files they are, what their results are called, one by one through a model."""

from __future__ import annotations

import glob
import os
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from edgemoe.host import outputs
from edgemoe.host.images import SUFFIXES, read_image
from edgemoe.host.inference import Notices, Pass, best_classes, notice, prediction, stream
from edgemoe.host.totals import Totals
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError, listing
from edgemoe.models.files import whole
from edgemoe.models.folders import OutputFolder
from numpy.typing import NDArray


def picture_files(arguments: Sequence[Path]) -> list[Path]:
    """The files, each once, however often it is named.

    A folder stands for the pictures in it (by their suffixes, sorted, without hidden ones and those of folders below),
    a pattern that is no file's name for the files that match it, sorted.
    """
    found: dict[str, Path] = {}
    twice = []
    for argument in arguments:
        if os.path.isdir(argument):
            paths = sorted(p for p in argument.glob("[!.]*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not paths:
                raise EdgemoeError(f"folder {argument} holds no pictures ({' '.join(sorted(SUFFIXES))})")
        elif glob.has_magic(str(argument)) and not os.path.exists(argument):
            paths = sorted(p for p in map(Path, glob.glob(str(argument), recursive=True)) if p.is_file())
            if not paths:
                raise EdgemoeError(f"no file matches {argument}")
        else:
            paths = [argument]
        for path in paths:
            place = os.path.abspath(path)
            if place in found:
                twice.append(str(path))
            found.setdefault(place, path)
    if twice:
        notice(f"named more than once, computed once: {listing(twice)}")
    return list(found.values())


def read_images(arguments: Sequence[Path], config: ModelConfig, resize: str = "stretch") -> list[NDArray[np.uint8]]:
    """All of them, uint8 [C, H, W] each, with notices; an error if one cannot be read."""
    images, notices = [], Notices()
    for path in picture_files(arguments):
        pixels, remarks = read_image(path, config, resize)
        images.append(pixels)
        for remark in remarks:
            notices(path.name, remark)
    notices.close()
    return images


def result_names(paths: Sequence[Path], ends: Sequence[str]) -> list[str]:
    """A name for each picture such that no two files `name + end` are the same, also where upper and lower case are.

    The file's name without its suffix; where several are alike, its folder's name before it; where that is taken, a
    number after it.
    """

    def same(name: str) -> set[str]:
        return {unicodedata.normalize("NFC", name + end).casefold() for end in ends or [""]}

    stems = [path.stem for path in paths]
    counts: dict[str, int] = {}
    for stem in stems:
        key = min(same(stem))
        counts[key] = counts.get(key, 0) + 1
    taken: set[str] = set()
    names: dict[int, str] = {}
    wanted = []
    for path, stem in zip(paths, stems, strict=True):
        parent = path.parent.resolve().name if path.parent.name == ".." else path.parent.name
        wanted.append(stem if counts[min(same(stem))] == 1 or not parent else f"{parent}-{stem}")
    # Two rounds, so that a number never takes a name that is another picture's own.
    for number, name in enumerate(wanted):
        if not same(name) & taken:
            names[number] = name
            taken |= same(name)
    last: dict[str, int] = {}
    for number, name in enumerate(wanted):
        if number in names:
            continue
        suffix = last.get(name, 1) + 1
        while same(f"{name}-{suffix}") & taken:
            suffix += 1
        last[name] = suffix
        names[number] = f"{name}-{suffix}"
        taken |= same(names[number])
    return [names[number] for number in range(len(paths))]


class TokenFile:
    """Final tokens as one .npy file, float32 [streams, tokens, width], written as the streams come."""

    def __init__(self, file: BinaryIO, config: ModelConfig) -> None:
        self.file, self.shape, self.streams = file, (config.tokens, config.width), 0
        self._header()

    def _header(self) -> None:
        # numpy leaves room in the header for the first dimension to grow in place.
        described = {"descr": "<f4", "fortran_order": False, "shape": (self.streams, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, described)

    def add(self, tokens: NDArray[np.float32]) -> None:
        assert tokens.shape == self.shape
        self.file.write(np.ascontiguousarray(tokens, "<f4").tobytes())
        self.streams += 1

    def close(self) -> None:
        self.file.seek(0)
        self._header()


@dataclass
class Batch:
    """What became of a batch. failed: {"file", "error"} of each picture that could not be read.

    streams: {"image": its place among the pictures, "file", "task", "outputs", "pass", "cycles"} of each; streams of
    one pass ran together, and the cycles are those of the whole pass; "host_seconds" is what the host took from the
    device's values to the prediction. Of a classifier, "classes", too: the likeliest
    ones and their probabilities.
    """

    hardware: HardwareConfig
    pictures: int
    streams: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)

    def rows(self, clock_mhz: float, host: Mapping[str, str]) -> list[tuple[str, str]]:
        """What people want to know of the whole; host: by the name of the task, what the host computes of it."""
        rows = [("pictures", f"{self.pictures - len(self.failed)} of {self.pictures}")]
        rows += self.totals.rows(self.hardware, clock_mhz)
        return rows + [(f"host, {name}", work) for name, work in host.items() if work]


def infer_files(
    checkpoint: Checkpoint,
    paths: Sequence[Path],
    folder: OutputFolder,
    *,
    tasks: Sequence[int],
    hardware: HardwareConfig,
    resize: str = "stretch",
    tokens: Path | None = None,
    **options: Any,
) -> Batch:
    """Each picture is read when its pass comes, and its maps are saved before the next; one that cannot be read is
    noted and left out.

    tokens: the file for the final tokens. options: those of `inference.stream`. EdgemoeError if no picture can be read,
    and, before anything is computed, if a result would replace a picture, another result, or a file that is not
    edgemoe's.
    """
    config = checkpoint.config
    ends = outputs.map_names("", config, tasks)
    names = result_names(paths, ends)
    _check_names(paths, [name + end for name in names for end in ends], folder, tokens)
    for task in tasks:
        if config.tasks[task].kind == "tokens" and not tokens:
            notice(f"task {config.tasks[task].name} has no head: it results in tokens, which --save-tokens writes")
    result = Batch(hardware, len(paths))
    notices = Notices()
    order: list[int] = []

    def readable() -> Iterator[NDArray[np.uint8]]:
        for number, path in enumerate(paths):
            try:
                pixels, remarks = read_image(path, config, resize)
            except EdgemoeError as error:
                result.failed.append({"file": str(path), "error": str(error)})
                continue
            for remark in remarks:
                notices(path.name, remark)
            order.append(number)
            yield pixels

    def save(part: Pass, number: int) -> None:
        for place, (image, task) in enumerate(part.streams):
            which = order[image]
            final = part.run.tokens[place]
            started = time.perf_counter()
            values = prediction(checkpoint, task, part.images[place], part.run.heads[place], final)
            seconds = time.perf_counter() - started
            result.totals.host_seconds += seconds
            written = outputs.save_maps(folder, names[which], config, task, values)
            if token_file and final is not None:
                token_file.add(final)
            entry = {"image": which, "file": str(paths[which]), "task": config.tasks[task].name, "outputs": written}
            if values is not None and config.tasks[task].kind == "classification":
                entry["classes"] = best_classes(config, task, values)
            result.streams.append(entry | {"pass": number, "cycles": part.run.cycles, "host_seconds": seconds})
            result.outputs += written
        result.totals.add(part.run)

    with ExitStack() as stack:
        token_file = TokenFile(stack.enter_context(whole(tokens)), config) if tokens else None
        parts = stream(
            checkpoint,
            readable(),
            hardware=hardware,
            tasks=tasks,
            save_tokens=tokens is not None,
            count=len(paths),
            **options,
        )
        for number, part in enumerate(stack.enter_context(closing(parts))):
            save(part, number)
        notices.close()
        if not result.streams:
            first, others = result.failed[0]["error"], len(result.failed) - 1
            raise EdgemoeError(first + (f"; nor can the {others} other pictures be read" if others else ""))
        if token_file:
            token_file.close()
    if tokens:
        result.outputs.append(str(tokens))
    return result


def _check_names(paths: Sequence[Path], files: Sequence[str], folder: OutputFolder, tokens: Path | None) -> None:
    """No result replaces a picture or another result, or what is not edgemoe's."""
    given = {os.path.realpath(path): path for path in paths}
    written = [os.path.realpath(folder.path / name) for name in files]
    if both := [str(given[place]) for place in written if place in given]:
        raise EdgemoeError(f"{listing(both)}: both a picture to be read and the name of a result; name another --out")
    if tokens and (place := os.path.realpath(tokens)) in {*written, *given}:
        what = "a picture to be read" if place in given else "the name of a map"
        raise EdgemoeError(f"--save-tokens {tokens} is {what}; name another file")
    folder.check(files)
