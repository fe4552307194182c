# SPDX-License-Identifier: Apache-2.0
"""How fast the hardware is: cycles of the RTL, what it spent them on by its own counters, and how far that is from the
floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host import inference
from edgemoe.host.compiler.floor import floor
from edgemoe.host.runtime.driver import Run
from edgemoe.host.runtime.routing import expert_queues
from edgemoe.host.studies import drawing
from edgemoe.host.studies.traffic import traffic
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import config as models
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.keys import Key
from edgemoe.models.numbers.calibrate import calibrate, default_images
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.forward import forward
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.operations.operation import Observer
from numpy.typing import NDArray

# Name in the breakdown -> state counter.
STATES = {
    "array_active": "ARRAY_ACTIVE",
    "weight_stall": "WAIT_WEIGHTS",
    "operand_stall": "WAIT_OPERAND",
    "drain": "WAIT_DRAIN",
    "dma": "DMA",
    "layernorm": "LAYERNORM",
    "route": "ROUTE",
    "other": "OTHER",
}
KINDS = {
    **{kind.lower(): kind for kind in registers.MATMUL_KINDS},
    **{kind.lower(): kind for kind in registers.OPERATIONS},
    "other": "",
}


# As people call them.
STATE_LABELS = {
    "array_active": "array at work",
    "weight_stall": "waiting for weights",
    "operand_stall": "waiting for operands",
    "drain": "array drains",
    "dma": "rows and maps moved",
    "layernorm": "1/sigma computed",
    "route": "experts chosen",
    "other": "other",
}
KIND_LABELS = {
    "weights": "weights held",
    "expert": "an expert's weights held",
    "keys": "keys held (scores)",
    "values": "values held (attention)",
    "dma": "LOAD, STORE, IMAGE",
    "layernorm": "LayerNorm",
    "route": "routing",
    "other": "other",
}


class RouterInputs(Observer):
    """layer -> mean of what its router sees."""

    def __init__(self) -> None:
        self.mean: dict[int | None, NDArray[Any]] = {}

    def tokens(self, key: Key, x: NDArray[Any]) -> None:
        self.mean[key.layer] = x.mean(axis=0)


def random_checkpoint(config: models.ModelConfig, seed: int = 0) -> Checkpoint:
    """Seeded random weights with balanced routers, calibrated on one image: cycles depend on weights only through the
    router's choices.

    Tokens have much in common, so random routers would send nearly all of them to the same few experts, which training
    prevents. Each router [width, experts] is therefore made blind to the mean m of its inputs on that image: w <- w - m
    (m w) / (m m).
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in checkpoints.expected_tensors(config).items():
        scale = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        ones = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = (rng.standard_normal(shape) * scale + ones).astype(np.float32)
    checkpoint = Checkpoint(config, tensors)
    images = default_images(config, 1)
    for task in range(len(config.tasks)):
        for layer in config.moe_layers:  # what a router sees depends on the ones before it
            seen = RouterInputs()
            forward(checkpoint, images, task, observer=seen, dtype=np.float32)
            mean = seen.mean[layer]
            gate = tensors[f"blocks.{layer}.mlp.gate.{task}.w_gate"]
            gate -= np.outer(mean, mean @ gate) / (mean @ mean)
    checkpoint.calibration = calibrate(checkpoint, images, error_aware=())
    return checkpoint


def queue_lengths(run: Run) -> dict[int, list[int]]:
    """MoE layer -> tokens of each expert over all streams of the pass, from a run whose device tells its routes."""
    found: dict[int, NDArray[np.int64]] = {}
    for queues in expert_queues(run.program, run.routes):
        found[queues.layer] = found.get(queues.layer, 0) + np.array(queues.lengths)
    return {layer: lengths.tolist() for layer, lengths in found.items()}


def queue_figures(lengths: Sequence[dict[int, list[int]]], config: models.ModelConfig) -> dict[str, Any]:
    """How the routers used the experts: how many of them had tokens in a layer and pass, and how long their queues
    were.
    """
    used = [[length for length in layer if length] for run in lengths for layer in run.values()]
    if not used:
        return {}
    queues = np.concatenate([np.array(layer) for layer in used])
    return {
        "experts": config.experts,
        "experts_used": float(np.mean([len(layer) for layer in used])),
        "shortest": int(queues.min()),
        "median": float(np.median(queues)),
        "longest": int(queues.max()),
    }


def compulsory_bytes(run: Run) -> int:
    """What a pass cannot do without, as `traffic` says, from a run whose device tells its routes."""
    queues = [one.lengths for one in expert_queues(run.program, run.routes)]
    return sum(found.minimum for found in traffic(run.program, queues).values())


def floor_of(run: Run, lengths: dict[int, list[int]], bandwidth: float = 0.0) -> float:
    """The floor of a pass with the queues that it had; bandwidth: bytes a cycle of the memory, if it has a limit."""
    program = run.program
    images = len({stream.image for stream in program.streams})
    bits = program.weight_bits
    streams = len(program.streams)
    return floor(program.config, program.hardware, bits, lengths, streams, True, images, bandwidth)


