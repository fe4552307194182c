# SPDX-License-Identifier: Apache-2.0
"""RMSNorm (arXiv 1910.07467): y = x / sigma * gamma, sigma^2 = mean of x^2 + eps.

No mean is taken off and nothing is added.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..numbers.folding import Folded
from .norm import Norm
from .operation import Context, Tensors


class RmsNorm(Norm):
    centred = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (self.channels,)}

    def forward(self, x: NDArray, context: Context) -> tuple[NDArray, NDArray]:
        sigma = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + context.dtype(self.config.eps))
        return x / sigma * context.tensors[f"{self.name}.weight"], self.scaled(x, sigma, context)

    def fold(self, tensors: Tensors, weight: NDArray, bias: NDArray) -> Folded:
        """W' = W diag(gamma) * n / 2^L, b' = b."""
        return self.folded(weight * tensors[f"{self.name}.weight"], bias)
