# SPDX-License-Identifier: Apache-2.0
"""The residual times an orthogonal matrix, for formats that round its rows to 9 bits: what reached far in few channels
then reaches as far in all, as in SliceGPT (arXiv 2401.15024) and QuaRot (arXiv 2404.00456).

A rotated model is a model like any other, whose final tokens are rotated: what writes the residual is multiplied with
R, what reads it, behind a norm whose gain is in there as well, with R^T. A norm sees no difference: R keeps lengths,
and a row's mean. What is not rotated back in the weights of a head is so by one product at the end.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..graph import graph

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

TRIES = 64  # of signs, of which the best count


@cache
def rotation(width: int) -> NDArray[np.float64]:
    """R [width, width]: C^T diag(s) C, C the orthonormal cosine transform, s signs in random order. R = R^T is its own
    inverse; the first row of C is constant and its sign positive, so that R keeps the mean of a row. The flattest of
    TRIES, whose largest number is the smallest: no picture has a say in it.
    """
    place = np.arange(width)
    orders = [np.random.RandomState(seed).permutation(place % 2) for seed in range(TRIES)]  # the same in every NumPy
    signs = np.array(orders) * 2.0 - 1
    signs[:, 0] = 1
    # A product of two cosines is half the cosine of the difference and half that of the sum.
    waves = np.cos(np.pi / width * np.outer(np.arange(2 * width), place)) / width
    waves[:, 0] /= 2
    difference, both = np.abs(place[:, None] - place), place[:, None] + place + 1
    made = (half[difference] + half[both] for half in signs @ waves.T)
    return min(made, key=lambda turn: float(np.abs(turn).max()))


def rotatable(config: ModelConfig) -> bool:
    """Whether a model's residual can be rotated: wherever it is read there is a norm, and only sums are written."""
    return all(operation.rotates for operation in graph(config).trunk)


def rotated(checkpoint: Checkpoint) -> Checkpoint:
    """The model whose residual is that of another one times R; heads of the array give what they gave. Its calibration
    is another one. Not for heads of the host: they see tokens that were rotated back, and keep their tensors.
    """
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    exact = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    for operation in graph(config).operations:
        turned = operation.rotated(exact, rotation(config.width))
        tensors |= {name: tensor.astype(np.float32) for name, tensor in turned.items()}
    return replace(checkpoint, tensors=tensors, calibration=None)
