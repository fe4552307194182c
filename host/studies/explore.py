# SPDX-License-Identifier: Apache-2.0
"""Which configuration for a model on a board? All that make sense are planned, their resources predicted, and what is
left is what none other beats in everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from edgemoe.boards.facts import Board
from edgemoe.host import inference
from edgemoe.host.compiler.capacities import Shortage
from edgemoe.host.studies import area, benchmark, fit, scheduler
from edgemoe.host.studies import plan as planning
from edgemoe.host.studies.scheduler import HERE, Study, Where
from edgemoe.hw.contract.config import CHOICES, HardwareConfig
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.sketch import sketch
from edgemoe.sim.build import digest

AIMS = ("milliseconds", "dsp", "bram")  # less is better; of "db" more
PREFETCH = (256, 512, 1024)


@dataclass(frozen=True)
class Candidate:
    """A build, and the model's kind of attention on it."""

    hardware: HardwareConfig
    kind: str


@dataclass(frozen=True)
class Shared:
    """What all candidates share."""

    model: ModelConfig
    tasks: tuple[int, ...]
    board: Board


def formats_of(config: ModelConfig) -> list[WeightFormat]:
    """What is tried unless one is asked for; a format of its own for experts, if there are any."""
    tried = (*WeightFormat.plain(), WeightFormat.FAST, WeightFormat.FAST_TRUNK)
    return [f for f in tried if config.moe_layers or f not in (WeightFormat.MIXED, WeightFormat.FAST_TRUNK)]


def weighed(config: ModelConfig, kind: str) -> ModelConfig:
    """The model with another kind of attention."""
    return config if kind == config.attention else replace(config, attention=kind, features=0)


def candidates(
    config: ModelConfig, board: Board, tasks: int, formats: Sequence[str], kinds: Sequence[str]
) -> Iterator[Candidate]:
    """Builds with just the capacities that the model asks for: array sides, masters, streams in a pass, prefetch.
    Products are packed for the formats that do so; such an array may have twice as many rows.
    """
    together = {packed: [f for f in formats if WeightFormat.of(f).fast == packed] for packed in (False, True)}
    arrays = [(lanes, lanes, packed) for lanes in map(int, CHOICES["lanes"]) for packed in (False, True)]
    arrays += [(2 * lanes, lanes, True) for lanes in map(int, CHOICES["lanes"])]
    sizes = product(kinds, arrays, range(1, len(board.memory_ports) + 1), range(1, tasks + 1), PREFETCH)
    for kind, (rows, lanes, packed), masters, streams, prefetch in sizes:
        if not together[packed]:
            continue
        fields = {
            "name": f"{rows}x{lanes}, {masters} x {board.hardware.data_bits} bit, {streams} of {tasks} tasks, "
            f"{prefetch} beats" + (f", {kind}" if len(kinds) > 1 else ""),
            "lanes": lanes,
            "array_rows": rows,
            "packed": int(packed),
            "masters": masters,
            "data_bits": board.hardware.data_bits,
            "rows": streams * config.tokens,
            "tokens": config.tokens,
            "width": config.width,
            "hidden": max(config.hidden, config.expert_hidden, 2 * config.width),
            "experts": max(1, config.experts),
            "top_k": max(1, config.top_k),
            "prefetch_beats": prefetch,
            "activations": config.activation,
            "attention": weighed(config, kind).weighings,
        }
        try:
            build = HardwareConfig.from_fields(fields)
        except EdgemoeError:  # no such build: its bus is wider than two words, or a size has no address
            continue
        for bits in together[packed]:
            if not packed or weighed(config, kind).packable:
                yield Candidate(replace(build, weight_bits=bits), kind)


