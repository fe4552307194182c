# SPDX-License-Identifier: Apache-2.0
"""A unit of one's own: the hardware in Amaranth, its twin in integers, and the two compared on Verilator.

Run it with `python examples/add_unit.py`; the first time a simulator is built, which takes half a minute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.models.numbers import arithmetic
from edgemoe.sim.rtl import rtl

BITS = 12


def leaky_relu(x: Any, shift: int) -> Any:
    """The twin: x, or x / 2^shift rounded half up where x is negative."""
    return np.where(np.asarray(x) < 0, arithmetic.round_shift(x, shift), x)


class LeakyRelu(wiring.Component):
    """result = value where it is not negative, else round_shift(value, shift).

    Ports:
        value (in stream): signed numbers of BITS bits.
        result (out stream): the same.
    Latency: LATENCY = 1 cycle from value to result.
    Interval: INTERVAL = 1 cycle between numbers.
    Format: any; in and out alike, rounded half up.
    Twin: `leaky_relu`.
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, shift: int) -> None:
        self.shift = shift
        numbers = stream.Signature(signed(BITS))
        super().__init__({"value": In(numbers), "result": Out(numbers)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full = Signal()  # whether the register holds a result that nobody has taken yet
        m.d.comb += [self.value.ready.eq(~full | self.result.ready), self.result.valid.eq(full)]
        with m.If(self.value.ready):
            x = self.value.payload
            m.d.sync += [
                full.eq(self.value.valid),
                self.result.payload.eq(Mux(x < 0, round_shift(x, self.shift), x)),
            ]
        return m


def main() -> None:
    """Every number that there is, while both sides hold back at random."""
    shift, numbers = 3, np.arange(-(1 << BITS - 1), 1 << BITS - 1)
    found = rtl(LeakyRelu(shift), {"value": numbers}, stalls=0.1)["result"]
    assert (found == leaky_relu(numbers, shift)).all()
    print(f"LeakyRelu({shift}) equals its twin for all {1 << BITS} numbers")


if __name__ == "__main__":
    main()
