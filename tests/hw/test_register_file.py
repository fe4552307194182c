# SPDX-License-Identifier: Apache-2.0
"""The register file against cocotbext-axi's AXI4-Lite master:
access of every register, events, counters, order of the write channels.
"""

import random

import cocotb
import pytest
from bench_axi import STALLS, cycles
from cocotb.triggers import ReadOnly, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import PRESETS
from edgemoe.hw.contract.registers import BY_NAME, COUNTERS, KIND_COUNTERS, REGISTERS, STATE_COUNTERS, Access, offset
from edgemoe.hw.control.activity import KINDS
from edgemoe.hw.control.register_file import RegisterFile
from edgemoe.sim.bench import flat_ports, parameters, run_verilog, start, to_verilog

RUN = ("done", "error", "error_code", "error_instruction", "error_address", "instruction", "running")
COUNTED = ("state", "kind", "read_beat", "write_beat", "retired")
INPUTS = (*(f"run_{name}" for name in RUN), *(f"counted_{name}" for name in COUNTED))


class Host:
    """Register accesses by name."""

    def __init__(self, dut):
        given = parameters()
        self.dut, self.config = dut, PRESETS[given["config"]]
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "bus"), dut.clk, dut.rst)
        gaps, pressure = STALLS[given["stall"]]
        write, read = self.master.write_if, self.master.read_if
        channels = [(c, gaps) for c in (write.aw_channel, write.w_channel, read.ar_channel)]
        channels += [(c, pressure) for c in (write.b_channel, read.r_channel)]
        for i, (channel, chance) in enumerate(channels):
            generator = random.Random(i)
            channel.set_pause_generator(iter(lambda g=generator, c=chance: g.random() < c, None))
        for name in INPUTS:
            getattr(dut, name).value = 0
        dut.run_idle.value = 1

    async def write(self, name, value, strobe=None):
        at = offset(name) if isinstance(name, str) else name
        data = value.to_bytes(4, "little")
        answer = await (
            self.master.write(at, data) if strobe is None else self.master.write(at + strobe, data[strobe : strobe + 1])
        )
        return answer.resp

    async def read(self, name, resp=AxiResp.OKAY):
        at = offset(name) if isinstance(name, str) else name
        answer = await self.master.read(at, 4)
        assert answer.resp == resp, hex(at)
        return int.from_bytes(answer.data, "little")

    async def read64(self, name):
        low = await self.read(f"{name}_LO")
        return low | await self.read(f"{name}_HI") << 32

    async def pulse(self, **values):
        """Signals of the run for a cycle."""
        for name, value in values.items():
            getattr(self.dut, f"run_{name}").value = value
        await RisingEdge(self.dut.clk)
        for name in values:
            getattr(self.dut, f"run_{name}").value = 0
        await RisingEdge(self.dut.clk)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def every_register_keeps_its_access(dut):
    host = Host(dut)
    await start(dut)
    constants = registers.constants(host.config)
    expected = {}
    for r in REGISTERS:
        value = await host.read(r.name)
        assert value == constants.get(r.name, 4 if r.name == "CTRL" else 0), r.name
        expected[r.name] = value
    for r in REGISTERS:
        if r.name == "CTRL":
            continue
        for pattern in (0xFFFFFFFF, 0xA5A5A5A5, 0x5A5A5A5A):
            answer = await host.write(r.offset, pattern)
            assert answer == (AxiResp.SLVERR if r.access == Access.READ_ONLY else AxiResp.OKAY), r.name
            absent = r.name.startswith("BASE_") and int(r.name[5]) >= host.config.masters
            expected[r.name] = expected[r.name] if r.access == Access.READ_ONLY or absent else pattern & r.writable
            assert await host.read(r.offset) == expected[r.name], r.name
    for r in REGISTERS:
        assert await host.read(r.offset) == expected[r.name], f"{r.name} was changed by a write elsewhere"
    dut.run_instruction.value = 0x12345678
    assert await host.read("INSTRUCTION") == 0x12345678
    await host.write("WATCHDOG", 0)
    await host.write("WATCHDOG", 0xFFFFFFFF, strobe=2)
    assert await host.read("WATCHDOG") == 0x00FF0000
    assert int(dut.program.value) == expected["PROGRAM_LO"] | expected["PROGRAM_HI"] << 32
    assert int(dut.base.value) & (1 << 64) - 1 == expected["BASE_0_LO"] | expected["BASE_0_HI"] << 32
    known = {r.offset for r in REGISTERS}
    for at in (*[a for a in range(0, 0x180, 4) if a not in known], 0xFF0, 0xFFC):
        assert await host.read(at, AxiResp.SLVERR) == 0
        assert await host.write(at, 1) == AxiResp.SLVERR


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_run_starts_ends_and_interrupts(dut):
    host = Host(dut)
    pulses = {"start": 0, "soft_reset": 0}
    await start(dut)

    async def count():
        while True:
            await RisingEdge(dut.clk)
            for name in pulses:
                pulses[name] += int(getattr(dut, f"run_{name}").value)

    cocotb.start_soon(count())
    await host.write("CTRL", 1)
    await cycles(dut, 2)
    assert pulses == {"start": 1, "soft_reset": 0} and await host.read("CTRL") == 1
    dut.run_idle.value = 0
    await host.write("CTRL", 1)  # ignored
    await cycles(dut, 3)
    assert pulses["start"] == 1 and await host.read("CTRL") == 1
    await host.pulse(done=1)
    dut.run_idle.value = 1
    await cycles(dut, 2)
    assert not dut.interrupt.value
    await host.write("IER", 1)
    assert not dut.interrupt.value
    await host.write("GIE", 1)
    await cycles(dut, 1)
    assert dut.interrupt.value and await host.read("ISR") == 1
    assert await host.read("CTRL") == 0b1110 and await host.read("CTRL") == 0b0100, "done and ready clear on read"
    await host.write("ISR", 2)
    assert await host.read("ISR") == 1
    await host.write("ISR", 1)
    await cycles(dut, 1)
    assert await host.read("ISR") == 0 and not dut.interrupt.value
    # An error stops the run: it is over when the core is idle again, and only the first one is kept.
    await host.write("CTRL", 1)
    dut.run_idle.value = 0
    await host.write("IER", 2)
    await host.pulse(error=1, error_code=3, error_instruction=77, error_address=0x12_3456_7890)
    await host.pulse(error=1, error_code=4, error_instruction=78, error_address=1)
    assert dut.interrupt.value and await host.read("CTRL") == 1
    dut.run_idle.value = 1
    await cycles(dut, 2)
    assert await host.read("CTRL") == 0b1110 and await host.read("ISR") == 3
    assert (await host.read("ERROR_CODE"), await host.read("ERROR_INSTRUCTION")) == (3, 77)
    assert await host.read64("ERROR_ADDRESS") == 0x12_3456_7890
    await host.write("ISR", 3)
    await host.write("CTRL", 1)
    assert await host.read("ERROR_CODE") == 0 and await host.read64("ERROR_ADDRESS") == 0
    # A soft reset ends the run without DONE, forgets one that nobody read, and errors of the draining bus are none.
    await host.pulse(done=1)
    await host.write("ISR", 1)
    dut.run_idle.value = 0
    await host.write("CTRL", 0x101)
    await cycles(dut, 2)
    assert pulses == {"start": 3, "soft_reset": 1} and await host.read("CTRL") == 0x100
    await host.pulse(error=1, error_code=5, error_instruction=6, error_address=7)
    assert await host.read("ERROR_CODE") == 0 and await host.read("ISR") == 2
    await host.write("ISR", 2)
    dut.run_idle.value = 1
    await cycles(dut, 2)
    assert await host.read("CTRL") == 4 and await host.read("ISR") == 0


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def counters_count_one_state_a_cycle(dut):
    host = Host(dut)
    rng = random.Random(3)
    await start(dut)
    await host.write("CTRL", 1)
    await cycles(dut, 3)
    expected, by_kind = dict.fromkeys(COUNTERS, 0), dict.fromkeys(KIND_COUNTERS, 0)
    names = list(STATE_COUNTERS)
    for _ in range(500):
        state, running = rng.choice((0, 1 << rng.randrange(7), rng.randrange(128))), int(rng.random() < 0.9)
        beats = {name: rng.randrange(2) for name in ("read_beat", "write_beat", "retired")}
        kind = rng.randrange(len(KINDS))
        dut.counted_state.value, dut.run_running.value, dut.counted_kind.value = state, running, 1 << kind
        for name, value in beats.items():
            getattr(dut, f"counted_{name}").value = value
        await RisingEdge(dut.clk)
        if running:
            expected["CYCLES"] += 1
            name = names[(state & -state).bit_length() - 1] if state else "OTHER"
            expected[name] += 1
            for counter, split in KIND_COUNTERS.items():
                by_kind[counter] += split == (KINDS[kind], name)
        for name, counter in zip(beats, ("READ_BEATS", "WRITE_BEATS", "INSTRUCTIONS"), strict=True):
            expected[counter] += beats[name]
    for name in INPUTS:
        getattr(dut, name).value = 0
    await cycles(dut, 4)
    assert {name: await host.read64(name) for name in COUNTERS} == expected
    assert {name: await host.read(name) for name in KIND_COUNTERS} == by_kind and all(by_kind.values())
    assert sum(expected[name] for name in STATE_COUNTERS) == expected["CYCLES"]
    await host.write("CTRL", 0x100)
    await cycles(dut, 3)
    await host.write("CTRL", 1)
    await cycles(dut, 3)
    assert not any([await host.read64(name) for name in COUNTERS]), "start clears the counters"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def write_channels_come_in_any_order(dut):
    """By hand: address long before data, data long before address, neither waits for the other;
    nothing is valid after reset.
    """
    for name in INPUTS:
        getattr(dut, name).value = 0
    dut.run_idle.value = 1
    for name in ("awvalid", "wvalid", "arvalid", "bready", "rready", "awprot", "arprot"):
        getattr(dut, f"bus_{name}").value = 0
    await start(dut)
    await ReadOnly()
    assert not dut.bus_bvalid.value and not dut.bus_rvalid.value
    await RisingEdge(dut.clk)
    for order in (("aw", "w"), ("w", "aw")):
        dut.bus_awaddr.value, dut.bus_wdata.value, dut.bus_wstrb.value = offset("WATCHDOG"), 1234 + len(order[0]), 15
        for channel in order:
            getattr(dut, f"bus_{channel}valid").value = 1
            await RisingEdge(dut.clk)
            assert getattr(dut, f"bus_{channel}ready").value, "READY waits for the other channel"
            getattr(dut, f"bus_{channel}valid").value = 0
            await cycles(dut, 5)
        assert dut.bus_bvalid.value and int(dut.run_watchdog.value) == 1234 + len(order[0])
        dut.bus_bready.value = 1
        await cycles(dut, 2)
        dut.bus_bready.value = 0
        assert not dut.bus_bvalid.value
    # LATENCY of a read.
    dut.bus_araddr.value, dut.bus_arvalid.value = offset("MAGIC"), 1
    await RisingEdge(dut.clk)
    dut.bus_arvalid.value = 0
    await cycles(dut, 1)
    assert not dut.bus_rvalid.value
    await cycles(dut, 1)
    assert RegisterFile.LATENCY == 2 and dut.bus_rvalid.value and int(dut.bus_rdata.value) == registers.MAGIC


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def what_sets_a_bit_wins(dut):
    """An event in the very cycle in which its bit is cleared is not lost: ISR by a write, CTRL.DONE by a read."""
    host = Host(dut)
    await start(dut)
    edge = RisingEdge(dut.clk)
    kept = {"ISR": [], "CTRL": []}
    for name, bit, channel in (("ISR", 1, "b"), ("CTRL", 2, "r")):
        for wait in range(9):
            await host.write("ISR", 3)
            await host.read("CTRL")
            access = cocotb.start_soon(host.write("ISR", 1) if name == "ISR" else host.read("CTRL"))
            pulsed = answered = None
            for cycle in range(12):
                dut.run_done.value = int(cycle == wait)
                await edge
                pulsed = cycle if cycle == wait else pulsed
                answered = cycle if answered is None and getattr(dut, f"bus_{channel}valid").value else answered
            await access
            # The bit is cleared at the edge that raises VALID, which is seen one later.
            late = pulsed >= answered - 1
            assert bool(await host.read(name) & bit) == late, (
                f"{name}: event in cycle {pulsed}, answer in cycle {answered}"
            )
            kept[name].append(late)
    assert all(set(found) == {False, True} for found in kept.values()), "before, at and behind the access"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def counters_have_64_bits(dut):
    """The high word is that of the moment at which the low word was read;
    a counter is set just below 2^32 from outside.
    """
    host = Host(dut)
    await start(dut)
    dut.high_cycles.value, dut.cycles_lo.value = 5, 0xFFFFFFFF - 3
    await cycles(dut, 2)
    assert await host.read("CYCLES_LO") == 0xFFFFFFFC
    dut.run_running.value = 1
    await cycles(dut, 8)
    dut.run_running.value = 0
    await cycles(dut, 3)
    assert await host.read("CYCLES_HI") == 5, "kept"
    assert await host.read64("CYCLES") == (6 << 32) + 4


TESTS = [
    "every_register_keeps_its_access",
    "a_run_starts_ends_and_interrupts",
    "counters_count_one_state_a_cycle",
    "counters_have_64_bits",
]


def run(config, stall="no stall", testcase=None):
    unit = RegisterFile(PRESETS[config])
    ports = flat_ports(unit)
    verilog = to_verilog(unit, "registerfile", ports)
    inside = ["cycles_lo", "high_cycles"]  # registers that no run would fill in a test's time
    given = {"config": config, "stall": stall}
    run_verilog(verilog, "registerfile", [*ports, "clk", "rst", *inside], __name__, parameters=given, testcase=testcase)


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("config", ["tiny", "zcu102"])
def test_registers(config, stall):
    run(config, stall, TESTS)


def test_write_channels():
    run("tiny", testcase=["write_channels_come_in_any_order", "what_sets_a_bit_wins"])


def test_every_register_is_in_the_map():
    assert BY_NAME["CTRL"].offset == 0 and len(COUNTERS) == 12
