# SPDX-License-Identifier: Apache-2.0
"""From float weights to the integers that the hardware multiplies, and the calibration that this rests on. Needs no PyTorch.

A tensor with exponent f holds round(value * 2^f). Activations have 16 bits and one exponent per tensor, found by running the float model on
calibration images. Weights have 16 or 8 bits and a factor per output channel: a power of two for 16 bits, any factor for 8 bits.

What is folded into weights, so that the hardware need not do it:
- LayerNorm's gamma and mean: W' = W diag(gamma) (I - 11^T / n); beta into the bias; the hardware's 1/sqrt(V) lacks a factor
  n = 2^L * (n / 2^L), whose fraction goes into W', too.
- log2(e) / sqrt(d) of the attention into W_q; log2(e) of the router into its matrix: both softmaxes are in base 2.
- Softmax does not see what all keys share, so keys are centred on their calibrated mean (the bias disappears). Probabilities add up
  to 1, so values are centred, too, and W_proj * mean goes into the projection's bias. Both give the 16 bits to what carries information.
- Channel by channel, queries and keys are scaled against each other to equal range, which their product does not see.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import SCALE_ONE, SCORE_FRACTION
from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import EdgemoeError

WEIGHT_BITS = ("16", "8", "mixed")
HEADROOM = 1.05  # calibrated maxima times this must fit 16 bits: other images reach a little further
GUARD_BITS = 6  # below the output's last bit, inside the epilogue
PIXEL_FRACTION = 8  # an image's value is pixel / 256
GELU_FRACTION = 16

# ---------------------------------------------------------------------------------------------------- the float model


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


# ---------------------------------------------------------------------------------------------------- calibration


def default_images(config: ModelConfig, count: int = 8) -> NDArray[np.uint8]:
    """Generated street scenes [count, C, H, W] where the model's images have their size, otherwise noise with soft edges."""
    shape = (config.image_channels, config.image_height, config.image_width)
    if shape == (3, 128, 256):
        from .scenes import scene

        return np.stack([scene(1_000_003 + i).image for i in range(count)])
    rng = np.random.default_rng(0)
    coarse = rng.random((count, config.image_channels, -(-config.image_height // 4), -(-config.image_width // 4)))
    image = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, : config.image_height, : config.image_width]
    return np.clip((0.8 * image + 0.2 * rng.random(image.shape)) * 256, 0, 255).astype(np.uint8)


def calibrate(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | None = None,
    *,
    error_aware: Iterable[str] = ("mixed", "8"),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run the float model with every task on the images and keep what `quantise` needs, as JSON can hold it.

    ranges    tensor -> largest magnitude
    smallest  LayerNorm -> smallest sigma
    clipped   residual tensor -> number of values, and k -> sum of squares of what lies beyond 2^k
    channels  layer -> per channel: largest magnitude of queries, centred keys and centred values; means of keys and values
    rounding  weight format -> tensor -> how the error-aware rounding differs from plain rounding (zlib, base64). It is stored, as the
              second moments that it needs are far larger, and as compiling then needs neither images nor the float model.
    """
    config = checkpoint.config
    batch = default_images(config) if images is None else np.stack([np.asarray(i) for i in images])
    expected = (config.image_channels, config.image_height, config.image_width)
    if batch.dtype != np.uint8 or batch.shape[1:] != expected:
        raise EdgemoeError(f"calibration images are {batch.dtype} {list(batch.shape[1:])}, expected uint8 {list(expected)}; resize them")
    ranges: dict[str, float] = {}
    smallest: dict[str, float] = {}
    clipped: dict[str, dict[str, float]] = {}
    samples: dict[str, list[NDArray]] = {}
    formats = tuple(error_aware)
    moments = _Moments(config, "8" in formats) if formats else None

    def record(name: str, value: NDArray) -> None:
        if name.endswith(".sigma"):
            smallest[name] = min(smallest.get(name, math.inf), float(value.min()))
        elif name.endswith((".query", ".key", ".value", ".attention")) and ".residual." not in name:
            samples.setdefault(name, []).append(value)
        elif name.endswith((".scaled", ".rows", ".input")) or ".hidden." in name or ".routed." in name:
            if moments is not None:
                moments.note(name, value)
        else:
            if ".logits." in name:  # the hardware's are in base 2, and free of what all experts share
                value = (value - value.mean(axis=-1, keepdims=True)) * math.log2(math.e)
            if "residual." in name:
                magnitude, tail = np.abs(value), clipped.setdefault(name, {"count": 0.0})
                tail["count"] += value.size
                for k in range(-8, 23):  # what a limit of 2^k would cost
                    if (over := magnitude[magnitude > 2.0**k]).size:
                        tail[str(k)] = tail.get(str(k), 0.0) + float(np.square(over.astype(np.float64) - 2.0**k).sum())
            ranges[name] = max(ranges.get(name, 0.0), float(np.abs(value).max()))

    for task in range(len(config.tasks)):
        if progress:
            progress(f"float model, task {config.tasks[task].name}")
        for image in batch:
            forward(checkpoint, image, task, record=record, dtype=np.float32)
    channels: dict[str, dict[str, list[float]]] = {}
    log2e = math.log2(math.e) / math.sqrt(config.head_width)
    for layer in range(config.layers):
        b = f"blocks.{layer}"
        query, key, value, attention = (np.concatenate(samples.pop(f"{b}.{n}")) for n in ("query", "key", "value", "attention"))
        mean_key, mean_value = key.mean(axis=(0, 2), keepdims=True), value.mean(axis=(0, 2), keepdims=True)
        key, value, attention = key - mean_key, value - mean_value, attention - mean_value
        scores = max(float(np.abs(q @ k.transpose(0, 2, 1)).max()) for q, k in zip(query, key, strict=True))
        ranges[f"{b}.scores"] = scores * log2e

        def reach(x: NDArray) -> list[float]:
            return np.abs(x).max(axis=(0, 2)).ravel().tolist()

        channels[b] = {
            "query": (np.abs(query).max(axis=(0, 2)).ravel() * log2e).tolist(),
            "key": reach(key),
            "value": reach(value),
            "attention": reach(attention),
            "mean_key": mean_key.ravel().tolist(),
            "mean_value": mean_value.ravel().tolist(),
        }
    calibration: dict[str, Any] = {
        "images": len(batch),
        "ranges": ranges,
        "smallest": smallest,
        "clipped": clipped,
        "channels": channels,
        "rounding": {},
    }
    if moments is not None:
        folded = fold(checkpoint, calibration)
        done: dict[str, dict[str, str]] = {}
        for name, matrix in folded.items():
            if "8" in formats or moments.experts(name):
                if progress:
                    progress(f"rounding {name}")
                done[name] = moments.round(name, matrix, checkpoint, calibration)
        for weight_bits in formats:
            calibration["rounding"][weight_bits] = {n: d for n, d in done.items() if weight_bits == "8" or moments.experts(n)}
    return calibration


@dataclass
class _Moment:
    """Weighted first and second moments of the rows that a matrix sees."""

    size: int
    rows: int = 0
    weight: float = 0.0
    first: NDArray = field(init=False)
    second: NDArray = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.second = np.zeros(self.size), np.zeros((self.size, self.size), np.float32)

    def add(self, x: NDArray, weight: NDArray | None = None) -> None:
        x = x.reshape(-1, self.size)
        self.rows += len(x)
        self.weight += float(len(x) if weight is None else weight.sum())
        weighted = x if weight is None else x * weight[:, None]
        self.first += weighted.sum(axis=0)
        self.second += weighted.T @ x

    def covariance(self) -> tuple[NDArray, NDArray]:
        """(mean, covariance), zero without rows."""
        weight = self.weight or 1.0
        mean = self.first / weight
        return mean, self.second.astype(np.float64) / weight - np.outer(mean, mean)


class _Moments:
    """Collects what error-aware rounding needs while the float model runs, and rounds.

    A matrix's rounding errors E change its result by E x. Column by column, the error of what is rounded is passed on to the columns
    still to come so that sum |E x|^2 over the calibration's rows is least (GPTQ's procedure); the mean of E x goes into the bias.
    Rows of an expert count with the square of their router score, as that is how far their errors reach.
    """

    PRIOR = 64  # rows' worth of the moments of all tokens, for experts that saw few

    def __init__(self, config: ModelConfig, everything: bool) -> None:
        self.config, self.everything = config, everything
        self.moments: dict[str, _Moment] = {}
        self.routed: NDArray = np.zeros((0, 2))
        self.scaled: NDArray = np.zeros((0, config.width))
        self.kept: dict[str, list[NDArray]] = {}

    def experts(self, name: str) -> bool:
        part = name.split(".")
        return part[0] == "blocks" and part[2] in ("first", "second") and self.config.is_moe(int(part[1]))

    def add(self, name: str, x: NDArray, weight: NDArray | None = None) -> None:
        self.moments.setdefault(name, _Moment(x.shape[-1])).add(x, weight)

    def note(self, name: str, value: NDArray) -> None:
        part = name.split(".")
        if part[-1] == "scaled":
            self.scaled = value.reshape(-1, value.shape[-1])
            if self.everything or (part[0] == "blocks" and part[2] == "norm2" and self.config.is_moe(int(part[1]))):
                self.add(name, value)
        elif name.endswith("experts.input"):  # a few tokens of every run, to see what experts do to tokens that are not theirs
            self.kept.setdefault(".".join(part[:2]), []).append(value[:: max(1, len(value) // 32)])
        elif part[2:3] == ["routed"]:
            self.routed = value
            self.add(f"{part[0]}.{part[1]}.first.{part[3]}", self.scaled[value[:, 1].astype(np.int64)], value[:, 0] ** 2)
        elif part[2:3] == ["hidden"] and part[3] != "all":
            self.add(f"{part[0]}.{part[1]}.second.{part[3]}", value, self.routed[:, 0] ** 2)
        elif self.everything:
            self.add(name, value)

    def round(self, name: str, matrix: _Folded, checkpoint: Checkpoint, calibration: Mapping[str, Any]) -> dict[str, str]:
        """The difference of the error-aware rounding from plain rounding, and the correction of the bias."""
        part = name.split(".")
        b = ".".join(part[:2])
        weight = matrix.weight if matrix.weight.ndim == 3 else matrix.weight[None]
        means, covariances = [], []
        if self.experts(name):
            if part[2] == "first":
                prior = [self.moments[f"{b}.norm2.scaled"].covariance()] * len(weight)
            else:
                prior = []
                tokens = np.concatenate(self.kept[b])
                for m, bias in zip(
                    checkpoint.tensors[f"{b}.mlp.experts.htoh4.weight"], checkpoint.tensors[f"{b}.mlp.experts.htoh4.bias"], strict=True
                ):
                    moment = _Moment(len(bias))
                    moment.add(float_gelu(tokens @ m.T + bias))
                    prior.append(moment.covariance())
            for expert, (mean, covariance) in enumerate(prior):
                own = self.moments.get(f"{name}.{expert}")
                if own is not None and own.rows and own.weight:
                    share = own.rows / (own.rows + self.PRIOR)
                    own_mean, own_covariance = own.covariance()
                    mean, covariance = share * own_mean + (1 - share) * mean, share * own_covariance + (1 - share) * covariance
                means.append(mean)
                covariances.append(covariance)
        else:
            source = {"patch": "patch.input"}.get(name) or {
                "query": f"{b}.norm1.scaled",
                "key_value": f"{b}.norm1.scaled",
                "projection": f"{b}.attention.rows",
                "router": f"{b}.norm2.scaled",
                "first": f"{b}.norm2.scaled",
                "second": f"{b}.hidden.all",
            }.get(part[2] if part[0] == "blocks" else "", f"{name}.norm.scaled")
            mean, covariance = self.moments[source].covariance()
            if part[-1] == "projection":
                channel = {k: np.array(v) for k, v in calibration["channels"][b].items()}
                boost = _value_boost(channel)
                mean, covariance = (mean - channel["mean_value"]) * boost, covariance * boost * boost[:, None]
            means.append(mean)
            covariances.append(covariance)
        step = weight_scale(weight, 8) if weight.shape[0] > 1 else weight_scale(weight[0], 8)[None]
        exact = weight / step[..., None]
        rounded = error_aware_rounding(exact, np.stack(covariances), 127)
        correction = np.einsum("eoi,ei->eo", exact - rounded, np.stack(means)) * step
        norm = name != "patch" and not (part[0] == "blocks" and part[2] in ("projection", "second"))
        if norm:  # the array sees n / 2^L less of a factor in the weights than in x / sigma
            correction = correction * ((1 << norm_bits(self.config.width)) / self.config.width)
        delta = np.clip(rounded - np.round(exact), -128, 127)
        return {"delta": encode_rounding(delta), "bias": base64.b64encode(correction.astype("<f4").tobytes()).decode()}


def error_aware_rounding(weights: NDArray, covariance: NDArray, bound: int, block: int = 32) -> NDArray:
    """Round weights [matrices, outputs, inputs] (in steps) to integers of at most `bound` so that sum over rows |error x|^2 is small.

    covariance [matrices, inputs, inputs]. Inputs are rounded in the order of falling variance; the error of each, divided by its pivot, is
    spread over those that follow by the Cholesky factor of the inverse.
    """
    count, outputs, inputs = weights.shape
    variance = np.einsum("eii->ei", covariance)
    order = np.argsort(-variance, axis=1, kind="stable")
    ordered = covariance.astype(np.float64)
    ordered = np.take_along_axis(np.take_along_axis(ordered, order[:, :, None], 1), order[:, None, :], 2)
    level = 0.01 * variance.mean(axis=1) + 1e-12
    while True:
        try:
            inverse = np.linalg.inv(ordered + level[:, None, None] * np.eye(inputs))
            factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)  # upper triangular
            break
        except np.linalg.LinAlgError:  # inputs that hardly vary: what is left of their covariance is rounding noise, of either sign
            level = 10 * np.abs(level) + 1e-9
    left = np.take_along_axis(weights, order[:, None, :], 2).astype(np.float64)
    result = np.empty_like(left)
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        errors = np.empty((count, outputs, end - start))
        for i in range(start, end):
            result[:, :, i] = np.clip(np.round(left[:, :, i]), -bound, bound)
            error = (left[:, :, i] - result[:, :, i]) / factor[:, i, i][:, None]
            left[:, :, i:end] -= error[:, :, None] * factor[:, None, i, i:end]
            errors[:, :, i - start] = error
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return np.take_along_axis(result, np.argsort(order, axis=1)[:, None, :], 2)


# ---------------------------------------------------------------------------------------------------- the quantised model


@dataclass
class Linear:
    """One matrix as the hardware takes it.

    weights     [inputs, outputs], or [experts, inputs, outputs]; int16 or int8 (`bits`)
    bias        [outputs] or [experts, outputs], 27 bits: in units of the epilogue's fine result, or, with bias_first, of the
                accumulator >> bias_shift
    multiplier  like bias, 0..65535, 2^15 = 1.0
    groups      outputs come in this many groups (heads), each padded to whole words on its own; input_groups likewise
    """

    name: str
    weights: NDArray
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    bits: int
    accumulator_shift: int
    output_shift: int
    residual_shift: int = 0
    bias_shift: int = 0
    bias_first: bool = False
    gelu: bool = False
    groups: int = 1
    input_groups: int = 1


@dataclass
class Attention:
    """Shifts of the two matmuls of attention and of the exponential between them."""

    score_accumulator_shift: int
    score_output_shift: int
    exponent_shift: int
    value_accumulator_shift: int
    value_output_shift: int


@dataclass
class Router:
    linear: Linear
    exponent_shift: int


@dataclass
class Layer:
    epsilon1: int
    query: Linear
    key_value: Linear
    attention: Attention
    projection: Linear
    epsilon2: int
    first: Linear
    second: Linear
    routers: list[Router] = field(default_factory=list)  # one per task; empty: no MoE layer


@dataclass
class Head:
    epsilon: int
    linear: Linear


@dataclass
class QuantisedModel:
    """Integers and exponents of a whole model; independent of the array's size.

    position   [tokens, width] int16: position embedding with the patch bias added to the patches' rows
    exponents  tensor -> f. Tensors: position, residual.embed, blocks.N.{query,key,value,scores,attention,hidden}, blocks.N.logits.TASK,
               blocks.N.residual.{attention,mlp}, heads.TASK.output
    saturated  weights and biases that did not fit and were limited
    widened    matrices that have 16 bits although the format says 8, as sums of 8-bit weights would be too coarse
    """

    config: ModelConfig
    weight_bits: str
    position: NDArray[np.int16]
    patch: Linear
    layers: list[Layer]
    heads: dict[str, Head]
    exponents: dict[str, int]
    saturated: int = 0
    widened: list[str] = field(default_factory=list)

    @property
    def token_exponent(self) -> int:
        return self.exponents[f"blocks.{self.config.layers - 1}.residual.mlp"]


def _exponent(reach: float, low: int = -8, high: int = 24) -> int:
    """The largest f with reach * HEADROOM * 2^f inside 16 bits."""
    if reach <= 0:
        return high
    return max(low, min(high, math.floor(math.log2(32767 / (reach * HEADROOM)))))


@dataclass
class _Folded:
    """A float matrix ready to be rounded: weight [..., outputs, inputs], bias [..., outputs]; sums * 2^-(fraction) = value / weight."""

    weight: NDArray
    bias: NDArray


def fold_norm(weight: NDArray, bias: NDArray | float, gamma: NDArray, beta: NDArray) -> _Folded:
    """W', b' with LayerNorm's affine part and mean inside; the factor n / 2^ceil(log2 n), which 1/sqrt(V) lacks, is inside, too."""
    n = gamma.shape[-1]
    folded = weight * gamma
    folded = folded - folded.mean(axis=-1, keepdims=True)
    return _Folded(folded * (n / (1 << norm_bits(n))), weight @ beta + bias)


def norm_bits(n: int) -> int:
    """L = ceil(log2 n)."""
    return (n - 1).bit_length()


def fold(checkpoint: Checkpoint, calibration: Mapping[str, Any]) -> dict[str, _Folded]:
    """Every matrix of the model with everything folded in, float64, by the name of its quantised form."""
    config = checkpoint.config
    w = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}
    log2e = math.log2(math.e)
    result = {"patch": _Folded(w["patch_embed.proj.weight"].reshape(config.width, -1), np.zeros(config.width))}
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
        boost = _value_boost(channel)
        value = fold_norm(matrix[2] * boost[:, None], (bias[2] - channel["mean_value"]) * boost, gamma, beta)
        result[f"{b}.key_value"] = _Folded(np.concatenate([key.weight, value.weight]), np.concatenate([key.bias, value.bias]))
        projection = w[f"{b}.attn.proj.weight"]
        result[f"{b}.projection"] = _Folded(projection / boost, w[f"{b}.attn.proj.bias"] + projection @ channel["mean_value"])
        gamma, beta = w[f"{b}.norm2.weight"], w[f"{b}.norm2.bias"]
        if config.is_moe(layer):
            for task in range(len(config.tasks)):
                gate = w[f"{b}.mlp.gate.{task}.w_gate"].T * log2e
                result[f"{b}.router.{task}"] = fold_norm(gate - gate.mean(axis=0), 0.0, gamma, beta)
            result[f"{b}.first"] = fold_norm(w[f"{b}.mlp.experts.htoh4.weight"], w[f"{b}.mlp.experts.htoh4.bias"], gamma, beta)
            result[f"{b}.second"] = _Folded(w[f"{b}.mlp.experts.h4toh.weight"], w[f"{b}.mlp.experts.h4toh.bias"])
        else:
            result[f"{b}.first"] = fold_norm(w[f"{b}.mlp.fc1.weight"], w[f"{b}.mlp.fc1.bias"], gamma, beta)
            result[f"{b}.second"] = _Folded(w[f"{b}.mlp.fc2.weight"], w[f"{b}.mlp.fc2.bias"])
    for owner in config.tasks:
        if owner.head_outputs:
            h = f"heads.{owner.name}"
            result[h] = fold_norm(w[f"{h}.proj.weight"], w[f"{h}.proj.bias"], w[f"{h}.norm.weight"], w[f"{h}.norm.bias"])
    return result


def _value_boost(channel: Mapping[str, NDArray]) -> NDArray:
    """Factor per value channel: half-way (in decibels) to equal ranges, undone in the projection's weights; at most 8."""
    reach = np.maximum(channel["value"], 1e-9)
    return np.clip(np.sqrt(reach.max() / reach), 1, 8)


def bits_of(name: str, weight_bits: str) -> int:
    """Weight bits of a matrix in a format: "mixed" is 8-bit experts and 16 bits elsewhere; a name of experts ends in "+experts"."""
    return 16 if weight_bits == "16" or (weight_bits == "mixed" and not name.endswith("+experts")) else 8


def weight_scale(weight: NDArray, bits: int) -> NDArray:
    """Value of one step, per output channel [..., outputs]: a power of two for 16 bits, largest magnitude / 127 for 8."""
    reach = np.maximum(np.abs(weight).max(axis=-1), 2.0**-30)  # a matrix of zeros, such as a router not yet trained, needs no small step
    reach = np.maximum(reach, reach.max() * 2.0**-12)  # channels of (almost) zero weights
    if bits == 16:
        return np.exp2(np.ceil(np.log2(reach / 32767)))
    return reach / 127


def encode_rounding(delta: NDArray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(delta, np.int8).tobytes(), 6)).decode()


