# SPDX-License-Identifier: Apache-2.0
"""round_shift, saturate and delay against their twins, for every 8-bit value and every amount."""

from itertools import product
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bench_datapath import play
from edgemoe.hw.compute.fixed import round_shift, saturate
from edgemoe.hw.compute.pipeline import delay
from edgemoe.models.numbers import arithmetic
from edgemoe.sim.bench import run_bench
from edgemoe.sim.bench import signed as to_signed

SHAPES = {
    "rounded": signed(9),  # variable amount, signed value
    "rounded_unsigned": unsigned(9),
    "rounded_by_3": signed(9),
    "narrow": signed(5),
    "narrow_unsigned": signed(5),
    "delayed": signed(8),
}


class Fixed(wiring.Component):
    def __init__(self) -> None:
        super().__init__(
            {"value": In(signed(8)), "amount": In(signed(6)), **{name: Out(shape) for name, shape in SHAPES.items()}}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.sync += [
            self.rounded.eq(round_shift(self.value, self.amount)),
            self.rounded_unsigned.eq(round_shift(self.value.as_unsigned(), self.amount)),
            self.rounded_by_3.eq(round_shift(self.value, 3)),
            self.narrow.eq(saturate(self.value, 5)),
            self.narrow_unsigned.eq(saturate(self.value.as_unsigned(), 5)),
        ]
        m.d.comb += self.delayed.eq(delay(m, self.value, 3))
        return m


@cocotb.test()
async def every_value(dut: Any) -> None:
    inputs = list(product(range(-32, 32), range(-128, 128)))

    def present(cycle: int) -> dict[str, int]:
        amount, value = inputs[min(cycle, len(inputs) - 1)]
        return {"amount": amount, "value": value}

    def observe(cycle: int) -> None:
        if not 3 <= cycle < len(inputs):
            return
        amount, value = inputs[cycle - 1]
        expected = {
            "rounded": arithmetic.round_shift(value, amount),
            "rounded_unsigned": arithmetic.round_shift(value & 255, amount),
            "rounded_by_3": arithmetic.round_shift(value, 3),
            "narrow": arithmetic.saturate(value, 5),
            "narrow_unsigned": arithmetic.saturate(value & 255, 5),
            "delayed": inputs[cycle - 3][1],
        }
        for name, number in expected.items():
            bits = int(getattr(dut, name).value)
            got = to_signed(bits, SHAPES[name].width) if SHAPES[name].signed else bits
            assert got == int(number), f"{name} of {value}, {amount}: {got}, not {number}"

    await play(dut, len(inputs), present, observe)


def test_fixed() -> None:
    run_bench(Fixed(), __name__)


def test_twin_is_floor_of_half_more() -> None:
    value = np.arange(-1000, 1000)
    for amount in range(12):
        assert (arithmetic.round_shift(value, amount) == np.floor(value / 2**amount + 0.5)).all()
