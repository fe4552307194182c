# SPDX-License-Identifier: Apache-2.0
"""Plans: cycles as the RTL has been measured to take, bytes, capacities, shortages; without weights, Amaranth or a
simulator.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.compiler import timing
from edgemoe.host.compiler.capacities import Shortage
from edgemoe.host.studies import growth
from edgemoe.host.studies import plan as study
from edgemoe.hw.contract.config import PRESETS as HARDWARE
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.hardware_option import changed
from edgemoe.hw.contract.isa import Instruction, Opcode
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import PRESETS, ModelConfig
from edgemoe.models.numbers.calibrate import UNSEEN_SCENES, default_images
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.forward import forward
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.numbers.sketch import sketch
from edgemoe.models.scenes import scene
from numpy.typing import NDArray

from ..models.support import ODD, PLAIN, TINY, random_checkpoint
from ..top.cycles import FILE
from ..top.support import random_m3vit_t
from .conftest import Command

CLOSE = 0.01
GUESSED = 0.05  # where queues are taken as balanced
WIDENED = 0.04  # where a matrix of experts turned out to need 16 bits, which no plan without weights knows
MEASURED: Mapping[str, int] = json.loads(FILE.read_text())
RESULTS = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text()
# Of the table of results: how many tokens the experts of each MoE layer get there, by task.
ROUTED = (
    (
        (0, 6, 0, 32, 0, 27, 15, 24, 22, 19, 0, 22, 11, 33, 32, 15),
        (24, 19, 18, 11, 18, 12, 1, 18, 12, 17, 0, 17, 32, 32, 5, 22),
        (1, 0, 16, 6, 10, 39, 9, 4, 38, 22, 30, 3, 24, 4, 27, 25),
        (30, 12, 0, 39, 0, 16, 11, 37, 13, 21, 6, 13, 10, 33, 12, 5),
        (23, 12, 31, 0, 22, 0, 6, 35, 9, 48, 15, 13, 0, 23, 14, 7),
        (47, 0, 0, 17, 1, 0, 0, 5, 122, 50, 0, 11, 0, 2, 0, 3),
    ),
    (
        (0, 17, 0, 41, 1, 22, 16, 25, 2, 19, 0, 23, 16, 1, 51, 24),
        (15, 15, 22, 8, 22, 38, 7, 18, 13, 7, 0, 4, 30, 22, 19, 18),
        (13, 2, 12, 4, 3, 22, 44, 1, 41, 25, 11, 3, 28, 12, 16, 21),
        (19, 17, 4, 43, 0, 17, 24, 20, 1, 20, 0, 11, 15, 27, 1, 39),
        (1, 12, 26, 0, 27, 0, 0, 3, 3, 58, 50, 22, 0, 36, 20, 0),
        (30, 1, 0, 12, 8, 2, 0, 12, 109, 60, 0, 11, 0, 9, 0, 4),
    ),
)


def planned(
    model: str | ModelConfig, hardware: HardwareConfig, tasks: int = 1, weight_bits: str = "16", **options: Any
) -> study.Plan:
    config = PRESETS[model] if isinstance(model, str) else model
    return study.plan(sketch(config, weight_bits), hardware, tasks=range(tasks), **options)


def together(parts: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    """The queues of several streams."""
    return np.sum(parts, axis=0).tolist()


def headlines() -> list[Any]:
    """Preset, weights, bytes a cycle, tasks and cycles an image and task, from the table of results: of one image."""
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| (\d+) \| 1 x (\d) \| ([\d.]+) M \|", RESULTS, re.M)
    assert len(rows) == 12
    formats = {bits.label: bits.value for bits in WeightFormat}
    return [(name, formats[bits], int(rate), int(tasks), float(m) * 1e6) for name, bits, rate, tasks, m in rows]


def routed(model: Checkpoint, image: NDArray[np.uint8], tasks: int) -> dict[int, list[int]]:
    """The queues by the float model's routes, from which the integers' differ in a few near ties."""
    queues: dict[int, list[int]] = {}
    for task in range(tasks):
        for layer, chosen in forward(model, image, task, dtype=np.float32).routes.items():
            counts = np.bincount(chosen.reshape(-1), minlength=model.config.experts)
            queues[layer] = (counts + queues.get(layer, 0)).tolist()
    return queues


@pytest.mark.parametrize("tasks", [1, 2])
def test_m3vit_micro_takes_what_it_takes(tasks: int) -> None:
    """On the scene that the RTL was measured with, and on any."""
    cycles = MEASURED[f"m3vit-micro, {tasks} task{'s' if tasks > 1 else ''}"]
    queues = routed(checkpoints.load("m3vit-micro"), scene(UNSEEN_SCENES).image, tasks)
    found = planned("m3vit-micro", preset("base"), tasks, routes=[list(queues.values())])
    assert found.cycles == pytest.approx(cycles, rel=CLOSE) and found.routed
    found = planned("m3vit-micro", preset("base"), tasks)
    assert found.cycles == pytest.approx(cycles, rel=GUESSED) and not found.routed
    assert found.limit is timing.Limit.ARRAY and 1 < found.cycles / found.floor < 1.3


def test_m3vit_t_with_random_weights_takes_what_it_takes() -> None:
    model = random_m3vit_t()
    found = planned(
        model.config, preset("base"), routes=[list(routed(model, default_images(model.config, 1)[0], 1).values())]
    )
    assert found.cycles == pytest.approx(MEASURED["m3vit-t with random weights, 1 task"], rel=CLOSE)


def test_every_committed_count_has_its_plan_here() -> None:
    assert len(MEASURED) == 3


@pytest.mark.parametrize(("hardware", "weight_bits", "bandwidth", "tasks", "each"), headlines())
def test_the_table_of_results(hardware: str, weight_bits: str, bandwidth: int, tasks: int, each: float) -> None:
    chosen = preset(hardware)
    dram = timing.Dram(beat=chosen.bus_bytes / bandwidth)
    found = planned("m3vit-t", chosen, tasks, weight_bits, routes=[together(ROUTED[:tasks])], dram=dram)
    assert found.cycles / tasks == pytest.approx(each, rel=CLOSE if weight_bits == "16" else WIDENED)


def test_balanced_queues_are_the_results_too() -> None:
    cycles = re.search(r"which use all 16, and takes ([\d.]+) M cycles", RESULTS)
    assert cycles
    found = planned("m3vit-t", preset("base"))
    assert found.cycles == pytest.approx(float(cycles[1]) * 1e6, rel=CLOSE) and not found.routed
    outline = compiler.outline(sketch(TINY, "16"), [(0, 0), (0, 1)], preset("base"))
    assert study.balanced(outline, 6) == [[17] * 6]
    outline = compiler.outline(sketch(TINY, "16"), [(0, 0)], preset("base"))
    assert study.balanced(outline, 5) == [[10, 10, 10, 10, 11]]


def test_growth_is_that_of_the_results() -> None:
    """Times the floor, for tokens, experts, streams, latency and the array's side."""
    text = RESULTS.partition("One quantity varies at a time")[2].partition("\n\n")[0]
    figures = dict(re.findall(r"(\w+): ([^:]*?)\.(?=\s|$)", text.partition("Tokens")[1] + text.partition("Tokens")[2]))
    told = {name: [float(x) for x in re.findall(r"\b1\.\d\d\b", line)] for name, line in figures.items()}

    def ratio(build: HardwareConfig | None = None, tasks: int = 1, latency: int = 64, **change: int) -> float:
        model = replace(growth.MODEL, **change)
        found = planned(model, build or growth.hardware(), tasks, dram=timing.Dram(latency))
        return found.cycles / found.floor

    tokens = [dict(zip(("image_height", "image_width"), growth.TOKENS[count], strict=True)) for count in (33, 257)]
    plans = {
        "Tokens": [ratio(**size) for size in tokens],
        "Experts": [ratio(experts=4), ratio(experts=64)],
        "Streams": [ratio(), ratio(tasks=4)],
        "Latency": [ratio(), ratio(latency=256)],
        "side": [ratio(growth.hardware(4)), ratio(growth.hardware(32))],
    }
    assert told == {name: pytest.approx(found, rel=0.03) for name, found in plans.items()}


