# SPDX-License-Identifier: Apache-2.0
"""Error-aware rounding of weights to 8 bits: what it needs from calibration runs, how it rounds, how it is stored."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import EdgemoeError, brief
from .folding import Folded, norm_bits, value_boost, weight_scale
from .forward import float_gelu


@dataclass
class Moment:
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


class Moments:
    """Collects what error-aware rounding needs while the float model runs, and rounds.

    A matrix's rounding errors E change its result by E x. Column by column, the error of what is rounded is passed on to the columns
    still to come so that sum |E x|^2 over the calibration's rows is least (GPTQ's procedure); the mean of E x goes into the bias.
    Rows of an expert count with the square of their router score, as that is how far their errors reach.
    """

    PRIOR = 64  # rows' worth of the moments of all tokens, for experts that saw few

    def __init__(self, config: ModelConfig, everything: bool) -> None:
        self.config, self.everything = config, everything
        self.moments: dict[str, Moment] = {}
        self.routed: NDArray = np.zeros((0, 2))
        self.scaled: NDArray = np.zeros((0, config.width))
        self.kept: dict[str, list[NDArray]] = {}

    def experts(self, name: str) -> bool:
        part = name.split(".")
        return part[0] == "blocks" and part[2] in ("first", "second") and self.config.is_moe(int(part[1]))

    def add(self, name: str, x: NDArray, weight: NDArray | None = None) -> None:
        self.moments.setdefault(name, Moment(x.shape[-1])).add(x, weight)

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

    def round(self, name: str, matrix: Folded, checkpoint: Checkpoint, calibration: Mapping[str, Any]) -> dict[str, str]:
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
                    moment = Moment(len(bias))
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
                boost = value_boost(channel)
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
        return {"delta": encode_rounding(delta), "bias": encode_bias(correction)}


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


def encode_rounding(delta: NDArray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(delta, np.int8).tobytes(), 6)).decode()


def encode_bias(correction: NDArray) -> str:
    return base64.b64encode(correction.astype("<f4").tobytes()).decode()


def decode_rounding(
    name: str, stored: Any, shape: tuple[int, ...], bias_shape: tuple[int, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(delta [shape], correction of the bias [bias_shape]) of matrix `name` as `Moments.round` stored them; else EdgemoeError."""
    try:
        packed = zlib.decompressobj()
        delta = packed.decompress(base64.b64decode(stored["delta"], validate=True), math.prod(shape) + 1)  # no more, whatever it says
        bias = np.frombuffer(base64.b64decode(stored["bias"], validate=True), "<f4").reshape(bias_shape)
        if not np.isfinite(bias).all():
            raise ValueError("a correction that is not finite")
        return np.frombuffer(delta, np.int8).reshape(shape), bias
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise EdgemoeError(f"the calibration's rounding of {name} cannot be read ({brief(error, 80)}); calibrate and save again") from error
