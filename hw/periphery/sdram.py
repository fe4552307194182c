# SPDX-License-Identifier: Apache-2.0
"""An SDR SDRAM of 16 bits as an AXI4 slave of 64: the port and the commands, connected."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.memory.axi import AxiRead, AxiWrite
from edgemoe.hw.periphery.sdram_commands import SdramCommands
from edgemoe.hw.periphery.sdram_config import BEAT_BITS, SdramConfig, SdramPins, SdramTiming
from edgemoe.hw.periphery.sdram_port import SdramPort

__all__ = ["Sdram", "SdramConfig", "SdramPins", "SdramTiming"]


class Sdram(wiring.Component):
    """A memory of `config.bytes`, 32 MiB by default: an AXI4 slave over an SDR SDRAM.

    Ports:
        read (in AxiRead): 64 bits, one ID, INCR bursts of whole beats up to 256 (see SdramPort).
        write (in AxiWrite): the same, the other way.
        pins (out SdramPins): the chip, clocked by the inverse of this clock (see SdramCommands).
    Latency: READ_LATENCY = 7 + cas_latency + pad_registers cycles from ARVALID to RVALID, of a row that is open,
        nothing else under way; one more after a write. WRITE_LATENCY = 2 cycles from AWVALID and WVALID to BVALID of a
        single beat; one more after a read.
    Interval: CYCLES_PER_BEAT = 4 cycles between beats within a row, either way: 16 bits a cycle.
    Limits: those of `config`, an SdramConfig.
    Twin: none (no arithmetic); the chip's model is sim/sdram_chip.v.
    """

    def __init__(self, config: SdramConfig) -> None:
        self.config = config
        self.port, self.commands = SdramPort(config), SdramCommands(config)
        self.READ_LATENCY = sum(SdramPort.LATENCY) + self.commands.LATENCY
        self.WRITE_LATENCY = SdramPort.LATENCY[0] + 1
        self.CYCLES_PER_BEAT = SdramCommands.CYCLES_PER_BEAT
        super().__init__({"read": In(AxiRead(BEAT_BITS)), "write": In(AxiWrite(BEAT_BITS)), "pins": Out(SdramPins())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.port, m.submodules.commands = port, commands = self.port, self.commands
        connect(m, flipped(self.read), port.read)
        connect(m, flipped(self.write), port.write)
        connect(m, port.access, commands.access)
        m.d.comb += [port.beat.eq(commands.beat), port.beat_valid.eq(commands.beat_valid)]
        connect(m, commands.pins, flipped(self.pins))
        return m