def decode_rounding(text: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8).reshape(shape)


class _Quantiser:
    def __init__(self, checkpoint: Checkpoint, weight_bits: str, calibration: Mapping[str, Any]) -> None:
        self.config, self.weight_bits, self.calibration = checkpoint.config, weight_bits, calibration
        self.folded = fold(checkpoint, calibration)
        self.checkpoint = checkpoint
        self.exponents: dict[str, int] = {}
        self.saturated = 0
        self.widened: list[str] = []
        self.rounding: Mapping[str, Any] = calibration.get("rounding", {}).get(weight_bits, {})

    def reach(self, name: str) -> float:
        return self.calibration["ranges"][name]

    def linear(
        self,
        name: str,
        *,
        fraction: int,
        reach: float,
        output: int | NDArray,
        old: int | None = None,
        fine: int | None = None,
        experts: bool = False,
        lowest_exponent: int = 0,
        **more: Any,
    ) -> Linear:
        """Round one matrix and choose its shifts.

        fraction: sums = value / weight step * 2^fraction. reach: largest |value| without bias (with it where a residual is added).
        output: exponent of the result (per channel if an array). old: exponent of the residual that is added. fine: exponent inside the
        epilogue if that is given (GELU). lowest_exponent: the smallest that LayerNorm's row scale takes: accumulator_shift + exponent must
        not become negative, as sums are never shifted left.
        """
        f = self.folded[name]
        key = name + ("+experts" if experts else "")
        bias_first = old is not None  # the adder after the multiplications takes the residual or the bias, not both
        bits = bits_of(key, self.weight_bits)
        # GELU's argument has a fixed unit, which sums of 8-bit weights cannot be brought to where weights are large and rows quiet.
        if fine is not None and bits == 8 and fine > self.cap(name, fraction, lowest_exponent, experts) + 1:
            bits = 16
            self.widened.append(name)
        step = weight_scale(f.weight, bits)
        top = float(1 << 26)
        for guard in range(GUARD_BITS, -1, -1):
            at = np.asarray(fine if fine is not None else np.maximum(output, old if old is not None else -99) + guard)
            largest = reach * HEADROOM * np.exp2(at.astype(float).max())  # of the fine result
            product = step * np.exp2(at.astype(float))
            limit = SCALE_ONE if bits == 16 else 65535
            shift = min(63, math.floor(math.log2(limit / SCALE_ONE / product.max()) + fraction + 1e-9))  # what the field holds
            least = largest / top * SCALE_ONE  # a smaller multiplier would let the 27 bits before it overflow
            multiplier = product * np.exp2(15 + shift - fraction)
            fits = multiplier.min() >= least and largest < top and shift + lowest_exponent >= 0
            if fits or fine is not None:
                break
        low = multiplier < least
        if low.any():  # coarser steps for the channels of the smallest weights
            factor = least / multiplier
            step = np.where(low, step * (np.exp2(np.ceil(np.log2(np.maximum(factor, 1)))) if bits == 16 else factor), step)
            multiplier = step * np.exp2(at.astype(float)) * np.exp2(15 + shift - fraction)
        multiplier = np.clip(np.round(multiplier), 1, 65535).astype(np.int64)
        exact = f.weight / step[..., None]
        bound = (1 << bits - 1) - 1
        rounded = np.round(exact)
        correction: float | NDArray[Any] = 0.0
        stored = self.rounding.get(name)
        if stored is not None and bits == 8:
            rounded = np.where(low[..., None], rounded, rounded + decode_rounding(stored["delta"], rounded.shape))
            correction = np.frombuffer(base64.b64decode(stored["bias"]), "<f4").reshape(f.bias.shape)
        self.saturated += int(np.count_nonzero(np.abs(rounded) > bound))
        weights = np.clip(rounded, -bound, bound).astype(np.int16 if bits == 16 else np.int8)
        bias = f.bias + correction
        bias_shift = 0
        if bias_first:
            accumulated = bias / step * math.exp2(fraction)
            bias_shift = max(0, math.ceil(math.log2(max(1.0, float(np.abs(accumulated).max())) / (top - 1))))
            integer = np.round(accumulated / (1 << bias_shift))
        else:
            integer = np.round(bias * np.exp2(at.astype(float)))
        self.saturated += int(np.count_nonzero(np.abs(integer) > top - 1))
        integer = np.clip(integer, -top, top - 1).astype(np.int64)
        output_shift = int((at - output).ravel()[0])
        return Linear(
            name=name,
            weights=np.ascontiguousarray(np.moveaxis(weights, -1, -2)),
            bias=integer,
            multiplier=multiplier,
            bits=bits,
            accumulator_shift=shift,
            output_shift=output_shift,
            residual_shift=int(at) - old if old is not None else 0,
            bias_shift=bias_shift,
            bias_first=bias_first,
            gelu=fine is not None,
            **more,
        )

    def residual_exponent(self, *names: str) -> int:
        """The common exponent of residual tensors that makes rounding and limiting errors together least over the calibration.

        The residual's few outliers are what decides its range, and its rounding is the largest error of all; no headroom is given away.
        """
        tails = [self.calibration["clipped"][name] for name in names]

        def cost(f: int) -> float:
            return sum(tail.get(str(15 - f), 0.0) + tail["count"] * 4.0**-f / 12 for tail in tails)

        return min(range(-7, 23), key=cost)

    def cap(self, name: str, fraction: int, lowest_exponent: int = 0, experts: bool = False) -> int:
        """The largest exponent that a result can have: the sums' own precision, as they are never shifted left (matters for 8 bits)."""
        bits = bits_of(name + ("+experts" if experts else ""), self.weight_bits)
        step = weight_scale(self.folded[name].weight, bits).max()
        return math.floor(fraction + lowest_exponent - math.log2(step) + 1e-9)

    def run(self) -> QuantisedModel:
        c, exponents = self.config, self.exponents
        tensors = self.checkpoint.tensors
        position = tensors["pos_embed"].astype(np.float64).copy()
        position[1:] += tensors["patch_embed.proj.bias"].astype(np.float64)
        exponents["position"] = _exponent(float(np.abs(position).max()) / HEADROOM)
        residual = exponents["residual.embed"] = min(self.residual_exponent("residual.embed"), self.cap("patch", PIXEL_FRACTION))
        position_exponent = exponents["position"] = min(exponents["position"], residual)
        patch = self.linear("patch", fraction=PIXEL_FRACTION, reach=self.reach("patch.output"), output=residual, old=position_exponent)
        norm_fraction = 1 - norm_bits(c.width)
        layers = []
        for n in range(c.layers):
            b = f"blocks.{n}"
            channel = {k: np.array(v) for k, v in self.calibration["channels"][b].items()}

            def norm(name: str, residual: int) -> tuple[int, int]:
                """(epsilon, smallest exponent of the row scale)."""
                sigma = self.calibration["smallest"][f"{name}.sigma"]
                return self.epsilon(residual), self.lowest(sigma, residual)

            epsilon1, lowest = norm(f"{b}.norm1", residual)
            both = np.sqrt(channel["query"] * channel["key"])  # their common reach once balanced
            cap = min(self.cap(f"{b}.query", norm_fraction, lowest), self.cap(f"{b}.key_value", norm_fraction, lowest))
            query = exponents[f"{b}.query"] = min(cap, _exponent(float(both.max())))
            key = exponents[f"{b}.key"] = query
            boosted = channel["value"] * _value_boost(channel)
            value = exponents[f"{b}.value"] = min(cap, _exponent(float(boosted.max())))
            common: dict[str, Any] = dict(fraction=norm_fraction, lowest_exponent=lowest, groups=c.heads)
            q_reach = self.without_bias(f"{b}.query", both)
            kv_reach = max(self.without_bias(f"{b}.key_value", np.concatenate([both, boosted])), 0.0)
            q = self.linear(f"{b}.query", reach=q_reach, output=query, **common)
            common["groups"] = 2 * c.heads
            kv = self.linear(f"{b}.key_value", reach=kv_reach, output=np.repeat([key, value], c.width), **common)

            scores = exponents[f"{b}.scores"] = min(SCORE_FRACTION, query + key, _exponent(self.reach(f"{b}.scores"), low=-3))
            guard = min(GUARD_BITS, query + key - scores)
            attended = channel["attention"] * _value_boost(channel)
            attention = exponents[f"{b}.attention"] = min(_exponent(float(attended.max())), value + 4)
            # Probabilities times 16-bit values are 3 bits shorter than the sum of probabilities, whose exponent shifts them: 10 more bits
            # than the value fill the 27.
            shifts = Attention(
                score_accumulator_shift=query + key - scores - guard,
                score_output_shift=guard,
                exponent_shift=SCORE_FRACTION - scores,
                value_accumulator_shift=-13,
                value_output_shift=value + 11 - attention,
            )
            moe = c.is_moe(n)
            hidden = exponents[f"{b}.hidden"] = _exponent(self.reach(f"{b}.hidden"), low=1, high=GELU_FRACTION)
            old = residual
            names = f"{b}.residual.attention", f"{b}.residual.mlp"
            after, end = (self.residual_exponent(name) for name in names)
            if moe:  # experts add in place, so the exponent must suit the sum before they come
                after = end = self.residual_exponent(*names)
            after = min(after, self.cap(f"{b}.projection", attention))
            end = min(end, self.cap(f"{b}.second", hidden, experts=moe))
            if moe:
                after = end = min(after, end)
            exponents[f"{b}.residual.attention"], exponents[f"{b}.residual.mlp"] = after, end
            projection = self.linear(
                f"{b}.projection", fraction=attention, reach=self.reach(f"{b}.projection"), output=after, old=old, input_groups=c.heads
            )
            epsilon2, lowest = norm(f"{b}.norm2", after)
            common = dict(fraction=norm_fraction, lowest_exponent=lowest)
            routers = []
            for task in range(len(c.tasks) if moe else 0):
                reach = self.reach(f"{b}.logits.{task}")
                cap = self.cap(f"{b}.router.{task}", norm_fraction, lowest)
                logits = exponents[f"{b}.logits.{task}"] = min(cap, _exponent(reach, low=-3, high=SCORE_FRACTION))
                bias = float(np.abs(self.folded[f"{b}.router.{task}"].bias).max())
                linear = self.linear(f"{b}.router.{task}", reach=reach + bias, output=logits, **common)
                routers.append(Router(linear, SCORE_FRACTION - logits))
            bias = float(np.abs(self.folded[f"{b}.first"].bias).max())
            first = self.linear(
                f"{b}.first", reach=self.reach(f"{b}.fc1") + bias, output=hidden, fine=GELU_FRACTION, experts=moe, **common
            )
            second = self.linear(
                f"{b}.second", fraction=hidden, reach=self.reach(f"{b}.fc2"), output=end, old=after, experts=moe
            )
            residual = end
            layers.append(Layer(epsilon1, q, kv, shifts, projection, epsilon2, first, second, routers))
        heads = {}
        for owner in c.tasks:
            if owner.head_outputs:
                h = f"heads.{owner.name}"
                # The final norm's row scale, as above; its sigma is that of the last residual.
                sigma = self.calibration["smallest"][f"{h}.norm.sigma"]
                lowest = self.lowest(sigma, residual)
                output = exponents[f"{h}.output"] = min(_exponent(self.reach(f"{h}.output")), self.cap(h, norm_fraction, lowest))
                bias = float(np.abs(self.folded[h].bias).max())
                reach = self.reach(f"{h}.output") + bias
                linear = self.linear(h, fraction=norm_fraction, reach=reach, output=output, lowest_exponent=lowest)
                heads[owner.name] = Head(self.epsilon(residual), linear)
        integer = np.clip(np.round(position * 2.0**position_exponent), -32768, 32767).astype(np.int16)
        return QuantisedModel(c, self.weight_bits, integer, patch, layers, heads, exponents, self.saturated, self.widened)

    def lowest(self, sigma: float, residual: int) -> int:
        """The smallest exponent of LayerNorm's row scale, floor(log2(n * sigma)), for rows up to twice quieter than any calibrated one."""
        return math.floor(math.log2(max(1.0, self.config.width * sigma * 2.0 ** (residual - 1))))

    def without_bias(self, name: str, reach: NDArray) -> float:
        """Bound of a result before its bias is added, from its calibrated bound (per channel) after."""
        return float((reach + np.abs(self.folded[name].bias)).max())

    def epsilon(self, residual: int) -> int:
        """eps in the units of V = n^2 * variance, at the residual's exponent; 48 bits."""
        return min((1 << 48) - 1, round(self.config.eps * self.config.width**2 * 4.0**residual))


def quantise(checkpoint: Checkpoint, weight_bits: str = "16") -> QuantisedModel:
    """The integers of a checkpoint in one of the formats WEIGHT_BITS; without a calibration of its own it is calibrated first."""
    if str(weight_bits) not in WEIGHT_BITS:
        raise EdgemoeError(f"weight bits are {weight_bits!r}, expected one of {', '.join(WEIGHT_BITS)}")
    formats = () if str(weight_bits) == "16" else (str(weight_bits),)
    calibration = checkpoint.calibration or calibrate(checkpoint, error_aware=formats)
    return _Quantiser(checkpoint, str(weight_bits), calibration).run()
