# SPDX-License-Identifier: Apache-2.0
"""Matrices as the weight stream wants them."""

from __future__ import annotations

import numpy as np
from edgemoe.hw.config import HardwareConfig
from edgemoe.models.quantise import Linear
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: every stream begins at a multiple


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


def pack(linear: Linear, hardware: HardwareConfig) -> NDArray[np.uint8]:
    """The weight stream(s) of a matrix, [experts, bytes] (one row if it is no expert matrix), each a multiple of ALIGNMENT bytes.

    For each column block: bias low halves, bias high halves, multipliers (a word each, padded to whole beats), then for each chunk of
    inputs its `lanes` x `lanes` weights, input by input.
    """
    lanes = hardware.lanes
    weights = linear.weights if linear.weights.ndim == 3 else linear.weights[None]
    bias, multiplier = (a if a.ndim == 2 else a[None] for a in (linear.bias, linear.multiplier))
    weights = pad(pad(weights, 2, linear.groups, lanes), 1, linear.input_groups, lanes)
    bias, multiplier = pad(bias, 1, linear.groups, lanes), pad(multiplier, 1, linear.groups, lanes)
    experts, inputs, outputs = weights.shape
    columns = outputs // lanes
    parameters = np.zeros((experts, columns, hardware.parameter_words, lanes), "<u2")
    for index, values in enumerate((bias & 0xFFFF, bias >> 16 & 0xFFFF, multiplier)):
        parameters[:, :, index] = values.reshape(experts, columns, lanes)
    blocks = weights.reshape(experts, inputs, columns, lanes).transpose(0, 2, 1, 3)
    packed = np.ascontiguousarray(blocks, "<i2" if linear.bits == 16 else "i1").view(np.uint8).reshape(experts, columns, -1)
    stream = np.concatenate([parameters.view(np.uint8).reshape(experts, columns, -1), packed], axis=2).reshape(experts, -1)
    return np.pad(stream, ((0, 0), (0, -stream.shape[1] % ALIGNMENT)))
