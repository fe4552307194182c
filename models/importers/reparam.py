# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weight is learned as direction and size: sigma W / |W|, |W| the largest singular value
(sigmaReparam). What a model computes with is one matrix; here it becomes that.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .sources import Tensors

NORMED = ".spectral_normed_weight."  # what the layer keeps to follow the singular value
TRACKED = ".effective_spectral_norm"
KERNEL = "patch_embed.proj.weight"  # of a convolution, kept as a matrix


def is_reparametrised(tensors: Tensors) -> bool:
    """Whether some layer is of this kind."""
    return any(NORMED in name for name in tensors)


def folded(tensors: Tensors) -> Tensors:
    """The tensors without reparametrised layers."""
    found = {name: tensor for name, tensor in tensors.items() if NORMED not in name and not name.endswith(TRACKED)}
    for name in [name for name in tensors if name.endswith(f"{NORMED}u")]:
        layer = name.removesuffix(f"{NORMED}u")
        sigma, weight = found.pop(f"{layer}.sigma", None), found.get(f"{layer}.weight")
        if sigma is not None and weight is not None and weight.ndim == 2:  # else the norm was only watched
            scale = float(sigma.reshape(-1)[0]) / largest(weight.astype(np.float64), tensors[name].astype(np.float64))
            found[f"{layer}.weight"] = (weight * scale).astype(np.float32)
    if KERNEL in found and found[KERNEL].ndim == 2:
        found[KERNEL] = kernel(found[KERNEL])
    return found


def largest(weight: NDArray[np.float64], u: NDArray[np.float64]) -> float:
    """The largest singular value, as the layer has it: one step of the power iteration from its vector `u`."""
    v = weight @ u
    v /= np.linalg.norm(v)
    return float(np.linalg.norm(weight.T @ v))


def kernel(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """[width, channels x side x side] as a convolution's: of three channels, or of one."""
    for channels in (3, 1):
        side = math.isqrt(matrix.shape[1] // channels)
        if channels * side * side == matrix.shape[1]:
            return matrix.reshape(len(matrix), channels, side, side)
    return matrix
