# SPDX-License-Identifier: Apache-2.0
"""The demo: a street scene that training never saw, chosen by a rule, through the RTL and the emulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from edgemoe.host import inference
from edgemoe.host.images import png
from edgemoe.host.inference import CLOCK_MHZ
from edgemoe.host.runtime.driver import Run
from edgemoe.host.studies import checking
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import Opcode
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import metrics, scenes
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table
from edgemoe.models.numbers.calibrate import UNSEEN_SCENES
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.scenes import Scene
from numpy.typing import NDArray

MODEL = "m3vit-micro"
RANKED = 200  # held-out scenes among which the demo's is the typical one
SMALLEST = 64  # pixels, a quarter of a patch, that every class must cover in it
SEED = 2_000_049  # what `edgemoe demo --rank 200` finds


def config() -> ModelConfig:
    """The demo's model."""
    return checkpoints.load(MODEL).config


@dataclass(frozen=True)
class Quality:
    """How good the maps of a scene are, and of how many pixels its smallest class is."""

    seed: int
    mean_iou: float
    rmse_m: float
    abs_rel: float
    delta: float
    smallest: int

    @classmethod
    def of(cls, seed: int, scene: Scene, classes: NDArray[np.uint8], depth: NDArray[np.float32]) -> Quality:
        count = len(scenes.CLASSES)
        return cls(
            seed,
            metrics.mean_iou(classes, scene.labels, count),
            metrics.depth_rmse(depth, scene.depth),
            metrics.depth_abs_rel(depth, scene.depth),
            metrics.depth_delta(depth, scene.depth),
            int(np.bincount(scene.labels.ravel(), minlength=count).min()),
        )


def ranked(found: Sequence[Quality]) -> list[tuple[Quality, int, int]]:
    """(scene, rank of its mean IoU, rank of its depth's RMSE; 1 is the best), the most typical first: that whose worse
    rank is nearest to the median. Scenes in which a class covers less than SMALLEST pixels have ranks, but come last.
    """
    iou = np.argsort(np.argsort([-one.mean_iou for one in found], kind="stable"), kind="stable") + 1
    rmse = np.argsort(np.argsort([one.rmse_m for one in found], kind="stable"), kind="stable") + 1
    rows = [(one, int(a), int(b)) for one, a, b in zip(found, iou, rmse, strict=True)]
    middle = (len(found) + 1) / 2
    return sorted(rows, key=lambda row: (row[0].smallest < SMALLEST, max(abs(r - middle) for r in row[1:])))


def rank(count: int = RANKED) -> list[tuple[Quality, int, int]]:
    """The first so many held-out scenes, as `ranked` orders them; the emulator computes them, with the RTL's values."""
    model = checkpoints.load(MODEL)
    street: dict[int, Scene] = {}

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for number in range(count):
            street[number] = scenes.scene(UNSEEN_SCENES + number)
            yield street[number].image

    found = []
    options: dict[str, Any] = dict(device="emulator", hardware=preset("base"), count=count)
    with closing(inference.stream(model, pictures(), **options)) as parts:
        for part in parts:
            maps = dict(zip(part.streams, maps_of(model, part.images, part.streams, part.run), strict=True))
            for number in sorted({image for image, _ in part.streams}):
                classes, depth = (maps[number, model.config.task_index(name)] for name in ("segmentation", "depth"))
                found.append(Quality.of(UNSEEN_SCENES + number, street.pop(number), classes, depth))
    return ranked(found)


def maps_of(
    model: Checkpoint, images: Sequence[NDArray[np.uint8]], streams: Sequence[tuple[int, int]], run: Run
) -> list[Any]:
    """The prediction of every stream of a pass."""
    return [
        inference.prediction(model, task, image, head, tokens)
        for (_, task), image, head, tokens in zip(streams, images, run.heads, run.tokens, strict=True)
    ]


