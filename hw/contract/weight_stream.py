# SPDX-License-Identifier: Apache-2.0
"""The weight stream: how the array gets one matrix. The one description of it for compiler, emulator and tests.

For each column block: PARAMETER_WORDS words of parameters (low halves of the biases, high halves, multipliers; filled
up to whole beats), then for each chunk of inputs its N x N weights, input by input: N words of N weights of 16 bits, or
N/2 words of two inputs' weights of 8 bits. Packed weights of 8 bits come for two column blocks at a time: the
parameters of either, then for each chunk N words of N pairs of weights. That is the order of use, so that DRAM is read
once and in sequence. An array of 2 N rows takes the weights of two chunks for one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edgemoe.hw.contract.config import FINE_BITS, PARAMETER_WORDS, WORD_BITS, HardwareConfig
from edgemoe.models.numbers.words import SMOOTHING_BITS
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: every stream begins at a multiple
HALF = (1 << WORD_BITS) - 1
FINE = (1 << FINE_BITS) - 1


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
    packed: bool = False

    @property
    def together(self) -> int:
        """Column blocks that come at a time."""
        return 2 if self.packed else 1

    @property
    def parts(self) -> int:
        """So many times; the last one may be filled up with a block of zeros."""
        return -(-self.columns // self.together)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the parameters of column blocks that come together."""
        return self.together * self.hardware.parameter_words * self.hardware.word_bytes

    @property
    def block(self) -> int:
        """Bytes of column blocks that come together."""
        return self.parameter_bytes + self.together * self.chunks * self.hardware.lanes**2 * self.bits // 8

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return self.parts * self.block

    @property
    def beats(self) -> int:
        """Bus beats of the stream."""
        return -(-self.size // self.hardware.bus_bytes)

    @property
    def stride(self) -> int:
        """Bytes from one expert's stream to the next one's."""
        return aligned(self.size)

    def pack(
        self, weights: NDArray, bias: NDArray, multiplier: NDArray, smoothing: NDArray | int = 0
    ) -> NDArray[np.uint8]:
        """weights [inputs, outputs], bias, multiplier, smoothing [outputs], all in whole words -> [stride] bytes.
        The smoothing is for builds with packed products.

        Axes before these are kept: a stream for each expert.
        """
        h, lanes, blocks = self.hardware, self.hardware.lanes, self.parts * self.together
        leading = weights.shape[:-2]
        if h.packed:
            bias = bias & FINE | np.asarray(smoothing) << FINE_BITS
        filling = [*((0, 0) for _ in leading), (0, (blocks - self.columns) * lanes)]
        bias, multiplier = np.pad(bias, filling), np.pad(multiplier, filling)
        weights = np.pad(weights, [*filling[:-1], (0, 0), filling[-1]])
        parameters = np.zeros((*leading, blocks, h.parameter_words, lanes), "<u2")
        for index, values in enumerate((bias & HALF, bias >> WORD_BITS & HALF, multiplier)):
            parameters[..., index, :] = values.reshape(*leading, blocks, lanes)
        # [..., parts, inputs, lanes, together]
        shaped = weights.reshape(*leading, self.chunks * lanes, self.parts, self.together, lanes)
        shaped = np.moveaxis(np.moveaxis(shaped, -2, -1), -3, -4)
        if self.packed:  # the multiplier's upper operand, from which a negative lower one borrows
            shaped = np.stack([shaped[..., 0], shaped[..., 1] - (shaped[..., 0] < 0)], axis=-1)
        body = np.ascontiguousarray(shaped, self._dtype).view(np.uint8).reshape(*leading, self.parts, -1)
        stream = np.concatenate([parameters.view(np.uint8).reshape(*leading, self.parts, -1), body], axis=-1).reshape(
            *leading, -1
        )
        return np.pad(stream, [(0, 0)] * len(leading) + [(0, self.stride - self.size)])

    def unpack(
        self, data: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """[size] bytes -> (weights [inputs, outputs], bias, multiplier, smoothing [outputs]).

        The weights are integers in float64. Packed ones: [inputs, parts, 2, lanes], the filling block included.
        """
        lanes = self.hardware.lanes
        blocks = data.reshape(self.parts, self.block)
        head, body = (
            np.ascontiguousarray(part)
            for part in (blocks[:, : self.parameter_bytes], blocks[:, self.parameter_bytes :])
        )
        parameters = head.view("<u2").reshape(self.parts * self.together, -1, lanes)[:, :PARAMETER_WORDS]
        parameters = parameters.astype(np.int64)
        low, high, multiplier = (parameters[:, index] for index in range(PARAMETER_WORDS))
        bias = (low | high << WORD_BITS).astype(np.uint32).view(np.int32).astype(np.int64)
        smoothing = np.zeros_like(bias)
        if self.hardware.packed:
            smoothing = bias >> FINE_BITS & (1 << SMOOTHING_BITS) - 1
            bias = (bias + (1 << FINE_BITS - 1) & FINE) - (1 << FINE_BITS - 1)
        last = bias.reshape(-1), multiplier.reshape(-1), smoothing.reshape(-1)
        if self.packed:
            pairs = body.view("i1").reshape(self.parts, -1, lanes, 2).transpose(1, 0, 3, 2).astype(np.float64)
            pairs[:, :, 1] += pairs[:, :, 0] < 0
            return pairs, *last
        weights = np.empty((self.chunks * lanes, self.columns, lanes))
        weights[:] = body.view(self._dtype).reshape(self.columns, -1, lanes).transpose(1, 0, 2)
        return weights.reshape(self.chunks * lanes, -1), *last

    @property
    def _dtype(self) -> str:
        return "<i2" if self.bits == WORD_BITS else "i1"
