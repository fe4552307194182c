# SPDX-License-Identifier: Apache-2.0
"""M3ViT's decoder, "progressive upsampling", in NumPy: four 3 x 3 convolutions with ReLU, a 1 x 1 one, and behind all
of them but conv_3 the double size, bilinear. Batch norms are folded into the convolutions.

A convolution of an upsampled map is the sum over its nine taps k of shift_k(up(W_k x)), as a matrix over the channels
and an interpolation over the pixels commute: the products are done at the low resolution, a quarter of the
multiplications. So do conv_4 and the last upsampling. Both are exact, the shifts bring in the zeros of the padding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .operation import Tensors

CONVOLUTIONS = 4  # of 3 x 3


def decoder_tensors(name: str, width: int, inner: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of its tensors, as PyTorch's convolutions have them."""
    found: dict[str, tuple[int, ...]] = {}
    for number in range(CONVOLUTIONS):
        found |= {f"{name}.conv{number}.weight": (inner, inner if number else width, 3, 3)}
        found |= {f"{name}.conv{number}.bias": (inner,)}
    last = f"{name}.conv{CONVOLUTIONS}"
    return found | {f"{last}.weight": (channels, inner, 1, 1), f"{last}.bias": (channels,)}


def decode(x: NDArray, tensors: Tensors, name: str) -> NDArray:
    """[B, rows, columns, width] -> [B, 16 rows, 16 columns, channels]."""
    for number in range(CONVOLUTIONS):
        weight, bias = tensors[f"{name}.conv{number}.weight"], tensors[f"{name}.conv{number}.bias"]
        x = convolution(x, weight, bias, double=number > 0)
        np.maximum(x, 0, out=x)
    last = f"{name}.conv{CONVOLUTIONS}"
    x = product(x, np.ascontiguousarray(tensors[f"{last}.weight"][:, :, 0, 0].T)) + tensors[f"{last}.bias"]
    return doubled(doubled(x, 1), 2)


def convolution(x: NDArray, weight: NDArray, bias: NDArray, *, double: bool = False) -> NDArray:
    """3 x 3 with a border of zeros, of [B, H, W, inputs], or of twice that size; weight [outputs, inputs, 3, 3].

    Rows are brought to their size and place before columns: of nine maps three are left for the second step.
    """
    taps = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    size = doubled if double else lambda values, axis: values
    columns = [
        size(overlaid([size(product(x, taps[row, column]), 1) for row in range(3)], 1), 2) for column in range(3)
    ]
    total = overlaid(columns, 2)
    total += bias
    return total


def product(x: NDArray, matrix: NDArray) -> NDArray:
    """x @ matrix as one product: NumPy makes one of each row of pixels, which takes many times as long."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _along(axis: int, start: int | None, stop: int | None, step: int | None = None) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, stop, step),)


def doubled(x: NDArray, axis: int) -> NDArray:
    """Twice as many along an axis, bilinear; pixel centres at + 0.5, outside the outermost ones the nearest holds."""
    first, last = x[_along(axis, 0, 1)], x[_along(axis, -1, None)]
    before, after = x[_along(axis, None, -1)], x[_along(axis, 1, None)]
    shape = list(x.shape)
    shape[axis] *= 2
    found = np.empty(shape, x.dtype)
    step = (after - before) / 4
    found[_along(axis, 0, 1)], found[_along(axis, -1, None)] = first, last
    np.subtract(after, step, out=found[_along(axis, 2, None, 2)])
    np.add(before, step, out=found[_along(axis, 1, -1, 2)])
    return found


def overlaid(maps: list[NDArray], axis: int) -> NDArray:
    """The sum of three, the first moved on along an axis, the last moved back; zeros come in. Is the second one."""
    before, total, after = maps
    total[_along(axis, 1, None)] += before[_along(axis, None, -1)]
    total[_along(axis, None, -1)] += after[_along(axis, 1, None)]
    return total