def test_constants_are_the_units_own() -> None:
    from edgemoe.hw import top
    from edgemoe.hw.compute.accumulator import Accumulator
    from edgemoe.hw.compute.array import Array
    from edgemoe.hw.compute.epilogue import Epilogue
    from edgemoe.hw.compute.lane_tree import tree_stages
    from edgemoe.hw.compute.layernorm import LayerNorm
    from edgemoe.hw.compute.narrow import Narrow
    from edgemoe.hw.compute.router import Router
    from edgemoe.hw.compute.row_maxima import RowMaxima
    from edgemoe.hw.compute.row_step import RowStep
    from edgemoe.hw.compute.softmax import Softmax
    from edgemoe.hw.control import fetch, hazards, loader
    from edgemoe.hw.control.streamer import Streamer
    from edgemoe.hw.memory import image
    from edgemoe.hw.memory.weights import Weights

    assert (timing.STREAM, timing.PROBABILITY, timing.SWEEP) == (
        Streamer.LATENCY,
        Softmax.LATENCY,
        LayerNorm.SWEEP_DELAY,
    )
    assert (timing.ACCUMULATE, timing.EPILOGUE) == (Accumulator.LATENCY, Epilogue.LATENCY)
    assert timing.REWEIGHTING == Softmax(preset("family")).LATENCY - Softmax.LATENCY
    assert (timing.NARROW, timing.ROW_STEP) == (Narrow.LATENCY, RowStep.LATENCY)
    assert (timing.SPACING, timing.PREFETCH) == (Accumulator.REVISIT, Weights.LATENCY)
    assert (timing.SWAP, timing.IN_FLIGHT) == (loader.SWAP_DELAY, hazards.IN_FLIGHT)
    assert (timing.QUEUED, timing.AHEAD, timing.MOST_PIXELS) == (top.QUEUED_JOBS, fetch.AHEAD, image.MOST_PIXELS)
    for hardware in HARDWARE.values():
        assert timing.tree_stages(hardware.lanes) == tree_stages(hardware.lanes)
        settle = max(LayerNorm(hardware).STATISTICS_DELAY, Softmax(hardware).MAX_DELAY)
        epilogue = Epilogue(hardware).LATENCY
        passed = Streamer.LATENCY + Array(hardware).LATENCY + Accumulator.LATENCY + epilogue
        if hardware.packed:
            settle, passed = max(settle, RowMaxima(hardware).MAX_DELAY), passed + RowStep.LATENCY
        assert timing.drain(hardware) == passed + settle
        route = Instruction(Opcode.ROUTE, dict(rows=9, columns=2, top_k=3))
        cost = timing.Cost()
        timing.Core(hardware).operation(route, cost, 0, 9)
        router = Router(hardware)
        assert cost.spent[timing.Limit.LATENCY] - 1 == 3 * max(18, 2 + router.TURN) + 18 + router.DRAIN


