# SPDX-License-Identifier: Apache-2.0
"""How good a model is as the hardware computes it, on pictures with known truth, beside the float model's figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host.inference import Session, images_together, notice, prediction
from edgemoe.host.studies import scheduler, scores
from edgemoe.host.studies.data import DataSet, Entry, Sample, Street, samples
from edgemoe.host.studies.scheduler import HERE, Study, Where
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.files import whole
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.sim.build import digest
from numpy.typing import NDArray

FLOAT = "float"
LABELS = {
    "mean_iou": "mean IoU",
    "iou": "IoU",
    "rmse_m": "RMSE (m)",
    "abs_rel": "AbsRel",
    "within_1.25": "within 1.25 times",
}
PASSES = {"emulator": 8}  # in a part; of slower devices one
BOARDS = ("fpga", "serial")


@dataclass(frozen=True)
class Quality:
    """How good the predictions for so many pictures are.

    metrics: by the name of the task, its figures; intervals: of each with 95 % confidence; classes: by task and class.
    against: the float model's "metrics", "intervals" and "classes", and by task how far the "difference" of each
    metric goes. cycles: None where the device counts none. rows: of each picture; not in the summary.
    """

    checkpoint: str
    data: str
    pictures: int
    seeds: tuple[int, int] | None
    device: str
    hardware: str
    weight_bits: WeightFormat
    metrics: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, list[float] | None]]
    classes: dict[str, dict[str, dict[str, Any]]]
    against: dict[str, Any] | None
    cycles: int | None
    pictures_per_second: float | None
    rows: list[dict[str, Any]] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        return {name: value for name, value in asdict(self).items() if name != "rows"}


@dataclass(frozen=True)
class Shared:
    """What all parts of an evaluation share. tasks: scored ones, by number, with the kind of their truth."""

    key: str
    checkpoint: Checkpoint
    hardware: HardwareConfig
    weight_bits: str
    device: str
    data: DataSet
    tasks: Mapping[int, str]
    resize: str
    against: bool


class Held:
    """What a worker keeps between parts: the model on the open device, and the float model."""

    def __init__(self, shared: Shared) -> None:
        self.session = Session(
            shared.checkpoint, device=shared.device, hardware=shared.hardware, weight_bits=shared.weight_bits
        )
        self.golden: Any = None
        if shared.against:
            import torch
            from edgemoe.models.golden import Golden

            torch.set_num_threads(1)  # sums have one order
            self.golden = Golden(shared.checkpoint).eval()

    def close(self) -> None:
        self.session.close()


def compute(shared: Shared, part: Sequence[tuple[Entry, Mapping[str, bytes] | None]]) -> list[dict[str, Any]]:
    """The rows of a part's pictures, in their order."""
    held = scheduler.held(shared.key, lambda: Held(shared))
    config, under_way = shared.checkpoint.config, dict[int, Sample]()

    def images() -> Iterator[NDArray[np.uint8]]:
        for number, sample in enumerate(samples(shared.data, part, config, shared.resize)):
            under_way[number] = sample
            yield sample.image

    rows: list[dict[str, Any]] = [{"picture": entry.name} for entry, _ in part]
    with closing(held.session.passes(images(), list(shared.tasks))) as passes:
        for found in passes:
            pictures = {image for image, _ in found.streams}
            if found.run.cycles:
                for image in pictures:
                    rows[image]["cycles"] = rows[image].get("cycles", 0) + found.run.cycles / len(pictures)
            for (image, task), head, tokens in zip(found.streams, found.run.heads, found.run.tokens, strict=True):
                _count(rows[image], shared, task, under_way[image], head, tokens)
    if held.golden:
        for number, row in enumerate(rows):
            row[FLOAT] = {}
            for task in shared.tasks:
                output = _golden(held.golden, under_way[number].image, task)
                _count(row[FLOAT], shared, task, under_way[number], *output)
    return rows


