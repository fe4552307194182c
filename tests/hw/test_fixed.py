# SPDX-License-Identifier: Apache-2.0
"""round_shift, saturate and delay against their twins, for every 8-bit value and every amount."""

from typing import Any

import numpy as np
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import round_shift, saturate
from edgemoe.hw.memory.pipeline import delay
from edgemoe.models.numbers import arithmetic
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal


class Fixed(wiring.Component):
    LATENCY = 3
    INTERVAL = 1

    value: In(signed(8))
    amount: In(signed(6))
    rounded: Out(signed(9))  # variable amount, signed value
    rounded_unsigned: Out(unsigned(9))
    rounded_by_3: Out(signed(9))
    narrow: Out(signed(5))
    narrow_unsigned: Out(signed(5))
    delayed: Out(signed(8))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += [
            self.rounded.eq(round_shift(self.value, self.amount)),
            self.rounded_unsigned.eq(round_shift(self.value.as_unsigned(), self.amount)),
            self.rounded_by_3.eq(round_shift(self.value, 3)),
            self.narrow.eq(saturate(self.value, 5)),
            self.narrow_unsigned.eq(saturate(self.value.as_unsigned(), 5)),
            self.delayed.eq(delay(m, self.value, self.LATENCY)),
        ]
        return m


def test_fixed() -> None:
    amount, value = (grid.ravel() for grid in np.meshgrid(range(-32, 32), range(-128, 128)))
    expected = {
        "rounded": arithmetic.round_shift(value, amount),
        "rounded_unsigned": arithmetic.round_shift(value & 255, amount),
        "rounded_by_3": arithmetic.round_shift(value, 3),
        "narrow": arithmetic.saturate(value, 5),
        "narrow_unsigned": arithmetic.saturate(value & 255, 5),
        "delayed": value,
    }
    out = rtl(Fixed(), {"value": value, "amount": amount}, latency=dict.fromkeys(expected.keys() - {"delayed"}, 0))
    for name, numbers in expected.items():
        assert_array_equal(out[name], numbers, name)


def test_twin_is_floor_of_half_more() -> None:
    value = np.arange(-1000, 1000)
    for amount in range(12):
        assert (arithmetic.round_shift(value, amount) == np.floor(value / 2**amount + 0.5)).all()
