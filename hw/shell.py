# SPDX-License-Identifier: Apache-2.0
"""What is built - the core, or the system of a board without a processor - under plain port names, and its Verilog."""

from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from edgemoe.hw import verilog_text
from edgemoe.hw.amaranth_private import PortDirection, rtlil_to_verilog
from edgemoe.hw.contract.config import NAME, HardwareConfig
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.hw.control.register_file import AxiLite
from edgemoe.hw.memory.axi import AxiRead, AxiWrite
from edgemoe.hw.periphery.sdram import SdramPins
from edgemoe.hw.system import MODULE, System
from edgemoe.hw.top import Top

ADDRESS_BITS = 40  # of a master at the border: what every 64-bit Arm system on chip has


class Shell(Elaboratable):
    """A component as submodule `name` in a module of plain ports, which `ports` maps. The domain's clock is the port
    `clock`; its reset is `reset`, high, or, if that name ends in `n`, low.
    """

    def __init__(self, component: wiring.Component, name: str, clock: str, reset: str) -> None:
        self.component, self.name = component, name
        self.ports: dict[str, tuple[Signal, PortDirection]] = {}
        self.connections: list[Any] = []
        self.domain = ClockDomain("sync")
        self.connections.append(self.domain.clk.eq(self.port(clock, 1)))
        given = self.port(reset, 1)
        self.connections.append(self.domain.rst.eq(~given if reset.endswith("n") else given))

    def port(self, name: str, bits: int, *, out: bool = False) -> Signal:
        signal = Signal(bits, name=name)
        self.ports[name] = (signal, PortDirection.Output if out else PortDirection.Input)
        return signal

    def expose(self, prefix: str, interface: wiring.PureInterface, signature: wiring.Signature) -> None:
        """A flat port for each member, tied to the interface in its direction. Addresses of memory are cut to
        ADDRESS_BITS.
        """
        for name, member in signature.members.items():
            inner = getattr(interface, name)
            bits = ADDRESS_BITS if len(inner) == 64 and name.endswith("addr") else len(inner)
            out = member.flow == Out
            port = self.port(f"{prefix}_{name}", bits, out=out)
            self.connections.append(port.eq(inner) if out else inner.eq(port))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = self.domain
        m.submodules[self.name] = self.component
        m.d.comb += self.connections
        return m

    def to_verilog(self, module: str, slices: DspSlice | None = None) -> str:
        """Verilog of all this, complete in one file but for the device's own slices, if the array is to be in these."""
        text = rtlil.convert(self, name=module, platform=slices, ports=self.ports, emit_src=False)
        return verilog_text.complete(rtlil_to_verilog(text))


class CoreShell(Shell):
    """`Top` under flat AXI names: aclk, aresetn, s_axil_*, m_axi_* (of several: m_axi0_*, m_axi1_*, ...), interrupt."""

    def __init__(self, config: HardwareConfig) -> None:
        top = Top(config)
        super().__init__(top, "top", clock="aclk", reset="aresetn")
        self.connections.append(self.port("interrupt", 1, out=True).eq(top.interrupt))
        self.expose("s_axil", top.axil, AxiLite().flip())
        for name, read, write in zip(config.master_names, top.read, top.write, strict=True):
            self.expose(name, read, AxiRead(config.data_bits))
            self.expose(name, write, AxiWrite(config.data_bits))
            for channel in ("ar", "aw"):  # one transfer order is enough: a single, constant ID
                self.port(f"{name}_{channel}id", 1, out=True)
            for channel in ("r", "b"):
                self.port(f"{name}_{channel}id", 1)


class SystemShell(Shell):
    """`System` under plain port names: clk, rst, receive, transmit, leds, sdram_*."""

    def __init__(self, system: System) -> None:
        super().__init__(system, "system", clock="clk", reset="rst")
        self.connections += [
            system.receive.eq(self.port("receive", 1)),
            self.port("transmit", 1, out=True).eq(system.transmit),
            self.port("leds", len(system.leds), out=True).eq(system.leds),
        ]
        self.expose("sdram", system.sdram, SdramPins())


def core_verilog(config: HardwareConfig, slices: DspSlice | None = None) -> str:
    """Verilog of the core, module `edgemoe`."""
    return CoreShell(config).to_verilog(NAME, slices)


def system_verilog(system: System) -> str:
    """Verilog of the system, module `edgemoe_system`."""
    return SystemShell(system).to_verilog(MODULE)
