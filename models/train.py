# SPDX-License-Identifier: Apache-2.0
"""Trains m3vit-micro on generated street scenes, from nothing, on one CPU core; m3vit-nano is cut from it.

Loss, for every image and both tasks: cross-entropy of the classes and 1 - J, L1 of the logarithm of depth, and per MoE
layer a load-balancing term E * sum over experts e of f_e * P_e, with f_e the share of routes and P_e the mean
probability of expert e. It is taken mostly over the tokens of all tasks together, which keeps every expert in use and
leaves each task free to prefer its own, and a little over each task's alone, so that the tasks also have experts in
common. On request also the z-loss, a small multiple of the mean square of log sum exp of the classes' logits, which
keeps them from drifting.

J is the mean over the classes of sum(p y) / sum(p + y - p y), with p the class's probability and y whether it is there:
the intersection over union that the maps are judged by, where a pole counts as much as the sky.

Matrices of the layers and heads learn by Muon, everything else by AdamW. For small objects Muon did most, then more
steps, then J; a hidden layer in the heads, heads that reach over their patch's border and pixels beside the tokens did
next to nothing, one training of each compared.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F

from . import checkpoint as checkpoints
from . import heads, scenes
from .checkpoint import Checkpoint
from .config import ModelConfig, TaskConfig, preset
from .console import bar as progress_bar
from .errors import EdgemoeError
from .golden import Golden, Mlp
from .muon import Muon

STEPS = 3600  # what the published m3vit-micro was trained with
SCENES = 6000
HELD_OUT = 1_000_000  # seeds from here on are never trained with

WINDOWED = {"m3vit-nano": "m3vit-micro"}  # presets that are not trained but cut from another (`windowed`)

BATCH = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
WARM_UP = 200  # steps
COOL_DOWN = 1 / 3  # of all steps, at the end
BALANCE = 0.02
JACCARD = 1.0  # weight of 1 - J beside the cross-entropy
ALONE = 0.25  # weight of each task's own balance beside that of all tasks together
# Rare classes weigh more, or people and poles would be given up for the sake of the walls behind them.
CLASS_WEIGHTS = (1.0, 1.0, 1.0, 1.3, 3.0, 1.0, 3.0)


@dataclass
class SceneSet:
    """images uint8 [n, 3, H, W]; labels uint8 [n, H, W]; log_depth float16 [n, H, W], ln(depth / 10 m)."""

    images: np.ndarray
    labels: np.ndarray
    log_depth: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def _progress(show: bool) -> Progress:
    shown = progress_bar("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown.disable |= not show
    return shown


def make_scenes(
    count: int, first_seed: int, progress: bool = False, size: tuple[int, int] = (scenes.HEIGHT, scenes.WIDTH)
) -> SceneSet:
    """The scenes of seeds first_seed, first_seed + 1, ..., or their windows of that size."""
    result = SceneSet(
        np.empty((count, 3, *size), np.uint8), np.empty((count, *size), np.uint8), np.empty((count, *size), np.float16)
    )
    with _progress(progress) as bar:
        job = bar.add_task("scenes", total=count)
        for index in range(count):
            scene = scenes.cut(scenes.scene(first_seed + index), *size)
            result.images[index], result.labels[index] = scene.image, scene.labels
            result.log_depth[index] = np.log(scene.depth / heads.DEPTH_UNIT)
            bar.advance(job)
    return result


def windowed(source: Checkpoint, config: ModelConfig) -> Checkpoint:
    """The model `source` on a window of its picture (`scenes.WINDOWS`): the same weights; of the position embeddings
    the window's.

    source: of the scenes' size; config: the same model, but for name and picture. Nothing is trained, and nothing but
    position tells the model how large its picture is. It sees less around the window, though, so its quality is a
    little lower.
    """
    row, column = (start // config.patch for start in scenes.WINDOWS[config.image_height, config.image_width])
    embedding = source.tensors["pos_embed"]  # [1 + rows * columns, D]
    grid = embedding[1:].reshape(source.config.patches_per_column, source.config.patches_per_row, -1)
    window = grid[row : row + config.patches_per_column, column : column + config.patches_per_row].reshape(
        config.patches, -1
    )
    return Checkpoint(config, {**source.tensors, "pos_embed": np.concatenate([embedding[:1], window])})


def device_name(device: str) -> str:
    """What a training is said to have run on."""
    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") else device


def _check(config: ModelConfig, device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's own words are pages
        raise EdgemoeError(
            f"PyTorch {torch.__version__} cannot compute on device {device!r} here; leave it out for the CPU"
        ) from error
    if (config.image_channels, config.image_height, config.image_width) != (3, scenes.HEIGHT, scenes.WIDTH):
        raise EdgemoeError(
            f"model {config.name}: training needs images of 3x{scenes.HEIGHT}x{scenes.WIDTH}, the size of the scenes"
        )
    for task in config.tasks:
        if task.kind == "tokens":
            raise EdgemoeError(
                f"model {config.name}: task {task.name} has no head, so there is nothing to train; give it a kind"
            )
        if task.kind not in ("segmentation", "depth") or task.decoder != "linear":
            raise EdgemoeError(
                f"model {config.name}: task {task.name} is no linear decoder of segmentation or depth, which training "
                "is for"
            )
        if task.kind == "segmentation" and task.channels != len(scenes.CLASSES):
            raise EdgemoeError(
                f"model {config.name}: task {task.name} has {task.channels} classes, the scenes have "
                f"{len(scenes.CLASSES)}"
            )
        if config.patch % task.grid:
            raise EdgemoeError(
                f"model {config.name}: task {task.name} has grid {task.grid}, training needs a divisor of "
                f"{config.patch}"
            )


def forward_tasks(model: Golden, images: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Head values of all tasks, and per MoE layer the routes and probabilities, [tasks, B, T, k] and [tasks, B, T, E].

    Nothing depends on the task before the first router, so that part is computed once for all tasks.
    """
    config = model.config
    streams = [model.embed(images)]  # [B, T, D] each
    routes = []
    for block in model.layers():
        streams = [x + block.attn(block.norm1(x)) for x in streams]
        if isinstance(block.mlp, Mlp):
            streams = [x + block.mlp(block.norm2(x)) for x in streams]
            continue
        if len(streams) < len(config.tasks):
            streams = streams * len(config.tasks)
        parts = [block.mlp(block.norm2(x), task) for task, x in enumerate(streams)]
        streams = [x + part[0] for x, part in zip(streams, parts, strict=True)]
        routes.append((torch.stack([part[1] for part in parts]), torch.stack([part[3] for part in parts])))
    if len(streams) < len(config.tasks):
        streams = streams * len(config.tasks)
    return [model.heads[task.name](x) for task, x in zip(config.tasks, streams, strict=True)], routes


