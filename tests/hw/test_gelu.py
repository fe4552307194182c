# SPDX-License-Identifier: Apache-2.0
"""GELU: the unit against its twin, bit by bit, and the twin against PyTorch."""

import numpy as np
import pytest
from edgemoe.hw.compute.gelu import Gelu
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers.arithmetic import gelu
from edgemoe.models.numbers.words import GELU_FRACTION
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

GRID = np.arange(-8 << 12, 8 << 12) << GELU_FRACTION - 12  # every multiple of 2^-12 in -8..8


@pytest.mark.parametrize("name, share", [("small", 1.0), ("base", 0.5)])
def test_every_input_on_the_grid(name: str, share: float) -> None:
    rng, lanes = np.random.default_rng(5), preset(name).lanes
    sizes = (0, 1, 8 << 16, (8 << 16) - 1, (8 << 16) + 1, (1 << 27) - 1, 1 << 27, (1 << 31) - 1)
    corners = [sign * size for sign in (1, -1) for size in sizes]
    near, far = rng.integers(-10 << 16, 10 << 16, 8 * 512), rng.integers(-1 << 27, 1 << 27, 8 * 512)
    words = np.concatenate([GRID, far, near, corners]).reshape(-1, lanes)
    enable = rng.random(len(words)) < share
    out = rtl(Gelu(preset(name)), {"value": words, "enable": enable})
    assert_array_equal(out["result"], np.where(enable[:, None], gelu(words), words))


def test_twin_is_close_to_pytorch() -> None:
    torch = pytest.importorskip("torch")
    exact = torch.nn.functional.gelu(torch.from_numpy(GRID / 2**GELU_FRACTION)).numpy()
    error = np.abs(gelu(GRID) / 2**GELU_FRACTION - exact).max()
    # chords of 1/64: 0.8 * (1/64)^2 / 8 = 2.4e-5, and half of the last bit, 0.8e-5
    assert error < 3.5e-5, f"largest error {error}"
