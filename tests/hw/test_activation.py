# SPDX-License-Identifier: Apache-2.0
"""Activation functions: the unit against its twin, bit by bit, and the twin against PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.hw.compute.activation import ActivationFunction
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import Activation
from edgemoe.models.numbers.activation import ACTIVATIONS
from edgemoe.models.numbers.arithmetic import activation, raised
from edgemoe.models.numbers.words import ACTIVATION_FRACTION
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

GRID = np.arange(-8 << 12, 8 << 12) << ACTIVATION_FRACTION - 12  # every multiple of 2^-12 in -8..8


@pytest.mark.parametrize("name, functions", [("small", ACTIVATIONS), ("tiny", ("gelu",)), ("tiny", ("silu", "relu")),
                                             ("tiny", ("relu",))])  # fmt: skip
def test_every_input_on_the_grid(name: str, functions: tuple[str, ...]) -> None:
    """Word by word another function of the build, or none."""
    rng, config = np.random.default_rng(5), replace(preset(name), activations=",".join(functions))
    sizes = (
        0,
        1,
        8 << 16,
        (8 << 16) - 1,
        (8 << 16) + 1,
        16 << 16,
        (16 << 16) - 1,
        (1 << 27) - 1,
        1 << 27,
        (1 << 31) - 1,
    )
    corners = [sign * size for sign in (1, -1) for size in sizes] * config.lanes
    near, far = rng.integers(-18 << 16, 18 << 16, 8 * 512), rng.integers(-1 << 27, 1 << 27, 8 * 512)
    words = np.concatenate([GRID, far, near, corners]).reshape(-1, config.lanes)
    kinds = rng.integers(len(functions) + 1, size=len(words))
    # Every input by every function, the words in turns of another.
    words, kinds = (
        np.tile(words, (len(functions) + 1, 1)),
        np.concatenate([(kinds + turn) % (len(functions) + 1) for turn in range(len(functions) + 1)]),
    )
    expected = np.stack([words, *(activation(words, function) for function in functions)])
    numbers = np.array([Activation.NONE, *map(Activation.of, functions)])
    out = rtl(ActivationFunction(config), {"value": words, "kind": numbers[kinds]})
    assert_array_equal(out["result"], expected[kinds, np.arange(len(words))])


def test_raised() -> None:
    """Where products are packed, by as much as each function falls below zero: its least value is then 0."""
    config = replace(preset("small"), activations=",".join(ACTIVATIONS), packed=1)
    words = np.tile(np.arange(-4 << 16, 1 << 16, 16).reshape(-1, config.lanes), (2, 1))
    for function in ACTIVATIONS:
        lifted = (np.arange(len(words)) >= len(words) // 2).astype(int)
        inputs = {"value": words, "kind": np.full(len(words), Activation.of(function)), "raised": lifted}
        expected = activation(words, function) + raised(function) * lifted[:, None]
        assert expected[lifted == 1].min() <= 4
        assert_array_equal(rtl(ActivationFunction(config), inputs)["result"], expected)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_least_value(function: str) -> None:
    """That of the exact functions: gelu and its like fall 0.17 below zero, SiLU 0.28, ReLU not at all."""
    from edgemoe.models.numbers.activation import FUNCTIONS

    exact = -FUNCTIONS[function](np.arange(-4, 0, 2.0**-10)).min()
    assert abs(raised(function) - max(0, exact) * 2**ACTIVATION_FRACTION) < 8


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_twin_is_close_to_pytorch(function: str) -> None:
    torch = pytest.importorskip("torch")
    from edgemoe.models.golden import ACTIVATIONS as GOLDEN

    grid = np.concatenate([GRID, 2 * GRID])
    exact = GOLDEN[function](torch.from_numpy(grid / 2**ACTIVATION_FRACTION)).numpy()
    error = np.abs(activation(grid, function) / 2**ACTIVATION_FRACTION - exact).max()
    # chords of 1/64: 0.85 * (1/64)^2 / 8 = 2.6e-5; SiLU: 0.5 * (1/32)^2 / 8 = 6.1e-5; and half of the last bit, 0.8e-5
    assert error < {"relu": 1e-12, "silu": 8e-5}.get(function, 3.5e-5), f"largest error {error}"
