# SPDX-License-Identifier: Apache-2.0
"""LayerNorm: y = (x - mean) / sigma * gamma + beta, sigma^2 = variance + eps, over the channels of a row.

It costs no pass over the data: gamma and the mean go into the matrix behind it, beta into that matrix's bias, and 1/sigma scales the
finished rows. The hardware has 1/sqrt(V) with V = n sum x^2 - (sum x)^2 + epsilon = (n sigma)^2, which lacks a factor n = 2^L * (n / 2^L):
the power of two is a matter of exponents, the fraction goes into the matrix, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..folding import Folded
from ..keys import Key
from ..numbers.words import EPSILON_BITS
from ..steps import Normalise
from .operation import Context, Tensors


@dataclass(frozen=True)
class LayerNorm:
    """The norm of a name in the checkpoint; `key` names what the matrix behind it sees, x / sigma."""

    config: ModelConfig
    name: str
    key: Key

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (self.config.width,), f"{self.name}.bias": (self.config.width,)}

    def forward(self, x: NDArray, context: Context) -> tuple[NDArray, NDArray]:
        """(y, x / sigma); the second is only there for an observer."""
        mean = x.mean(axis=-1, keepdims=True)
        sigma = np.sqrt(x.var(axis=-1, keepdims=True) + context.dtype(self.config.eps))
        scaled = x
        if context.observer.active:
            scaled = x / sigma
            context.observer.sigma(self.key, sigma)
            context.observer.rows(self.key, scaled)
        return (x - mean) / sigma * context.tensors[f"{self.name}.weight"] + context.tensors[f"{self.name}.bias"], scaled

    def fold(self, tensors: Tensors, weight: NDArray, bias: NDArray | float) -> Folded:
        """W' = W diag(gamma) (I - 11^T / n) * n / 2^L, b' = W beta + b."""
        n = self.config.width
        folded = weight * tensors[f"{self.name}.weight"]
        folded = folded - folded.mean(axis=-1, keepdims=True)
        whole = 1 << norm_bits(n)
        return Folded(folded * (n / whole), weight @ tensors[f"{self.name}.bias"] + bias, undo=whole / n)

    @property
    def fraction(self) -> int:
        """Of the sums behind it, weights left aside: 2^L, and the half that mantissas of 16 fractional bits lose to a scale of 15."""
        return 1 - norm_bits(self.config.width)

    def epsilon(self, residual: int) -> int:
        """eps in the units of V, at the residual's exponent."""
        return min((1 << EPSILON_BITS) - 1, round(self.config.eps * self.config.width**2 * 4.0**residual))

    def lowest(self, sigma: float, residual: int) -> int:
        """The smallest exponent of the row scale, floor(log2(n * sigma)), for rows up to twice quieter than any calibrated one."""
        return math.floor(math.log2(max(1.0, self.config.width * sigma * 2.0 ** (residual - 1))))

    def step(self, label: str, epsilon: int) -> Normalise:
        return Normalise(label, "", epsilon)


def norm_bits(n: int) -> int:
    """L = ceil(log2 n)."""
    return (n - 1).bit_length()