@dataclass(frozen=True)
class Demo:
    """What the demo's picture shows.

    routes: (layer, task) -> experts of each patch, [patches, top_k], the likeliest first. products: matrix products
    that were compared between RTL and emulator, value by value; mismatching: those that differ.
    """

    scene: Scene
    config: ModelConfig
    hardware: HardwareConfig
    classes: NDArray[np.uint8]
    depth: NDArray[np.float32]
    quality: Quality
    routes: dict[tuple[int, int], NDArray[np.int64]]
    cycles: int
    mac_utilisation: float
    seconds: float
    products: int
    mismatching: list[str]

    @property
    def verdict(self) -> str:
        """What the comparison found, for people."""
        equal = self.products - len(self.mismatching)
        if self.mismatching:
            return f"RTL and emulator differ: {equal} of {self.products} products bit-exact"
        return f"RTL = emulator, every value: {equal} of {self.products} products bit-exact"

    @property
    def milliseconds(self) -> float:
        return self.cycles / CLOCK_MHZ / 1e3

    def rows(self) -> list[tuple[str, str]]:
        """What the command's table says."""
        q = self.quality
        return [
            ("scene", f"{q.seed}, which training never saw"),
            ("segmentation", f"mean IoU {100 * q.mean_iou:.1f} %"),
            ("depth", f"RMSE {q.rmse_m:.2f} m, AbsRel {q.abs_rel:.3f}, within 1.25 times for {100 * q.delta:.0f} %"),
            (
                "both tasks",
                f"{self.cycles:,} cycles, {self.milliseconds:.2f} ms at {CLOCK_MHZ} MHz, a target",
            ),
            ("multipliers", f"{100 * self.mac_utilisation:.0f} % of their cycles useful"),
            ("checked", self.verdict),
            ("simulated in", f"{self.seconds:.1f} s"),
        ]


def routes_of(run: Run) -> dict[tuple[int, int], NDArray[np.int64]]:
    """(layer, task) -> [tokens, top_k] of a pass with one picture, from a run whose device tells its routes."""
    program = run.program
    routers = [key for i, key in zip(program.instructions, program.keys, strict=True) if i.opcode == Opcode.ROUTE]
    found = {}
    for key, route in zip(routers, run.routes, strict=True):
        assert key is not None and key.layer is not None and key.task is not None
        found[key.layer, key.task] = route
    return found


def run(seed: int, hardware: HardwareConfig) -> Demo:
    """The scene through RTL and emulator: maps and cycles of the RTL; every product is compared in a pass of its own,
    as storing it takes cycles.
    """
    model, scene = checkpoints.load(MODEL), scenes.scene(seed)
    options: dict[str, Any] = dict(hardware=hardware, model=quantise(model))
    traced: dict[str, Any] = options | dict(trace=True, save_tokens=True)
    timed = inference.infer(model, [scene.image], device="verilator", **options)
    simulated = inference.infer(model, [scene.image], device="verilator", **traced)
    emulated = inference.infer(model, [scene.image], device="emulator", **traced)
    products, _, mismatching = checking.differences(emulated, simulated)
    maps = {model.config.tasks[task].name: timed.map(place) for place, (_, task) in enumerate(timed.streams)}
    classes, depth = maps["segmentation"], maps["depth"]
    assert classes is not None and depth is not None
    totals = timed.totals()
    return Demo(
        scene=scene,
        config=model.config,
        hardware=hardware,
        classes=classes,
        depth=depth,
        quality=Quality.of(seed, scene, classes, depth),
        routes={key: route[model.config.prefix :] for one in emulated.runs for key, route in routes_of(one).items()},
        cycles=totals.cycles,
        mac_utilisation=totals.summary(hardware)["mac_utilisation"],
        seconds=totals.seconds,
        products=products,
        mismatching=mismatching,
    )


def sample(model: Checkpoint, hardware: HardwareConfig) -> bytes:
    """For a model's card: the demo's scene, as large as the model's pictures, and its maps as the hardware computes
    them, side by side, PNG."""
    scene = scenes.cut(scenes.scene(SEED), model.config.image_height, model.config.image_width)
    ran = inference.infer(model, [scene.image], device="emulator", hardware=hardware)
    shown = [scene.image.transpose(1, 2, 0)]
    for place, (_, task) in enumerate(ran.streams):
        values = ran.map(place)
        assert values is not None
        shown.append(inference.colourised(model.config, task, values))
    return png(np.concatenate(shown, axis=1).repeat(2, axis=0).repeat(2, axis=1))


def show_ranks(rows: Sequence[tuple[Quality, int, int]], most: int = 5) -> None:
    """The most typical scenes on standard output."""
    shown = [
        (str(one.seed), f"{one.mean_iou:.3f}", str(a), f"{one.rmse_m:.2f} m", str(b), str(one.smallest))
        for one, a, b in rows[:most]
    ]
    show_table(
        f"The most typical of {len(rows)} held-out scenes",
        shown,
        ("scene", "mean IoU", "rank", "depth RMSE", "rank", "pixels of the smallest class"),
    )
