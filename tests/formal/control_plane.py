# SPDX-License-Identifier: Apache-2.0
"""Proofs of the control side: the AXI4-Lite slave, the run's states, what its cycles count as."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.isa import ErrorCode, Opcode, Stationary
from edgemoe.hw.control.activity import KINDS, Activity
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
            p.check(dut.run.watchdog.bit_select(bit, 1) == data.bit_select(bit, 1))
            m.d.sync += value.eq(1)
        with m.If(~strobe.bit_select(bit[3:], 1)):
            p.check(dut.run.watchdog.bit_select(bit, 1) == p.past(dut.run.watchdog).bit_select(bit, 1))
    p.check(~(p.later & (dut.run.watchdog != p.past(dut.run.watchdog))) | (watch & bus.bvalid))
    p.check(~(dut.run.start & ~p.past(dut.run.idle)))
    p.check(~dut.run.start | ~p.past(dut.run.start))
    p.cover(r & p.past(r) | (r & (reads == 2)))
    p.cover(b & ~bus.awvalid & (bus.bresp == SLVERR))
    p.cover(value & (dut.run.watchdog == 0x1234))
    p.cover(dut.run.start)
    p.cover(b & aw & w)


def control(p: Property, unit: Any) -> None:
    """Every run ends; errors and resets hold `reset` and `stop` until the bus is quiet, and leave IDLE with both
    released.
    """
    dut = p.unit(unit())
    run, quiet = dut.registers, dut.reader_idle & dut.writer_idle
    read_error, read_address = (
        dut.read.valid | dut.fetch.valid,
        Mux(dut.read.valid, dut.read.address, dut.fetch.address),
    )
    p.check(dut.reset == dut.stop)
    p.check(run.idle + run.running + dut.stop == 1)
    p.check(~dut.run | (run.idle & run.start))
    p.check(~(p.later & p.past(dut.run)) | run.running)
    # What ends a run: exactly what may.
    expired = counter(p, 33, 1, clear=~run.running | dut.progress, name="expired")
    late = (run.watchdog != 0) & (expired >= run.watchdog)
    failing = dut.decode_error | read_error | dut.write.valid | late
    was = p.past(run.running) & p.later
    fails = was & p.past(failing & ~dut.finished & ~run.soft_reset)
    p.check(run.error == fails)
    p.check(run.done == (run.running & dut.finished & ~run.soft_reset))
    p.check(~(p.later & p.past(run.done)) | run.idle)
    p.check(~(was & p.past(run.soft_reset)) | (dut.stop & ~run.error))
    p.check(~(was & p.past(~failing & ~dut.finished & ~run.soft_reset)) | run.running)
    p.check(~(run.done & run.error))
    # The error's code is its cause's, the sequencer's first.
    cause = Mux(dut.write.valid, ErrorCode.WRITE_BUS, ErrorCode.WATCHDOG)
    cause = Mux(dut.decode_error, dut.decode_code, Mux(read_error, ErrorCode.READ_BUS, cause))
    place = Mux(dut.decode_error, 0, Mux(read_error, read_address, Mux(dut.write.valid, dut.write.address, 0)))
    p.check(~run.error | (run.error_code == p.past(cause)) & (run.error_address == p.past(place)))
    p.check(~run.error | (run.error_instruction == dut.instruction))
    # Stopped until the bus is quiet, and not longer; the cycle that reports an error does not count.
    p.check(~(p.later & p.past(dut.stop & ~quiet)) | dut.stop)
    p.check(~(p.later & p.past(dut.stop & quiet & ~run.error)) | run.idle)
    p.check(~(p.later & p.past(run.idle & ~run.start)) | run.idle)
    p.check(~(p.later & ~p.past(p.begun)) | run.idle)
    for error in (ErrorCode.READ_BUS, ErrorCode.WRITE_BUS, ErrorCode.WATCHDOG, ErrorCode.CAPACITY):
        p.cover(run.error & (run.error_code == error))
    stopped = counter(p, 4, dut.stop, clear=run.idle & run.start, name="stopped")
    p.cover(run.idle & (stopped == 4))
    p.cover(run.done)


def activity(p: Property, unit: Any) -> None:
    """Every instruction is of exactly one kind, the right one; states and pulses reach their counters, these a cycle
    later.
    """
    dut = p.unit(unit())
    events, counted, instruction = dut.events, dut.counted, dut.instruction
    kinds = dict(zip(KINDS, counted.kind, strict=True))
    p.check((counted.kind != 0) & ((counted.kind & counted.kind - 1) == 0))
    matmul = instruction.opcode == Opcode.MATMUL
    p.check(matmul == Cat(kinds[name] for name in registers.MATMUL_KINDS).any())
    p.check(~kinds["KEYS"] | (instruction.stationary == Stationary.KEYS))
    p.check(~kinds["VALUES"] | (instruction.stationary == Stationary.VALUES))
    on_queue = instruction.gather | instruction.scatter | instruction.queued
    p.check(~kinds["EXPERT"] | on_queue & (instruction.stationary < Stationary.KEYS))
    p.check(~kinds["WEIGHTS"] | ~on_queue & (instruction.stationary < Stationary.KEYS))
    p.check(kinds["LAYERNORM"] == (instruction.opcode == Opcode.LAYERNORM))
    p.check(kinds["ROUTE"] == (instruction.opcode == Opcode.ROUTE))
    states = (
        events.array_active,
        events.waits_for_weights,
        events.waits_for_operands,
        events.waits_for_results,
        events.moving,
        events.normalising,
        events.routing,
    )
    p.check(counted.state == Cat(states))
    pulses = Cat(dut.read_beat, dut.write_beat, events.retired)
    shown = Cat(counted.read_beat, counted.write_beat, counted.retired)
    p.check(~p.later | (shown == p.past(pulses)))
    p.check(dut.progress == shown.any())
    for kind in kinds.values():
        p.cover(kind)


PROOFS = [
    Proof(
        "activity",
        activity,
        Activity,
        4,
        {
            "experts count as weights": Mutant("matmul & weights & ~queued", "matmul & weights"),
            "values count as keys": Mutant('"VALUES": matmul & values', '"VALUES": matmul & keys'),
            "LAYERNORM counts as DMA": Mutant("~(matmul | norm | route)", "~(matmul | route)"),
            "a retired instruction is no progress": Mutant("pulses.any()", "pulses[:2].any()"),
        },
    ),
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
            "start while busy": Mutant("& self.run.idle\n            & ~started", "& ~started"),
        },
    ),
    Proof(
        "control",
        control,
        Control,
        12,
        {
            "the bus is not awaited": Mutant(
                'with m.If(self.reader_idle & self.writer_idle):\n                    m.next = "IDLE"',
                'm.next = "IDLE"',
            ),
            "the units stay reset": Mutant(
                "m.d.comb += registers.idle.eq(1)", "m.d.comb += [registers.idle.eq(1), self.reset.eq(1)]"
            ),
            "an error has no instruction": Mutant("error_instruction.eq(self.instruction)", "error_instruction.eq(0)"),
            "a failed write wins over a failed read": Mutant(
                "with m.Elif(self.read.valid | self.fetch.valid):",
                "with m.Elif((self.read.valid | self.fetch.valid) & ~self.write.valid):",
            ),
            "a watchdog of 0 barks": Mutant("(registers.watchdog != 0) & (waited", "(waited"),
            "a watchdog's error has an address": Mutant(
                "code.eq(ErrorCode.WATCHDOG), address.eq(0)", "code.eq(ErrorCode.WATCHDOG)"
            ),
            "a soft reset loses to END": Mutant(
                "If(registers.soft_reset):", "If(registers.soft_reset & ~self.finished):"
            ),
            "an error does not stop the bus at once": Mutant(
                "[registers.error.eq(1), self.reset.eq(1), self.stop.eq(1)]",
                "[registers.error.eq(1), self.reset.eq(1)]",
            ),
            "an error goes unnoticed": Mutant(
                "with m.Elif(self.write.valid):", "with m.Elif(self.write.valid & self.progress):"
            ),
            "the watchdog is never fed": Mutant(
                "m.d.sync += waited.eq(0)\n                with m.If(registers.soft_reset)",
                "m.d.sync += waited.eq(waited)\n                with m.If(registers.soft_reset)",
            ),
        },
    ),
]
