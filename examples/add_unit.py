# SPDX-License-Identifier: Apache-2.0
"""A unit of one's own: the hardware in Amaranth, its twin in integers, and a bench that compares them on Verilator.

Run it with `python examples/add_unit.py`; the first time a simulator is built, which takes half a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.fixed import round_shift
from edgemoe.models.numbers import arithmetic
from edgemoe.sim.bench import StreamDriver, StreamMonitor, parameters, run_bench, start

BITS = 12


def leaky_relu(x: Any, shift: int) -> Any:
    """The twin: x, or x / 2^shift rounded half up where x is negative."""
    return np.where(np.asarray(x) < 0, arithmetic.round_shift(x, shift), x)


class LeakyRelu(wiring.Component):
    """result = value where it is not negative, else round_shift(value, shift).

    Ports
    -----
    value, result : streams of signed numbers of BITS bits.

    LATENCY = 1 cycle, a number a cycle. Number format: any; in and out alike. Limits: none.

    Twin: `leaky_relu`.
    """

    LATENCY = 1

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


@cocotb.test()
async def equals_its_twin(dut: Any) -> None:
    """Every number that there is, while both sides hold back at random."""
    await start(dut)
    driver = StreamDriver(dut, "value", idle=0.1)
    monitor = StreamMonitor(dut, "result", stall=0.1, width=BITS)
    numbers = range(-(1 << BITS - 1), 1 << BITS - 1)
    cocotb.start_soon(driver.send(numbers))
    found = await monitor.receive(len(numbers), limit=100_000)
    assert found == leaky_relu(np.array(numbers), parameters()["shift"]).tolist()


def main() -> None:
    shift = 3
    run_bench(LeakyRelu(shift), Path(__file__).stem, parameters={"shift": shift})
    print(f"LeakyRelu({shift}) equals its twin for all {1 << BITS} numbers")


if __name__ == "__main__":
    main()
