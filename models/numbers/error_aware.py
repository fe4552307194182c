# SPDX-License-Identifier: Apache-2.0
"""Error-aware rounding of weights to 8 bits: what it needs from calibration runs, how it rounds, how it is stored."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgemoeError, brief
from ..keys import Key, Role
from .arithmetic import raised
from .calibration import Rounding
from .folding import BYTE_LIMIT, Folded, weight_scale
from .formats import BYTE_BITS
from .linear import overfull
from .smoothing import hidden_smoothing, smoothed
from .words import ACTIVATION_FRACTION, SMOOTHING_BITS

ROUNDING_ROOM = 1.01  # for what rounding adds to a sum of weights
MOST_GROWTH = 16  # of a step: 127 times 16 weights are that much more than what fits at most

if TYPE_CHECKING:
    from ..operations.operation import Matrix, Operation, Tensors


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

    @classmethod
    def of(cls, x: NDArray) -> Moment:
        """Of the rows of a tensor."""
        moment = cls(x.shape[-1])
        moment.add(x)
        return moment

    def covariance(self) -> tuple[NDArray, NDArray]:
        """(mean, covariance), zero without rows."""
        weight = self.weight or 1.0
        mean = self.first / weight
        return mean, self.second.astype(np.float64) / weight - np.outer(mean, mean)


class Moments:
    """Collects what error-aware rounding needs while the float model runs, and rounds.

    A matrix's rounding errors E change its result by E x. Column by column, the error of what is rounded is passed on
    to the columns still to come so that sum |E x|^2 over the calibration's rows is least (GPTQ's procedure); the mean
    of E x goes into the bias. Rows of an expert count with the square of their router score, as that is how far their
    errors reach.

    wanted: the tensors whose moments are needed.
    """

    PRIOR = 64  # rows' worth of the moments of all tokens, for experts that saw few
    KEPT = 32  # tokens of every run, to see what experts do to tokens that are not theirs

    def __init__(self, wanted: Collection[Key]) -> None:
        self.wanted = wanted
        self.moments: dict[Key, Moment] = {}
        self.kept: dict[Key, list[NDArray]] = {}

    def add(self, key: Key, x: NDArray, weight: NDArray | None = None) -> None:
        if replace(key, expert=None) in self.wanted:
            self.moments.setdefault(key, Moment(x.shape[-1])).add(x, weight)

    def keep(self, key: Key, x: NDArray) -> None:
        if key in self.wanted:
            self.kept.setdefault(key, []).append(x[:: max(1, len(x) // self.KEPT)])

    def covariance(self, key: Key) -> tuple[NDArray, NDArray]:
        """(mean, covariance) of a tensor's rows."""
        return self.moments[key].covariance()

    def mixed(self, key: Key, prior: Moment) -> tuple[NDArray, NDArray]:
        """(mean, covariance) of a tensor's rows, the fewer there are the more mixed with those of other ones."""
        mean, covariance = prior.covariance()
        own = self.moments.get(key)
        if own is not None and own.rows and own.weight:
            share = own.rows / (own.rows + self.PRIOR)
            own_mean, own_covariance = own.covariance()
            mean, covariance = share * own_mean + (1 - share) * mean, share * own_covariance + (1 - share) * covariance
        return mean, covariance

    def round(self, operation: Operation, matrix: Matrix, folded: Folded, tensors: Tensors, packed: bool) -> Rounding:
        """The difference of the error-aware rounding from plain rounding, and the correction of the bias. packed: with
        steps so large that sums fit, and behind an activation function channels that reach far halved.
        """
        hidden = matrix.sees.role is Role.HIDDEN
        above = raised(operation.config.activation) * 2.0**-ACTIVATION_FRACTION * hidden
        seen = operation.seen(matrix, self, tensors)
        halved = ""
        if packed and hidden:
            size = np.stack([np.sqrt(np.diag(covariance) + (mean + above) ** 2) for mean, covariance in seen])
            often = hidden_smoothing(size.reshape(folded.weight[..., 0, :].shape))
            folded, halved = smoothed(folded, often), encode_rounding(often)
        if folded.offset is not None:
            seen = [(mean - folded.offset, covariance) for mean, covariance in seen]
        if folded.scale is not None:
            scales = np.broadcast_to(folded.scale, (len(seen), matrix.inputs))
            seen = [(m * scale, c * scale * scale[:, None]) for (m, c), scale in zip(seen, scales, strict=True)]
        means, covariances = (np.stack(x) for x in zip(*seen, strict=True))
        weight = folded.weight if folded.weight.ndim == 3 else folded.weight[None]
        step = weight_scale(weight, BYTE_BITS) if weight.shape[0] > 1 else weight_scale(weight[0], BYTE_BITS)[None]
        growth, exact = np.ones(step.shape), weight / step[..., None]
        if packed:
            growth = single(np.maximum(overfull(exact, matrix.input_groups, above > 0) * ROUNDING_ROOM, 1))
        while True:
            rounded = error_aware_rounding(exact / growth[..., None], covariances, BYTE_LIMIT)
            if not packed or (beyond := overfull(rounded, matrix.input_groups, above > 0)).max() <= 1:
                break
            growth = single(np.where(beyond > 1, growth * beyond * ROUNDING_ROOM, growth))
        step, exact = step * growth, exact / growth[..., None]
        correction = np.einsum("eoi,ei->eo", exact - rounded, means) * step * folded.undo
        delta = np.clip(rounded - np.round(exact), -BYTE_LIMIT - 1, BYTE_LIMIT)
        grown = encode_floats(growth) if growth.max() > 1 else ""
        return Rounding(encode_rounding(delta), encode_floats(correction), grown, halved)


