# SPDX-License-Identifier: Apache-2.0
"""How cycles grow with the tokens, for softmax, ReLA and linear attention: the planner up to 1,201 tokens, the RTL
where it is short enough to simulate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgemoe.host import compiler, inference
from edgemoe.host.compiler.timing import predict
from edgemoe.host.studies import attention, benchmark, drawing
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.operations.feature_maps import MAPS

KINDS = ("softmax", "rela", *MAPS)
PARTS = (" head ", " results")  # of labels: the heads, and what goes over all their results
SIZES = ((64, 256), (128, 256), (256, 256), (256, 512), (480, 640))  # pictures of 65, 129, 257, 513 and 1,201 tokens
SIMULATED = attention.MODEL.tokens


@dataclass(frozen=True)
class Point:
    """Of a kind: cycles of its attention, heads alone, and of the whole pass, both as planned; of the pass on RTL where
    it ran.
    """

    kind: str
    tokens: int
    attention: int
    cycles: int
    simulated: int | None


def model(kind: str, size: tuple[int, int]) -> ModelConfig:
    """Two layers of two heads of 32, without experts."""
    return replace(attention.MODEL, attention=kind, image_height=size[0], image_width=size[1])


def planned(config: ModelConfig, hardware: HardwareConfig) -> tuple[int, int]:
    """(cycles between the projections, of the pass), on a build that has room for so many tokens."""
    rows = max(hardware.rows, 2 * config.tokens)
    build = replace(hardware, rows=rows, tokens=max(hardware.tokens, config.tokens))
    outline = compiler.outline(quantise(benchmark.random_checkpoint(config)), ((0, 0),), build)
    costs = predict(outline.instructions, build)
    pairs = zip(outline.instructions, costs, strict=True)
    own = sum(cost.cycles for i, cost in pairs if any(part in i.label for part in PARTS))
    return own, sum(cost.cycles for cost in costs)


def study(
    hardware: HardwareConfig,
    kinds: Sequence[str] = KINDS,
    sizes: Sequence[tuple[int, int]] = SIZES,
    note: Callable[[str], None] = inference.notice,
) -> list[Point]:
    """Every kind at every size."""
    points = []
    for kind in kinds:
        for size in sizes:
            config = model(kind, size)
            note(f"{kind} attention, {config.tokens} tokens")
            simulated = attention.run(kind, hardware)[2] if config.tokens == SIMULATED else None
            points.append(Point(kind, config.tokens, *planned(config, hardware), simulated))
    return points


def table(points: Sequence[Point], hardware: HardwareConfig) -> None:
    """On standard output."""
    rows = [
        (p.kind, str(p.tokens), f"{p.attention:,}", f"{p.cycles:,}", f"{p.simulated:,}" if p.simulated else "-")
        for p in points
    ]
    title = f"Cycles on {hardware.name}, with room for the tokens: 2 layers, 2 heads of 32"
    show_table(title, rows, ("attention", "tokens", "its heads, planned", "pass, planned", "pass, RTL"))


def plot(points: Sequence[Point], path: Path) -> None:
    """Cycles of the heads against the tokens, and of the whole pass; crosses are RTL."""
    plt = drawing.pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for colour, kind in zip(drawing.COLOURS, dict.fromkeys(p.kind for p in points), strict=False):
        mine = [p for p in points if p.kind == kind]
        tokens = [p.tokens for p in mine]
        panels[0].plot(tokens, [p.attention / 1e6 for p in mine], marker="o", color=colour, label=kind)
        panels[1].plot(tokens, [p.cycles / 1e6 for p in mine], marker="o", color=colour, label=f"{kind}, planned")
        ran = [p for p in mine if p.simulated]
        label = f"{kind}, RTL"
        crosses = [(p.simulated or 0) / 1e6 for p in ran]
        if ran:
            panels[1].plot([p.tokens for p in ran], crosses, "x", markersize=10, color=colour, label=label)
    for axes, what in zip(panels, ("all heads", "the whole pass"), strict=True):
        axes.set_xlabel("tokens")
        axes.set_ylabel(f"million cycles, {what}")
        axes.legend(fontsize="small")
    drawing.save_figure(figure, path)
