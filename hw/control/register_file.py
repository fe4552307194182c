# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite register file: the map of `edgemoe.hw.contract.registers` in hardware, with its performance counters."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS
from edgemoe.hw.contract.registers import (
    ADDRESS_BITS,
    BASE_ALIGNMENT,
    BY_NAME,
    COUNTERS,
    KIND_COUNTERS,
    REGISTER_BITS,
    STATE_COUNTERS,
)
from edgemoe.hw.control.activity import KINDS, Counted
from edgemoe.hw.control.run import RunPort
from edgemoe.hw.memory.arbiter import first
from edgemoe.hw.memory.axi import PROTECTION_BITS, RESPONSE_BITS
from edgemoe.hw.memory.pipeline import delay

OKAY, SLVERR = 0, 2


class AxiLite(wiring.Signature):
    """An AXI4-Lite slave's ports, as its master sees them (the slave has In(AxiLite()))."""

    def __init__(self) -> None:
        write = {"awaddr": Out(ADDRESS_BITS), "awprot": Out(PROTECTION_BITS), "awvalid": Out(1), "awready": In(1)}
        write |= {
            "wdata": Out(REGISTER_BITS),
            "wstrb": Out(REGISTER_BITS // 8),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(RESPONSE_BITS),
            "bvalid": In(1),
            "bready": Out(1),
        }
        read = {"araddr": Out(ADDRESS_BITS), "arprot": Out(PROTECTION_BITS), "arvalid": Out(1), "arready": In(1)}
        read |= {"rdata": In(REGISTER_BITS), "rresp": In(RESPONSE_BITS), "rvalid": In(1), "rready": Out(1)}
        super().__init__({**write, **read})


class RegisterFile(wiring.Component):
    """Registers behind an AXI4-Lite slave. AW and W come in either order; every READY is given before or without the
    other's VALID.

    Ports:
        bus (in AxiLite): addresses outside the map and writes to read-only registers answer SLVERR and change nothing;
            WSTRB is obeyed.
        run (out RunPort): `start` is given only when idle and clears the error and the counters. The end of a run sets
            CTRL.DONE and ISR.DONE; the first error of a run is kept and sets ISR.ERROR.
        counted (in Counted): while a run lasts, CYCLES and exactly one state counter advance in each cycle.
        program, base (out): as written.
        interrupt (out): level.
    Latency: LATENCY = 2 cycles from ARVALID to RVALID, and from the later of AWVALID and WVALID to BVALID.
    Interval: none (one access each way at a time).
    Limits: the map is that of `hw.contract.registers`.
    Twin: none (no arithmetic); `hw.contract.registers` is the map.
    """

    LATENCY = 2

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "bus": In(AxiLite()),
                "run": Out(RunPort()),
                "counted": In(Counted()),
                "program": Out(DRAM_OFFSET_BITS),
                "base": Out(data.ArrayLayout(2 * REGISTER_BITS, config.masters)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write, address, value, mask = self._write_channel(m)
        read, read_address = self._read_channel(m)
        # what every register reads as
        words = {r.name: Signal(REGISTER_BITS, name=r.name.lower()) for r in registers.REGISTERS}

        def written(name: str) -> Signal:
            return write & (address == BY_NAME[name].offset >> 2)

        def readout(name: str) -> Signal:
            return read & (read_address == BY_NAME[name].offset >> 2)

        # Plain read/write registers.
        for r in registers.REGISTERS:
            if r.name.startswith("BASE_") and int(r.name[5]) >= self.config.masters:
                continue
            if r.writable:
                with m.If(written(r.name)):
                    m.d.sync += words[r.name].eq((words[r.name] & ~mask | value & mask) & r.writable)
        for name, constant in registers.constants(self.config).items():
            m.d.comb += words[name].eq(constant)
        m.d.comb += [
            self.program.eq(Cat(words["PROGRAM_LO"], words["PROGRAM_HI"])),
            self.run.watchdog.eq(words["WATCHDOG"]),
            words["INSTRUCTION"].eq(self.run.instruction),
        ]
        for i in range(self.config.masters):
            m.d.comb += self.base[i].eq(Cat(words[f"BASE_{i}_LO"], words[f"BASE_{i}_HI"]))

        self._control(m, words, written, readout, value & mask)
        self._count(m, words, readout)
        self._readout(m, read, read_address, words)
        return m

    def _write_channel(self, m: Module):
        """Holds an address and a datum until both are there: (a write happens in this cycle, word address, data, byte
        mask as bits).
        """
        bus = self.bus
        address, value, strobe = Signal(ADDRESS_BITS - 2), Signal(REGISTER_BITS), Signal(REGISTER_BITS // 8)
        has_address, has_value = Signal(), Signal()
        write = has_address & has_value & (~bus.bvalid | bus.bready)
        known = Cat(
            address == r.offset >> 2 for r in registers.REGISTERS if r.access != registers.Access.READ_ONLY
        ).any()
        m.d.comb += [bus.awready.eq(~has_address), bus.wready.eq(~has_value)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(Mux(known, OKAY, SLVERR)), has_address.eq(0), has_value.eq(0)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [has_address.eq(1), address.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [has_value.eq(1), value.eq(bus.wdata), strobe.eq(bus.wstrb)]
        return write, address, value, Cat(s.replicate(8) for s in strobe)

    def _read_channel(self, m: Module):
        """Takes a read address: (a register is read in this cycle, word address)."""
        bus = self.bus
        address, pending = Signal(ADDRESS_BITS - 2), Signal()
        read = pending & ~bus.rvalid
        m.d.comb += bus.arready.eq(~pending)
        with m.If(read):
            m.d.sync += pending.eq(0)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [pending.eq(1), address.eq(bus.araddr[2:])]
        return read, address

    def _readout(self, m: Module, read, address, words: dict[str, Signal]) -> None:
        bus = self.bus
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(read):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0), bus.rresp.eq(SLVERR)]
            with m.Switch(address):
                for r in registers.REGISTERS:
                    with m.Case(r.offset >> 2):
                        m.d.sync += [bus.rdata.eq(words[r.name]), bus.rresp.eq(OKAY)]

    def _control(self, m: Module, words: dict[str, Signal], written, readout, value) -> None:
        """CTRL, ISR and the kept error. What sets a bit wins over what clears it."""
        control = {f.name: f.low for f in BY_NAME["CTRL"].fields}
        started, done, ready, resetting = Signal(), Signal(), Signal(), Signal()
        status, failed = Signal(2), Signal()
        start = (
            written("CTRL")
            & value[control["START"]]
            & self.run.idle
            & ~started
            & ~resetting
            & ~value[control["SOFT_RESET"]]
        )
        reset = written("CTRL") & value[control["SOFT_RESET"]]
        m.d.comb += [
            words["CTRL"].eq(Cat(started, done, self.run.idle & ~started & ~resetting, ready, Const(0, 4), resetting)),
            words["ISR"].eq(status),
            self.interrupt.eq(words["GIE"][0] & (status & words["IER"]).any()),
        ]
        m.d.sync += [self.run.start.eq(start), self.run.soft_reset.eq(reset)]
        with m.If(readout("CTRL")):
            m.d.sync += [done.eq(0), ready.eq(0)]
        over = self.run.done | failed & started & self.run.idle
        with m.If(over):
            m.d.sync += [done.eq(1), ready.eq(1), started.eq(0)]
        with m.If(start):
            m.d.sync += started.eq(1)
        with m.If(reset):
            m.d.sync += [started.eq(0), resetting.eq(1), done.eq(0), ready.eq(0)]
        with m.Elif(resetting & ~self.run.soft_reset & self.run.idle):
            m.d.sync += resetting.eq(0)
        m.d.sync += status.eq(status & ~Mux(written("ISR"), value[:2], 0) | Cat(over, self.run.error))
        with m.If(start | reset):
            m.d.sync += failed.eq(0)
            m.d.sync += [
                words[n].eq(0) for n in ("ERROR_CODE", "ERROR_INSTRUCTION", "ERROR_ADDRESS_LO", "ERROR_ADDRESS_HI")
            ]
        with m.Elif(self.run.error & ~failed & ~resetting):
            m.d.sync += [
                failed.eq(1),
                words["ERROR_CODE"].eq(self.run.error_code),
                words["ERROR_INSTRUCTION"].eq(self.run.error_instruction),
                words["ERROR_ADDRESS_LO"].eq(self.run.error_address[:REGISTER_BITS]),
                words["ERROR_ADDRESS_HI"].eq(self.run.error_address[REGISTER_BITS:]),
            ]

    def _count(self, m: Module, words: dict[str, Signal], readout) -> None:
        """64-bit counters, in two halves: the carry takes a cycle. The high word that is read was kept when the low
        word was read.
        """
        states, running = Signal(len(STATE_COUNTERS)), Signal()
        others = self.counted.state
        alone = Cat(first(list(others))[2], ~others.any())
        m.d.sync += [states.eq(Mux(self.run.running, alone, 0)), running.eq(self.run.running)]
        beats = Signal(3)
        m.d.sync += beats.eq(Cat(self.counted.read_beat, self.counted.write_beat, self.counted.retired))
        kept = Signal(REGISTER_BITS)
        for name, event in zip(COUNTERS, [running, *states, *beats], strict=True):
            low, high = words[f"{name}_LO"], Signal(REGISTER_BITS, name=f"high_{name.lower()}")
            carry = Signal(name=f"carry_{name.lower()}")
            m.d.sync += [
                Cat(low, carry).eq(Mux(self.run.start, 0, low + event)),
                high.eq(Mux(self.run.start, 0, high + carry)),
            ]
            m.d.comb += words[f"{name}_HI"].eq(kept)
            asked = delay(m, readout(f"{name}_LO"), 1, name=f"asked_{name.lower()}")
            with m.If(asked):  # a carry of the low word that was read is in the high one now
                m.d.sync += kept.eq(high)
        kinds = Signal(len(KINDS))
        m.d.sync += kinds.eq(self.counted.kind)
        state_names = list(STATE_COUNTERS)
        for name, (kind, state) in KIND_COUNTERS.items():
            counter = words[name]
            m.d.sync += counter.eq(
                Mux(self.run.start, 0, counter + (states[state_names.index(state)] & kinds[KINDS.index(kind)]))
            )


assert BASE_ALIGNMENT == 4096, "axi.py divides transfers for this alignment"