def breakdown(runs: Sequence[Run]) -> dict[str, Any]:
    """Cycles by state in `total`, and by kind of instruction and state in `kinds`;
    either adds up to the cycles of all passes.
    """
    counted = {
        name: sum(run.counters[name] for run in runs) for name in (*registers.COUNTERS, *registers.KIND_COUNTERS)
    }
    total = {name: counted[counter] for name, counter in STATES.items()}
    kinds: dict[str, dict[str, int]] = {}
    for kind, counter in KINDS.items():
        states = {name: counted.get(f"{counter}_{state}", 0) for name, state in STATES.items()}
        if kind in STATES:  # what LOAD, STORE, IMAGE, LAYERNORM and ROUTE do themselves; what belongs to none
            states[kind] += total[kind]
        kinds[kind] = {name: count for name, count in states.items() if count}
    by_kind = {name: sum(states.get(name, 0) for states in kinds.values()) for name in STATES}
    cycles = counted["CYCLES"]
    if by_kind != total or sum(total.values()) != cycles:
        raise RuntimeError(f"the counters do not add up: {cycles} cycles, by state {total}, by kind {by_kind}")
    return {"total": total, "kinds": kinds}


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found: of `tasks` tasks on each of `images` images; all numbers are of all passes together.

    queues        how the routers used the experts (`queue_figures`)
    breakdown     cycles by state, and by kind of instruction (`breakdown`)
    dsp           DSP slices of the hardware, if they were counted
    stalled_each  cycles an image and task where every channel stalls, if that was measured
    """

    model: str
    hardware: str
    multipliers: int
    weight_bits: WeightFormat
    images: int
    tasks: int
    streams: int
    latency: int
    bandwidth: float
    stalls: float
    cycles: int
    floor: float
    macs: int
    bytes: int
    bytes_minimum: int
    seconds: float
    queues: dict[str, Any]
    breakdown: dict[str, Any]
    dsp: int | None = None
    stalled_each: float | None = None

    @property
    def cycles_each(self) -> float:
        """Cycles an image and task."""
        return self.cycles / self.streams

    @property
    def floor_ratio(self) -> float:
        """How many times the floor the cycles are."""
        return self.cycles / self.floor

    @property
    def mac_utilisation(self) -> float:
        """Useful multiplications per multiplier and cycle."""
        return self.macs / (self.cycles * self.multipliers)

    @property
    def macs_per_dsp(self) -> float | None:
        """Useful multiplications per DSP slice and cycle, if the slices were counted."""
        return self.macs / (self.cycles * self.dsp) if self.dsp else None

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        derived = {
            name: getattr(self, name) for name in ("cycles_each", "floor_ratio", "mac_utilisation", "macs_per_dsp")
        }
        unsaid = ("multipliers", "streams")
        found = {name: value for name, value in asdict(self).items() if name not in unsaid} | derived
        return {name: value for name, value in found.items() if name != "stalled_each" or value is not None}


def benchmark(
    checkpoint: Checkpoint,
    images: Sequence[NDArray[np.uint8]],
    *,
    hardware: HardwareConfig,
    weight_bits: str = WeightFormat.SIXTEEN,
    tasks: int = 1,
    latency: int = 64,
    stalls: float = 0.0,
    bandwidth: float = 0.0,
) -> Benchmark:
    """Cycles and all that explains them, of `tasks` tasks on each image. latency: see sim.device.Dram.

    bandwidth: bytes a cycle of the memory, reads and writes together; 0: as many as the bus takes.

    stalls: share of the cycles in which each channel of each master holds back, at random: AR, R, AW, W and B.
    """
    from edgemoe.sim.device import Dram

    config = checkpoint.config
    if not 1 <= tasks <= len(config.tasks):
        raise EdgemoeError(
            f"model {config.name} has {len(config.tasks)} task{'s' * (len(config.tasks) > 1)}, not {tasks}"
        )
    chosen = list(range(tasks))
    model = quantise(checkpoint, weight_bits)
    common: dict[str, Any] = dict(tasks=chosen, hardware=hardware, weight_bits=weight_bits, model=model)
    told = inference.infer(checkpoint, images, device="emulator", **common)
    held: dict[str, Any] = {f"stall_{channel}": stalls for channel in ("ar", "r", "aw", "w", "b")}
    dram = Dram(latency=latency, bandwidth=bandwidth / hardware.bus_bytes, **held)
    ran = inference.infer(checkpoint, images, device="verilator", dram=dram, **common)
    lengths = [queue_lengths(run) for run in told.runs]
    return Benchmark(
        model=config.name,
        hardware=hardware.name,
        multipliers=hardware.multipliers,
        weight_bits=model.weight_bits,
        images=len(images),
        tasks=tasks,
        streams=len(ran.streams),
        latency=latency,
        bandwidth=bandwidth or hardware.bus_bytes,
        stalls=stalls,
        cycles=ran.total(lambda run: run.cycles),
        floor=sum(floor_of(run, queues, bandwidth) for run, queues in zip(ran.runs, lengths, strict=True)),
        macs=ran.total(lambda run: run.program.macs),
        bytes=ran.total(lambda run: run.bytes_read + run.bytes_written),
        bytes_minimum=sum(map(compulsory_bytes, told.runs)),
        seconds=ran.total(lambda run: run.seconds),
        queues=queue_figures(lengths, config),
        breakdown=breakdown(ran.runs),
    )


def count_dsp(hardware: HardwareConfig) -> int | None:
    """DSP slices of a configuration; None, with a notice, where they can neither be looked up nor counted."""
    from edgemoe.sim import synthesis

    try:
        return synthesis.dsp(hardware)
    except EdgemoeError as error:
        inference.notice(f"DSP slices not counted: {error}")
        return None


def table(report: Benchmark, clock_mhz: float) -> None:
    """The report on standard output, with milliseconds at a clock."""
    from edgemoe.models.console import show_table

    each, streams = report.cycles_each, report.streams
    counted = ((report.images, "picture"), (report.tasks, "task"))
    ran = ", ".join(f"{count:,} {what}{'s' * (count > 1)}" for count, what in counted)
    stalls = f", {100 * report.stalls:g} % stalls" if report.stalls else ""
    beyond = (report.bytes - report.bytes_minimum) / 1e6
    rows = [
        ("what ran", f"{ran}; weights {report.weight_bits.label}"),
        ("memory", f"{report.latency} cycles latency{stalls}"),
        ("cycles", f"{report.cycles:,}"),
        ("a picture and task", f"{each:,.0f} cycles, {each / clock_mhz / 1e3:.2f} ms at {clock_mhz:g} MHz, a target"),
        ("floor", f"{report.floor:,.0f} cycles; the RTL takes {report.floor_ratio:.3f} times as many"),
        (
            "multipliers",
            f"{100 * report.mac_utilisation:.1f} % of their cycles useful",
        ),
        (
            "DRAM traffic",
            f"{report.bytes / 1e6:,.2f} MB, {beyond:,.2f} MB beyond the minimum",
        ),
        ("DSP slices", "not counted" if report.dsp is None else f"{report.dsp:,}"),
        ("simulated in", f"{report.seconds:.1f} s"),
    ]
    if q := report.queues:
        used = f"{q['experts_used']:.1f} of {q['experts']} experts a layer"
        rows.append(("queues", f"{used}, {q['shortest']} to {q['longest']} tokens (median {q['median']:g})"))
    title = f"{report.model} on {report.hardware}"
    show_table(title if streams == 1 else f"{title}, {streams} results", rows)
    shown: list[tuple[str, ...] | None] = []
    parts = report.breakdown
    states_met = [name for name in STATES if parts["total"].get(name)]
    for kind, states in [*parts["kinds"].items(), ("total", parts["total"])]:
        total = sum(states.values())
        if not total:
            continue
        if kind == "total":
            shown.append(None)
        counts = [f"{states[name]:,}" if states.get(name) else "" for name in states_met]
        shown.append((KIND_LABELS.get(kind, kind), *counts, f"{total:,}", f"{100 * total / report.cycles:.1f} %"))
    headers = ("cycles", *(STATE_LABELS[state] for state in states_met), "sum", "share")
    show_table("What the cycles went into", shown, headers)


def plot(report: Benchmark, path: Path) -> None:
    """A bar for each kind of instruction, the longest on top, and below them the whole, with its floor marked."""
    plt = drawing.pyplot()
    kinds = {kind: states for kind, states in report.breakdown["kinds"].items() if sum(states.values())}
    ordered = sorted(kinds, key=lambda kind: -sum(kinds[kind].values()))
    bars = {**{kind: kinds[kind] for kind in ordered}, "total": report.breakdown["total"]}
    names = [KIND_LABELS.get(kind, kind) for kind in bars]
    figure, axes = plt.subplots(figsize=(9.5, 1.4 + 0.36 * len(bars)), layout="constrained")
    left = np.zeros(len(bars))
    for (name, label), colour in zip(STATE_LABELS.items(), drawing.COLOURS, strict=True):
        width = np.array([states.get(name, 0) for states in bars.values()]) / 1e6
        if width.any():
            axes.barh(names, width, left=left, color=colour, label=label, height=0.7)
            left += width
    for number, end in enumerate(left):
        share = 1e8 * end / report.cycles
        axes.annotate(
            f"{share:.1f} %", (end, number), (4, 0), textcoords="offset points", va="center", fontsize="x-small"
        )
    last, floor = len(bars) - 1, report.floor / 1e6
    axes.plot([floor, floor], [last - 0.5, last + 0.5], color="black", linewidth=2, label="floor of the whole")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.09 * left.max())
    axes.set_xlabel("million cycles")
    axes.set_title(
        f"{report.model} on {report.hardware}: {report.cycles / 1e6:.3f} M cycles, "
        f"{report.floor_ratio:.3f} times the floor",
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center right")
    drawing.save_figure(figure, path)
