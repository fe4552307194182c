# SPDX-License-Identifier: Apache-2.0
"""Position embeddings for another grid of patches, interpolated as the libraries do that trained them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resized(grid: NDArray[np.float32], rows: int, columns: int, *, antialias: bool) -> NDArray[np.float32]:
    """[rows, columns, D] -> [rows, columns, D] of another size, bicubic, cell centres at + 0.5.

    With antialias as timm does: a = -0.5, and the kernel grows where the grid shrinks, which is Pillow's filter.
    Without as Hugging Face and ONNX graphs do: a = -0.75, the four nearest cells, those at the border repeated.
    """
    if grid.shape[:2] == (rows, columns):
        return grid
    if antialias:
        planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(grid, -1, 0).astype(np.float32))
        scaled = [np.asarray(plane.resize((columns, rows), Image.Resampling.BICUBIC)) for plane in planes]
        return np.stack(scaled, axis=-1)
    down, across = _weights(grid.shape[0], rows), _weights(grid.shape[1], columns)
    return np.einsum("yr,xc,rcd->yxd", down, across, grid.astype(np.float64)).astype(np.float32)


def _weights(old: int, new: int, a: float = -0.75) -> NDArray[np.float64]:
    """[new, old]: Keys' cubic kernel, w(t) = (a + 2)|t|^3 - (a + 3)|t|^2 + 1 up to 1, a (|t|^3 - 5|t|^2 + 8|t| - 4) up
    to 2.
    """
    matrix = np.zeros((new, old))
    place = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(place).astype(int)
    for offset in range(-1, 3):
        t = np.abs(place - first - offset)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), np.where(t <= 1, near, far))
    return matrix
