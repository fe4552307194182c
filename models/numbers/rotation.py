# SPDX-License-Identifier: Apache-2.0
"""The residual times an orthogonal matrix, for formats that round its rows to 9 bits: what reached far in few channels
then reaches as far in all, as in SliceGPT (arXiv 2401.15024) and QuaRot (arXiv 2404.00456).

A rotated model is a model like any other, whose final tokens are rotated: what writes the residual is multiplied with
R, what reads it, behind a norm whose gain is in there as well, with R^T. A norm sees no difference: R keeps lengths,
and a row's mean. What is not rotated back in the weights of a head is so by one product at the end. The values of each
head of attention are rotated likewise, on their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..config import ModelConfig
from ..graph import graph
from .orthogonal import orthogonal

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


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
        turned = operation.rotated(exact, orthogonal(config.width))
        tensors |= {name: tensor.astype(np.float32) for name, tensor in turned.items()}
    return replace(checkpoint, tensors=tensors, calibration=None)
