# SPDX-License-Identifier: Apache-2.0
"""How good a trained float model is on scenes that it has never seen, beside baselines; and its model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from . import heads, metrics, scenes
from .checkpoint import Checkpoint
from .config import ModelConfig
from .golden import Golden
from .numbers.calibrate import UNSEEN_SCENES
from .numbers.formats import WeightFormat
from .train import BATCH, SCENES, WINDOWED, make_scenes

HARDWARE_FORMATS: tuple[str, ...] = (WeightFormat.SIXTEEN, WeightFormat.MIXED, WeightFormat.EIGHT)  # rows of the card


@dataclass
class Evaluation:
    """Quality on held-out scenes: per method the mean IoU and the depth error in metres; IoU per class of the model;
    and the share of routes per layer, task and expert, {layer: [tasks, E]}."""

    scenes: int
    mean_iou: dict[str, float]
    depth_rmse: dict[str, float]
    class_iou: np.ndarray
    expert_use: dict[int, np.ndarray]


def evaluate(source: Checkpoint, count: int = 200, fit: int = 200, first_seed: int = UNSEEN_SCENES) -> Evaluation:
    """Measures a checkpoint (float32) against three baselines that were fitted to `fit` training scenes.

    constant       the commonest class and the mean depth, everywhere
    mean colour    the class whose mean colour is nearest to the pixel's, and the mean depth of that class
    position       for every pixel position its commonest class and its mean depth
    """
    config, classes = source.config, len(scenes.CLASSES)
    size = (config.image_height, config.image_width)
    model = Golden(source).eval()
    known = make_scenes(fit, 0, size=size)
    depth = np.exp(known.log_depth.astype(np.float32)) * heads.DEPTH_UNIT
    pixels = known.images.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float32)
    flat_labels, flat_depth = known.labels.ravel(), depth.ravel()
    counts = np.maximum(np.bincount(flat_labels, minlength=classes), 1)
    mean_colours = np.stack(
        [np.bincount(flat_labels, pixels[:, c], classes) / counts for c in range(3)], axis=1
    ).astype(np.float32)
    mean_depths = np.bincount(flat_labels, flat_depth, classes) / counts
    votes = np.stack([(known.labels == c).sum(0) for c in range(classes)])
    position_classes, position_depth = votes.argmax(0).astype(np.uint8), depth.mean(0)
    del pixels, flat_depth

    methods = ("constant", "mean colour", "position", "model")
    matrices = {method: np.zeros((classes, classes), np.int64) for method in methods}
    squares = {method: 0.0 for method in methods}
    use = {layer: np.zeros((len(config.tasks), config.experts)) for layer in config.moe_layers}
    with torch.no_grad():
        for index in range(count):
            scene = scenes.cut(scenes.scene(first_seed + index), *size)
            colour = scene.image.reshape(3, -1).T.astype(np.float32)
            nearest = ((colour[:, None] - mean_colours[None]) ** 2).sum(-1).argmin(1).reshape(scene.labels.shape)
            maps = {
                "constant": (np.full_like(scene.labels, counts.argmax()), np.full_like(scene.depth, depth.mean())),
                "mean colour": (nearest.astype(np.uint8), mean_depths[nearest]),
                "position": (position_classes, position_depth),
            }
            found: dict[str, np.ndarray] = {}
            for number, task in enumerate(config.tasks):
                output = model(scene.image, number)
                for layer, indices in output.routing.items():
                    use[layer][number] += np.bincount(indices.flatten().numpy(), minlength=config.experts)
                decode = heads.segmentation_map if task.kind == "segmentation" else heads.depth_map
                found[task.kind] = decode(output.head[0].numpy(), config, task)
            maps["model"] = (found.get("segmentation", maps["constant"][0]), found.get("depth", maps["constant"][1]))
            for method, (class_map, depth_found) in maps.items():
                matrices[method] += metrics.confusion(class_map, scene.labels, classes)
                squares[method] += metrics.depth_rmse(depth_found, scene.depth) ** 2
    return Evaluation(
        count,
        {method: float(np.nanmean(metrics.class_iou(matrices[method]))) for method in methods},
        {method: float(np.sqrt(squares[method] / count)) for method in methods},
        metrics.class_iou(matrices["model"]),
        {layer: table / table.sum(1, keepdims=True) for layer, table in use.items()},
    )


def expert_table(evaluation: Evaluation, tasks: list[str]) -> str:
    """Markdown: per layer and task, the share of routes that each expert gets, in per cent."""
    experts = next(iter(evaluation.expert_use.values())).shape[1] if evaluation.expert_use else 0
    lines = [
        "| layer | task | " + " | ".join(f"expert {e}" for e in range(experts)) + " |",
        "|---|---" + "|---:" * experts + "|",
    ]
    for layer, table in evaluation.expert_use.items():
        for task, shares in zip(tasks, table, strict=True):
            lines.append(f"| {layer} | {task} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")
    return "\n".join(lines)


def recipe(config: ModelConfig, seed: int, steps: int, threads: int, seconds: float, device: str = "") -> str:
    """How the weights were made. device: what trained them, if no CPU."""
    if config.name in WINDOWED:
        row, column = scenes.WINDOWS[config.image_height, config.image_width]
        size = f"{config.image_height}x{config.image_width}"
        whole = WINDOWED[config.name]
        return f"""`./edgemoe train {config.name}` cuts it from {whole}: the same weights, looking at the \
