# SPDX-License-Identifier: Apache-2.0
"""A whole accelerator for a board without a processor: core, SDRAM controller, serial link, created and connected."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.contract import frames
from edgemoe.hw.contract.config import NAME, HardwareConfig
from edgemoe.hw.periphery.interconnect import Interconnect
from edgemoe.hw.periphery.link import Link
from edgemoe.hw.periphery.sdram import Sdram, SdramConfig, SdramPins
from edgemoe.hw.periphery.uart import UartReceiver, UartTransmitter
from edgemoe.hw.top import Top
from edgemoe.models.errors import EdgemoeError

MODULE = f"{NAME}_system"
LEDS = ("finished", "memory", "from the computer", "to the computer", "", "", "", "alive")
LED_BITS = 22  # an event shows for 2^22 cycles: 70 ms at 60 MHz


class System(wiring.Component):
    """Core, link and memory, for boards without a processor. Clock domain `sync`, synchronous reset.

    cycles_per_bit: of the serial line. timeout_cycles: of silence inside a frame (default: hw/contract/frames.py's, at
    the SDRAM's clock_hz, which is this clock's too).

    Ports:
        receive (in): the serial line, as the board sees it.
        transmit (out): the other one.
        sdram (out SdramPins): the chip's pins (its clock is the inverse of this one).
        leds (out): as LEDS names them: an event lights its LED for a moment.
    Latency: varies: with line and program.
    Interval: none (one request at a time).
    Format: that of Engine.
    Limits: one master of 64 bits.
    Twin: `sim.emulator.Emulator`, behind the link.
    """

    def __init__(
        self, config: HardwareConfig, sdram: SdramConfig, cycles_per_bit: int, timeout_cycles: int | None = None
    ):
        if config.masters != 1 or config.data_bits != 64:
            raise EdgemoeError(
                f"hardware {config.name!r} has {config.masters} x {config.data_bits} bit to memory; the SDRAM "
                f"controller takes 1 x 64"
            )
        self.config, self.sdram_config, self.cycles_per_bit = config, sdram, cycles_per_bit
        self.timeout_cycles = timeout_cycles or round(frames.TIMEOUT_SECONDS * sdram.clock_hz)
        super().__init__(
            {"receive": In(1, init=1), "transmit": Out(1, init=1), "leds": Out(len(LEDS)), "sdram": Out(SdramPins())}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = Top(self.config)
        m.submodules.receiver = receiver = UartReceiver(self.cycles_per_bit)
        m.submodules.transmitter = transmitter = UartTransmitter(self.cycles_per_bit)
        m.submodules.link = link = Link(self.timeout_cycles, self.sdram_config.bytes)
        m.submodules.interconnect = interconnect = Interconnect(
            self.config.data_bits, outstanding=self.config.outstanding
        )
        m.submodules.sdram = sdram = Sdram(self.sdram_config)

        connect(m, receiver.bytes, link.received)
        connect(m, link.sent, transmitter.bytes)
        connect(m, link.registers, core.axil)
        for i, master in enumerate((link, core)):
            read, write = (master.read, master.write) if master is link else (master.read[0], master.write[0])
            connect(m, read, interconnect.reads[i])
            connect(m, write, interconnect.writes[i])
        connect(m, interconnect.read, sdram.read)
        connect(m, interconnect.write, sdram.write)
        connect(m, sdram.pins, flipped(self.sdram))
        m.d.comb += [receiver.line.eq(self.receive), self.transmit.eq(transmitter.line)]

        beat = sdram.read.rvalid & sdram.read.rready | sdram.write.wvalid & sdram.write.wready
        moved = (beat, receiver.bytes.valid, transmitter.bytes.valid & transmitter.bytes.ready)
        shown = [self._stretched(m, event) for event in moved]
        alive = Signal(LED_BITS + 3)
        m.d.sync += [alive.eq(alive + 1), self.leds.eq(Cat(core.interrupt, *shown, Signal(3), alive[-1]))]
        return m

    def _stretched(self, m: Module, event) -> Signal:
        left = Signal(LED_BITS)
        m.d.sync += left.eq(Mux(event, ~0, left - left.any()))
        return left.any()
