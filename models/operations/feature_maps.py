# SPDX-License-Identifier: Apache-2.0
"""What a query or a key becomes in linear attention: the kinds that a model may have, and what integers must know of
each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from .operation import Tensors


class FeatureMap(ABC):
    """Features f >= 0 of a token; a query q weighs the value of key k by f(q) . f(k), divided by the sum of a row's
    weights.

    kind    of the hardware's, by name
    floor   what is added to a feature, once it is above zero
    """

    kind: str
    floor = 0.0

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @property
    def unit(self) -> float:
        """What queries and keys are multiplied with first."""
        return 1.0

    @property
    @abstractmethod
    def rows(self) -> int:
        """Vectors that a query or a key is multiplied with."""

    def tensors(self, name: str) -> dict[str, tuple[int, ...]]:
        """Name and shape of what the model keeps of them, if anything."""
        return {}

    @abstractmethod
    def vectors(self, tensors: Tensors, name: str) -> NDArray:
        """These vectors, [rows, d]."""

    def __call__(self, x: NDArray, vectors: NDArray) -> NDArray:
        """Features [..., n, rows] of queries or keys [..., n, d]."""
        scores = (x * x.dtype.type(self.unit)) @ vectors.T
        return np.maximum(scores, 0) + x.dtype.type(self.floor)


class Performer(FeatureMap):
    """max(w . x / d^(1/4), 0) + 0.001 for `features` vectors w, as in "Rethinking Attention with Performers"."""

    kind = "performer"
    floor = 1e-3

    @property
    def unit(self) -> float:
        return self.config.head_width**-0.25

    @property
    def rows(self) -> int:
        return self.config.features or max(1, int(self.config.head_width * math.log(self.config.head_width)))

    def tensors(self, name: str) -> dict[str, tuple[int, ...]]:
        return {name: (self.rows, self.config.head_width)}

    def vectors(self, tensors: Tensors, name: str) -> NDArray:
        return tensors[name]


MAPS: dict[str, type[FeatureMap]] = {kind.kind: kind for kind in (Performer,)}
