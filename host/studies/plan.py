# SPDX-License-Identifier: Apache-2.0
"""What a model will take on a hardware, before anything is simulated: schedule, cycles, bytes, capacities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgemoe.host import compiler
from edgemoe.host.compiler.capacities import Need, Shortage
from edgemoe.host.compiler.floor import floor
from edgemoe.host.compiler.link import Outline
from edgemoe.host.compiler.split import Split
from edgemoe.host.compiler.timing import STEADY, Cost, Dram, Limit, predict
from edgemoe.host.inference import CLOCK_MHZ, passes
from edgemoe.host.runtime.driver import Run
from edgemoe.host.runtime.routing import expert_queues
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.errors import listing
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import QuantisedModel

__all__ = ["CLOCK_MHZ", "Dram", "Plan", "Shortage", "emulated", "plan", "shortage_summary", "show", "show_capacities"]

Queues = Sequence[Sequence[int]]  # of every EXPERTS of a pass, in order, the tokens of each expert
Shape = tuple[tuple[int, int], ...]  # (image of the pass, task) of each stream


def loops(outline: Outline) -> Iterator[tuple[int, int]]:
    """Of every EXPERTS its layer, and the entries of all its queues together."""
    layer = entries = 0
    for draft, i in zip(outline.lowered.drafts, outline.instructions, strict=True):
        if i.opcode == Opcode.ROUTE:
            assert draft.key is not None and draft.key.layer is not None
            layer, entries = draft.key.layer, (0 if i.reset_queues else entries) + i.rows * i.top_k
        elif i.opcode == Opcode.EXPERTS:
            yield layer, entries


def balanced(outline: Outline, experts: int) -> Queues:
    """Queues as even as they can be."""
    return [[(entries + expert) // experts for expert in range(experts)] for _, entries in loops(outline)]


def by_layer(outline: Outline, queues: Queues) -> dict[int, list[int]]:
    """Tokens of each expert, of all tiles together."""
    found: dict[int, list[int]] = {}
    for (layer, _), lengths in zip(loops(outline), queues, strict=True):
        before = found.get(layer, [0] * len(lengths))
        found[layer] = [a + b for a, b in zip(before, lengths, strict=True)]
    return found


@dataclass(frozen=True)
class Line:
    """An instruction of the schedule. part: of the model; kind: opcode, of MATMUL what the array holds."""

    part: str
    label: str
    kind: str
    cost: Cost


@dataclass
class Plan:
    """All passes of so many images through the tasks; `schedule` and `needs` are those of the first pass.

    whole: with which hardware fields the model would not be split.
    routed: the experts' queues are those of given images, and not balanced ones. memory: bytes on the device.
    """

    config: ModelConfig
    hardware: HardwareConfig
    weight_bits: WeightFormat
    tasks: Sequence[int]
    images: int
    routed: bool
    clock_mhz: float
    schedule: list[Line] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    split: Split | None = None
    whole: dict[str, int | str] = field(default_factory=dict)
    passes: int = 0
    total: Cost = field(default_factory=Cost)
    floor: float = 0.0
    macs: int = 0
    memory: int = 0

    @property
    def cycles(self) -> int:
        return self.total.cycles

    @property
    def limit(self) -> Limit:
        """What limits most; waiting for results is a matter of latencies, too."""
        spent = self.total.spent
        merged = {Limit.ARRAY: spent[Limit.ARRAY], Limit.BUS: spent[Limit.BUS]}
        merged[Limit.LATENCY] = spent[Limit.LATENCY] + spent[Limit.DEPENDENCY]
        return max(merged, key=merged.__getitem__)

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        seconds = self.cycles / self.clock_mhz / 1e6
        return {
            "model": self.config.name,
            "hardware": self.hardware.name,
            "weight_bits": self.weight_bits,
            "images": self.images,
            "tasks": [self.config.tasks[task].name for task in self.tasks],
            "queues": ("images" if self.routed else "balanced") if self.config.moe_layers else None,
            "fits": True,
            "passes": self.passes,
            "cycles": self.cycles,
            "cycles_each": self.cycles / (self.images * len(self.tasks)),
            "clock_mhz": self.clock_mhz,
            "milliseconds": seconds * 1e3,
            "limit": self.limit,
            "spent": self.total.spent,
            "floor": self.floor,
            "floor_ratio": self.cycles / self.floor,
            "mac_utilisation": self.macs / (self.cycles * self.hardware.multipliers),
            "bytes": self.total.read + self.total.written,
            "bytes_read": self.total.read,
            "bytes_written": self.total.written,
            "memory_bytes": self.memory,
            "split": self.split
            and {"how": str(self.split), "why": [str(need) for need in self.split.why], "set": self.whole},
            "capacities": capacities(self.needs),
            "schedule": [
                {"part": line.part, "label": line.label, "kind": line.kind, **figures(line.cost)}
                for line in self.schedule
            ],
        }


def figures(cost: Cost) -> dict[str, Any]:
    """Of an instruction, or of several together."""
    found: dict[str, Any] = {"rows": cost.rows, "blocks": cost.blocks, "bytes": cost.read + cost.written}
    return found | {"bytes_read": cost.read, "bytes_written": cost.written, "cycles": cost.cycles, "limit": cost.limit}


def capacities(needs: Sequence[Need]) -> list[dict[str, Any]]:
    """What is used of each and how much is free; less than none where it is short."""
    return [
        {"capacity": need.what, "used": need.amount, "limit": need.limit, "free": need.limit - need.amount}
        for need in needs
    ]


def shortage_summary(shortage: Shortage) -> dict[str, Any]:
    """What --json shows of a model that does not fit."""
    short = [str(need) for need in shortage.needs if need.short]
    return {"fits": False, "shortages": short, "set": shortage.changes, "capacities": capacities(shortage.needs)}


def schedule(outline: Outline, costs: Sequence[Cost]) -> list[Line]:
    """Instruction by instruction."""
    lines = []
    for draft, i, cost in zip(outline.lowered.drafts, outline.instructions, costs, strict=True):
        kind = Stationary(i.stationary).name if i.opcode == Opcode.MATMUL else ""
        lines.append(Line(draft.part, i.label, f"{i.opcode.name} {kind}".strip(), cost))
    return lines


def plan(
    model: QuantisedModel,
    hardware: HardwareConfig,
    *,
    tasks: Sequence[int],
    images: int = 1,
    routes: Sequence[Queues] | None = None,
    dram: Dram = STEADY,
    clock_mhz: float = CLOCK_MHZ,
    device_bytes: int | None = None,
) -> Plan:
    """The plan of all passes; Shortage if the model does not fit. Of the model's weights only the sizes count.

    routes: the queues of each pass; without them they are balanced. device_bytes: of the device's memory, if that is
    known.
    """
    config = model.config
    found = Plan(config, hardware, model.weight_bits, tasks, images, routes is not None, clock_mhz)
    outlines: dict[Shape, Outline] = {}
    known: dict[Shape, tuple[list[Cost], float]] = {}  # of balanced passes
    for number, streams in enumerate(passes(config, hardware, images, tasks)):
        shape: Shape = tuple((image - streams[0][0], task) for image, task in streams)
        outline = outlines.setdefault(shape, outlines.get(shape) or compiler.outline(model, shape, hardware))
        queues = routes[number] if routes is not None else balanced(outline, config.experts)
        if routes is not None or shape not in known:
            costs, lengths = predict(outline.instructions, hardware, queues, dram), by_layer(outline, queues)
            count, bandwidth = len(shape), hardware.bus_bytes / dram.beat
            least = floor(config, hardware, model.weight_bits, lengths, count, True, shape[-1][0] + 1, bandwidth)
            known[shape] = costs, least
        costs, least = known[shape]
        if not number:
            found.schedule, found.needs, found.split = schedule(outline, costs), list(outline.needs), outline.split
            if outline.split:
                found.whole = compiler.in_one_piece(model, shape, hardware)
            if device_bytes is not None:
                found.needs.append(Need("bytes of device memory", outline.memory_size, device_bytes))
                if found.needs[-1].short:
                    raise Shortage(config.name, hardware, found.needs).advised({})
        for cost in costs:
            found.total.add(cost)
        found.passes, found.floor, found.macs = number + 1, found.floor + least, found.macs + outline.lowered.macs
        found.memory = max(found.memory, outline.memory_size)
    return found


def show(found: Plan, every: bool = False) -> None:
    """Tables on standard output. every: the schedule by instruction, not by what of the model they belong to, which
    may come back, tile by tile.
    """
    if every:
        rows = [(line.label, line.kind, line.cost) for line in found.schedule]
    else:
        parts: dict[str, Cost] = {}
        for line in found.schedule:
            parts.setdefault(line.part, Cost()).add(line.cost)
        rows = [(part, "", cost) for part, cost in parts.items()]
    shown = [
        (
            label,
            *((kind,) if every else ()),
            *(f"{count:,}" for count in (cost.rows, cost.blocks, cost.read + cost.written, cost.cycles)),
            cost.limit.value,
        )
        for label, kind, cost in rows
    ]
    first = f", the first of {found.passes} passes" if found.passes > 1 else ""
    kind = ("kind",) if every else ()
    headers = ("instruction" if every else "part", *kind, "rows", "blocks", "bytes", "cycles", "limited by")
    show_table(f"{found.config.name} on {found.hardware.name}{first}", shown, headers)
    summary = found.summary()
    spent = ", ".join(f"{limit} {cycles:,}" for limit, cycles in found.total.spent.items())
    queues = {"balanced": "balanced (routing is data: they are guessed)", "images": "those of the images", None: ""}
    totals = [
        ("images, tasks, passes", f"{found.images}, {len(found.tasks)}, {found.passes}"),
        ("weights", found.weight_bits.label),
        ("queues of the experts", queues[summary["queues"]]),
        ("cycles", f"{found.cycles:,} ({spent})"),
        (f"milliseconds at {found.clock_mhz:g} MHz", f"{summary['milliseconds']:,.3f}"),
        ("cycles an image and task", f"{summary['cycles_each']:,.0f}"),
        ("floor", f"{found.floor:,.0f}; the plan is {summary['floor_ratio']:.3f} times that"),
        ("limited most by", found.limit.value),
        ("bytes read, written", f"{found.total.read:,}, {found.total.written:,}"),
        ("bytes of device memory", f"{found.memory:,}"),
        ("split", split_line(found)),
    ]
    show_table("Totals", [row for row in totals if row[1]])
    show_capacities(found.needs)


def split_line(found: Plan) -> str:
    """How the model is cut, why, and with which hardware it would not be."""
    if not found.split:
        return ""
    fields = " ".join(f"--set {name}={value}" for name, value in found.whole.items())
    remedy = f"; in one piece with {fields}" if fields else ""
    return f"{found.split}, as it needs {listing(map(str, found.split.why), '; ')}{remedy}"


def show_capacities(needs: Sequence[Need]) -> None:
    """A table of what is used and free."""
    rows = [(need.what, f"{need.amount:,}", f"{need.limit:,}", f"{need.limit - need.amount:,}") for need in needs]
    show_table("Capacities", rows, ("capacity", "used", "limit", "free"))


def emulated(runs: Sequence[Run]) -> list[Queues]:
    """The queues of each pass, from runs whose device tells its routes."""
    return [[queues.lengths for queues in expert_queues(run.program, run.routes)] for run in runs]
