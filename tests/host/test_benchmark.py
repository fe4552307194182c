# SPDX-License-Identifier: Apache-2.0
"""The benchmark's figures: cycles add up by state and by kind, queues and compulsory bytes follow the program, the plot is a picture."""

import pytest
from edgemoe.host import benchmark
from edgemoe.host.floor import floor
from edgemoe.hw import registers
from edgemoe.hw.config import preset
from edgemoe.models.calibration import default_images
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError
from PIL import Image

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
    return benchmark.benchmark(checkpoint, list(default_images(MODEL, 1)), hardware=preset("tiny"), tasks=2, latency=16, stalls=0.1)


def test_cycles_add_up(report):
    parts = report["breakdown"]
    assert sum(parts["total"].values()) == report["cycles"]
    assert sum(sum(states.values()) for states in parts["kinds"].values()) == report["cycles"]
    assert all(parts["kinds"][kind].get("array_active") for kind in ("weights", "expert", "keys", "values"))
    assert set(parts["total"]) == set(benchmark.STATES) and len(benchmark.STATES) == len(registers.STATE_COUNTERS)


def test_nothing_beats_the_floor_or_the_minimum(report):
    assert report["floor"] <= report["cycles"] and report["floor_ratio"] >= 1
    assert 0 < report["bytes_minimum"] <= report["bytes"]
    assert 0 < report["mac_utilisation"] < 1


def test_the_array_streams_every_row_of_every_block_once(report):
    """ARRAY_ACTIVE is the floor without what the floor charges for LayerNorm and for weights that take longer than the rows."""
    unlimited = floor(MODEL, preset("tiny"), "16", streams=2, shared=True)
    assert report["breakdown"]["total"]["array_active"] < 1.2 * unlimited


def test_plot(report, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark.plot(report, tmp_path / "folder" / "bars.png")
    with Image.open(tmp_path / "folder" / "bars.png") as picture:
        assert picture.width > 400
    with pytest.raises(EdgemoeError, match="cannot write"):
        benchmark.plot(report, tmp_path / "folder" / "bars.nonsense")


def test_tasks_that_are_not_there():
    with pytest.raises(EdgemoeError, match="2 tasks, not 3"):
        benchmark.benchmark(benchmark.random_checkpoint(MODEL), list(default_images(MODEL, 1)), hardware=preset("tiny"), tasks=3)


def test_counters_that_do_not_add_up_are_told():
    class Run:
        counters = dict.fromkeys((*registers.COUNTERS, *registers.KIND_COUNTERS), 0) | {"CYCLES": 1}

    with pytest.raises(RuntimeError, match="do not add up"):
        benchmark.breakdown([Run()])
