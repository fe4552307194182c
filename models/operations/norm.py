# SPDX-License-Identifier: Apache-2.0
"""Norms of a row's channels: y = (x - mean) / sigma * gamma + beta, or parts of that. What kinds there are: `norms`.

A norm costs no pass over the data: gamma, the mean and beta go into the matrix behind it, and 1/sigma scales the
finished rows. The hardware has 1/sqrt(V) with V = (n sigma)^2, which lacks a factor n = 2^L * (n / 2^L): the power of
two is a matter of exponents, the fraction goes into the matrix, too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..keys import Key
from ..numbers.folding import Folded
from ..numbers.words import EPSILON_BITS
from ..steps import Normalise
from .operation import Context, Tensors


@dataclass(frozen=True)
class Norm(ABC):
    """The norm of a name in the checkpoint, of rows of `channels`; `key` names what the matrix behind it sees,
    x / sigma.
    """

    config: ModelConfig
    name: str
    key: Key
    channels: int
    centred: ClassVar[bool]  # whether sigma is taken from the mean, or from zero

    @abstractmethod
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes in a checkpoint."""

    @abstractmethod
    def forward(self, x: NDArray, context: Context) -> tuple[NDArray, NDArray]:
        """(y, x / sigma); the second is only there for an observer."""

    @abstractmethod
    def fold(self, tensors: Tensors, weight: NDArray, bias: NDArray) -> Folded:
        """The matrix behind it, the norm inside."""

    def scaled(self, x: NDArray, sigma: NDArray, context: Context) -> NDArray:
        """x / sigma, shown to the observer if there is one."""
        if not context.observer.active:
            return x
        scaled = x / sigma
        context.observer.sigma(self.key, sigma)
        context.observer.rows(self.key, scaled)
        return scaled

    def absorbed(self, tensors: Tensors, weight: NDArray, bias: NDArray, rotation: NDArray) -> tuple[NDArray, NDArray]:
        """A matrix [..., outputs, inputs] and its bias that see the plain norm of rotated rows instead of this one."""
        beta = tensors.get(f"{self.name}.bias", np.zeros(self.channels))
        return (weight * tensors[f"{self.name}.weight"]) @ rotation, bias + weight @ beta

    def rotated(self, tensors: Tensors, name: str, rotation: NDArray) -> dict[str, NDArray]:
        """The plain norm, and the linear layer, or stacked ones, behind it."""
        plain = {
            part: np.ones(shape) if part.endswith("weight") else np.zeros(shape)
            for part, shape in self.tensors().items()
        }
        weight, bias = f"{name}.weight", f"{name}.bias"
        found = self.absorbed(tensors, tensors[weight], tensors[bias], rotation)
        return plain | dict(zip((weight, bias), found, strict=True))

    def folded(self, weight: NDArray, bias: NDArray) -> Folded:
        """A matrix with gamma and mean inside, times what of n is no power of two."""
        n = self.channels
        whole = 1 << norm_bits(n)
        return Folded(weight * (n / whole), bias, undo=whole / n)

    @property
    def fraction(self) -> int:
        """Of the sums behind it, weights left aside: 2^L, and the half that mantissas of 16 fractional bits lose to a
        scale of 15.
        """
        return 1 - norm_bits(self.channels)

    def epsilon(self, residual: int) -> int:
        """eps in the units of V, at the residual's exponent."""
        return min((1 << EPSILON_BITS) - 1, round(self.config.eps * self.channels**2 * 4.0**residual))

    def lowest(self, sigma: float, residual: int) -> int:
        """The smallest exponent of the row scale, floor(log2(n * sigma)), for rows up to twice quieter than any
        calibrated one.
        """
        return math.floor(math.log2(max(1.0, self.channels * sigma * 2.0 ** (residual - 1))))

    def step(self, label: str, epsilon: int) -> Normalise:
        """What the array does for it."""
        return Normalise(label, "", epsilon, self.channels, self.centred)


def norm_bits(n: int) -> int:
    """L = ceil(log2 n)."""
    return (n - 1).bit_length()