def error_aware_rounding(weights: NDArray, covariance: NDArray, bound: int, block: int = 32) -> NDArray:
    """Round weights [matrices, outputs, inputs] (in steps) to integers of at most `bound` so that sum over rows |error
    x|^2 is small.

    covariance [matrices, inputs, inputs]. Inputs are rounded in the order of falling variance; the error of each,
    divided by its pivot, is spread over those that follow by the Cholesky factor of the inverse.
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
        except (
            np.linalg.LinAlgError
        ):  # inputs that hardly vary: what is left of their covariance is rounding noise, of either sign
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


def _decode_bytes(text: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
    # no more, whatever it says
    found = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), math.prod(shape) + 1)
    return np.frombuffer(found, np.int8).reshape(shape)


def single(x: NDArray) -> NDArray[np.float64]:
    """What is left of numbers when they are stored."""
    return x.astype(np.float32).astype(np.float64)


def encode_floats(values: NDArray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


@dataclass(frozen=True)
class Decoded:
    """A `Rounding` of a matrix [..., outputs, inputs]: delta; correction of the bias, growth of the steps [...,
    outputs]; how often inputs are halved [..., inputs].
    """

    delta: NDArray[np.int8]
    bias: NDArray[np.float32]
    growth: NDArray[np.float64]
    halved: NDArray[np.int8]


def decode_rounding(key: Key, stored: Rounding, shape: tuple[int, ...]) -> Decoded:
    """What `Moments.round` stored.

    Else EdgemoeError.
    """
    try:
        delta = _decode_bytes(stored.delta, shape)
        inputs = (*shape[:-2], shape[-1])
        halved = _decode_bytes(stored.halved, inputs) if stored.halved else np.zeros(inputs, np.int8)
        bias, growth = (
            np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(shape[:-1])
            for text in (stored.bias, stored.growth or encode_floats(np.ones(shape[:-1])))
        )
        if not np.isfinite(bias).all():
            raise ValueError("a correction that is not finite")
        if not ((growth >= 1) & (growth < MOST_GROWTH)).all():
            raise ValueError(f"steps that do not grow by 1 to {MOST_GROWTH}")
        if not ((halved >= 0) & (halved < 1 << SMOOTHING_BITS)).all():
            raise ValueError("channels that are not halved 0 to 7 times")
        return Decoded(delta, bias, growth.astype(np.float64), halved)
    except (ValueError, TypeError, zlib.error) as error:
        raise EdgemoeError(
            f"the calibration's rounding of {key} cannot be read ({brief(error, 80)}); calibrate and save again"
        ) from error
