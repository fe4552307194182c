# SPDX-License-Identifier: Apache-2.0
"""The weight stream: how the array gets one matrix. The one description of it for compiler, emulator and tests.

For each column block: PARAMETER_WORDS words of parameters (low halves of the biases, high halves, multipliers; filled
up to whole beats), then for each chunk of inputs its N x N weights, input by input: N words of N weights of 16 bits, or
N/2 words of two inputs' weights of 8 bits. That is the order of use, so that DRAM is read once and in sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edgemoe.hw.contract.config import PARAMETER_WORDS, WORD_BITS, HardwareConfig
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: every stream begins at a multiple
HALF = (1 << WORD_BITS) - 1


def aligned(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class WeightStream:
    """The stream of a matrix of chunks x N inputs and columns x N outputs, whose weights have 16 or 8 bits."""

    hardware: HardwareConfig
    chunks: int
    columns: int
    bits: int

    @property
    def parameter_bytes(self) -> int:
        """Bytes of a column block's parameters."""
        return self.hardware.parameter_words * self.hardware.word_bytes

    @property
    def block(self) -> int:
        """Bytes of a column block."""
        return self.parameter_bytes + self.chunks * self.hardware.lanes**2 * self.bits // 8

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return self.columns * self.block

    @property
    def beats(self) -> int:
        """Bus beats of the stream."""
        return -(-self.size // self.hardware.bus_bytes)

    @property
    def stride(self) -> int:
        """Bytes from one expert's stream to the next one's."""
        return aligned(self.size)

    def pack(self, weights: NDArray, bias: NDArray, multiplier: NDArray) -> NDArray[np.uint8]:
        """weights [inputs, outputs], bias, multiplier [outputs], all in whole words -> [stride] bytes.

        Axes before these are kept: a stream for each expert.
        """
        h, lanes = self.hardware, self.hardware.lanes
        leading = weights.shape[:-2]
        parameters = np.zeros((*leading, self.columns, h.parameter_words, lanes), "<u2")
        for index, values in enumerate((bias & HALF, bias >> WORD_BITS & HALF, multiplier)):
            parameters[..., index, :] = values.reshape(*leading, self.columns, lanes)
        blocks = np.moveaxis(weights.reshape(*leading, self.chunks * lanes, self.columns, lanes), -2, -3)
        packed = np.ascontiguousarray(blocks, self._dtype).view(np.uint8).reshape(*leading, self.columns, -1)
        stream = np.concatenate(
            [parameters.view(np.uint8).reshape(*leading, self.columns, -1), packed], axis=-1
        ).reshape(*leading, -1)
        return np.pad(stream, [(0, 0)] * len(leading) + [(0, self.stride - self.size)])

    def unpack(self, data: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """[size] bytes -> (weights [inputs, outputs], bias [outputs], multiplier [outputs]).

        The weights are integers in float64.
        """
        lanes = self.hardware.lanes
        blocks = data.reshape(self.columns, self.block)
        head, body = (
            np.ascontiguousarray(part)
            for part in (blocks[:, : self.parameter_bytes], blocks[:, self.parameter_bytes :])
        )
        parameters = head.view("<u2").reshape(self.columns, -1, lanes)[:, :PARAMETER_WORDS].astype(np.int64)
        low, high, multiplier = (parameters[:, index] for index in range(PARAMETER_WORDS))
        bias = (low | high << WORD_BITS).astype(np.uint32).view(np.int32).astype(np.int64)
        weights = np.empty((self.chunks * lanes, self.columns, lanes))
        weights[:] = body.view(self._dtype).reshape(self.columns, -1, lanes).transpose(1, 0, 2)
        return weights.reshape(self.chunks * lanes, -1), bias.reshape(-1), multiplier.reshape(-1)

    @property
    def _dtype(self) -> str:
        return "<i2" if self.bits == WORD_BITS else "i1"
