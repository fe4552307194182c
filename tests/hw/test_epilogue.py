# SPDX-License-Identifier: Apache-2.0
"""The epilogue: every row with another setting, against the twin; parameter banks changed as early as allowed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edgemoe.hw.compute.epilogue import Epilogue
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import Activation
from edgemoe.models.numbers import twins
from edgemoe.models.numbers.words import GATE_FRACTION, WORD_BITS
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal


class Plan:
    """Random column blocks: bank after bank gets new parameters, then rows use them. `rows` has one for each cycle."""

    def __init__(self, config: HardwareConfig, gaps: float, seed: int) -> None:
        self.lanes = lanes = config.lanes
        self.activations = [Activation.of(function) for function in config.functions]
        self.rng = rng = np.random.default_rng(seed)
        self.rows: list[dict[str, Any]] = []
        self.expected: list[np.ndarray] = []  # out_word of each valid row
        self.old: list[np.ndarray] = []  # out_old
        self.first: list[np.ndarray] = []  # first_bias of each valid row
        self.bank: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(lanes, int), np.zeros(lanes, int))] * 2
        free = [0, 0]  # first cycle in which a bank may be written again
        for block in range(24):
            bank = block % 2
            self._pause(free[bank] - len(self.rows))
            self._write(bank)
            for _ in range(int(rng.choice([1, 3, 20, 40]))):
                self._pause(int(rng.integers(1, 4)) if rng.random() < gaps else 0)
                row_bank = bank if block == 0 else int(rng.integers(2))
                free[row_bank] = len(self.rows) + Epilogue.PARAMETER_HOLD
                self._row(row_bank)

    def _pause(self, cycles: int) -> None:
        self.rows += [{"row_valid": 0}] * cycles

    def _numbers(self, bits: int) -> np.ndarray:
        """Random numbers of random magnitude, and now and then a corner."""
        bits = int(self.rng.integers(2, bits + 1)) if self.rng.random() < 0.7 else bits
        numbers = self.rng.integers(-(1 << bits - 1), 1 << bits - 1, self.lanes)
        numbers[self.rng.random(self.lanes) < 0.05] = (1 << bits - 1) - 1
        numbers[self.rng.random(self.lanes) < 0.05] = -(1 << bits - 1)
        return numbers

    def _write(self, bank: int) -> None:
        bias, multiplier = self._numbers(27), self.rng.integers(0, 1 << 16, self.lanes)
        self.bank[bank] = (bias, multiplier)
        for index, word in enumerate((bias & 0xFFFF, bias >> 16, multiplier, multiplier * 0)):
            parameter = {"parameter_bank": bank, "parameter_index": index, "parameter_data": word}
            self.rows.append({"row_valid": 0, "parameter_valid": 1} | parameter)

    def _row(self, bank: int) -> None:
        rng = self.rng
        control = {name: int(rng.integers(2)) for name in ("residual", "bias_first", "use_parameters")}
        control["activation"] = int(rng.choice(self.activations)) if rng.random() < 0.6 else Activation.NONE
        gated = control["activation"] == Activation.GATED
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
            function=Activation(control["activation"]).function,
        )[0]
        first = {
            "first_bank": int(rng.integers(2)),
            "first_shift": int(rng.integers(32)),
            "first_enable": int(rng.integers(2)),
        }
        shifted = (self.bank[first["first_bank"]][0] << first["first_shift"]) * first["first_enable"]
        self.first.append((shifted + (1 << 47)) % (1 << 48) - (1 << 47))
        self.expected.append(word)
        above = sums >> GATE_FRACTION + WORD_BITS << WORD_BITS
        signed = (sums >> GATE_FRACTION) - above  # the lower bits, of which the first is a sign
        self.old.append(np.where(signed >> WORD_BITS - 1, signed - (1 << WORD_BITS), signed) if gated else old)
        control |= {"bank": bank, "mantissa": mantissa, "exponent": exponent}
        self.rows.append(first | {"row_valid": 1, "row_sums": sums, "old": old, "control": control})


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("name, seed", [("tiny", 1), ("tiny", 2), ("small", 3), ("base", 4), ("rela", 5)])
def test_rows(name: str, seed: int, gaps: float) -> None:
    config = replace(preset("tiny"), attention="softmax,rela") if name == "rela" else preset(name)
    plan = Plan(config, gaps, seed)
    out = rtl(Epilogue(config), plan.rows, latency={"first_bias": Epilogue.FIRST_LATENCY})
    valid = np.array([bool(row["row_valid"]) for row in plan.rows])
    assert_array_equal(out["out_valid"], valid)
    assert_array_equal(out["out_word"][valid], plan.expected)
    assert_array_equal(out["out_old"][valid], plan.old)
    assert_array_equal(out["first_bias"][valid], plan.first)


def test_plain_settings_are_a_linear_layer() -> None:
    """The twin without row scale is PyTorch's linear layer, then GELU, up to rounding of the last bit."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weights = rng.integers(-(1 << 13), 1 << 13, (9, 64)), rng.integers(-(1 << 11), 1 << 11, (64, 16))
    bias = rng.integers(-(1 << 16), 1 << 16, 16)
    # x has 12 fractional bits, weights 14, the sum is brought to GELU's 16, the result to 12.
    word = twins.epilogue(twins.matmul(x, weights), accumulator_shift=10, bias=bias, output_shift=4, function="gelu")
    linear = torch.nn.functional.linear(
        torch.from_numpy(x / 2**12), torch.from_numpy(weights.T / 2**14), torch.from_numpy(bias / 2**16)
    )
    exact = torch.nn.functional.gelu(linear).numpy()
    assert np.abs(word / 2**12 - exact).max() < 2**-13 + 5e-5