def _golden(model: Any, image: NDArray[np.uint8], task: int) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """(head, tokens) of the float model."""
    import torch

    with torch.no_grad():
        output = model(image.copy(), task)  # PyTorch wants arrays that can be written to
    return None if output.head is None else output.head[0].numpy(), output.tokens[0].numpy()


def _count(row: dict[str, Any], shared: Shared, task: int, sample: Sample, head: Any, tokens: Any) -> None:
    config, kind = shared.checkpoint.config, shared.tasks[task]
    found = prediction(shared.checkpoint, task, sample.image, head, tokens)
    assert found is not None
    row[config.tasks[task].name] = scores.count(kind, found, sample.truth[kind], config.tasks[task].channels)


def identity_of(checkpoint: Checkpoint) -> str:
    """Hash of all that a checkpoint holds."""
    tensors = {name: digest(np.ascontiguousarray(value).tobytes()) for name, value in checkpoint.tensors.items()}
    graphs = {name: digest(graph) for name, graph in checkpoint.graphs.items()}
    calibration = checkpoint.calibration and checkpoint.calibration.to_json()
    return digest(asdict(checkpoint.config), tensors, graphs, calibration)


def _entry_identity(entry: Entry) -> list[Any]:
    stamps = {what: (path.stat().st_size, path.stat().st_mtime_ns) for what, path in entry.files.items()}
    return [entry.name, entry.number, stamps]


def evaluate(
    checkpoint: Checkpoint,
    data: DataSet,
    *,
    hardware: HardwareConfig,
    weight_bits: str,
    device: str = "emulator",
    resize: str = "stretch",
    against: bool = False,
    where: Where = HERE,
) -> Quality:
    """Figures over all pictures of a data set, of the tasks of which it knows the truth.

    All tasks of a picture run in one pass where the hardware has room. Emulator and RTL give the same bits, hence the
    same figures. against: the float model sees the same pictures.
    """
    config = checkpoint.config
    scored = data.scored(config)
    if not scored:
        kinds = ", ".join(dict.fromkeys(task.kind for task in config.tasks))
        raise EdgemoeError(
            f"nothing to evaluate: model {config.name} has tasks of kind {kinds}, for which {data.title} knows no truth"
        )
    if device in BOARDS and not where.here:
        raise EdgemoeError(
            f"a board is driven by one process: --device {device} goes without --workers and --scheduler"
        )
    tasks = {config.task_index(name): kind for name, kind in scored.items()}
    if against and any(config.tasks[task].decoder == "onnx" for task in tasks):
        raise EdgemoeError("the float model has no ONNX decoder: leave out --against float")
    together = max(1, images_together(config, hardware, len(tasks))) * PASSES.get(device, 1)
    groups = [data.entries[first : first + together] for first in range(0, len(data.entries), together)]
    identity = {
        "study": "evaluate",
        "checkpoint": identity_of(checkpoint),
        "hardware": hardware.sizes,
        "weight_bits": weight_bits,
        "device": device,
        "data": [data.title, type(data).__name__, digest([_entry_identity(entry) for entry in data.entries])],
        "resize": resize,
        "against": against,
    }
    shared = Shared(digest(identity), checkpoint, hardware, weight_bits, device, _alone(data), tasks, resize, against)
    study = Study(
        title=f"{config.name} on {device}, {hardware.name}",
        unit="pictures",
        compute=compute,
        identity=identity,
        shared=shared,
        parts=[partial(_part, group, where.elsewhere) for group in groups],
        sizes=[len(group) for group in groups],
        packages=("torch",) if against else (),
    )
    outcome = scheduler.run(study, where)
    rows = [{"index": index, **row} for index, row in enumerate(row for part in outcome.results for row in part)]
    own, others = _figures(data, checkpoint, tasks, rows), None
    if against:
        floating = [row[FLOAT] for row in rows]
        others = _figures(data, checkpoint, tasks, floating)
        others["difference"] = {
            config.tasks[task].name: scores.difference(
                kind,
                [row[config.tasks[task].name] for row in rows],
                [row[config.tasks[task].name] for row in floating],
                len(data.classes(config.tasks[task])),
            )
            for task, kind in tasks.items()
        }
    cycles = [row["cycles"] for row in rows if "cycles" in row]
    numbers = [entry.number for entry in data.entries]
    return Quality(
        checkpoint=config.name,
        data=data.title,
        pictures=len(rows),
        seeds=(numbers[0], numbers[-1]) if isinstance(data, Street) else None,
        device=device,
        hardware=hardware.name,
        weight_bits=WeightFormat.of(weight_bits),
        against=others,
        cycles=round(sum(cycles)) if cycles else None,
        pictures_per_second=outcome.rate,
        rows=rows,
        **own,
    )


