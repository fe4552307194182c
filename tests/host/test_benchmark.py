# SPDX-License-Identifier: Apache-2.0
"""The benchmark's figures: cycles add up by state and by kind, queues and compulsory bytes follow the program, the plot
is a picture.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host import inference
from edgemoe.host.compiler.floor import blocks, floor
from edgemoe.host.studies import benchmark, headlines
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.calibrate import default_images
from edgemoe.models.numbers.formats import WeightFormat
from PIL import Image

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results.md"
MODEL = ModelConfig(
    name="bench",
    image_height=16,
    image_width=32,
    patch=8,
    width=32,
    heads=2,
    layers=2,
    hidden=48,
    experts=5,
    expert_hidden=16,
    top_k=2,
    moe_layers=(1,),
    tasks=(TaskConfig(name="one", kind="tokens"), TaskConfig(name="two", kind="tokens")),
)


@pytest.fixture(scope="module")
def report():
    checkpoint = benchmark.random_checkpoint(MODEL)
    return benchmark.benchmark(
        checkpoint, list(default_images(MODEL, 1)), hardware=preset("tiny"), tasks=2, latency=16, stalls=0.1
    )


def test_cycles_add_up(report):
    parts = report.breakdown
    assert sum(parts["total"].values()) == report.cycles
    assert sum(sum(states.values()) for states in parts["kinds"].values()) == report.cycles
    assert all(parts["kinds"][kind].get("array_active") for kind in ("weights", "expert", "keys", "values"))
    assert set(parts["total"]) == set(benchmark.STATES) and len(benchmark.STATES) == len(registers.STATE_COUNTERS)


def test_nothing_beats_the_floor_or_the_minimum(report):
    assert report.floor <= report.cycles and report.floor_ratio >= 1
    assert 0 < report.bytes_minimum <= report.bytes
    assert 0 < report.mac_utilisation < 1


def test_the_array_streams_every_row_of_every_block_once(report):
    """ARRAY_ACTIVE is the rows of the floor's blocks, and little that the floor leaves out."""
    rows = sum(rows for rows, _ in blocks(MODEL, preset("tiny"), streams=2, shared=True))
    assert rows <= report.breakdown["total"]["array_active"] < 1.1 * rows


@pytest.mark.parametrize("seed", range(5))
def test_nothing_beats_the_floor(seed):
    """Random models, formats and streams on a memory that could not be faster."""
    rng = np.random.default_rng(seed)
    experts = int(rng.integers(2, 9))
    model = replace(
        MODEL,
        width=int(rng.integers(1, 5)) * 8,
        hidden=int(rng.integers(1, 5)) * 16,
        experts=experts,
        expert_hidden=int(rng.integers(1, 9)) * 8,
        top_k=int(rng.integers(1, min(experts, 4) + 1)),
        layers=int(rng.integers(2, 4)),
        moe_layers=(int(rng.integers(2)),),
    )
    for weight_bits, tasks in (("16", 1), ("8", 2)):
        options = dict(hardware=preset("tiny"), weight_bits=weight_bits, tasks=tasks, latency=1)
        found = benchmark.benchmark(benchmark.random_checkpoint(model, seed), list(default_images(model, 1)), **options)
        assert found.floor_ratio >= 1, (model, weight_bits, tasks)


def test_the_floor_by_hand():
    """Bus-bound, array-bound, and a change between the two that the prefetch memory hides as far as it goes."""
    h = replace(preset("tiny"), prefetch_beats=64)  # a block of 4 x 4 x 16 bits takes 2 cycles on 16 bytes
    wide = replace(MODEL, moe_layers=(), experts=0, expert_hidden=0, top_k=0)
    listed = list(blocks(wide, h))
    assert {load for _, load in listed} == {0, 2} and floor(wide, h) == 2 + sum(rows for rows, _ in listed)
    narrow = replace(h, data_bits=64)
    assert {load for _, load in blocks(wide, narrow)} == {0, 4}
    queues = {1: [1] * 5}  # one row a block, so that the bus decides
    listed = list(blocks(MODEL, h, "16", queues))
    expert = [block for block in listed if block[0] == 1]
    rows = sum(rows for rows, _ in listed)
    found, ahead = floor(MODEL, h, "16", queues), 64 + 4
    assert len(expert) == 5 * 2 * 8 * 4
    assert (
        rows < found
        and sum(max(block) for block in listed) + 2 - ahead <= found <= sum(max(block) for block in listed) + 2
    )
    deep = replace(h, prefetch_beats=1 << 16)
    assert floor(MODEL, deep, "16", queues) == rows + 2  # all weights are there before they are needed


