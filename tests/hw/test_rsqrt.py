# SPDX-License-Identifier: Apache-2.0
"""ReciprocalSquareRoot against its twin: every 16-bit value, powers of two and their neighbours, random wide ones."""

import cocotb
import numpy as np
import pytest
from bench_nonlinear import GAPS, Copies, reciprocals
from edgemoe.hw.compute.rsqrt import ReciprocalSquareRoot
from edgemoe.models.numbers.arithmetic import rsqrt
from edgemoe.sim.bench import parameters, run_bench

COPIES = 16


def values(kind: str) -> np.ndarray:
    if kind == "every 16-bit value":
        return np.arange(1, 1 << 16)
    powers = 2 ** np.arange(62)
    random = np.exp2(np.random.default_rng(1).uniform(0, 61.99, 20000)).astype(np.int64)
    return np.concatenate(
        [powers, np.maximum(1, powers - 1), np.minimum(powers + 1, 2 * powers - 1), 2 * powers - 1, random]
    )


@cocotb.test()
async def compare(dut):
    given = parameters()
    x = values(given["kind"])
    mantissa, exponent = await reciprocals(dut, ReciprocalSquareRoot, x, COPIES, given["gap"])
    expected = rsqrt(x)
    assert (mantissa == expected[0]).all() and (exponent == expected[1]).all()
    error = np.abs(mantissa / 2.0 ** (16 + exponent) * np.sqrt(x) - 1).max()
    dut._log.info(f"largest relative error {error:.3g}")
    assert error < 2.0**-15


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("kind", ["every 16-bit value", "wide values"])
def test_values(kind, gap):
    run_bench(
        Copies(ReciprocalSquareRoot, COPIES), __name__, parameters={"kind": kind, "gap": GAPS[gap]}, name="rsqrt_copies"
    )
