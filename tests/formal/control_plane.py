# SPDX-License-Identifier: Apache-2.0
"""Proofs of the control side: the AXI4-Lite slave, the run's states."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.isa import ErrorCode
from edgemoe.hw.control.register_file import OKAY, SLVERR, RegisterFile
from edgemoe.hw.control.run import Control

from ..mutants import Mutant
from .configurations import ONE
from .rules import counter, held
from .runner import Proof, Property

LATENCY = 6  # cycles from a request to its answer's acceptance, of a master that takes answers at once


def register_file(p: Property, unit: Any) -> None:
    """AXI4-Lite: offers stand, one answer a request and in time, the right verdict, and what was written is what is
    read.
    """
    m = p.m
    dut = p.unit(unit(ONE))
    bus = dut.bus
    for valid, ready, payload in (
        (bus.awvalid, bus.awready, bus.awaddr),
        (bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb)),
        (bus.arvalid, bus.arready, bus.araddr),
    ):
        held(p, valid, ready, payload, assume=True)
    held(p, bus.bvalid, bus.bready, bus.bresp, assume=False)
    held(p, bus.rvalid, bus.rready, Cat(bus.rdata, bus.rresp), assume=False)
    p.check(~p.past(~p.begun) | ~(bus.bvalid | bus.rvalid))

    aw, w, b = bus.awvalid & bus.awready, bus.wvalid & bus.wready, bus.bvalid & bus.bready
    ar, r = bus.arvalid & bus.arready, bus.rvalid & bus.rready
    addresses, values, reads = (
        counter(p, 3, up, down, name=name) for up, down, name in ((aw, b, "aws"), (w, b, "ws"), (ar, r, "ars"))
    )
    # Never an answer without a request; at most one held and one answered.
    p.check(~bus.bvalid | ((addresses != 0) & (values != 0)))
    p.check(~bus.rvalid | (reads != 0))
    p.check((addresses <= 2) & (values <= 2) & (reads <= 2))

    # In time: while requests wait and answers are taken at once.
    waited_write = counter(p, 4, 1, clear=~((addresses != 0) & (values != 0)) | b | ~bus.bready, name="waited_write")
    waited_read = counter(p, 4, 1, clear=(reads == 0) | r | ~bus.rready, name="waited_read")
    p.check((waited_write < LATENCY) & (waited_read < LATENCY))
    # READY comes by itself: neither waits for the other's VALID, nor for an answer to be taken beyond one.
    p.check(bus.awready | (addresses != 0))
    p.check(bus.wready | (values != 0))
    p.check(bus.arready | (reads != 0))

    # A read of a symbolic address with nothing else under way: known or not.
    address = p.constant(10, "address")
    known = Cat(address == one.offset >> 2 for one in registers.REGISTERS).any()
    writable = Cat(
        address == one.offset >> 2 for one in registers.REGISTERS if one.access != registers.Access.READ_ONLY
    ).any()
    p.assume(~bus.arvalid | (bus.araddr[2:] == address))
    p.assume(~bus.awvalid | (bus.awaddr[2:] == address))
    p.check(~bus.rvalid | (bus.rresp == Mux(known, OKAY, SLVERR)))
    p.check(~bus.bvalid | (bus.bresp == Mux(writable, OKAY, SLVERR)))

    # WATCHDOG keeps what was written, byte by byte: a symbolic bit.
    bit = p.constant(5, "bit")
    value, fresh = p.register(1, "value"), p.register(1, "fresh")
    watch = address == registers.offset("WATCHDOG") >> 2
    data, strobe = p.register(32, "data"), p.register(4, "strobe")
    with m.If(w):
        m.d.sync += [data.eq(bus.wdata), strobe.eq(bus.wstrb)]
    with m.If(watch & bus.bvalid & ~p.past(bus.bvalid)):
        # The write happened one cycle ago; the register shows it now. Only single writes are followed.
        m.d.sync += fresh.eq(1)
        with m.If(~fresh & (addresses == 1) & (values == 1) & strobe.bit_select(bit[3:], 1)):
            p.check(dut.watchdog.bit_select(bit, 1) == data.bit_select(bit, 1))
            m.d.sync += value.eq(1)
        with m.If(~strobe.bit_select(bit[3:], 1)):
            p.check(dut.watchdog.bit_select(bit, 1) == p.past(dut.watchdog).bit_select(bit, 1))
    p.check(~(p.later & (dut.watchdog != p.past(dut.watchdog))) | (watch & bus.bvalid))
    p.check(~(dut.start & ~p.past(dut.idle)))
    p.check(~dut.start | ~p.past(dut.start))
    p.cover(r & p.past(r) | (r & (reads == 2)))
    p.cover(b & ~bus.awvalid & (bus.bresp == SLVERR))
    p.cover(value & (dut.watchdog == 0x1234))
    p.cover(dut.start)
    p.cover(b & aw & w)


def control(p: Property, unit: Any) -> None:
    """Every run ends; errors and resets hold `reset` and `stop` until the bus is quiet, and leave IDLE with both
    released.
    """
    dut = p.unit(unit())
    p.check(dut.reset == dut.stop)
    p.check(dut.idle + dut.running + dut.stop == 1)
    p.check(~dut.run | (dut.idle & dut.start))
    p.check(~(p.later & p.past(dut.run)) | dut.running)
    # What ends a run: exactly what may.
    expired = counter(p, 33, 1, clear=~dut.running | dut.progress, name="expired")
    late = (dut.watchdog != 0) & (expired >= dut.watchdog)
    failing = dut.decode_error | dut.read_error | dut.write_error | late
    was = p.past(dut.running) & p.later
    fails = was & p.past(failing & ~dut.finished & ~dut.soft_reset)
    p.check(dut.error == fails)
    p.check(dut.done == (dut.running & dut.finished & ~dut.soft_reset))
    p.check(~(p.later & p.past(dut.done)) | dut.idle)
    p.check(~(was & p.past(dut.soft_reset)) | (dut.stop & ~dut.error))
    p.check(~(was & p.past(~failing & ~dut.finished & ~dut.soft_reset)) | dut.running)
    p.check(~(dut.done & dut.error))
    # The error's code is its cause's, the sequencer's first.
    later = Mux(dut.write_error, ErrorCode.WRITE_BUS, ErrorCode.WATCHDOG)
    cause = Mux(dut.decode_error, dut.decode_code, Mux(dut.read_error, ErrorCode.READ_BUS, later))
    place = Mux(dut.decode_error, 0, Mux(dut.read_error, dut.read_address, Mux(dut.write_error, dut.write_address, 0)))
    p.check(~dut.error | (dut.error_code == p.past(cause)) & (dut.error_address == p.past(place)))
    p.check(~dut.error | (dut.error_instruction == dut.instruction))
    # Stopped until the bus is quiet, and not longer; the cycle that reports an error does not count.
    p.check(~(p.later & p.past(dut.stop & ~dut.bus_idle)) | dut.stop)
    p.check(~(p.later & p.past(dut.stop & dut.bus_idle & ~dut.error)) | dut.idle)
    p.check(~(p.later & p.past(dut.idle & ~dut.start)) | dut.idle)
    p.check(~(p.later & ~p.past(p.begun)) | dut.idle)
    for error in (ErrorCode.READ_BUS, ErrorCode.WRITE_BUS, ErrorCode.WATCHDOG, ErrorCode.CAPACITY):
        p.cover(dut.error & (dut.error_code == error))
    stopped = counter(p, 4, dut.stop, clear=dut.idle & dut.start, name="stopped")
    p.cover(dut.idle & (stopped == 4))
    p.cover(dut.done)


PROOFS = [
    Proof(
        "AXI4-Lite register file",
        register_file,
        RegisterFile,
        9,
        {
            "an answer is withdrawn": Mutant("with m.If(bus.rready):", "with m.If(1):"),
            "an answer is overwritten": Mutant(
                "has_address & has_value & (~bus.bvalid | bus.bready)", "has_address & has_value"
            ),
            "data waits for an address": Mutant("bus.wready.eq(~has_value)", "bus.wready.eq(~has_value & has_address)"),
            "unmapped reads succeed": Mutant(
                "bus.rdata.eq(0), bus.rresp.eq(SLVERR)", "bus.rdata.eq(0), bus.rresp.eq(OKAY)"
            ),
            "strobes are ignored": Mutant(
                "Cat(s.replicate(8) for s in strobe)", "Cat((s | 1).replicate(8) for s in strobe)"
            ),
            "start while busy": Mutant("& self.idle\n            & ~started", "& ~started"),
        },
    ),
    Proof(
        "control",
        control,
        Control,
        12,
        {
            "the bus is not awaited": Mutant(
                'with m.If(self.bus_idle):\n                    m.next = "IDLE"', 'm.next = "IDLE"'
            ),
            "the units stay reset": Mutant(
                "m.d.comb += self.idle.eq(1)", "m.d.comb += [self.idle.eq(1), self.reset.eq(1)]"
            ),
            "an error has no instruction": Mutant(
                "self.error_instruction.eq(self.instruction)", "self.error_instruction.eq(0)"
            ),
            "a failed write wins over a failed read": Mutant(
                "with m.Elif(self.read_error):", "with m.Elif(self.read_error & ~self.write_error):"
            ),
            "a watchdog of 0 barks": Mutant("(self.watchdog != 0) & (waited", "(waited"),
            "a watchdog's error has an address": Mutant(
                "code.eq(ErrorCode.WATCHDOG), address.eq(0)", "code.eq(ErrorCode.WATCHDOG)"
            ),
            "a soft reset loses to END": Mutant(
                "with m.If(self.soft_reset):", "with m.If(self.soft_reset & ~self.finished):"
            ),
            "an error does not stop the bus at once": Mutant(
                "[self.error.eq(1), self.reset.eq(1), self.stop.eq(1)]", "[self.error.eq(1), self.reset.eq(1)]"
            ),
            "an error goes unnoticed": Mutant(
                "with m.Elif(self.write_error):", "with m.Elif(self.write_error & self.progress):"
            ),
            "the watchdog is never fed": Mutant("m.d.sync += waited.eq(0)\n                with m.If(self.soft_reset)",
                                               "m.d.sync += waited.eq(waited)\n                with "
                                               "m.If(self.soft_reset)"),
        },
    ),
]  # fmt: skip