def compute(shared: Shared, candidate: Candidate) -> dict[str, Any]:
    """One candidate: its figures, or what is short of what."""
    hardware, kind = candidate.hardware, candidate.kind
    model = sketch(weighed(shared.model, kind), hardware.weight_bits)
    found: dict[str, Any] = {"weight_bits": hardware.weight_bits, "attention": kind}
    options: dict[str, Any] = dict(
        tasks=shared.tasks,
        clock_mhz=shared.board.clock_mhz,
        dram=planning.Dram(beat=shared.board.beat_cycles),
        device_bytes=hardware.masters * shared.board.memory_bytes,
    )
    try:
        try:
            planned = planning.plan(model, hardware, **options)
        except Shortage as shortage:
            if not shortage.changes:
                raise
            hardware = HardwareConfig.from_fields(shortage.changes, hardware)
            planned = planning.plan(model, hardware, **options)
    except EdgemoeError as error:
        return found | {"hardware": asdict(hardware), "refused": str(error)}
    found["hardware"] = asdict(hardware)
    found |= {"cycles": planned.cycles, "milliseconds": planned.cycles / shared.board.clock_mhz / 1e3}
    found |= area.predicted(hardware, shared.board)
    try:
        fit.check(shared.board, hardware, {kind: found[kind] for kind in fit.NAMES[shared.board.family]})
    except EdgemoeError as error:
        found["refused"] = str(error)
    return found


