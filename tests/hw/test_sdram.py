# SPDX-License-Identifier: Apache-2.0
"""The SDRAM controller against a model of the chip, driven by the AXI master of cocotbext-axi."""

import cocotb
from bench_sdram import CONFIGS, System, master, run
from cocotb.triggers import RisingEdge
from edgemoe.sim.bench import parameters, start

@cocotb.test(timeout_time=2, timeout_unit="ms")
async def what_was_written_is_read(dut):
    axi = master(dut)
    await start(dut)
    content = bytes(range(256)) * 16
    await axi.write(0x1000 - 24, content)
    got = await axi.read(0x1000 - 24, len(content))
    print(dut.violations.value, dut.first_violation.value)
    assert got.data == content
    assert int(dut.violations.value) == 0


def test_first():
    run(System(CONFIGS["60 MHz"]), __name__, name="sdram_60")
