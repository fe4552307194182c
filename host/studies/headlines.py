# SPDX-License-Identifier: Apache-2.0
"""The table of cycles in docs/results.md: which rows it has, and how they are measured and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from edgemoe.boards.facts import BOARDS, ZynqBoard
from edgemoe.host.inference import CLOCK_MHZ
from edgemoe.host.studies import benchmark
from edgemoe.hw.contract.hardware_option import configured
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.numbers.formats import WeightFormat
from numpy.typing import NDArray


class Headline(NamedTuple):
    """Rows of the table: a preset with a weight format, on a memory of so many bytes a cycle (0: as many as
    the bus takes), one for each pass of (images, tasks).
    """

    hardware: str
    weight_bits: WeightFormat
    bandwidth: float
    passes: tuple[tuple[int, int], ...]


ONE_TWO = ((1, 1), (1, 2))
ZCU102 = BOARDS["zcu102"]
assert isinstance(ZCU102, ZynqBoard)
ROWS = (
    Headline("base", WeightFormat.SIXTEEN, 0, ONE_TWO),
    Headline("zcu102", WeightFormat.MIXED, ZCU102.memory_bandwidth, ONE_TWO),
    Headline("zcu102", WeightFormat.FAST_TRUNK, ZCU102.memory_bandwidth, ONE_TWO),
    Headline("zcu102", WeightFormat.FAST, ZCU102.memory_bandwidth, (*ONE_TWO, (2, 2))),
    Headline("zcu102-large", WeightFormat.FAST, ZCU102.memory_bandwidth, (*ONE_TWO, (2, 2))),
    Headline("kv260-fast", WeightFormat.FAST, 0, (*ONE_TWO, (2, 2))),
)
IMAGES = 2
STALLS = 0.1


def reports_of(
    checkpoint: Checkpoint, images: Sequence[NDArray[np.uint8]], rows: Sequence[Headline], latency: int = 64
) -> list[benchmark.Benchmark]:
    """The report of each row without stalls, with DSP slices, and `stalled_each`:
    cycles an image and task where every channel stalls. Of passes with as many tasks as the model has.
    """
    reports = []
    for name, weight_bits, bandwidth, passes in rows:
        hardware = configured(name)
        for count, tasks in passes:
            if tasks > len(checkpoint.config.tasks):
                continue
            options: dict[str, Any] = dict(hardware=hardware, weight_bits=weight_bits, tasks=tasks, latency=latency)
            options["bandwidth"] = bandwidth
            report = benchmark.benchmark(checkpoint, images[:count], **options)
            stalled = benchmark.benchmark(checkpoint, images[:count], stalls=STALLS, **options)
            reports.append(replace(report, dsp=benchmark.count_dsp(hardware), stalled_each=stalled.cycles_each))
    return reports


def table(reports: Sequence[benchmark.Benchmark]) -> str:
    """The reports as a Markdown table."""
    stalls = f"with {STALLS:.0%} stalls".replace("%", " %")
    titles = (
        "preset",
        "weights",
        "bytes a cycle",
        "images x tasks in a pass",
        "cycles an image and task",
        f"at {CLOCK_MHZ} MHz",
        "of the floor",
        stalls,
        "DSP",
        "MAC per DSP and cycle",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for r in reports:
        each, stalled = r.cycles_each / 1e6, (r.stalled_each or 0) / 1e6
        cells = [
            f"`{r.hardware}`",
            r.weight_bits.label,
            f"{r.bandwidth:g}",
            f"{r.images} x {r.tasks}",
            f"{each:.3f} M",
            f"{each * 1e3 / CLOCK_MHZ:.1f} ms",
            f"{r.floor_ratio:.3f}",
            f"{stalled:.3f} M",
        ]
        cells += ["not counted"] * 2 if r.dsp is None else [f"{r.dsp:,}", f"{r.macs_per_dsp:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
