# SPDX-License-Identifier: Apache-2.0
"""What weighs the values of attention by the scores: the kinds that a model may have, and what integers must know of
each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from ..numbers.words import ACTIVATION_FRACTION, PROBABILITY_BITS, SCORE_FRACTION, SHARPNESS
from .operation import softmax

LEVEL = 1e-6  # what is above the mean by less is equal to it: rounding of the mean


class Weighing(ABC):
    """Weights of n values from their scores, the last axis of what `weights` is given.

    kind        of the hardware's, by name
    normalised  a row's weights are divided by their sum
    shifted     a number that all scores of a row share changes nothing: what all keys share may go
    kept        more than its maximum is kept of a row of scores while they come out
    centred     what all values share goes through as it is, as a row's weights add up to 1
    function    of the scores, before they become 16 bit
    finest      the largest exponent that scores may have
    """

    kind: str
    normalised = False
    shifted = False
    kept = False
    centred = False
    function = ""
    finest = SCORE_FRACTION

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    @property
    def unit(self) -> float:
        """What the hardware's scores are times as much as the formula's."""
        return 1.0

    @property
    def bias(self) -> float:
        """What the hardware adds to each score."""
        return 0.0

    def fraction(self, scores: int) -> int:
        """Exponent of a weight, given that of the scores."""
        return PROBABILITY_BITS

    @abstractmethod
    def weights(self, scores: NDArray) -> NDArray:
        """The formula."""


class Softmax(Weighing):
    """exp(s) / sum of exp(s), in base 2."""

    kind, normalised, shifted, centred = "softmax", True, True, True

    @property
    def unit(self) -> float:
        return math.log2(math.e)

    def weights(self, scores: NDArray) -> NDArray:
        return softmax(scores)


class TwoPass(Softmax):
    """Softmax by exponents, as in "The Two-Pass Softmax Algorithm": exp(s) = m 2^n with n a whole number; a row's sum
    is a pair (M, E) that stands for M 2^E, and no score is compared with another.
    """

    kind, kept = "two-pass", True

    def weights(self, scores: NDArray) -> NDArray:
        binary = scores * scores.dtype.type(self.unit)
        whole = np.round(binary)
        parts = np.exp2(binary - whole) * np.exp2(whole - whole.max(axis=-1, keepdims=True))
        return parts / parts.sum(axis=-1, keepdims=True)


class Sigmoid(Weighing):
    """1 / (1 + exp(-(s - ln n))), as in "Theory, Analysis, and Best Practices for Sigmoid Self-Attention"."""

    kind = "sigmoid"

    @property
    def bias(self) -> float:
        return -math.log(self.tokens)

    def weights(self, scores: NDArray) -> NDArray:
        return 1 / (1 + np.exp(-scores - scores.dtype.type(self.bias)))


class Relu(Weighing):
    """max(s, 0) / n, as in "Replacing softmax with ReLU in Vision Transformers"; 1/n goes into the scores."""

    kind = "relu"
    finest = 24  # any: no table is read by them

    @property
    def unit(self) -> float:
        return 1 / self.tokens

    def fraction(self, scores: int) -> int:
        return scores

    def weights(self, scores: NDArray) -> NDArray:
        return np.maximum(scores, 0) / self.tokens


class Rela(Relu):
    """max(s, 0), as in "Sparse Attention with Linear Units": what comes of it is normalised behind the heads
    (`gated_attention`), which takes out any factor.
    """

    kind = "rela"

    @property
    def unit(self) -> float:
        return 1.0

    def weights(self, scores: NDArray) -> NDArray:
        return np.maximum(scores, 0)


class Softplus(Weighing):
    """relu(n a - 1)^15 of a = softplus(s) / sum of softplus(s), divided by its own sum: attention that is weighed anew,
    as in "Softplus Attention with Re-weighting Boosts Length Extrapolation". A row of equal scores has no weights.
    """

    kind, normalised, kept = "softplus", True, True
    function = "softplus"
    finest = ACTIVATION_FRACTION - 1

    def weights(self, scores: NDArray) -> NDArray:
        positive = np.logaddexp(scores, scores.dtype.type(0))
        above = np.maximum(positive / positive.mean(axis=-1, keepdims=True) - 1, 0)
        power = (above / np.maximum(above.max(axis=-1, keepdims=True), LEVEL)) ** SHARPNESS
        return power / np.maximum(power.sum(axis=-1, keepdims=True), LEVEL)


KINDS: dict[str, type[Weighing]] = {kind.kind: kind for kind in (Softmax, Sigmoid, Relu, TwoPass, Softplus, Rela)}