@pytest.mark.parametrize("config", [TINY, ODD, PLAIN], ids=lambda c: c.name)
@pytest.mark.parametrize("weight_bits", ["16", "8", "sage"])
def test_a_sketch_makes_the_same_program(config: ModelConfig, weight_bits: str) -> None:
    """But for the shifts, which are numbers of the weights; and the packed program is the one that was outlined."""
    streams = ((0, 0), (1, 1), (0, 1))
    packed = compiler.compile(quantise(random_checkpoint(config), weight_bits), streams, preset("base"))
    outline = compiler.outline(sketch(config, weight_bits), streams, preset("base"))

    def sizes(instructions: Sequence[Instruction]) -> list[tuple[Any, ...]]:
        return [
            (i.opcode, i.label, {k: v for k, v in i.values.items() if not k.endswith(("shift", "epsilon")) and v})
            for i in instructions
        ]

    assert sizes(outline.instructions) == sizes(packed.instructions)
    assert (outline.memory_size, outline.initialised) == (packed.memory_size, packed.memory.size)
    assert outline.lowered.macs == packed.macs


def test_more_is_never_faster() -> None:
    base = preset("base")

    def cycles(hardware: HardwareConfig = base, dram: timing.Dram = timing.STEADY, **change: int) -> int:
        return planned(replace(PRESETS["m3vit-micro"], **change), hardware, dram=dram).cycles

    assert cycles() > cycles(image_width=128) > cycles(image_width=64)
    assert cycles(layers=5) > cycles() < cycles(hidden=400) and cycles(expert_hidden=144) > cycles()
    buses = [
        cycles(replace(base, masters=masters, data_bits=bits))
        for bits, masters in ((64, 1), (128, 1), (128, 2))
    ]  # fmt: skip
    assert buses == sorted(buses, reverse=True) and buses[0] > buses[1]
    slower = [cycles(dram=timing.Dram(latency, beat)) for latency, beat in ((1, 1), (64, 1), (64, 4), (500, 4))]
    assert slower == sorted(slower) and slower[0] < slower[2]
    slow = planned("m3vit-t", base, dram=timing.Dram(beat=4))
    assert (planned("m3vit-t", base).limit, slow.limit) == (timing.Limit.ARRAY, timing.Limit.BUS)


