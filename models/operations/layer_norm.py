# SPDX-License-Identifier: Apache-2.0
"""LayerNorm: y = (x - mean) / sigma * gamma + beta, sigma^2 = variance + eps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..numbers.folding import Folded
from .norm import Norm
from .operation import Context, Tensors


class LayerNorm(Norm):
    centred = True

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (self.channels,), f"{self.name}.bias": (self.channels,)}

    def forward(self, x: NDArray, context: Context) -> tuple[NDArray, NDArray]:
        w = context.tensors
        sigma = np.sqrt(x.var(axis=-1, keepdims=True) + context.dtype(self.config.eps))
        y = (x - x.mean(axis=-1, keepdims=True)) / sigma * w[f"{self.name}.weight"] + w[f"{self.name}.bias"]
        return y, self.scaled(x, sigma, context)

    def fold(self, tensors: Tensors, weight: NDArray, bias: NDArray) -> Folded:
        """W' = W diag(gamma) (I - 11^T / n) * n / 2^L, b' = W beta + b."""
        inside = weight * tensors[f"{self.name}.weight"]
        return self.folded(inside - inside.mean(axis=-1, keepdims=True), weight @ tensors[f"{self.name}.bias"] + bias)