window of {size} pixels
from row {row}, column {column} of a scene on, with the position embeddings of that window. \
Nothing was trained anew; the calibration is
its own. `edgemoe infer --resize crop` takes the middle of a wide picture; without it, \
all of it is squeezed into the square."""
    named = "" if config.name == "m3vit-micro" else f" {config.name}"
    if device:
        return f"""`./edgemoe train{named} --device cuda` follows the recipe: seed {seed}, {steps} steps of {BATCH} \
images,
{SCENES} scenes, bfloat16 products. These weights were trained on one {device} in {math.ceil(seconds / 60)} minutes, \
the making of the
scenes included; no training repeats itself exactly there. Without `--device` the recipe takes some 0.7 s a step on one
core of a CPU, and with the same PyTorch, kind of CPU and number of threads it repeats itself."""
    return f"""`./edgemoe train{named}` follows the recipe: seed {seed}, {steps} steps of {BATCH} images, \
{SCENES} scenes, bfloat16 products,
{threads} thread{"s" if threads > 1 else ""}. These weights took {seconds:.0f} s of wall-clock time, \
the making of the scenes included.
With the same PyTorch, kind of CPU and number of threads, training repeats itself."""


def active_weights(source: Checkpoint, task: int) -> int:
    """How many weights a token meets, in one task: its experts, its position, its task's routers and head."""
    config, count = source.config, 0.0
    for name, tensor in source.tensors.items():
        others = [number for number in range(len(config.tasks)) if number != task]
        if any(f".gate.{o}." in name or name.startswith(f"heads.{config.tasks[o].name}.") for o in others):
            continue
        share = config.top_k / config.experts if ".experts." in name else 1.0
        count += tensor.size * (1 / config.tokens if name == "pos_embed" else share)
    return round(count)


def card(
    source: Checkpoint,
    evaluation: Evaluation,
    computed: Mapping[str, Mapping[str, Mapping[str, float]]],
    seed: int,
    steps: int,
    threads: int,
    seconds: float,
    picture: str,
    device: str = "",
) -> str:
    """The model card, in Markdown. computed: weight format -> task -> metric -> value, as the hardware computes it on
    the same scenes. picture: the file of a sample beside it. device: see `recipe`.
    """
    config = source.config
    words = sum(tensor.size for tensor in source.tensors.values())
    active = active_weights(source, 0)
    moe_layers = ", ".join(map(str, config.moe_layers))
    rows = [
        ("one class, one depth everywhere", "constant"),
        ("class with the nearest mean colour, its mean depth", "mean colour"),
        ("commonest class and mean depth at the pixel's position", "position"),
        (f"**{config.name}**", "model"),
    ]
    results = "\n".join(
        f"| {text} | {evaluation.mean_iou[key]:.4f} | {evaluation.depth_rmse[key]:.3f} |" for text, key in rows
    )
    names = {task.kind: task.name for task in config.tasks}
    for bits, found in computed.items():
        iou, rmse = found[names["segmentation"]]["mean_iou"], found[names["depth"]]["rmse_m"]
        results += (
            f"\n| the same, as the hardware computes it, {WeightFormat.of(bits).label} | {iou:.4f} | {rmse:.3f} |"
        )
    per_class = "\n".join(
        f"| {name} | {iou:.3f} |" for name, iou in zip(scenes.CLASSES, evaluation.class_iou, strict=True)
    )
    tasks = ", ".join(f"{t.name} ({t.grid}x{t.grid} cells a patch, {t.channels} values a cell)" for t in config.tasks)
    return f"""# {config.name}

A small multi-task Mixture-of-Experts Vision Transformer (M3ViT) that segments a street scene \
into {len(scenes.CLASSES)} classes and
estimates its depth. It exists so that the accelerator has a trained model to run; \
it is trained on generated pictures only
(`models/scenes.py`) and is not meant for pictures of real streets.

![A generated scene that training never saw, its segmentation and its depth as the hardware computes them]\
({picture})

| | |
|---|---|
| image | {config.image_channels}x{config.image_height}x{config.image_width}, 8 bits, {config.tokens} tokens |
| width, heads, layers | {config.width}, {config.heads} x {config.head_width}, \
{config.layers} (MoE layers {moe_layers}) |
| MLP, experts | {config.hidden}; {config.experts} experts of {config.expert_hidden}, top-{config.top_k} |
| tasks | {tasks} |
| weights | {words:,} float32, {4 * words / 1e6:.2f} MB |
| of these active for a token, in one task | {active:,} ({active / words:.0%}) |
| depth value | ln(depth / {heads.DEPTH_UNIT:.0f} m) |

## Quality

On {evaluation.scenes} scenes that neither training nor calibration has seen (seeds from {UNSEEN_SCENES}), \
full resolution, float32 but for
the last rows (`./edgemoe evaluate --weight-bits 16`, `mixed` and `8`); baselines fitted to training scenes.

| method | mean IoU | depth RMSE (m) |
|---|---:|---:|
{results}

| class | IoU |
|---|---:|
{per_class}

The sky counts as {scenes.MAX_DEPTH:.0f} m in the depth error.

## Use of the experts

Share of each task's routes, in per cent, on the same scenes.

{expert_table(evaluation, [t.name for t in config.tasks])}

## Reproduce

{recipe(config, seed, steps, threads, seconds, device)}

Licence: Apache-2.0, the weights and the generated scenes alike.
"""
