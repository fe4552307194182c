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
from ..numbers.arithmetic import STEP_FRACTION
from .operation import Tensors


class FeatureMap(ABC):
    """Features f >= 0 of a token; a query q weighs the value of key k by f(q) . f(k), divided by the sum of a row's
    weights.

    kind    of the hardware's, by name
    floor   what is added to a feature, once it is above zero
    least   of the sum of a row's weights
    turned  there are two of each, times the sine and the cosine of the token's position
    """

    kind: str
    floor = 0.0
    least = 0.0
    turned = False

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

    @property
    def parts(self) -> int:
        """Features for each vector."""
        return 1 + self.turned

    def products(self, x: NDArray, vectors: NDArray) -> NDArray:
        """What of the products of queries or keys [..., n, d] with the vectors is above zero: [..., n, rows]."""
        scores = (x * x.dtype.type(self.unit)) @ vectors.T
        return np.maximum(scores, 0) + x.dtype.type(self.floor)

    def __call__(self, products: NDArray) -> NDArray:
        """Features [..., n, parts * rows] made of them."""
        return products


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


class CosFormer(FeatureMap):
    """max(x, 0) times sin(a) and cos(a), a = i/n of a quarter turn for token i = 1..n, as in "cosFormer: Rethinking
    Softmax in Attention".
    """

    kind = "cosformer"
    turned = True
    least = 1e-6

    @property
    def rows(self) -> int:
        return self.config.head_width

    def vectors(self, tensors: Tensors, name: str) -> NDArray:
        return np.eye(self.config.head_width)

    def __call__(self, products: NDArray) -> NDArray:
        tokens = products.shape[-2]
        angle = np.arange(1, tokens + 1, dtype=products.dtype)[:, None] * products.dtype.type(math.pi / 2 / tokens)
        return np.concatenate([products * np.sin(angle), products * np.cos(angle)], axis=-1)


def step_of(tokens: int) -> tuple[int, int]:
    """(step, shift): 1 / tokens = step * 2^-(14 + shift), step of 15 bits."""
    shift = (tokens - 1).bit_length()
    return round(2.0 ** (STEP_FRACTION + shift) / tokens), shift


MAPS: dict[str, type[FeatureMap]] = {kind.kind: kind for kind in (Performer, CosFormer)}
