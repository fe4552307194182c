# SPDX-License-Identifier: Apache-2.0
"""How cycles grow with the size of the problem and of the hardware: one command, a table and a plot, all of it
simulated RTL.

One quantity varies at a time around a narrow two-layer model, so that a few builds and a few minutes are enough:
everything but the array's side runs on one and the same 16 x 16 build.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgemoe.host import inference
from edgemoe.host.studies import benchmark, drawing
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.console import show_table
from edgemoe.models.numbers.calibrate import default_images

LANES = (4, 8, 16, 32)
TOKENS = {33: (64, 128), 65: (128, 128), 129: (128, 256), 257: (256, 256)}  # -> image height and width
EXPERTS = (4, 8, 16, 32, 64)
STREAMS = (1, 2, 3, 4)
LATENCIES = (8, 32, 64, 128, 256)

MODEL = ModelConfig(
    name="growth",
    image_height=128,
    image_width=128,
    width=96,
    heads=3,
    layers=2,
    hidden=384,
    experts=16,
    expert_hidden=128,
    top_k=2,
    moe_layers=(1,),
    tasks=tuple(TaskConfig(name=f"task{i}", kind="tokens") for i in range(max(STREAMS))),
)


def hardware(lanes: int = 16) -> HardwareConfig:
    """The build of an array side, with room for every point of the study."""
    # A larger array gets the wider bus that it needs to be fed.
    masters = 2 if lanes == 32 else 1
    return HardwareConfig(
        f"growth-{lanes}", lanes=lanes, masters=masters, rows=264, tokens=264, width=96, hidden=768, experts=64, top_k=2
    )


@dataclass(frozen=True)
class Point:
    """One run: what was varied, its value, cycles of the pass and their floor."""

    quantity: str
    value: int
    cycles: int
    floor: float
    mac_utilisation: float


def study(lanes: tuple[int, ...] = LANES, note: Callable[[str], None] = inference.notice) -> list[Point]:
    """All points; `lanes`: the array sides to build."""
    points: list[Point] = []

    def run(
        quantity: str, value: int, model: ModelConfig = MODEL, build: HardwareConfig | None = None, **options: Any
    ) -> None:
        note(f"{quantity} {value}")
        checkpoint = benchmark.random_checkpoint(model)
        report = benchmark.benchmark(
            checkpoint, list(default_images(model, 1)), hardware=build or hardware(), **options
        )
        points.append(Point(quantity, value, report.cycles, report.floor, report.mac_utilisation))

    for tokens, (height, width) in TOKENS.items():
        run("tokens", tokens, replace(MODEL, image_height=height, image_width=width))
    for experts in EXPERTS:
        run("experts", experts, replace(MODEL, experts=experts))
    for streams in STREAMS:
        run("streams", streams, tasks=streams)
    for latency in LATENCIES:
        run("latency", latency, latency=latency)
    for side in lanes:
        run("array side", side, build=hardware(side))
    return points


def table(points: list[Point]) -> None:
    """The points on standard output."""
    usual = "65 tokens, 16 experts, 1 stream, latency 64, 16 x 16"
    title = f"Growth: {MODEL.width} channels, {MODEL.layers} layers, unless varied {usual}"
    shown: list[tuple[str, ...] | None] = []
    for before, p in zip([None, *points], points, strict=False):
        if before is not None and before.quantity != p.quantity:
            shown.append(None)
        figures = (f"{p.cycles:,}", f"{p.floor:,.0f}", f"{p.cycles / p.floor:.3f}", f"{p.mac_utilisation:.1%}")
        shown.append((p.quantity, str(p.value), *figures))
    show_table(title, shown, ("varied", "value", "cycles", "floor", "ratio", "utilisation"))


LABELS = {
    "tokens": "tokens (image of so many patches, and one)",
    "experts": "experts in a layer",
    "streams": "streams (tasks in one pass)",
    "latency": "memory latency, cycles",
    "array side": "array side, multipliers",
}
LINEAR = ("streams",)  # the others double from point to point


def plot(points: list[Point], path: Path) -> None:
    """For each quantity a panel of cycles and floor against its value, and below it how many times the floor."""
    plt = drawing.pyplot()
    quantities = list(dict.fromkeys(p.quantity for p in points))
    figure, panels = plt.subplots(
        2,
        len(quantities),
        figsize=(3.3 * len(quantities), 5.2),
        layout="constrained",
        squeeze=False,
        sharex="col",
        gridspec_kw={"height_ratios": (3, 1.4)},
    )
    worst = max(p.cycles / p.floor for p in points)
    blue, orange = drawing.COLOURS[0], drawing.COLOURS[5]
    for (axes, ratio), quantity in zip(panels.T, quantities, strict=True):
        mine = [p for p in points if p.quantity == quantity]
        values = [p.value for p in mine]
        axes.plot(values, [p.cycles / 1e3 for p in mine], marker="o", color=blue, label="RTL", clip_on=False)
        axes.plot(values, [p.floor / 1e3 for p in mine], linestyle="--", marker=".", color="black", label="floor")
        ratios = [p.cycles / p.floor for p in mine]
        ratio.plot(values, ratios, marker="o", color=orange, clip_on=False)
        for value, times in zip(values, ratios, strict=True):
            ratio.annotate(
                f"{times:.2f}", (value, times), (0, 6), textcoords="offset points", ha="center", fontsize="x-small"
            )
        if quantity not in LINEAR:
            axes.set_xscale("log", base=2)
        ratio.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_ylim(0, 1.08 * max(p.cycles for p in mine) / 1e3)
        ratio.set_ylim(1, 1 + 1.35 * (worst - 1))
        ratio.set_xlabel(LABELS.get(quantity, quantity), fontsize="small")
        for one in (axes, ratio):
            one.grid(axis="y", color="#dddddd", linewidth=0.7)
            one.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("thousand cycles")
    panels[1][0].set_ylabel("times the floor")
    panels[0][0].legend(frameon=False)
    drawing.save_figure(figure, path)
