# SPDX-License-Identifier: Apache-2.0
"""From a matrix to its weight stream: heads in whole words."""

from __future__ import annotations

import numpy as np
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.weight_stream import WeightStream
from edgemoe.models.numbers.linear import Linear
from numpy.typing import NDArray


def pad(array: NDArray, axis: int, groups: int, lanes: int) -> NDArray:
    """Pad each of `groups` equal parts of an axis with zeros to whole words."""
    axis %= array.ndim
    size = array.shape[axis] // groups
    shape = list(array.shape)
    split = array.reshape(*shape[:axis], groups, size, *shape[axis + 1 :])
    width = [(0, 0)] * split.ndim
    width[axis + 1] = (0, -size % lanes)
    split = np.pad(split, width)
    return split.reshape(*shape[:axis], -1, *shape[axis + 1 :])


def stream_of(linear: Linear, hardware: HardwareConfig) -> WeightStream:
    """The weight stream that a matrix becomes."""
    inputs, outputs = linear.weights.shape[-2:]
    columns = linear.groups * hardware.words(outputs // linear.groups)
    chunks = linear.input_groups * hardware.words(inputs // linear.input_groups)
    return WeightStream(hardware, chunks, columns, linear.bits, linear.packed)


def pack(linear: Linear, hardware: HardwareConfig) -> NDArray[np.uint8]:
    """The weight stream(s) of a matrix, [experts, bytes] (one row if it is no expert matrix)."""
    lanes = hardware.lanes
    weights = linear.weights if linear.weights.ndim == 3 else linear.weights[None]
    bias, multiplier = (a if a.ndim == 2 else a[None] for a in (linear.bias, linear.multiplier))
    weights = pad(pad(weights, 2, linear.groups, lanes), 1, linear.input_groups, lanes)
    bias, multiplier = pad(bias, 1, linear.groups, lanes), pad(multiplier, 1, linear.groups, lanes)
    smoothing: NDArray | int = 0
    if linear.smoothing is not None:
        smoothing = linear.smoothing if linear.smoothing.ndim == 2 else linear.smoothing[None]
        smoothing = pad(smoothing, 1, linear.groups, lanes)
    return stream_of(linear, hardware).pack(weights, bias, multiplier, smoothing)
