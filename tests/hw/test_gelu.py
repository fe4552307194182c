# SPDX-License-Identifier: Apache-2.0
"""GELU: the unit against its twin, bit by bit, and the twin against PyTorch."""

from typing import Any

import cocotb
import numpy as np
import pytest
from bench_datapath import play, to_bits, to_lanes
from edgemoe.hw.compute.gelu import VALUE_BITS, Gelu
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers.arithmetic import gelu
from edgemoe.models.numbers.words import GELU_FRACTION
from edgemoe.sim.bench import parameters, run_bench

GRID = np.arange(-8 << 12, 8 << 12) << GELU_FRACTION - 12  # every multiple of 2^-12 in -8..8


@cocotb.test()
async def values(dut: Any) -> None:
    lanes, latency, seed = (parameters()[name] for name in ("lanes", "latency", "seed"))
    rng = np.random.default_rng(seed)
    corners = [
        sign * value
        for sign in (1, -1)
        for value in (0, 1, 8 << 16, (8 << 16) - 1, (8 << 16) + 1, (1 << 27) - 1, 1 << 27, (1 << 31) - 1)
    ]
    near = rng.integers(-10 << 16, 10 << 16, 8 * 512)
    words = np.concatenate([GRID, rng.integers(-1 << 27, 1 << 27, 8 * 512), near, corners]).reshape(-1, lanes)
    enable = rng.random(len(words)) < parameters()["share"]

    def present(cycle: int) -> dict[str, int]:
        if cycle >= len(words):
            return {}
        return {"value": to_bits(words[cycle].tolist(), VALUE_BITS), "enable": int(enable[cycle])}

    expected = np.where(enable[:, None], gelu(words), words).tolist()

    def observe(cycle: int) -> None:
        row = cycle - latency
        if row >= 0:
            assert to_lanes(dut.result.value, lanes, VALUE_BITS) == expected[row], f"word {row}: {words[row]}"

    await play(dut, len(words) + latency, present, observe)


@pytest.mark.parametrize("name, share", [("small", 1.0), ("base", 0.5)])
def test_every_input_on_the_grid(name: str, share: float) -> None:
    config = preset(name)
    given = {"lanes": config.lanes, "latency": Gelu.LATENCY, "seed": 5, "share": share}
    run_bench(Gelu(config), __name__, parameters=given)


def test_twin_is_close_to_pytorch() -> None:
    torch = pytest.importorskip("torch")
    exact = torch.nn.functional.gelu(torch.from_numpy(GRID / 2**GELU_FRACTION)).numpy()
    error = np.abs(gelu(GRID) / 2**GELU_FRACTION - exact).max()
    assert error < 3.5e-5, (
        f"largest error {error}"
    )  # chords of 1/64: 0.8 * (1/64)^2 / 8 = 2.4e-5, and half of the last bit, 0.8e-5
