# SPDX-License-Identifier: Apache-2.0
"""The weight stream: what is packed comes out again, byte by byte where the documentation has it."""

import dataclasses

import numpy as np
import pytest
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.weight_stream import ALIGNMENT, WeightStream


@pytest.mark.parametrize("hardware", ["tiny", "ulx3s", "small", "base", "zcu102"])
@pytest.mark.parametrize("bits", [16, 8])
def test_unpacks_what_was_packed(hardware: str, bits: int) -> None:
    h, rng = preset(hardware), np.random.default_rng(bits)
    stream = WeightStream(h, 3, 2, bits)
    inputs, outputs = 3 * h.lanes, 2 * h.lanes
    limit = 1 << bits - 1
    weights = rng.integers(-limit, limit, (4, inputs, outputs))
    weights[0, 0, 0], weights[0, 0, 1] = -limit, limit - 1
    bias, multiplier = rng.integers(-(1 << 26), 1 << 26, (4, outputs)), rng.integers(0, 1 << 16, (4, outputs))
    packed = stream.pack(weights, bias, multiplier)
    assert (
        packed.shape == (4, stream.stride)
        and stream.stride % ALIGNMENT == 0
        and 0 <= stream.stride - stream.size < ALIGNMENT
    )
    assert stream.beats * h.bus_bytes >= stream.size and not packed[:, stream.size :].any()
    for expert in range(4):
        found = stream.unpack(packed[expert, : stream.size])
        given = (weights[expert], bias[expert], multiplier[expert], np.zeros(outputs))
        for mine, theirs in zip(found, given, strict=True):
            assert np.array_equal(mine, theirs)
    assert np.array_equal(stream.pack(weights[1], bias[1], multiplier[1]), packed[1])


def test_bytes_in_order() -> None:
    """Two lanes would be enough to read, four are the least: one column block, one chunk."""
    h = dataclasses.replace(preset("tiny"), data_bits=64)
    weights = np.arange(16).reshape(4, 4)
    bias, multiplier = np.array([1, -1, 1 << 16, 0]), np.array([5, 6, 7, 8])
    words = WeightStream(h, 1, 1, 16).pack(weights, bias, multiplier).view("<i2").reshape(-1, 4)
    assert words[:3].tolist() == [[1, -1, 0, 0], [0, -1, 1, 0], [5, 6, 7, 8]]
    first = h.parameter_words
    assert words[first : first + 4].tolist() == weights.tolist()
    eight = WeightStream(h, 1, 1, 8).pack(weights, bias, multiplier)
    assert eight[first * 8 :][:16].view("i1").tolist() == list(range(16))
