# SPDX-License-Identifier: Apache-2.0
"""The whole core, preset tiny, between an AXI4-Lite master and an AXI4 memory that nobody here wrote
(cocotbext-axi).
"""

import logging
import random
from functools import cache

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import ErrorCode
from edgemoe.hw.contract.registers import REGISTERS, Access
from edgemoe.sim.bench import parameters, run_verilog

TINY = preset("tiny")
BASE = 0x1_2340_0000
GUARD = 4096  # random bytes before the memory image and behind it
NONE, FULL = 0.0, 0.35


@cache
def program():
    """(memory image, the same after the emulator's run, parts that may change) of a model of one layer with experts and
    two tasks.
    """
    from tests.random.support import emulate
    from tests.random.test_corrupted import small_program

    memory, _, stored = small_program()
    expected, _ = emulate(TINY, memory)
    return memory, expected, stored


def writable(register):
    """The bits that keep what is written; the base of a master that this build does not have keeps none."""
    absent = [f"BASE_{m}_{half}" for m in range(TINY.masters, registers.MAX_MASTERS) for half in ("LO", "HI")]
    return 0 if register.name in absent else register.writable


class Core:
    """The core with its bench: registers by name, memory, random pauses on every channel."""

    def __init__(self, dut, memory=False):
        self.dut, self.given = dut, parameters()
        logging.getLogger("cocotb.edgemoe").setLevel(logging.WARNING)  # the models tell of every transfer
        generator: Clock = Clock(dut.aclk, 10, unit="ns")
        generator.start()
        dut.aresetn.value = 0
        self.host = AxiLiteMaster(
            AxiLiteBus.from_prefix(dut, "s_axil"), dut.aclk, dut.aresetn, reset_active_level=False
        )
        self.ram = AxiRam(
            AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, reset_active_level=False, size=1 << 20
        )
        write, read = self.ram.write_if, self.ram.read_if
        gaps, pressure = self.given.get("gaps", 0.0), self.given.get("pressure", 0.0)
        self.pause((read.r_channel, write.b_channel), gaps)
        self.pause((read.ar_channel, write.aw_channel, write.w_channel), pressure)
        lite = (self.host.write_if.aw_channel, self.host.write_if.w_channel, self.host.read_if.ar_channel)
        self.pause(lite, gaps)
        self.pause((self.host.write_if.b_channel, self.host.read_if.r_channel), pressure)

    def pause(self, channels, share):
        for number, channel in enumerate(channels):
            coin = random.Random(number + 1)
            if share:
                channel.set_pause_generator(iter(lambda c=coin: c.random() < share, None))

    async def reset(self):
        for _ in range(5):
            await RisingEdge(self.dut.aclk)
        self.dut.aresetn.value = 1
        for _ in range(2):
            await RisingEdge(self.dut.aclk)

    async def read(self, where, resp=AxiResp.OKAY):
        answer = await self.host.read(registers.offset(where) if isinstance(where, str) else where, 4)
        assert answer.resp == resp, (where, answer.resp)
        return int.from_bytes(answer.data, "little")

    async def write(self, where, value, resp=AxiResp.OKAY):
        answer = await self.host.write(
            registers.offset(where) if isinstance(where, str) else where, value.to_bytes(4, "little")
        )
        assert answer.resp == resp, (where, answer.resp)

    async def infer(self, memory, limit=400_000):
        """One run over a memory image between guard bytes; (error code, memory)."""
        guards = np.random.default_rng(3).integers(0, 256, (2, GUARD), np.uint8).tobytes()
        size = 1 << 20  # the RAM repeats itself through the address space
        self.ram.write((BASE - GUARD) % size, guards[:GUARD])
        self.ram.write(BASE % size, memory.tobytes())
        self.ram.write((BASE + memory.size) % size, guards[GUARD:])
        for name, value in (
            ("GIE", 1),
            ("IER", 3),
            ("ISR", 3),
            ("WATCHDOG", 20_000),
            ("PROGRAM_LO", 0),
            ("PROGRAM_HI", 0),
        ):
            await self.write(name, value)
        await self.write("BASE_0_LO", BASE & 0xFFFFFFFF)
        await self.write("BASE_0_HI", BASE >> 32)
        await self.write("CTRL", 1)
        for _ in range(limit // 500):
            for _ in range(500):
                await RisingEdge(self.dut.aclk)
            if await self.read("ISR"):
                break
        else:
            raise AssertionError("the core does not finish")
        assert self.ram.read((BASE - GUARD) % size, GUARD) == guards[:GUARD], "bytes before the memory have changed"
        assert self.ram.read((BASE + memory.size) % size, GUARD) == guards[GUARD:], (
            "bytes behind the memory have changed"
        )
        after = np.frombuffer(self.ram.read(BASE % size, memory.size), np.uint8)
        return ErrorCode(await self.read("ERROR_CODE")), after


@cocotb.test()
async def registers_after_reset(dut):
    """Identity, capacities, and zero everywhere else; CTRL says idle."""
    core = Core(dut)
    await core.reset()
    constants = registers.constants(TINY)
    for register in REGISTERS:
        expected = constants.get(register.name, 4 if register.name == "CTRL" else 0)
        assert await core.read(register.offset) == expected, register.name


@cocotb.test()
async def registers_keep_what_they_may(dut):
    """Every writable bit of every register, by itself and all together; reserved bits read zero;
    read-only registers stay.
    """
    core = Core(dut)
    await core.reset()
    rng = random.Random(1)
    before = {r.name: await core.read(r.offset) for r in REGISTERS}
    for register in REGISTERS:
        if register.access is Access.READ_WRITE:
            for value in (0xFFFFFFFF, rng.getrandbits(32), rng.getrandbits(32), 0x55555555, 0xAAAAAAAA, 0):
                await core.write(register.offset, value)
                assert await core.read(register.offset) == value & writable(register), (register.name, hex(value))
        elif register.access is Access.READ_ONLY:
            answer = await core.host.write(register.offset, b"\xff\xff\xff\xff")
            assert answer.resp in (AxiResp.OKAY, AxiResp.SLVERR)
            assert await core.read(register.offset) == before[register.name], register.name
    # Writing one register changes no other.
    values = {r.name: rng.getrandbits(32) & writable(r) for r in REGISTERS if r.access is Access.READ_WRITE}
    for name, value in values.items():
        await core.write(name, value)
    for register in REGISTERS:
        if register.access is not Access.CONTROL:
            assert await core.read(register.offset) == values.get(register.name, before[register.name]), register.name
    assert await core.read("CTRL") == 4


@cocotb.test()
async def unmapped_addresses_are_refused(dut):
    """SLVERR for reads and writes of every word without a register."""
    core = Core(dut)
    await core.reset()
    mapped = {r.offset for r in REGISTERS}
    for address in range(0, 1 << registers.ADDRESS_BITS, 4):
        if address not in mapped and (address < 0x300 or address % 64 == 0 or address > 0xFF0):
            await core.read(address, AxiResp.SLVERR)
            await core.write(address, 0xFFFFFFFF, AxiResp.SLVERR)
    assert await core.read("MAGIC") == registers.MAGIC


@cocotb.test()
async def inference(dut):
    """Two inferences in a row: results, constants and guards are the emulator's to the last byte."""
    core = Core(dut)
    await core.reset()
    memory, expected, _ = program()
    for _ in range(2):
        code, after = await core.infer(memory)
        assert code == ErrorCode.NONE
        assert np.array_equal(after, expected)


@cocotb.test()
async def refused_program(dut):
    """A read that the memory refuses stops the run with READ_BUS, and the next inference is right."""
    core = Core(dut)
    await core.reset()
    memory, expected, _ = program()
    broken = memory.copy()
    broken[0] = 0  # opcode 0
    code, after = await core.infer(broken)
    assert code == ErrorCode.ILLEGAL_INSTRUCTION
    assert np.array_equal(after, broken)
    await core.write("ISR", 3)
    while not await core.read("CTRL") & 4:
        pass
    code, after = await core.infer(memory)
    assert code == ErrorCode.NONE and np.array_equal(after, expected)


def run(testcases, **given):
    from edgemoe.hw.shell import CoreShell
    from edgemoe.sim.simulator import verilog

    ports = [name for name in CoreShell(TINY).ports if name != "interrupt"]
    run_verilog(verilog(TINY), "edgemoe", ports, __name__, testcase=testcases, parameters=given)


@pytest.mark.parametrize("gaps, pressure", [(NONE, NONE), (FULL, FULL)])
def test_registers(gaps, pressure):
    run(
        ["registers_after_reset", "registers_keep_what_they_may", "unmapped_addresses_are_refused"],
        gaps=gaps,
        pressure=pressure,
    )


@pytest.mark.parametrize("gaps, pressure", [(NONE, NONE), (FULL, NONE), (NONE, FULL), (FULL, FULL)])
def test_inference(gaps, pressure):
    run("inference", gaps=gaps, pressure=pressure)


def test_a_refused_program():
    run("refused_program", gaps=FULL, pressure=FULL)
