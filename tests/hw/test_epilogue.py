# SPDX-License-Identifier: Apache-2.0
"""The epilogue: every row with another setting, against the twin; parameter banks changed as early as allowed."""

from typing import Any

import cocotb
import numpy as np
import pytest
from bench_datapath import play, to_bits, to_lanes
from edgemoe.hw.compute.epilogue import Epilogue, EpilogueControl
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers import twins
from edgemoe.sim.bench import pack, parameters, run_bench


class Plan:
    """Random column blocks: bank after bank gets new parameters, then rows use them."""

    def __init__(self, lanes: int, hold: int, gaps: float, seed: int) -> None:
        self.lanes, self.gaps = lanes, gaps
        self.rng = rng = np.random.default_rng(seed)
        self.inputs: dict[int, dict[str, int]] = {}
        self.expected: dict[int, tuple[list[int], list[int], str]] = {}
        self.first: dict[int, list[int]] = {}
        self.bank: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(lanes, int), np.zeros(lanes, int))] * 2
        used = [0, 0]  # first cycle in which a bank may be written again
        cycle = 0
        for block in range(24):
            bank = block % 2
            cycle = self._write(max(cycle, used[bank]), bank)
            for _ in range(int(rng.choice([1, 3, 20, 40]))):
                if rng.random() < gaps:
                    cycle += int(rng.integers(1, 4))
                row_bank = bank if block == 0 else int(rng.integers(2))
                self._row(cycle, row_bank)
                used[row_bank] = cycle + hold
                cycle += 1
        self.cycles = cycle

    def _numbers(self, bits: int) -> np.ndarray:
        """Random numbers of random magnitude, and now and then a corner."""
        bits = int(self.rng.integers(2, bits + 1)) if self.rng.random() < 0.7 else bits
        numbers = self.rng.integers(-(1 << bits - 1), 1 << bits - 1, self.lanes)
        numbers[self.rng.random(self.lanes) < 0.05] = (1 << bits - 1) - 1
        numbers[self.rng.random(self.lanes) < 0.05] = -(1 << bits - 1)
        return numbers

    def _write(self, cycle: int, bank: int) -> int:
        bias, multiplier = self._numbers(27), self.rng.integers(0, 1 << 16, self.lanes)
        self.bank[bank] = (bias, multiplier)
        for index, word in enumerate((bias & 0xFFFF, bias >> 16, multiplier, multiplier * 0)):
            self.inputs[cycle] = {"parameter_valid": 1, "parameter_bank": bank, "parameter_index": index}
            self.inputs[cycle]["parameter_data"] = to_bits(word.tolist(), 16)
            cycle += 1
        return cycle

    def _row(self, cycle: int, bank: int) -> None:
        rng = self.rng
        control = {name: int(rng.integers(2)) for name in ("residual", "bias_first", "gelu", "use_parameters")}
        control |= {name: int(rng.integers(16)) for name in ("residual_shift", "output_shift")}
        control["accumulator_shift"] = int(rng.integers(-16, 24) if rng.random() < 0.7 else rng.integers(-64, 64))
        sums, old = self._numbers(48), self._numbers(16)
        mantissa, exponent = int(rng.integers(1 << 16)), int(rng.integers(32))
        bias, multiplier = self.bank[bank]
        if not control["use_parameters"]:
            bias, multiplier = bias * 0, multiplier * 0 + (1 << 15)
        word = twins.epilogue(
            sums[None, :].astype(np.float64),
            accumulator_shift=control["accumulator_shift"],
            mantissa=np.array([mantissa]),
            exponent=np.array([exponent]),
            multiplier=multiplier,
            bias=None if control["bias_first"] else bias,
            old=old[None, :] if control["residual"] else None,
            residual_shift=control["residual_shift"],
            output_shift=control["output_shift"],
            use_gelu=bool(control["gelu"]),
        )[0]
        first = {
            "first_bank": int(rng.integers(2)),
            "first_shift": int(rng.integers(32)),
            "first_enable": int(rng.integers(2)),
        }
        shifted = (self.bank[first["first_bank"]][0] << first["first_shift"]) * first["first_enable"]
        self.first[cycle] = ((shifted + (1 << 47)) % (1 << 48) - (1 << 47)).tolist()
        self.expected[cycle] = (word.tolist(), old.tolist(), f"{control}, {mantissa=}, {exponent=}, sums {sums}")
        control |= {"bank": bank, "mantissa": mantissa, "exponent": exponent}
        self.inputs[cycle] = first | {
            "row_valid": 1,
            "row_sums": to_bits(sums.tolist(), 48),
            "old": to_bits(old.tolist(), 16),
            "control": pack(EpilogueControl, control),
        }


@cocotb.test()
async def rows(dut: Any) -> None:
    given = parameters()
    lanes, latency, first_latency = given["lanes"], given["latency"], given["first_latency"]
    plan = Plan(lanes, given["hold"], given["gaps"], given["seed"])

    def observe(cycle: int) -> None:
        row = cycle - latency
        assert int(dut.out_valid.value) == (row in plan.expected), f"cycle {cycle}: out_valid"
        if row in plan.expected:
            word, old, what = plan.expected[row]
            assert to_lanes(dut.out_word.value, lanes, 16) == word, f"row presented in cycle {row}: {what}"
            assert to_lanes(dut.out_old.value, lanes, 16) == old
        if cycle - first_latency in plan.first:
            assert to_lanes(dut.first_bias.value, lanes, 48) == plan.first[cycle - first_latency], (
                f"cycle {cycle}: first bias"
            )

    await play(dut, plan.cycles + latency + 1, plan.inputs.get, observe)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("name, seed", [("tiny", 1), ("tiny", 2), ("small", 3), ("base", 4)])
def test_rows(name: str, seed: int, gaps: float) -> None:
    config = preset(name)
    given = {"latency": Epilogue.LATENCY, "first_latency": Epilogue.FIRST_LATENCY, "hold": Epilogue.PARAMETER_HOLD}
    run_bench(Epilogue(config), __name__, parameters=given | {"lanes": config.lanes, "gaps": gaps, "seed": seed})


def test_plain_settings_are_a_linear_layer() -> None:
    """The twin without row scale is PyTorch's linear layer, then GELU, up to rounding of the last bit."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weights = rng.integers(-(1 << 13), 1 << 13, (9, 64)), rng.integers(-(1 << 11), 1 << 11, (64, 16))
    bias = rng.integers(-(1 << 16), 1 << 16, 16)
    # x has 12 fractional bits, weights 14, the sum is brought to GELU's 16, the result to 12.
    word = twins.epilogue(twins.matmul(x, weights), accumulator_shift=10, bias=bias, output_shift=4, use_gelu=True)
    linear = torch.nn.functional.linear(
        torch.from_numpy(x / 2**12), torch.from_numpy(weights.T / 2**14), torch.from_numpy(bias / 2**16)
    )
    exact = torch.nn.functional.gelu(linear).numpy()
    assert np.abs(word / 2**12 - exact).max() < 2**-13 + 5e-5
