# SPDX-License-Identifier: Apache-2.0
"""The real models on the default core: m3vit-micro with its trained weights, m3vit-t at full size;
RTL against emulator and float model.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from edgemoe.host import compiler
from edgemoe.host.inference import Inference, infer
from edgemoe.host.studies.checking import differences, sqnr_db
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import heads, metrics, scenes
from edgemoe.models.golden import Golden
from edgemoe.models.numbers import calibrate, quantise

from .cycles import check_cycles
from .support import (
    check_counters,
    check_equal,
    check_guards,
    check_plan,
    core,
    emulated,
    fill,
    images_of,
    random_m3vit_t,
)

BASE = preset("base")
HELD_OUT = 2_000_000  # seeds that neither training nor calibration has seen
SCENES = 12


def equal(simulated: Inference, reference: Inference) -> None:
    compared, wrong, labels = differences(reference, simulated)
    assert wrong == 0, labels[:10]
    assert compared == sum(len(run.program.traces) for run in reference.runs) > 0
    for a, b in zip(reference.heads, simulated.heads, strict=True):
        assert (a is None) == (b is None) and (a is None or np.array_equal(a, b))


@pytest.mark.parametrize("weight_bits", ["16", "mixed"])
def test_micro_rtl_equals_emulator(weight_bits: str) -> None:
    """Every MATMUL of both tasks on a held-out scene."""
    model, image = checkpoints.load("m3vit-micro"), scenes.scene(HELD_OUT).image
    options = dict(hardware=BASE, weight_bits=weight_bits, save_tokens=True, trace=True)
    reference, simulated = (infer(model, [image], device=device, **options) for device in ("emulator", "verilator"))
    equal(simulated, reference)
    assert len(simulated.runs) == 1 and [t for _, t in simulated.streams] == [0, 1]
    check_counters(simulated.runs[0])


def test_micro_is_as_good_as_the_float_model() -> None:
    """Quality of what the integers give (emulator = RTL, see above), over held-out scenes:
    mIoU within 0.5 points, RMSE within 1 %.
    """
    model = checkpoints.load("m3vit-micro")
    config, golden = model.config, Golden(model).eval()
    seg, depth = config.task_index("segmentation"), config.task_index("depth")
    streets = [scenes.scene(HELD_OUT + i) for i in range(SCENES)]
    found = infer(model, [street.image for street in streets], device="emulator", hardware=BASE)
    classes = config.tasks[seg].channels
    matrices = {"float": np.zeros((classes, classes), np.int64), "integer": np.zeros((classes, classes), np.int64)}
    squares = {"float": 0.0, "integer": 0.0}
    with torch.no_grad():
        for stream, (image, task) in enumerate(found.streams):
            head = golden(streets[image].image, task).head[0].numpy()
            decode = heads.segmentation_map if task == seg else heads.depth_map
            for name, prediction in (
                ("float", decode(head, config, config.tasks[task])),
                ("integer", found.map(stream)),
            ):
                assert prediction is not None
                if task == seg:
                    matrices[name] += metrics.confusion(prediction, streets[image].labels, classes)
                else:
                    squares[name] += metrics.depth_rmse(prediction, streets[image].depth) ** 2
    assert {task for _, task in found.streams} == {seg, depth}
    iou = {name: float(np.nanmean(metrics.class_iou(matrix))) for name, matrix in matrices.items()}
    rmse = {name: (square / SCENES) ** 0.5 for name, square in squares.items()}
    assert abs(iou["integer"] - iou["float"]) < 0.005, iou
    assert rmse["integer"] < 1.01 * rmse["float"], rmse
    assert iou["integer"] > 0.5, iou


@pytest.mark.parametrize("tasks", [1, 2])
def test_micro_cycles(tasks: int, pytestconfig: pytest.Config) -> None:
    run = infer(checkpoints.load("m3vit-micro"), [scenes.scene(HELD_OUT).image], tasks=range(tasks), hardware=BASE)
    check_counters(run.runs[0])
    check_cycles(pytestconfig, f"m3vit-micro, {tasks} task{'s' if tasks > 1 else ''}", run.total(lambda r: r.cycles))


def test_a_layer_pair_of_m3vit_t() -> None:
    """A dense and an MoE layer at full width, 129 tokens, both tasks:
    every MATMUL, through a memory with random stalls.
    """
    model = random_m3vit_t(layers=2)
    program = compiler.compile(quantise.quantise(model, "mixed"), [(0, 0), (0, 1)], BASE, trace=True, save_tokens=True)
    images = images_of(model.config, 1)
    reference = emulated(program, images)
    from edgemoe.sim.device import Dram

    with core(BASE, program.memory_size, Dram.hostile(seed=2, stalls=0.1, latency=40)) as (device, driver):
        expected = fill(device, program, images)
        run = driver.run(program, images)
        check_equal(reference, run)
        check_counters(run)
        check_guards(device, program, expected)


def test_the_whole_of_m3vit_t(pytestconfig: pytest.Config) -> None:
    """One image, one task: equal to the emulator, close to the float model, within the promised cycles, bytes and
    seconds.
    """
    model = random_m3vit_t()
    images = images_of(model.config, 1)
    options = dict(tasks=[0], hardware=BASE, model=quantise.quantise(model), save_tokens=True)
    reference = infer(model, images, device="emulator", **options)
    begun = time.process_time()
    simulated = infer(model, images, device="verilator", **options)
    seconds = min(time.process_time() - begun, simulated.runs[0].seconds)
    assert reference.tokens[0] is not None and simulated.tokens[0] is not None
    assert np.array_equal(reference.tokens[0], simulated.tokens[0])

    run = simulated.runs[0]
    check_counters(run)
    assert run.cycles <= 5_000_000
    assert seconds <= 60, "simulation of one image"
    # Every weight that is needed is read once, and little else.
    assert run.bytes_read + run.bytes_written <= 33_000_000
    routes = dict(zip(model.config.moe_layers, reference.runs[0].routes, strict=True))
    needed, layer, inside = 0, iter(routes.values()), 0
    used: list[int] = []
    for i in run.program.instructions:
        if i.opcode == Opcode.EXPERTS:
            inside, used = i.length, np.unique(next(layer)).tolist()
        elif inside:
            inside -= 1
            needed += i.beats * BASE.bus_bytes * len(used)
        elif i.opcode == Opcode.MATMUL and i.stationary in (Stationary.WEIGHTS16, Stationary.WEIGHTS8):
            needed += i.beats * BASE.bus_bytes
    assert needed <= run.bytes_read <= needed + 300_000
    check_cycles(pytestconfig, "m3vit-t with random weights, 1 task", run.cycles)
    check_plan(reference.runs[0], run)

    with torch.no_grad():
        held = (
            Golden(model)
            .double()
            .eval()(images[0], 0, routing={n: torch.from_numpy(r[None]) for n, r in routes.items()})
        )
    assert sqnr_db(held.tokens[0].numpy(), simulated.tokens[0]) > 45


def test_a_plain_vit_on_the_default_core() -> None:
    """The same hardware without any experts: m3vit-t's trunk, dense throughout, shared by its tasks."""
    full = random_m3vit_t(layers=2).config
    config = replace(full, name="deit pair", experts=0, expert_hidden=0, top_k=0, moe_layers=())
    from ..models.support import random_checkpoint

    model = random_checkpoint(config, calibrated=False)
    images = images_of(config, 1)
    model.calibration = calibrate.calibrate(model, images, error_aware=())
    program = compiler.compile(quantise.quantise(model, "16"), [(0, 0), (0, 1)], BASE, trace=True)
    with core(BASE, program.memory_size) as (_, driver):
        driver.load(program)
        check_equal(emulated(program, images), driver.run(program, images))