def test_stalls_reach_every_channel(monkeypatch):
    drams = []
    ran = inference.infer

    def noted(*arguments, **options):
        drams.append(options.get("dram"))
        return ran(*arguments, **options)

    monkeypatch.setattr(inference, "infer", noted)
    images = list(default_images(MODEL, 1))
    benchmark.benchmark(benchmark.random_checkpoint(MODEL), images, hardware=preset("tiny"), stalls=0.25)
    (dram,) = [dram for dram in drams if dram]
    assert {getattr(dram, f"stall_{channel}") for channel in ("ar", "r", "aw", "w", "b")} == {0.25}


def test_a_slow_memory_slows_down():
    """An eighth of the bytes: weights take eight times as long, in the floor as in the run, and none comes sooner."""
    checkpoint, images = benchmark.random_checkpoint(MODEL), list(default_images(MODEL, 1))
    fast, slow = (
        benchmark.benchmark(checkpoint, images, hardware=preset("tiny"), bandwidth=bandwidth) for bandwidth in (0, 2)
    )
    assert fast.bandwidth == 16 and slow.bandwidth == 2 and fast.bytes == slow.bytes
    assert slow.cycles >= slow.bytes / 2 > fast.cycles and slow.cycles >= slow.floor > 1.5 * fast.floor


def test_random_routers_are_balanced(report):
    """Every expert is used, and none by most of the tokens."""
    queues = report.queues
    assert queues["experts"] == queues["experts_used"] == 5
    tokens = 2 * MODEL.tokens * MODEL.top_k
    assert 0 < queues["shortest"] <= queues["median"] <= queues["longest"] < 2 * tokens / 5


def test_headlines(monkeypatch):
    """The table of results, row by row, from the reports of a small model."""
    images = list(default_images(MODEL, 2))
    monkeypatch.setattr(benchmark, "count_dsp", lambda hardware: 1236)
    rows = [
        headlines.Headline("tiny", WeightFormat.SIXTEEN, 0, ((1, 1), (1, 2))),
        headlines.Headline("tiny", WeightFormat.MIXED, 8, ((2, 2),)),
    ]
    reports = headlines.reports_of(benchmark.random_checkpoint(MODEL), images, rows)
    shapes = [(r.weight_bits, r.bandwidth, r.images, r.tasks) for r in reports]
    assert shapes == [("16", 16, 1, 1), ("16", 16, 1, 2), ("mixed", 8, 2, 2)]
    assert all(r.stalled_each > r.cycles_each for r in reports)
    lines = headlines.table(reports).splitlines()
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    first = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert first[:5] == ["`tiny`", "16 bit", "16", "1 x 1", f"{reports[0].cycles / 1e6:.3f} M"]
    assert first[6:9] == [f"{reports[0].floor_ratio:.3f}", f"{reports[0].stalled_each / 1e6:.3f} M", "1,236"]
    assert first[9] == f"{reports[0].macs / reports[0].cycles / 1236:.2f}"
    assert lines[0] in RESULTS.read_text(), "the table of results has other columns"


def test_the_table_as_a_command(edgemoe, monkeypatch, tmp_path):
    path = checkpoints.save(benchmark.random_checkpoint(MODEL), tmp_path / "m.safetensors")
    monkeypatch.setattr(headlines, "ROWS", (headlines.Headline("tiny", WeightFormat.SIXTEEN, 0, ((1, 1), (1, 2))),))
    code, text, errors = edgemoe("bench", "--checkpoint", path, "--table")
    assert code == 0 and text.count("`tiny`") == 2, errors
    alone = replace(MODEL, tasks=MODEL.tasks[:1])
    path = checkpoints.save(benchmark.random_checkpoint(alone), tmp_path / "one.safetensors")
    code, text, errors = edgemoe("bench", "--checkpoint", path, "--table")
    assert code == 0 and text.count("`tiny`") == 1, errors
    code, _, errors = edgemoe("bench", "--table", "--tasks", "2")
    assert code == 2 and "--table has rows of its own" in errors


def test_plot(report, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark.plot(report, tmp_path / "folder" / "bars.png")
    with Image.open(tmp_path / "folder" / "bars.png") as picture:
        assert picture.width > 400
    with pytest.raises(EdgemoeError, match="cannot write"):
        benchmark.plot(report, tmp_path / "folder" / "bars.nonsense")


def test_tasks_that_are_not_there():
    with pytest.raises(EdgemoeError, match="2 tasks, not 3"):
        benchmark.benchmark(
            benchmark.random_checkpoint(MODEL), list(default_images(MODEL, 1)), hardware=preset("tiny"), tasks=3
        )


def test_counters_that_do_not_add_up_are_told():
    class Run:
        counters = dict.fromkeys((*registers.COUNTERS, *registers.KIND_COUNTERS), 0) | {"CYCLES": 1}

    with pytest.raises(RuntimeError, match="do not add up"):
        benchmark.breakdown([Run()])