def _cells(head: Tensor, config: ModelConfig, task: TaskConfig) -> Tensor:
    """[B, N, s*s*channels] -> [B, channels, rows * s, columns * s]."""
    s, rows, columns = task.grid, config.patches_per_column, config.patches_per_row
    x = head.reshape(len(head), rows, columns, s, s, task.channels)  # [B, rows, columns, s, s, channels]
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(head), task.channels, rows * s, columns * s)


def _jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, classes, rows, columns], [B, rows, columns] -> the mean over the classes of intersection / union, of
    probabilities; a class that occurs nowhere counts by how little it is expected.
    """
    probability = logits.softmax(dim=1)
    there = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    both = (probability * there).sum(dim=(0, 2, 3))  # [classes]
    either = (probability + there).sum(dim=(0, 2, 3)) - both
    return ((both + 1) / (either + 1)).mean()


def losses(
    model: Golden, images: Tensor, labels: Tensor, log_depth: Tensor, offset: tuple[int, int], z_loss: float = 0.0
) -> tuple[list[Tensor], Tensor]:
    """Loss of each task, and the balancing term. `offset` (0..1, 0..1 of a cell's pixels) picks the pixel each cell is
    held to. `z_loss`: the share of a segmentation's z-loss in its loss.
    """
    config = model.config
    values, routes = forward_tasks(model, images)
    result = []
    for task, head in zip(config.tasks, values, strict=True):
        step = config.patch // task.grid
        # One pixel of each cell, another one each step: on average the cell learns the mixture of its pixels, at a
        # fraction of the cost.
        rows, columns = slice(offset[0] % step, None, step), slice(offset[1] % step, None, step)
        cells = _cells(head.float(), config, task)
        if task.kind == "segmentation":
            weights, there = torch.tensor(CLASS_WEIGHTS, device=cells.device), labels[:, rows, columns].long()
            loss = F.cross_entropy(cells, there, weights) + JACCARD * (1 - _jaccard(cells, there))
            result.append(loss + z_loss * cells.logsumexp(dim=1).square().mean() if z_loss else loss)
        else:
            result.append(F.l1_loss(cells[:, 0], log_depth[:, rows, columns].float()))
    balance = torch.zeros((), device=images.device)
    for indices, probabilities in routes:
        share = torch.stack(
            [task.flatten().bincount(minlength=config.experts) for task in indices]
        ).float()  # [tasks, E]
        share = share / share.sum(1, keepdim=True)
        mean = probabilities.float().flatten(1, 2).mean(1)  # [tasks, E]
        together = config.experts * (share.mean(0) * mean.mean(0)).sum()
        alone = config.experts * (share * mean).sum(1).mean()
        balance = balance + (together + ALONE * alone) / (1 + ALONE) / len(routes)
    return result, balance


def train(
    config: ModelConfig | str = "m3vit-micro",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    steps: int = STEPS,
    minutes: float | None = None,
    threads: int = 1,
    progress: bool = True,
    scene_count: int = SCENES,
    bfloat16: bool = True,
    learning_rate: float = LEARNING_RATE,
    z_loss: float = 0.0,
    device: str = "cpu",
) -> tuple[Checkpoint, list[float]]:
    """Trains and returns the checkpoint and the loss of every step; writes it to `out`, if given.

    The same seed, steps and threads give the same weights on the same kind of CPU. `minutes` limits the time instead:
    the learning rate then follows the clock, and nothing can be repeated exactly. `bfloat16` multiplies matrices in
    bfloat16, three times as fast on CPUs that have it; the weights themselves stay float32. `device`: PyTorch's name of
    what computes, such as "cuda", on which nothing repeats exactly.
    """
    config = preset(config) if isinstance(config, str) else config
    _check(config, device)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _train(config, seed, out, steps, minutes, progress, scene_count, bfloat16, learning_rate, z_loss, device)
    finally:
        torch.set_num_threads(threads_before)


def _optimisers(model: Golden, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for what turns channels into channels; AdamW for pixels, positions, routers, biases and norms."""
    named = {name: parameter for name, parameter in model.named_parameters() if "pos_embed" not in name}
    weights = [name for name, parameter in named.items() if parameter.dim() > 1 and "bias" not in name]
    matrices = [name for name in weights if not name.startswith("patch_embed") and not name.endswith("w_gate")]
    decayed = [named[name] for name in weights if name not in matrices]
    kept = [parameter for name, parameter in model.named_parameters() if name not in weights]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}]
    return (
        Muon([named[name] for name in matrices], learning_rate, WEIGHT_DECAY),
        torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98)),
    )