def pareto(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that none other beats in one aim and equals in the rest, the fastest first; of twins the first.
    A hundredth of the time and half a decibel make no difference.
    """

    def aims(one: Mapping[str, Any]) -> tuple[float, ...]:
        time, *sizes = (one[aim] for aim in AIMS)
        return (round(100 * math.log(time)), *sizes, -round(2 * (one["db"] or 0.0)))

    best: list[dict[str, Any]] = []
    for one in sorted(found, key=lambda one: (*aims(one), one["milliseconds"])):
        if not any(all(a <= b for a, b in zip(aims(other), aims(one), strict=True)) for other in best):
            best.append(one)
    return best


def explore(
    config: ModelConfig,
    board: Board,
    *,
    tasks: Sequence[int],
    formats: Sequence[str] = (),
    kinds: Sequence[str] = (),
    decibels: Mapping[tuple[str, str], float] | None = None,
    where: Where = HERE,
) -> dict[str, Any]:
    """found: all that fit, pareto: the best of them; refused: how many do not, and one reason; error: of the predicted
    resources.

    kinds: of attention, the model's own without. decibels: by kind and format of the weights, what is left of the
    model's accuracy.
    """
    kinds = kinds or [config.attention]
    formats = formats or formats_of(config)
    area.predicted(board.hardware, board)  # or say that they cannot be
    builds = list(candidates(config, board, len(tasks), formats, kinds))
    identity = {
        "study": "explore",
        "model": asdict(config),
        "board": repr(board),
        "tasks": list(tasks),
        "builds": digest([asdict(build) for build in builds]),
    }
    study = Study(
        title=f"{config.name} on {board.name}",
        unit="configurations",
        compute=compute,
        identity=identity,
        shared=Shared(config, tuple(tasks), board),
        parts=[partial(replace, build) for build in builds],
        sizes=[1] * len(builds),
    )
    results = scheduler.run(study, where).results
    refused = [one for one in results if "refused" in one]
    known = decibels or {}
    fit_in = [one for one in results if "refused" not in one]
    good = [one | {"db": known.get((one["attention"], one["weight_bits"]))} for one in fit_in]
    if not good:
        raise EdgemoeError(f"no configuration for model {config.name} fits board {board.name}: {refused[0]['refused']}")
    return {
        "model": config.name,
        "board": board.name,
        "tasks": [config.tasks[task].name for task in tasks],
        "clock_mhz": board.clock_mhz,
        "tried": len(results),
        "refused": len(refused),
        "why": refused[-1]["refused"] if refused else None,
        "error": area.error(),
        "device": dict(board.resources),
        "found": good,
        "pareto": pareto(good),
    }


def stand_in(config: ModelConfig, kind: str) -> Checkpoint:
    """Random weights for a model that has none, or none for that kind of attention."""
    from edgemoe.models.numbers.calibrate import calibrate

    made = benchmark.random_checkpoint(weighed(config, kind))
    return replace(made, calibration=calibrate(made, error_aware=()))  # on more than the one picture of theirs


def decibels(checkpoint: Checkpoint, formats: Sequence[str], hardware: HardwareConfig) -> dict[tuple[str, str], float]:
    """By the model's kind of attention and by format, the least decibels of any task's final tokens on a picture that
    calibration never saw. They are a matter of the words, not of the build."""
    from edgemoe.host.studies import checking
    from edgemoe.models.numbers.calibrate import unseen_images

    images, kind, found = list(unseen_images(checkpoint.config)), checkpoint.config.attention, {}
    for bits in formats:
        packed = WeightFormat.of(bits).fast
        if packed and not checkpoint.config.packable:
            continue
        build = replace(hardware, attention=checkpoint.config.weighings, packed=int(packed))
        accuracy = checking.check(checkpoint, images, hardware=build, weight_bits=bits, rtl=False).accuracy
        assert accuracy is not None
        found[kind, str(bits)] = min(accuracy.sqnr_db_routed.values())
    return found


def measure(report: dict[str, Any], checkpoint: Checkpoint, count: int) -> None:
    """Add "measured_cycles" to the fastest so many of the best: the RTL's on a picture that calibration never saw, with
    that picture's routes, while the planned ones are of balanced queues."""
    from edgemoe.models.numbers.calibrate import unseen_images

    config = checkpoint.config
    tasks = [config.task_index(name) for name in report["tasks"]]
    for one in report["pareto"][:count]:
        hardware = HardwareConfig(**one["hardware"])
        used = checkpoint if one["attention"] == config.attention else stand_in(config, one["attention"])
        ran = inference.infer(
            used, list(unseen_images(config)), tasks=tasks, hardware=hardware, weight_bits=one["weight_bits"]
        )
        one["measured_cycles"] = ran.totals().cycles


def show(report: Mapping[str, Any]) -> None:
    """A table of the best on standard output."""
    rows = []
    for one in report["pareto"]:
        ran = one.get("measured_cycles")
        rows.append(
            (
                one["hardware"]["name"],
                WeightFormat.of(one["weight_bits"]).label,
                f"{one['milliseconds']:.2f}",
                f"{one['cycles']:,}",
                *(f"{one[kind]:,}" for kind in ("dsp", "bram", "uram", "lut")),
                "-" if one["db"] is None else f"{one['db']:.1f}",
                "-" if ran is None else f"{ran:,} ({ran / one['cycles'] - 1:+.1%})",
            )
        )
    headers = ("hardware", "weights", "ms", "cycles", "DSP", "BRAM", "URAM", "LUT", "dB", "RTL's cycles")
    title = f"{report['model']} on {report['board']}, all of {', '.join(report['tasks'])}: what none other beats"
    show_table(title, rows, headers)
    errors = ", ".join(f"{kind} {share:.1%}" for kind, share in report["error"].items())
    print(f"{report['tried']} tried, {report['refused']} refused; resources are predictions, off by up to {errors}")


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Milliseconds against DSP slices, colour by block RAM; what none other beats is joined."""
    from edgemoe.host.studies.drawing import pyplot, save_figure

    figure, axes = pyplot().subplots(figsize=(8, 5), layout="constrained")
    found, best = report["found"], report["pareto"]
    drawn = axes.scatter(
        [one["milliseconds"] for one in found], [one["dsp"] for one in found], c=[one["bram"] for one in found], s=18
    )
    figure.colorbar(drawn, label="BRAM36")
    front = pareto([one | {"bram": 0, "db": None} for one in best])
    axes.plot([one["milliseconds"] for one in front], [one["dsp"] for one in front], color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.set_xlabel(f"milliseconds at {report['clock_mhz']:g} MHz")
    axes.set_ylabel("DSP slices")
    axes.set_title(f"{report['model']} on {report['board']}")
    save_figure(figure, path)
