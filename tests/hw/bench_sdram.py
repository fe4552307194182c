# SPDX-License-Identifier: Apache-2.0
"""The SDRAM controller and the model of its chip, and an AXI master of cocotbext-axi in front."""

from dataclasses import replace
from pathlib import Path

import edgemoe.sim
from amaranth import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotbext.axi import AxiBus, AxiMaster, AxiReadBus, AxiWriteBus
from edgemoe.hw.units.axi import AxiRead, AxiWrite
from edgemoe.hw.units.sdram import Sdram, SdramConfig
from edgemoe.hw.units.sdram_config import BEAT_BITS
from edgemoe.sim.bench import flat_ports, run_verilog, to_verilog

CHIP = Path(edgemoe.sim.__file__).with_name("sdram_chip.v")
POWER_UP_US = 2
CONFIGS = {
    "60 MHz": SdramConfig(clock_hz=60e6, power_up_us=POWER_UP_US),
    "60 MHz, pads sample": SdramConfig(clock_hz=60e6, power_up_us=POWER_UP_US, input_registers=1),
    "25 MHz": SdramConfig(clock_hz=25e6, power_up_us=POWER_UP_US),
    "100 MHz": SdramConfig(clock_hz=100e6, power_up_us=POWER_UP_US),
    "133 MHz": SdramConfig(clock_hz=133e6, power_up_us=POWER_UP_US, cas_latency=3, input_registers=1),
}
IDS = {"read_arid": Out(1), "read_rid": In(1), "write_awid": Out(1), "write_bid": In(1)}


class System(wiring.Component):
    """Controller and chip on a board; `unit`: a controller other than Sdram. The IDs are what cocotbext-axi insists on."""

    def __init__(self, config, unit=Sdram):
        self.config, self.unit = config, unit
        ports = {"read": In(AxiRead(BEAT_BITS)), "write": In(AxiWrite(BEAT_BITS)), **{name: member.flip() for name, member in IDS.items()}}
        super().__init__({**ports, "violations": Out(32), "first_violation": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.sdram = sdram = self.unit(self.config)
        connect(m, flipped(self.read), sdram.read)
        connect(m, flipped(self.write), sdram.write)
        pins, c = sdram.pins, self.config
        dq = Signal(16)
        m.submodules.chip = Instance(
            "sdram_chip",
            p_CLOCK_HZ=int(c.clock_hz),
            p_POWER_UP_US=POWER_UP_US,
            i_clk=~ClockSignal(),
            **{f"i_{name}": getattr(pins, name) for name in ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm")},
            i_dq_in=pins.dq_o,
            i_dq_in_enable=pins.dq_oe,
            o_dq_out=dq,
            o_violations=self.violations,
            o_first_violation=self.first_violation,
        )
        if c.input_registers:
            m.domains.pad = pad = ClockDomain(clk_edge="neg", reset_less=True, local=True)
            sampled = Signal(16)
            m.d.comb += [pad.clk.eq(ClockSignal()), pins.dq_i.eq(sampled)]
            m.d.pad += sampled.eq(dq)
        else:
            m.d.comb += pins.dq_i.eq(dq)
        return m


def run(system, test_module, *, name, **options):
    """As run_bench, with the chip beside the controller."""
    ports = flat_ports(system)
    verilog = to_verilog(system, name, ports) + CHIP.read_text()
    run_verilog(verilog, name, [*ports, "clk", "rst"], test_module, **options)


def master(dut):
    """The foreign AXI master."""
    return AxiMaster(AxiBus(AxiWriteBus.from_prefix(dut, "write"), AxiReadBus.from_prefix(dut, "read")), dut.clk, dut.rst)


def timing(config, **nanoseconds):
    """The configuration with other nanoseconds than the chip's."""
    return replace(config, timing=replace(config.timing, **nanoseconds))