def _train(
    config: ModelConfig,
    seed: int,
    out: str | os.PathLike[str] | None,
    steps: int,
    minutes: float | None,
    progress: bool,
    scene_count: int,
    bfloat16: bool,
    learning_rate: float,
    z_loss: float,
    device: str,
) -> tuple[Checkpoint, list[float]]:
    data = make_scenes(scene_count, seed % (HELD_OUT // SCENES) * SCENES, progress)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Golden(config).to(device)
    optimisers = _optimisers(model, learning_rate)
    history: list[float] = []
    order = np.empty(0, np.int64)
    start = time.monotonic()
    with _progress(progress) as bar:
        job = bar.add_task("steps", total=steps)
        for step in range(steps):
            done = step / steps if minutes is None else (time.monotonic() - start) / (60 * minutes)
            if done >= 1:
                break
            # A short rise, then half a cosine, which falls to one half, and in the last third a straight line to 0 on
            # top of it.
            rise = min(1.0, (step + 1) / min(WARM_UP, max(1, steps // 10)))
            rate = learning_rate * rise * (0.5 + 0.5 * np.cos(np.pi * done / 2)) * min(1.0, (1 - done) / COOL_DOWN)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = rate
            if len(order) < BATCH:
                order = np.concatenate([order, rng.permutation(len(data))])
            batch, order = order[:BATCH], order[BATCH:]
            images, labels, log_depth = data.images[batch], data.labels[batch], data.log_depth[batch]
            mirrored = rng.random(len(batch)) < 0.5
            for array in (images, labels, log_depth):
                array[mirrored] = array[mirrored][..., ::-1]
            offset = (int(rng.integers(config.patch)), int(rng.integers(config.patch)))
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                pixels, classes, depths = (torch.from_numpy(a).to(device) for a in (images, labels, log_depth))
                parts, balance = losses(model, pixels, classes, depths, offset, z_loss)
            loss = sum(parts) + BALANCE * balance
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
            history.append(sum(part.item() for part in parts))
            bar.advance(job)
            if (step + 1) % 500 == 0 and out is not None:
                checkpoints.save(model.to_checkpoint(), out)  # so that an interrupted training leaves something to run
            if (step + 1) % 200 == 0 and progress:
                named = "  ".join(
                    f"{task.name} {part.item():.3f}" for task, part in zip(config.tasks, parts, strict=True)
                )
                recent, seconds = np.mean(history[-200:]), time.monotonic() - start
                bar.console.print(
                    f"step {step + 1}  loss {recent:.4f}  {named}  balance {balance.item():.3f}  {seconds:.0f} s"
                )
    result = model.to_checkpoint()
    if out is not None:
        checkpoints.save(result, out)
    return result, history