def _alone(data: DataSet) -> DataSet:
    """A data set without its entries, which come with the parts."""
    return replace(data, entries=())


def _part(entries: Sequence[Entry], elsewhere: bool) -> list[tuple[Entry, Mapping[str, bytes] | None]]:
    return [(entry, entry.read() if elsewhere else None) for entry in entries]


def _figures(
    data: DataSet, checkpoint: Checkpoint, tasks: Mapping[int, str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """metrics, intervals and classes, by task."""
    found: dict[str, Any] = {"metrics": {}, "intervals": {}, "classes": {}}
    for task, kind in tasks.items():
        chosen = checkpoint.config.tasks[task]
        figures = scores.figures(kind, [row[chosen.name] for row in rows], data.classes(chosen))
        found["metrics"][chosen.name], found["intervals"][chosen.name] = figures.values, figures.intervals
        if figures.classes:
            found["classes"][chosen.name] = figures.classes
    return found


# -------------------------------------------------------------------------------------------------------------- rows


def check_rows_file(path: Path) -> None:
    """EdgemoeError, before any long work, if rows cannot be written there."""
    from edgemoe.models import folders

    if path.suffix not in (".jsonl", ".parquet"):
        raise EdgemoeError(f"cannot write rows to {path}: its suffix must be .jsonl (JSON lines) or .parquet")
    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401  (a message of its own if it is not there)
    folders.writable_file(path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A row of each picture: as JSON lines, or as Parquet, by the file's suffix."""
    with whole(path) as file:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
        else:
            file.writelines(json.dumps(row).encode() + b"\n" for row in rows)


# ------------------------------------------------------------------------------------------------------------- table


def show(report: Quality) -> None:
    """Tables on standard output: metrics with their intervals, beside the float model's, and figures of the classes."""
    from edgemoe.models.console import show_table

    rows, other = [], report.against
    for task, metrics in report.metrics.items():
        for name, value in metrics.items():
            shown = [
                f"{task}, {LABELS.get(name, name.replace('_', ' '))}",
                _text(value),
                _range(report.intervals[task][name]),
            ]
            if other:
                apart = other["difference"][task][name]
                shown += [
                    _text(other["metrics"][task][name]),
                    _text(apart["difference"], "+.5f"),
                    _range(apart["interval"], "+.5f"),
                ]
            rows.append(shown)
    headers = ["metric", "value", "95 % interval", *(["float", "difference", "95 % interval"] if other else [])]
    show_table(f"{report.checkpoint}, {report.weight_bits.label}, {report.data}", rows, headers)
    for task, classes in report.classes.items():
        figure = next(name for name in next(iter(classes.values())) if name != "interval")
        lines = []
        for name, entry in classes.items():
            theirs = [_text(other["classes"][task][name][figure])] if other else []
            lines.append((name, _text(entry[figure]), _range(entry["interval"]), *theirs))
        show_table(task, lines, ("class", LABELS.get(figure, figure), "95 % interval", *(["float"] if other else [])))
    if report.pictures_per_second:
        notice(f"{report.pictures} pictures, {report.pictures_per_second:.3g} a second")


def _text(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _range(interval: Sequence[float] | None, form: str = ".4f") -> str:
    return "-" if interval is None else f"{_text(interval[0], form)} to {_text(interval[1], form)}"
