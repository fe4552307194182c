# SPDX-License-Identifier: Apache-2.0
"""The float model in NumPy, for calibration and for comparison. Needs no PyTorch; `golden` is the same model in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint


@cache
def _gelu_nodes() -> tuple[NDArray, NDArray]:
    x = np.arange(-10 * 128, 10 * 128 + 1) / 128
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    return x * cdf, cdf + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def float_gelu(x: NDArray) -> NDArray:
    """The exact GELU x * Phi(x): cubic Hermite between nodes 1/128 apart, error below 2e-11. Shape and float type are kept."""
    value, slope = _gelu_nodes()
    inside = np.clip(x, -9.99, 9.99)
    position = (inside + 10) * 128
    index = position.astype(np.int64)
    t = position - index
    t2, t3 = t * t, t * t * t
    y = (2 * t3 - 3 * t2 + 1) * value[index] + (3 * t2 - 2 * t3) * value[index + 1]
    y += ((t3 - 2 * t2 + t) * slope[index] + (t3 - t2) * slope[index + 1]) / 128
    return np.where(np.abs(x) >= 9.99, np.maximum(x, 0), y).astype(x.dtype)


Record = Callable[[str, NDArray], None]


@dataclass
class Forward:
    """tokens [B, T, D]; layers [B, T, D] each; routes, scores: layer -> [B, T, top_k]; head [B, patches, outputs] or None."""

    tokens: NDArray
    layers: list[NDArray] = field(default_factory=list)
    routes: dict[int, NDArray] = field(default_factory=dict)
    scores: dict[int, NDArray] = field(default_factory=dict)
    head: NDArray | None = None


def forward(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8],
    task: int | str = 0,
    routing: Mapping[int, NDArray] | None = None,
    record: Record | None = None,
    dtype: type = np.float64,
) -> Forward:
    """The float model on uint8 images [B, C, H, W] (or [C, H, W]); `routing` (layer -> experts [B, T, top_k]) holds the router's choice.

    `record` is called with the name and value of every tensor that calibration looks at.
    """
    config = checkpoint.config
    index = config.task_index(task)
    w: dict[str, NDArray[Any]] = {name: tensor.astype(dtype, copy=False) for name, tensor in checkpoint.tensors.items()}
    note = record or (lambda name, value: None)
    images = images if images.ndim == 4 else images[None]
    batch, p, heads, d = len(images), config.patch, config.heads, config.head_width
    pixels = images.reshape(batch, config.image_channels, config.patches_per_column, p, config.patches_per_row, p)
    x: NDArray[Any] = pixels.transpose(0, 2, 4, 1, 3, 5).reshape(batch, config.patches, -1).astype(dtype) / 256
    note("patch.input", x)
    embedded = x @ w["patch_embed.proj.weight"].reshape(config.width, -1).T
    note("patch.output", embedded)
    x = np.concatenate([np.zeros((batch, 1, config.width), dtype), embedded + w["patch_embed.proj.bias"]], axis=1) + w["pos_embed"]
    note("residual.embed", x)
    result = Forward(x)

    def norm(x: NDArray, name: str) -> NDArray:
        """LayerNorm; records x / sigma, which is what the array's (scaled) input amounts to."""
        mean = x.mean(axis=-1, keepdims=True)
        sigma = np.sqrt(x.var(axis=-1, keepdims=True) + dtype(config.eps))
        if record:
            note(f"{name}.sigma", sigma)
            note(f"{name}.scaled", x / sigma)
        return (x - mean) / sigma * w[f"{name}.weight"] + w[f"{name}.bias"]

    for layer in range(config.layers):
        b = f"blocks.{layer}"
        y = norm(x, f"{b}.norm1")
        qkv = y @ w[f"{b}.attn.qkv.weight"].T + w[f"{b}.attn.qkv.bias"]
        query, key, value = qkv.reshape(batch, config.tokens, 3, heads, d).transpose(2, 0, 3, 1, 4)  # [B, heads, T, d] each
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            note(f"{b}.{name}", tensor)
        s = query @ key.transpose(0, 1, 3, 2) * dtype(1 / math.sqrt(d))
        e = np.exp(s - s.max(axis=-1, keepdims=True))
        attention = (e / e.sum(axis=-1, keepdims=True)) @ value
        note(f"{b}.attention", attention)
        attention = attention.transpose(0, 2, 1, 3).reshape(batch, config.tokens, config.width)
        note(f"{b}.attention.rows", attention)
        y = attention @ w[f"{b}.attn.proj.weight"].T
        y = y + w[f"{b}.attn.proj.bias"]
        note(f"{b}.projection", y)
        x = x + y
        note(f"{b}.residual.attention", x)
        y = norm(x, f"{b}.norm2")
        if config.is_moe(layer):
            z = y @ w[f"{b}.mlp.gate.{index}.w_gate"]
            note(f"{b}.logits.{index}", z)
            e = np.exp(z - z.max(axis=-1, keepdims=True))
            prob = e / e.sum(axis=-1, keepdims=True)
            chosen = np.argsort(-prob, axis=-1, kind="stable")[..., : config.top_k]
            if routing is not None and layer in routing:
                chosen = np.asarray(routing[layer]).reshape(chosen.shape)
            score = np.take_along_axis(prob, chosen, axis=-1)
            result.routes[layer], result.scores[layer] = chosen, score
            flat = y.reshape(-1, config.width)
            out: NDArray[Any] = np.zeros((batch * config.tokens, config.width), dtype)
            note(f"{b}.experts.input", flat)
            for expert in np.unique(chosen):
                row, place = np.nonzero(chosen.reshape(-1, config.top_k) == expert)
                weight = score.reshape(-1, config.top_k)[row, place][:, None]
                note(f"{b}.routed.{expert}", np.concatenate([weight, row[:, None]], axis=1))
                m = flat[row] @ w[f"{b}.mlp.experts.htoh4.weight"][expert].T + w[f"{b}.mlp.experts.htoh4.bias"][expert]
                note(f"{b}.fc1", m)
                m = float_gelu(m)
                note(f"{b}.hidden", m)
                note(f"{b}.hidden.{expert}", m)
                m = m @ w[f"{b}.mlp.experts.h4toh.weight"][expert].T + w[f"{b}.mlp.experts.h4toh.bias"][expert]
                note(f"{b}.fc2", m)
                np.add.at(out, row, m * weight)
            y = out.reshape(x.shape)
        else:
            m = y @ w[f"{b}.mlp.fc1.weight"].T + w[f"{b}.mlp.fc1.bias"]
            note(f"{b}.fc1", m)
            m = float_gelu(m)
            note(f"{b}.hidden", m)
            note(f"{b}.hidden.all", m.reshape(-1, config.hidden))
            y = m @ w[f"{b}.mlp.fc2.weight"].T + w[f"{b}.mlp.fc2.bias"]
            note(f"{b}.fc2", y)
        x = x + y
        note(f"{b}.residual.mlp", x)
        result.layers.append(x)
    result.tokens = x
    head = config.tasks[index]
    if head.head_outputs:
        result.head = norm(x, f"heads.{head.name}.norm")[:, 1:] @ w[f"heads.{head.name}.proj.weight"].T + w[f"heads.{head.name}.proj.bias"]
        note(f"heads.{head.name}.output", result.head)
    return result