@pytest.mark.parametrize(
    "lanes, masters, data_bits", [(4, 1, 128), (8, 1, 64), (16, 1, 256), (32, 2, 64), (32, 1, 256)]
)
@pytest.mark.parametrize("weight_bits", ["16", "8"])
def test_the_smallest_buffers(lanes: int, masters: int, data_bits: int, weight_bits: str) -> None:
    """One burst in flight and hardly more than a block in the prefetch memory; still nothing beats the floor."""
    sizes: dict[str, Any] = dict(lanes=lanes, masters=masters, data_bits=data_bits, rows=100, tokens=50, width=96)
    least = max(64, -(-(lanes + 4) * 2 * lanes // (masters * data_bits // 8)) + 20)  # parameters, a block, a burst
    hardware = HardwareConfig("small", **sizes, burst_beats=16, outstanding=1, prefetch_beats=least)
    roomy = replace(hardware, name="roomy", outstanding=8, prefetch_beats=2048, burst_beats=64)
    found, quick = (planned("m3vit-nano", build, 2, weight_bits) for build in (hardware, roomy))
    assert found.cycles >= quick.cycles >= quick.floor and found.cycles > found.floor


def test_passes_and_sums() -> None:
    one, five = planned("m3vit-micro", preset("base"), 2), planned("m3vit-micro", preset("base"), 2, images=5)
    assert (one.passes, five.passes) == (1, 5) and five.cycles == 5 * one.cycles and five.floor == 5 * one.floor
    assert sum(line.cost.cycles for line in one.schedule) == one.cycles
    assert sum(line.cost.read for line in one.schedule) == one.total.read
    summary = one.summary()
    assert sum(summary["spent"].values()) == summary["cycles"] and summary["milliseconds"] == pytest.approx(
        one.cycles / 300e3
    )
    assert {need.what for need in one.needs} >= {"residual words", "score words", "activation words at once"}
    assert all(need.amount <= need.limit for need in one.needs)


def test_all_shortages_at_once() -> None:
    model = replace(PRESETS["m3vit-t"], top_k=5)
    with pytest.raises(Shortage) as caught:
        planned(model, preset("tiny"), 2)
    short = [need.what.split(" (")[0] for need in caught.value.needs if need.short]
    assert short == ["experts", "experts a token"]
    assert "16 experts, the limit is 8" in str(caught.value) and "it fits with --set " in str(caught.value)
    mended = changed(preset("ulx3s"), [f"{name}={value}" for name, value in caught.value.changes.items()])
    assert all(not need.short for need in planned(model, mended).needs)


def test_what_is_cut_and_why() -> None:
    """More heads and rows than the chip holds: the plan says so, and with which fields nothing is cut."""
    found = planned("m3vit-t", preset("base"), 1)
    assert found.split is None and found.summary()["split"] is None
    found = planned("m3vit-t", small := replace(preset("base"), name="less", rows=100, tokens=100, width=96), 2)
    told = found.summary()["split"]
    assert told["how"] == "3 tiles of 44 token rows, keys and values of 1 head at a time, 44 rows of scores at once"
    assert any("129 tokens a stream" in why for why in told["why"])
    whole = planned("m3vit-t", changed(small, [f"{name}={value}" for name, value in told["set"].items()]), 2)
    assert whole.split is None and whole.macs <= found.macs and whole.cycles < found.cycles
    assert found.total.written > 10 * whole.total.written
    assert {need.what for need in found.needs} >= {"token rows of a tile", "activation words at once"}


def test_bytes_of_the_device() -> None:
    with pytest.raises(
        Shortage, match=r"it needs \d+ bytes of device memory, the limit is 1000000 .*; choose a larger"
    ):
        planned("m3vit-t", preset("base"), device_bytes=1_000_000)


def test_an_activation_function_that_is_not_built_in() -> None:
    model, board = replace(PRESETS["m3vit-nano"], activation="silu"), preset("schoko")
    with pytest.raises(Shortage) as caught:
        planned(model, board)
    assert str(caught.value) == (
        "model m3vit-nano does not fit hardware 'schoko': it needs the activation function silu, which is not built "
        "in; it fits with --set activations=gelu,silu"
    )
    assert planned(model, changed(board, ["activations=silu"])).cycles == planned("m3vit-nano", board).cycles


def test_large_models_take_seconds_and_no_memory() -> None:
    large = replace(
        PRESETS["m3vit-t"], name="large", width=384, heads=6, hidden=1536, expert_hidden=768, image_width=128
    )
    hardware = replace(preset("zcu102"), name="larger", width=384, hidden=1536)
    found = planned(large, hardware, 2)
    assert found.cycles > planned("m3vit-t", preset("zcu102"), 2).cycles
    linear = sketch(large).linear(next(key for _, m in sketch(large).graph.matrices() if (key := m.key) and m.expert))
    assert linear.weights.strides == (0, 0, 0)


def test_the_command(edgemoe: Command, tmp_path: Path) -> None:
    code, text, errors = edgemoe("plan", "--model", "m3vit-t", "--board", "zcu102", "--json")
    found = json.loads(text)
    assert code == 0 and not errors and found["fits"] and found["queues"] == "balanced"
    assert (found["clock_mhz"], found["weight_bits"], found["tasks"]) == (300, "mixed", ["task0"])
    assert found["milliseconds"] == pytest.approx(found["cycles"] / 300e3)
    assert set(found["schedule"][0]) == {
        "part", "label", "kind", "rows", "blocks", "bytes", "bytes_read", "bytes_written", "cycles", "limit"
    }  # fmt: skip
    assert sum(line["cycles"] for line in found["schedule"]) == found["cycles"]
    assert {line["limit"] for line in found["schedule"]} >= {"array", "latency"}
    assert found["limit"] in ("array", "bus", "latency") and found["floor_ratio"] == found["cycles"] / found["floor"]
    assert found["capacities"][-1]["capacity"] == "bytes of device memory" and found["capacities"][-1]["free"] > 0
    code, text, _ = edgemoe("plan", "--task", "depth", "--set", "rows=129", "--set", "tokens=129", "--images", "2")
    assert code == 0 and "layer 1 experts" in text and "guessed" in text and "the first of 2 passes" in text
    code, text, _ = edgemoe("plan", "--model", "m3vit-nano", "--board", "schoko", "--instructions")
    assert code == 0 and "layer 0 head 2 scores" in text and "MATMUL KEYS" in text and "60 MHz" in text


def test_the_commands_routes(edgemoe: Command, tmp_path: Path) -> None:
    """Of given images, as the emulator finds them."""
    file = checkpoints.save(random_checkpoint(TINY), tmp_path / "tiny.safetensors")
    np.save(tmp_path / "x.npy", default_images(TINY, 1)[0].transpose(1, 2, 0))
    given = ("plan", "--checkpoint", file, "--hardware", "tiny", "--json")
    found, guessed = (
        json.loads(edgemoe(*given, *more)[1]) for more in (("--image", tmp_path / "x.npy"), ("--images", "1"))
    )
    assert (found["queues"], guessed["queues"]) == ("images", "balanced")
    experts = [line["rows"] for line in found["schedule"] if line["part"] == "layer 1 experts" and line["blocks"]]
    assert experts == [
        line["rows"] for line in guessed["schedule"] if line["part"] == "layer 1 experts" and line["blocks"]
    ]
    assert found["cycles"] != guessed["cycles"]  # as many rows, but in other queues


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--model", "m3vit-t", "--hardware", "tiny"), ("it needs 16 experts", "it fits with --set experts=16")),
        (("--model", "m3vit-x"), ("no model preset 'm3vit-x'", "m3vit-t")),
        (("--model", "m3vit-t", "--checkpoint", "m3vit-micro"), ("not both",)),
        (("--model", "m3vit-t", "--image", "x.png"), ("give --checkpoint",)),
        (("--image", "x.png", "--images", "2"), ("not both",)),
        (("--image", "missing.png",), ("missing.png",)),
        (("--hardware", "huge"), ("unknown hardware 'huge'",)),
        (("--board", "nothing"), ("unknown board 'nothing'",)),
        (("--board", "ultra96", "--set", "masters=2"), ("1 memory port",)),
        (("--task", "flow"), ("no task 'flow'", "segmentation")),
    ],
)  # fmt: skip
def test_mistakes(edgemoe: Command, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    code, _, errors = edgemoe("plan", *arguments)
    assert code == 2 and len(errors.strip().splitlines()) == 1 and all(part in errors for part in parts)


def test_a_misfit_as_json(edgemoe: Command) -> None:
    code, text, errors = edgemoe("plan", "--model", "m3vit-t", "--hardware", "tiny", "--json")
    found = json.loads(text)
    assert code == 2 and "it fits with" in errors and not found["fits"] and len(found["shortages"]) == 1
    assert found["set"]["experts"] == 16 and {need["free"] < 0 for need in found["capacities"]} == {True, False}


def test_it_needs_neither_amaranth_nor_a_simulator() -> None:
    blocked = "import sys\nfor name in ('amaranth', 'torch', 'cocotb'): sys.modules[name] = None\n"
    program = blocked + "sys.argv = ['edgemoe', 'plan', '--model', 'm3vit-nano', '--board', 'schoko', '--json']\n"
    program += "from edgemoe.host.cli import start\nstart.main()\n"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["fits"]
