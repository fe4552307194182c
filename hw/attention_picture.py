# SPDX-License-Identifier: Apache-2.0
"""attention.svg, the picture of ATTENTION.md: what becomes of a score, kind by kind, from the formula through the
registers of its pipeline to the weights that its integers give.

    python -m edgemoe.hw.attention_picture      (writes it anew)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from edgemoe.hw.compute.cosformer import CosFormer
from edgemoe.hw.compute.exponential import Exponential
from edgemoe.hw.compute.gate import Gate
from edgemoe.hw.compute.reweighting import Reweighting
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.compute.softmax import Softmax
from edgemoe.models.numbers import twins
from edgemoe.models.numbers.arithmetic import PHASE_FRACTION, activation, probability, round_shift
from edgemoe.models.numbers.words import ACTIVATION_FRACTION, SCORE_FRACTION

PICTURE = Path(__file__).resolve().parent / "attention.svg"
WIDTH, ROW, TOP = 940, 168, 16
SCORES = np.linspace(-8, 8, 129)
UNIT = 2.0**-11  # of a score in the picture: shift 1
BIAS = -np.log(129)  # sigmoid's, of 129 tokens


class Kind(NamedTuple):
    """A row of the picture. stages: registers from score memory to the array; note: what else the row needs."""

    name: str
    formula: str
    stages: Sequence[str]
    note: str


KINDS = (
    Kind(
        "softmax",
        "2^(s - max), then x 1/sum",
        Softmax.STAGES,
        "the maximum is kept as scores come out, the sum taken as weights go in",
    ),
    Kind("sigmoid", "1 / (1 + exp(-(s - ln n)))", ("score", *Sigmoid.STAGES), "nothing of its row: no maximum, no sum"),
    Kind(
        "relu",
        "max(s, 0), with 1/n in the scores",
        ("score", "positive", *(f"wait {i}" for i in range(1, Sigmoid.LATENCY))),
        "nothing of its row, and no table",
    ),
    Kind(
        "two-pass",
        "2^(s - E), then x 1/M",
        Softmax.STAGES,
        "the sum M 2^E is kept as scores come out; the maximum's octave E",
    ),
    Kind(
        "softplus",
        "relu(a / mean - 1)^15, then x 1/sum",
        (*Reweighting.STAGES, *Exponential.STAGES),
        "a = log(1 + exp(s)) are the words, whose sum is kept",
    ),
    Kind(
        "performer",
        "max(w x, 0) + 0.001 of queries and of keys",
        ("score", "above 0", "bias", *(f"wait {i}" for i in range(1, Sigmoid.LATENCY - 1))),
        "a feature: linear attention multiplies keys' by values first",
    ),
    Kind(
        "cosformer",
        "max(x, 0) times sine and cosine of its place",
        ("score", *CosFormer.STAGES),
        "a feature, here without its turn; a table of a quarter turn",
    ),
    Kind(
        "rela",
        "max(s, 0), then g o / rms(o) sigmoid(w o)",
        ("sums", *(stage.removeprefix("sigmoid ") for stage in Gate.STAGES)),
        "weights are relu's; these are the registers of the gate, of all heads' results o",
    ),
)
STYLE = (
    "rect { fill: #fff; stroke: #4a6b3a; stroke-width: 1.3 } .back { fill: #fff; stroke: none } "
    ".plot { fill: #f7f9f6; stroke: #9a9 } .curve { fill: none; stroke: #a33; stroke-width: 2 } "
    "text { fill: #123; font-size: 13px } .name { font-weight: bold; font-size: 16px } .small { font-size: 11px; "
    "fill: #345 } .stage { text-anchor: middle; font-size: 11px }"
)


def curve(kind: str) -> np.ndarray:
    """Weights of SCORES, the largest of which is the row's maximum, as the integers have them."""
    words = np.round(SCORES / UNIT).astype(np.int64)[None]
    if kind == "softplus":
        words = round_shift(activation(words << ACTIVATION_FRACTION - 11, kind), ACTIVATION_FRACTION - 11)
    bias = 1e-3 if kind == "performer" else BIAS
    factors = np.full(words.shape, 1 << PHASE_FRACTION)
    kept = (words.max(axis=1), SCORE_FRACTION - 11, round(bias / UNIT), factors, words.sum(axis=1), words.shape[1])
    fine = twins.weights(kind, words, *kept)[0]
    return probability(fine) / 2.0**15


def row(kind: Kind, y: int) -> list[str]:
    """SVG of one kind, from `y` down."""
    lines = [
        f'<text class="name" x="20" y="{y + 26}">{kind.name}</text>',
        f'<text x="110" y="{y + 26}">{kind.formula}</text>',
        f'<text class="small" x="20" y="{y + 48}">{kind.note}</text>',
    ]
    step = 620 / len(kind.stages)
    for index, stage in enumerate(kind.stages):
        x = 20 + index * step
        lines.append(f'<rect x="{x:.1f}" y="{y + 70}" width="{step - 10:.1f}" height="44" rx="4"/>')
        lines.append(f'<text class="stage" x="{x + (step - 10) / 2:.1f}" y="{y + 96}">{stage}</text>')
    left, top, width, height = 680, y + 16, 230, 110
    heights = curve(kind.name)
    own = kind.name in ("relu", "rela", "performer", "cosformer")
    most = "in the unit of the scores" if own else f"largest weight here {heights.max():.3f}"
    points = " ".join(
        f"{left + width * i / (len(SCORES) - 1):.1f},{top + height * (1 - w / heights.max()):.1f}"
        for i, w in enumerate(heights)
    )
    lines += [
        f'<rect class="plot" x="{left}" y="{top}" width="{width}" height="{height}"/>',
        f'<polyline class="curve" points="{points}"/>',
        f'<text class="small" x="{left}" y="{top + height + 15}">s = -8</text>',
        f'<text class="small" x="{left + width - 30}" y="{top + height + 15}">s = 8</text>',
        f'<text class="small" x="{left + 6}" y="{top + 14}">{most}</text>',
    ]
    return lines


def picture() -> str:
    """The whole SVG."""
    height = TOP + ROW * len(KINDS)
    body = [line for number, kind in enumerate(KINDS) for line in row(kind, TOP + ROW * number)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="Helvetica, Arial, sans-serif">',
            "  <!-- SPDX-License-Identifier: Apache-2.0 -->",
            "  <!-- python -m edgemoe.hw.attention_picture -->",
            f"  <defs><style>{STYLE}</style></defs>",
            f'  <rect class="back" width="{WIDTH}" height="{height}"/>',
            *(f"  {line}" for line in body),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture())
