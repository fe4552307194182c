# SPDX-License-Identifier: Apache-2.0
"""What the commands leave on disk: maps and raw predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemoe.host.images import depth_png, npy, png
from edgemoe.host.inference import colourised
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.folders import OutputFolder
from numpy.typing import NDArray


def map_files(config: ModelConfig, task: int) -> dict[str, Callable[[NDArray[Any]], bytes]]:
    """What is written of a task's prediction: end of the file's name -> the file. A task without a head has none.

    The coloured PNG, the raw prediction (values of a map as they are) as .npy, and depth as a 16-bit PNG (metres x 256)
    too; of a classifier the probabilities as .npy alone.
    """
    name, kind = config.tasks[task].name, config.tasks[task].kind
    if kind == "tokens":
        return {}
    if kind == "classification":
        return {f"-{name}.npy": npy}
    files: dict[str, Callable[[NDArray[Any]], bytes]] = {
        f"-{name}.png": lambda prediction: png(colourised(config, task, prediction)),
        f"-{name}.npy": npy,
    }
    return files | ({f"-{name}-metres256.png": depth_png} if kind == "depth" else {})


def map_names(base: str, config: ModelConfig, tasks: Iterable[int]) -> list[str]:
    """Names of all files of a picture."""
    return [base + end for task in tasks for end in map_files(config, task)]


def save_maps(
    folder: OutputFolder, base: str, config: ModelConfig, task: int, values: NDArray[Any] | None
) -> list[str]:
    """Write what is written of a task's prediction; returns the paths."""
    if values is None:
        return []
    return [str(folder.write(base + end, encode(values))) for end, encode in map_files(config, task).items()]


def table(title: str, rows: list[tuple[str, Any]]) -> None:
    """A two-column table on standard output."""
    show_table(title, [(name, str(value)) for name, value in rows])


LONGEST = 20  # pictures that a table lists


def pictures_table(streams: Sequence[Mapping[str, Any]]) -> None:
    """A line a picture: its file, its tasks, and where their files are."""
    lines: dict[int, tuple[str, list[str], list[str]]] = {}
    for stream in streams:
        name, tasks, files = lines.setdefault(stream["image"], (Path(stream["file"]).name, [], []))
        tasks.append(stream["task"])
        files += stream["outputs"]
    rows: list[tuple[str, str, str]] = []
    for name, tasks, files in list(lines.values())[:LONGEST]:
        folders = sorted({str(Path(file).parent) for file in files})
        what = f"{len(files)} file{'s' * (len(files) > 1)} in {', '.join(folders)}" if files else "none"
        rows.append((name, ", ".join(tasks), what))
    if len(lines) > LONGEST:
        rows.append((f"and {len(lines) - LONGEST} more", "", ""))
    show_table("Pictures", rows, ("picture", "tasks", "maps"))
