# SPDX-License-Identifier: Apache-2.0
"""Four of the five ideas as pictures (the fifth is the demo's film): `python -m edgemoe.host.studies.idea_pictures`."""

from __future__ import annotations

import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host.studies.drawing import COLOURS, GREY, pyplot
from edgemoe.host.studies.site import PAGES
from edgemoe.models.config import ModelConfig, preset
from edgemoe.models.extras import clone
from edgemoe.models.graph import graph
from edgemoe.models.numbers import arithmetic, words
from edgemoe.models.operations.operation import Over

FOLDER = PAGES / "pictures"
BLUE, ORANGE, GREEN, PINK, SKY, RED = COLOURS[:6]
LIGHT = "#eef1f4"
MODEL = "m3vit-t"


def attention() -> Any:
    """What must be fetched for each step, when blocks of the scores are computed and when rows stream past keys."""
    figure, axes = pyplot().subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
    side, held = 8, 4
    for axis, title in zip(axes, ("a block of P x P scores a step", "P keys held, a query a step"), strict=False):
        axis.set(xlim=(-1.6, side), ylim=(side, -2.3), aspect="equal", title=title)
        axis.set_axis_off()
        for row in range(side):
            for column in range(side):
                step = axis is axes[0] and row < held and column < held
                step |= axis is axes[1] and row == 3 and column < held
                done = axis is axes[1] and row < 3 and column < held
                colour = ORANGE if step else SKY if done else LIGHT
                axis.add_patch(pyplot().Rectangle((column, row), 0.92, 0.92, color=colour))
        for place in range(side):
            new_query = place < held if axis is axes[0] else place == 3
            keys = ORANGE if axis is axes[0] else BLUE
            axis.add_patch(pyplot().Rectangle((-1.4, place), 0.7, 0.92, color=ORANGE if new_query else GREY, alpha=0.9))
            axis.add_patch(
                pyplot().Rectangle((place, -1.4), 0.92, 0.7, color=keys if place < held else GREY, alpha=0.9)
            )
        axis.text(-1.75, side / 2, "queries", rotation=90, va="center", ha="right", fontsize=9)
        axis.text(side / 2, -1.75, "keys", ha="center", fontsize=9)
    sides = (4, 8, 16, 32)
    axes[2].plot(sides, [2 * p for p in sides], marker="o", color=ORANGE, label="blocks: 2 P vectors")
    axes[2].plot(sides, [1] * len(sides), marker="o", color=BLUE, label="reordered: 1 vector")
    axes[2].set(title="new vectors a step", xlabel="P", xticks=sides, ylim=(0, 70))
    axes[2].legend(frameon=False, fontsize=9)
    axes[2].spines[["top", "right"]].set_visible(False)
    return figure


def softmax() -> Any:
    """When a row's scores are looked at, in the textbook's order and here."""
    figure, axes = pyplot().subplots(figsize=(10.5, 2.7), layout="constrained")
    rows = (
        ("three passes", ((0, 3, "scores", SKY), (3, 2, "maximum", ORANGE), (5, 2, "exponentials, sum", ORANGE))),
        ("", ((7, 2, "divide", ORANGE), (9, 3, "x values", SKY))),
        ("single pass", ((0, 3, "scores", SKY), (3, 3, "x values", SKY), (6, 0.7, "1/sum", GREEN))),
        ("", ((0, 3, "running maximum", GREEN), (3, 3, "2^(score - maximum), sum", GREEN))),
    )
    heights = (3, 3, 1.35, 0.45)
    for height, (title, parts) in zip(heights, rows, strict=True):
        axes.text(-0.15, height + 0.35, title, ha="right", va="center", fontsize=10)
        for start, length, text, colour in parts:
            axes.add_patch(pyplot().Rectangle((start, height), length - 0.06, 0.72, color=colour))
            axes.text(
                start + length / 2 - 0.03, height + 0.36, text, ha="center", va="center", fontsize=8.5, color="black"
            )
    axes.annotate("", (12, 0.1), (0, 0.1), arrowprops={"arrowstyle": "->", "color": "black"})
    axes.text(12, -0.05, "time", ha="right", va="top", fontsize=9)
    axes.set(xlim=(-1.7, 12.1), ylim=(-0.45, 3.9))
    axes.set_axis_off()
    return figure


def gelu() -> Any:
    """GELU as ReLU less a small correction, and how far the table is from the exact function."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(10.5, 3.2), layout="constrained")
    x = np.arange(-16384, 16385, 16)
    real = x / 4096
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in real])
    left.plot(real, np.maximum(real, 0), color=GREY, label="ReLU(x)")
    left.plot(real, exact, color=BLUE, linewidth=2, label="GELU(x)")
    left.plot(real, np.maximum(real, 0) - exact, color=RED, label="delta(|x|), in a table of 512 lines")
    left.legend(frameon=False, fontsize=9)
    found = arithmetic.activation(x << words.ACTIVATION_FRACTION - 12, "gelu") / 2.0**words.ACTIVATION_FRACTION
    right.plot(real, (found - exact) * 1e5, color=RED, linewidth=0.8)
    right.set(ylabel="error, 1e-5", title="the hardware's values less the exact ones")
    for axes in (left, right):
        axes.set_xlabel("x")
        axes.grid(color="#e3e3e3", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def kinds(config: ModelConfig) -> Counter[str]:
    """Multiplications of the first task, by what they are for, as `Graph.multiplications` counts them."""
    rows = {Over.TOKENS: config.tokens, Over.STREAM: config.tokens, Over.PATCHES: config.patches}
    rows[Over.QUEUE] = config.tokens * config.top_k
    found: Counter[str] = Counter()
    for operation in graph(config).trunk:
        kind = operation.title.rpartition(f"layer {operation.result.layer} ")[2]
        for work in operation.work():
            name = "router" if kind == "experts" and not work.expert else kind
            if kind == "attention":
                name = "queries, keys, values, projection" if work.weights else "scores and their values"
            found[name] += (work.rows or rows[work.over]) * work.multiplications
    found["task head"] = graph(config).multiplications(config.tasks[0].name) - sum(found.values())
    return +found  # without a head that there is not


def one_array() -> Any:
    """What the one array multiplies for m3vit-t."""
    found = kinds(preset(MODEL))
    total = sum(found.values())
    figure, axes = pyplot().subplots(figsize=(10.5, 3.0), layout="constrained")
    ordered = [kind for kind, _ in sorted(found.items(), key=lambda item: item[1])]
    shares = [100 * found[kind] / total for kind in ordered]
    axes.barh(ordered, shares, color=BLUE, height=0.7)
    for number, (kind, share) in enumerate(zip(ordered, shares, strict=True)):
        axes.text(share + 0.5, number, f"{share:.1f} %   {found[kind] / 1e6:,.1f} M", va="center", fontsize=9)
    axes.set(
        xlabel=f"% of the {total / 1e6:,.1f} M multiplications of a picture and task", xlim=(0, 1.25 * max(shares))
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


PICTURES = {
    "idea-1-attention.svg": attention,
    "idea-2-softmax.svg": softmax,
    "idea-3-gelu.svg": gelu,
    "idea-4-array.svg": one_array,
}


def draw(folder: Path) -> None:
    """Write all of them."""
    plt = pyplot("the ideas' pictures")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"svg.hashsalt": "edgemoe", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    for name, make in PICTURES.items():
        with plt.rc_context(settings):
            data, figure = io.BytesIO(), make()
            figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)
        (folder / name).write_bytes(data.getvalue())


if __name__ == "__main__":
    root = clone()
    assert root is not None, "the pictures belong to a clone"
    draw(root / FOLDER)
