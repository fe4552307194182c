# SPDX-License-Identifier: Apache-2.0
"""One picture through all tasks of a model, and all that can be said of it: when what ran, where cycles and bytes went,
who chose which expert, who looked at whom, and what rounding cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from edgemoe.host import compiler, inference
from edgemoe.host.compiler.link import link
from edgemoe.host.compiler.timing import follow
from edgemoe.host.runtime.driver import Driver, Run
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.host.runtime.routing import expert_queues, routes_by_token
from edgemoe.host.studies import benchmark, checking
from edgemoe.host.studies.profile import pictures, timeline
from edgemoe.host.studies.profile.attention import attention
from edgemoe.host.studies.profile.recorder import Recorder
from edgemoe.host.studies.traffic import Bytes, Use, traffic
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode
from edgemoe.models import extras
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.numbers.quantise import QuantisedModel, quantise
from numpy.typing import NDArray

DETAIL = 2 * timeline.BINS  # looks at a run, besides those at the ends of instructions


@dataclass
class Profile:
    """What was found, as tables: rows of named values, in the order of the run.

    source       of cycles and timeline: "rtl", the simulated core; "plan", the planner's model of it
    states       what cycles are told apart by -> what it means
    timeline     a row an execution (`timeline.Span`); activity: a row a slice of time
    parts        cycles by part of the model and state; kinds: by kind of instruction and state
    queues       tokens of each expert, layer and task; routes: experts of every token, the first choice first
    attention    shares as grey pictures (`pictures.grey`)
    decibels     after every operation, None without PyTorch; accuracy: of final tokens and routes, by task
    bytes        by what they are for, moved and unavoidable; experts: of the weights of one, by layer
    """

    model: dict[str, Any]
    hardware: dict[str, Any]
    weight_bits: str
    picture: dict[str, Any]
    tasks: list[str]
    source: str
    passes: int = 0
    cycles: int = 0
    floor: float = 0.0
    macs: int = 0
    states: Mapping[str, str] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    activity: list[dict[str, float]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    queues: list[dict[str, Any]] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    attention: list[dict[str, Any]] = field(default_factory=list)
    decibels: list[dict[str, Any]] | None = None
    accuracy: dict[str, dict[str, float | None]] = field(default_factory=dict)
    bytes: list[dict[str, Any]] = field(default_factory=list)
    experts: list[dict[str, int | None]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """What --json shows, and all that the page knows."""
        lanes = self.hardware["lanes"]
        multipliers = lanes * self.hardware.get("array_rows", lanes)
        return asdict(self) | {
            "clock_mhz": inference.CLOCK_MHZ,
            "milliseconds": self.cycles / inference.CLOCK_MHZ / 1e3,
            "floor_ratio": self.cycles / self.floor,
            "mac_utilisation": self.macs / (self.cycles * multipliers),
            "bytes_moved": sum(row["moved"] for row in self.bytes),
            "bytes_minimum": sum(row["minimum"] for row in self.bytes),
        }


def profile(
    checkpoint: Checkpoint,
    image: NDArray[np.uint8],
    *,
    hardware: HardwareConfig,
    weight_bits: str,
    name: str = "image",
    rtl: bool = True,
) -> Profile:
    """Of one picture, uint8 [C, H, W], through all tasks. rtl: cycles are those of the simulated core."""
    config, source = checkpoint.config, "rtl" if rtl else "plan"
    model = quantise(checkpoint, weight_bits)
    grid = {"patches_per_row": config.patches_per_row, "patches_per_column": config.patches_per_column}
    found = Profile(
        model=asdict(config) | grid,
        hardware={"name": hardware.name, **hardware.sizes},
        weight_bits=model.weight_bits.label,
        picture={"name": name, "png": pictures.address(pictures.seen(image))},
        tasks=[task.name for task in config.tasks],
        source=source,
        states=timeline.MEANING[source],
    )
    options: dict[str, Any] = dict(hardware=hardware, weight_bits=weight_bits)
    told = inference.infer(checkpoint, [image], device="emulator", model=model, trace=True, **options)
    found.results = [pictures.result(config, task, told.map(n)) for n, (_, task) in enumerate(told.streams)]
    work = [_work(found, model, run, image, hardware) for run in told.runs]
    found.parts = [
        {"part": part, "state": state, "cycles": cycles}
        for part, states in _sums(found.timeline, "part").items()
        for state, cycles in states.items()
    ]
    if rtl:
        found.kinds = benchmark.breakdown([run for run in work if run])["kinds"]
    else:
        found.kinds = _sums(found.timeline, "unit")
    for run in told.runs:
        _routes(found, run)
        _attention(found, run)
    if extras.present("torch"):
        _accuracy(found, checking.check(checkpoint, [image], rtl=False, quiet=True, **options))
    return found


def _work(
    found: Profile, model: QuantisedModel, told: Run, image: NDArray[np.uint8], hardware: HardwareConfig
) -> Run | None:
    """Cycles and bytes of a pass, without the traces that the emulator's has; the run, where it was simulated."""
    outline = compiler.outline(model, told.program.streams, hardware)
    program, queues = link(outline, model, hardware), [one.lengths for one in expert_queues(told.program, told.routes)]
    every = list(follow(program.instructions, hardware, queues))
    executions = [e for e in every if program.instructions[e.number].opcode != Opcode.EXPERTS]
    marks, run = timeline.planned(executions, hardware), None
    if found.source == "rtl":
        run, samples = _simulated(program, image, interval=1 + int(marks.counts[-1, 0]) // DETAIL)
        marks = timeline.measured(samples, executions)
    states = list(found.states)
    found.timeline += [
        span.summary() for span in timeline.spans(marks, executions, outline, states, found.passes, found.cycles)
    ]
    found.activity += timeline.activity(marks, states, found.cycles)
    found.passes, found.cycles = found.passes + 1, found.cycles + int(marks.counts[-1, 0])
    found.floor, found.macs = (
        found.floor + benchmark.floor_of(told, benchmark.queue_lengths(told)),
        found.macs + program.macs,
    )
    _bytes(found, run, traffic(program, queues))
    return run


def _simulated(program: CompiledProgram, image: NDArray[np.uint8], interval: int) -> tuple[Run, list[tuple[int, ...]]]:
    from edgemoe.sim.simulator import open_verilator

    hardware = program.hardware
    with inference.shown(f"verilator, {hardware.name}") as bar:
        recorder = Recorder(open_verilator(hardware, program.memory_size), interval)
        try:
            driver = Driver(recorder, hardware)
            driver.load(program)
            return driver.run(program, [image], progress=bar), recorder.samples
        finally:
            recorder.close()


def _bytes(found: Profile, run: Run | None, moved: Mapping[Use, Bytes]) -> None:
    """Adds a pass to the table; what the simulated core read beyond its program is what its fetcher dropped."""
    rows = {use.value: asdict(count) for use, count in moved.items()}
    if run:
        dropped = run.bytes_read + run.bytes_written - sum(row["moved"] for row in rows.values())
        rows["dropped fetches"] = {"moved": dropped, "minimum": 0}
    before = {row["use"]: row for row in found.bytes}
    found.bytes = [
        {"use": use} | {name: count + before.get(use, row)[name] * (use in before) for name, count in row.items()}
        for use, row in rows.items()
    ]


def _sums(spans: Sequence[Mapping[str, Any]], of: str) -> dict[str, dict[str, int]]:
    """Cycles by what a column of the timeline says, and by state."""
    sums: dict[str, dict[str, int]] = {}
    for span in spans:
        states = sums.setdefault(span[of], {})
        for state, cycles in span["spent"].items():
            states[state] = states.get(state, 0) + cycles
    return sums


def _routes(found: Profile, run: Run) -> None:
    """Who chose whom, by the router of every stream and layer, and how long the queues became of it."""
    program, config = run.program, run.program.config
    for layer, by_row in routes_by_token(program, run.routes).items():
        for stream, slot in zip(program.streams, program.slots, strict=True):
            experts = by_row[slot * config.tokens : (slot + 1) * config.tokens]
            place = {"layer": layer, "task": config.tasks[stream.task].name}
            found.routes.append(place | {"experts": experts.tolist()})
            counts = np.bincount(experts.reshape(-1), minlength=config.experts)
            found.queues += [place | {"expert": expert, "tokens": int(count)} for expert, count in enumerate(counts)]
    for number, i in enumerate(program.instructions):
        key = program.keys[number + 1] if i.opcode == Opcode.EXPERTS else None
        if key is not None and all(row["layer"] != key.layer for row in found.experts):
            body = program.instructions[number + 1 : number + 1 + i.length]
            weights = sum(j.beats for j in body if j.opcode == Opcode.MATMUL) * program.hardware.bus_bytes
            found.experts.append({"layer": key.layer, "bytes": weights})


def _attention(found: Profile, run: Run) -> None:
    config = run.program.config
    for (stream, layer), shares in attention(run).items():
        task = config.tasks[run.program.streams[stream].task].name
        found.attention.append({"task": task, "layer": layer, "png": pictures.address(pictures.grey(shares))})


def _accuracy(found: Profile, check: checking.Check) -> None:
    accuracy = check.accuracy
    assert accuracy is not None
    found.decibels = [
        {"operation": one.title, "layer": one.layer, "all": _finite(one.db), "alone": _finite(one.own_db)}
        for one in accuracy.layers
    ]
    found.accuracy = {
        task: {
            "db": _finite(accuracy.sqnr_db[task]),
            "db_routed": _finite(accuracy.sqnr_db_routed[task]),
            "routes_different": accuracy.routes_different[task],
            "routes": accuracy.routes[task],
        }
        for task in accuracy.sqnr_db
    }


def _finite(db: float) -> float | None:
    """None where there is no error at all: JSON knows no infinity."""
    return round(db, 2) if math.isfinite(db) else None
