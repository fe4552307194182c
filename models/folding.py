# SPDX-License-Identifier: Apache-2.0
"""What is folded into the weights before they are rounded, so that the hardware need not do it.

- LayerNorm's gamma and mean: W' = W diag(gamma) (I - 11^T / n); beta into the bias; the hardware's 1/sqrt(V) lacks a factor
  n = 2^L * (n / 2^L), whose fraction goes into W', too.
- log2(e) / sqrt(d) of the attention into W_q; log2(e) of the router into its matrix: both softmaxes are in base 2.
- Softmax does not see what all keys share, so keys are centred on their calibrated mean (the bias disappears). Probabilities add up
  to 1, so values are centred, too, and W_proj * mean goes into the projection's bias. Both give the 16 bits to what carries information.
- Channel by channel, queries and keys are scaled against each other to equal range, which their product does not see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint


@dataclass
class Folded:
    """A float matrix ready to be rounded: weight [..., outputs, inputs], bias [..., outputs]; sums * 2^-(fraction) = value / weight."""

    weight: NDArray
    bias: NDArray


def fold_norm(weight: NDArray, bias: NDArray | float, gamma: NDArray, beta: NDArray) -> Folded:
    """W', b' with LayerNorm's affine part and mean inside; the factor n / 2^ceil(log2 n), which 1/sqrt(V) lacks, is inside, too."""
    n = gamma.shape[-1]
    folded = weight * gamma
    folded = folded - folded.mean(axis=-1, keepdims=True)
    return Folded(folded * (n / (1 << norm_bits(n))), weight @ beta + bias)


def norm_bits(n: int) -> int:
    """L = ceil(log2 n)."""
    return (n - 1).bit_length()


def fold(checkpoint: Checkpoint, calibration: Mapping[str, Any]) -> dict[str, Folded]:
    """Every matrix of the model with everything folded in, float64, by the name of its quantised form."""
    config = checkpoint.config
    w = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}
    log2e = math.log2(math.e)
    result = {"patch": Folded(w["patch_embed.proj.weight"].reshape(config.width, -1), np.zeros(config.width))}
    width = config.width
    for layer in range(config.layers):
        b, channel = f"blocks.{layer}", {k: np.array(v) for k, v in calibration["channels"][f"blocks.{layer}"].items()}
        matrix, bias = w[f"{b}.attn.qkv.weight"].reshape(3, width, width), w[f"{b}.attn.qkv.bias"].reshape(3, width)
        gamma, beta = w[f"{b}.norm1.weight"], w[f"{b}.norm1.bias"]
        balance = np.sqrt(np.maximum(channel["key"], 1e-9) / np.maximum(channel["query"], 1e-9))  # channel by channel
        balance = np.where((channel["key"] > 1e-9) & (channel["query"] > 1e-9), balance, 1.0)
        scale = balance * (log2e / math.sqrt(config.head_width))
        result[f"{b}.query"] = fold_norm(matrix[0] * scale[:, None], bias[0] * scale, gamma, beta)
        key = fold_norm(matrix[1] / balance[:, None], (bias[1] - channel["mean_key"]) / balance, gamma, beta)
        boost = value_boost(channel)
        value = fold_norm(matrix[2] * boost[:, None], (bias[2] - channel["mean_value"]) * boost, gamma, beta)
        result[f"{b}.key_value"] = Folded(np.concatenate([key.weight, value.weight]), np.concatenate([key.bias, value.bias]))
        projection = w[f"{b}.attn.proj.weight"]
        result[f"{b}.projection"] = Folded(projection / boost, w[f"{b}.attn.proj.bias"] + projection @ channel["mean_value"])
        gamma, beta = w[f"{b}.norm2.weight"], w[f"{b}.norm2.bias"]
        if config.is_moe(layer):
            for task in range(len(config.tasks)):
                gate = w[f"{b}.mlp.gate.{task}.w_gate"].T * log2e
                result[f"{b}.router.{task}"] = fold_norm(gate - gate.mean(axis=0), 0.0, gamma, beta)
            result[f"{b}.first"] = fold_norm(w[f"{b}.mlp.experts.htoh4.weight"], w[f"{b}.mlp.experts.htoh4.bias"], gamma, beta)
            result[f"{b}.second"] = Folded(w[f"{b}.mlp.experts.h4toh.weight"], w[f"{b}.mlp.experts.h4toh.bias"])
        else:
            result[f"{b}.first"] = fold_norm(w[f"{b}.mlp.fc1.weight"], w[f"{b}.mlp.fc1.bias"], gamma, beta)
            result[f"{b}.second"] = Folded(w[f"{b}.mlp.fc2.weight"], w[f"{b}.mlp.fc2.bias"])
    for owner in config.tasks:
        if owner.head_outputs:
            h = f"heads.{owner.name}"
            result[h] = fold_norm(w[f"{h}.proj.weight"], w[f"{h}.proj.bias"], w[f"{h}.norm.weight"], w[f"{h}.norm.bias"])
    return result


def value_boost(channel: Mapping[str, NDArray]) -> NDArray:
    """Factor per value channel: half-way (in decibels) to equal ranges, undone in the projection's weights; at most 8."""
    reach = np.maximum(channel["value"], 1e-9)
    return np.clip(np.sqrt(reach.max() / reach), 1, 8)


def weight_scale(weight: NDArray, bits: int) -> NDArray:
    """Value of one step, per output channel [..., outputs]: a power of two for 16 bits, largest magnitude / 127 for 8."""
    reach = np.maximum(np.abs(weight).max(axis=-1), 2.0**-30)  # a matrix of zeros, such as a router not yet trained, needs no small step
    reach = np.maximum(reach, reach.max() * 2.0**-12)  # channels of (almost) zero weights
    if bits == 16:
        return np.exp2(np.ceil(np.log2(reach / 32767)))
    return reach / 127
