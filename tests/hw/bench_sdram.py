# SPDX-License-Identifier: Apache-2.0
"""The SDRAM controller and the model of its chip, and an AXI master of cocotbext-axi in front."""

import logging
from collections import deque
from dataclasses import replace
from pathlib import Path

import cocotb
import edgemoe.sim
from amaranth import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiMaster, AxiReadBus, AxiWriteBus
from edgemoe.hw.memory.axi import AxiRead, AxiWrite
from edgemoe.hw.periphery.sdram import Sdram, SdramConfig
from edgemoe.hw.periphery.sdram_config import BEAT_BITS
from edgemoe.sim.bench import chances, flat_ports, run_verilog, to_verilog

CHIP = Path(edgemoe.sim.__file__).with_name("sdram_chip.v")
POWER_UP_US = 2
CONFIGS = {
    "60 MHz": SdramConfig(clock_hz=60e6, power_up_us=POWER_UP_US),
    "60 MHz, pads sample": SdramConfig(clock_hz=60e6, power_up_us=POWER_UP_US, pad_registers=1),
    "60 MHz, registers in all pads": SdramConfig(clock_hz=60e6, power_up_us=POWER_UP_US, pad_registers=2),
    "25 MHz": SdramConfig(clock_hz=25e6, power_up_us=POWER_UP_US),
    "133 MHz": SdramConfig(clock_hz=133e6, power_up_us=POWER_UP_US, cas_latency=3, pad_registers=1),
}
IDS = {"read_arid": Out(1), "read_rid": In(1), "write_awid": Out(1), "write_bid": In(1)}


class System(wiring.Component):
    """Controller and chip on a board; `unit`: a controller other than Sdram.
    The IDs are what cocotbext-axi insists on.
    """

    def __init__(self, config, unit=Sdram):
        self.config, self.unit = config, unit
        ports = {
            "read": In(AxiRead(BEAT_BITS)),
            "write": In(AxiWrite(BEAT_BITS)),
            **{name: member.flip() for name, member in IDS.items()},
        }
        super().__init__({**ports, "violations": Out(32), "first_violation": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.sdram = sdram = self.unit(self.config)
        connect(m, flipped(self.read), sdram.read)
        connect(m, flipped(self.write), sdram.write)
        pins, c = sdram.pins, self.config
        dq = Signal(16)
        outputs = {
            name: getattr(pins, name)
            for name in ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq_o", "dq_oe")
        }
        if c.pad_registers == 2:
            registered = {name: Signal.like(value) for name, value in outputs.items()}
            m.d.sync += [registered[name].eq(value) for name, value in outputs.items()]
            outputs = registered
        m.submodules.chip = Instance(
            "sdram_chip",
            p_CLOCK_HZ=int(c.clock_hz),
            p_POWER_UP_US=POWER_UP_US,
            i_clk=~ClockSignal(),
            **{f"i_{name}": outputs[name] for name in ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm")},
            i_dq_in=outputs["dq_o"],
            i_dq_in_enable=outputs["dq_oe"],
            o_dq_out=dq,
            o_violations=self.violations,
            o_first_violation=self.first_violation,
        )
        if c.pad_registers:
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


def master(dut, stall=(0.0, 0.0)):
    """The foreign AXI master, with gaps in what it sends and back-pressure on what it receives."""
    axi = AxiMaster(
        AxiBus(AxiWriteBus.from_prefix(dut, "write"), AxiReadBus.from_prefix(dut, "read")), dut.clk, dut.rst
    )
    axi.write_if.id_count = axi.read_if.id_count = 1  # the controller knows no IDs: answers come in order
    logging.getLogger(f"cocotb.{dut._name}").setLevel(logging.WARNING)  # it tells of every transfer
    gives = (axi.write_if.aw_channel, axi.write_if.w_channel, axi.read_if.ar_channel)
    for i, channel in enumerate((*gives, axi.write_if.b_channel, axi.read_if.r_channel)):
        share = stall[0] if channel in gives else stall[1]
        if share:  # a generator would overrule a pause by hand
            channel.set_pause_generator(chances(share, 10 + i))
    return axi


class Watch:
    """The rules of the answers: an offer stands until it is taken, one answer a burst, RLAST at its end, none without a
    burst.
    """

    def __init__(self, dut):
        self.dut, self.cycle, self.ended, self.refused = dut, 0, 0, 0
        self.reads, self.writes = deque(), 0  # beats still to come of each burst; bursts without an answer
        self.task = cocotb.start_soon(self.run())

    def begin(self):
        """A function that returns the cycle of the first address from now on."""
        self.first = None
        return lambda: self.first

    async def run(self):
        dut, edge = self.dut, RisingEdge(self.dut.clk)
        channels = {"read_r": ("data", "resp", "last"), "write_b": ("resp",)}
        offered = dict.fromkeys(channels)
        self.first = None

        def moves(name):
            return getattr(dut, f"{name}valid").value and getattr(dut, f"{name}ready").value

        while True:
            await edge
            if dut.rst.value:
                self.reads.clear()
                self.writes, offered = 0, dict.fromkeys(channels)
                continue
            self.cycle += 1
            for name, payload in channels.items():
                now = (
                    tuple(int(getattr(dut, name + part).value) for part in payload)
                    if getattr(dut, f"{name}valid").value
                    else None
                )
                assert offered[name] in (None, now), f"{name}: an offer changed before it was taken"
                offered[name] = None if moves(name) else now
            if moves("read_ar"):
                self.reads.append(int(dut.read_arlen.value))
            if moves("read_ar") or moves("write_aw"):
                self.first = self.cycle if self.first is None else self.first
            if dut.write_wvalid.value and dut.write_wready.value and dut.write_wlast.value:
                self.writes += 1
            if moves("read_r"):
                assert self.reads, "a beat that nobody asked for"
                assert bool(dut.read_rlast.value) == (self.reads[0] == 0), "RLAST is not at the end"
                self.refused += int(dut.read_rresp.value) == 3
                self.reads[0] -= 1
                if self.reads[0] < 0:
                    self.reads.popleft()
                self.ended = self.cycle
            if moves("write_b"):
                self.writes -= 1
                assert self.writes >= 0, "an answer before the data"
                self.ended = self.cycle

    def check(self):
        """At the end: nobody is left waiting."""
        if self.task.done():
            self.task.result()
        assert not self.reads and not self.writes


async def clocks(dut, count):
    for _ in range(count):
        await RisingEdge(dut.clk)


def timing(config, **nanoseconds):
    """The configuration with other nanoseconds than the chip's."""
    return replace(config, timing=replace(config.timing, **nanoseconds))
