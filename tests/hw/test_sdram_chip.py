# SPDX-License-Identifier: Apache-2.0
"""The model of the SDRAM against the data sheet: each rule fires when it is broken by one cycle, and not when it is
just kept.
"""

from functools import partial
from pathlib import Path

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from edgemoe import sim
from edgemoe.sim.bench import parameters, run_verilog

COMMANDS = {"NOP": 7, "ACT": 3, "READ": 5, "WRITE": 4, "STOP": 6, "PRE": 2, "REF": 1, "MODE": 0}
CL3, CL2, ALL = 0x32, 0x22, 1 << 10
# Many small chips, so that each scenario has a new one: only the selected one has a clock, and is seen. The last one
# runs at 60 MHz. A slow grade at 133 MHz: so no time hides behind another one.
CHIPS = 64
PINS = "cke cs_n ras_n cas_n we_n ba a dqm dq_in dq_in_enable".split()
OUTPUTS = "dq_out violations first_violation".split()
TEXT = f"""
module sdram_chips (
    input clk, input [7:0] select,
    input cke, input cs_n, input ras_n, input cas_n, input we_n, input [1:0] ba, input [12:0] a, input [1:0] dqm,
    input [15:0] dq_in, input dq_in_enable, output [15:0] dq_out, output [31:0] violations, output [7:0] first_violation
);
    wire [55:0] outputs [0:{CHIPS - 1}];
    assign {{{", ".join(OUTPUTS)}}} = outputs[select[5:0]];
    for (genvar i = 0; i < {CHIPS}; i = i + 1) begin
        sdram_chip #(
            .CLOCK_HZ(i == {CHIPS - 1} ? 60000000 : 133333333), .POWER_UP_US(1), .T_RC(80000), .T_RAS_MAX(500000),
            .ROW_BITS(7)
        ) chip (
            .clk(clk && select == i), {", ".join(f".{name}({name})" for name in PINS)},
            .dq_out(outputs[i][55:40]), .violations(outputs[i][39:8]), .first_violation(outputs[i][7:0])
        );
    end
endmodule
"""
TEXT += Path(sim.__file__).with_name("sdram_chip.v").read_text()
POWER_UP, RCD, RP, RC, RAS, RFC, WR, RRD, MRD, REFI, RAS_MAX = 134, 3, 3, 11, 6, 9, 2, 2, 2, 1041, 66  # cycles


class Chip:
    """The pins by hand: `command` is at the next rising edge, `wait` lets it be followed by others so many cycles
    later.
    """

    def __init__(self, dut):
        self.dut = dut
        for name in PINS:
            getattr(dut, name).value = 0
        dut.cs_n.value, dut.dqm.value = 1, 3

    async def wait(self, cycles):
        for _ in range(cycles):
            await FallingEdge(self.dut.clk)

    async def command(self, name, bank=0, address=0, then=20):
        dut, code = self.dut, COMMANDS[name]
        dut.cs_n.value, dut.ras_n.value, dut.cas_n.value, dut.we_n.value = 0, code >> 2 & 1, code >> 1 & 1, code & 1
        dut.ba.value, dut.a.value = bank, address
        dut.dq_in_enable.value = int(name == "WRITE")
        await self.wait(1)
        dut.cs_n.value = 1
        if name == "WRITE":
            await self.wait(min(3, then - 1))
        dut.dq_in_enable.value = 0
        await self.wait(then - (min(4, then) if name == "WRITE" else 1))

    async def initialise(self, skip=(), mode=CL3, wait=POWER_UP):
        self.dut.cke.value = 1
        await self.wait(wait - 1)  # the first command is at the edge that follows
        steps = [("PRE", ALL, RP), ("REF", 0, RFC), ("REF", 0, RFC), ("MODE", mode, MRD)]
        for i, (name, address, then) in enumerate(steps):
            if i not in skip:
                await self.command(name, 0, address, then)
        self.dut.dqm.value = 3 if 3 in skip else 0


async def legal(chip):
    """Everything at the least distance that is allowed; two banks, all burst words."""
    await chip.initialise()
    await chip.command("ACT", 0, 5, RRD)
    await chip.command("ACT", 1, 6, RCD)
    await chip.command("WRITE", 0, 8, 4)
    await chip.command("WRITE", 1, 8, 3 + WR)
    await chip.command("PRE", 0, 0, 1)
    await chip.command("PRE", 1, 0, RP)
    await chip.command("REF", 0, 0, RFC)
    await chip.command("ACT", 3, 1, RAS)
    await chip.command("PRE", 3, 0, RC - RAS)
    await chip.command("ACT", 3, 2, RCD)
    await chip.command("READ", 3, 0, 8)
    await chip.command("PRE", 3, 0, RP)
    await chip.command("REF", 0, 0, REFI)
    await chip.command("REF", 0, 0, RFC)


async def open_row(chip, then=20):
    await chip.initialise()
    await chip.command("ACT", 0, 5, then)


# Code -> the least number of cycles that is allowed, and what waits that long.
async def t_rcd(chip, wait):
    await open_row(chip, wait)
    await chip.command("READ")


async def t_rp(chip, wait):
    await open_row(chip)
    await chip.command("PRE", 0, 0, wait)
    await chip.command("ACT")


async def t_rc(chip, wait):
    await open_row(chip, RAS)
    await chip.command("PRE", 0, 0, wait - RAS)
    await chip.command("ACT")


async def t_ras(chip, wait):
    await open_row(chip, wait)
    await chip.command("PRE")


async def t_rfc(chip, wait):
    await chip.initialise()
    await chip.command("REF", 0, 0, wait)
    await chip.command("ACT")


async def t_wr(chip, wait):
    await open_row(chip)
    await chip.command("WRITE", 0, 0, 3 + wait)
    await chip.command("PRE")


async def t_mrd(chip, wait):
    await chip.initialise()
    await chip.command("MODE", 0, CL3, wait)
    await chip.command("ACT")


async def t_rrd(chip, wait):
    await open_row(chip, wait)
    await chip.command("ACT", 1)


async def power_up(chip, wait):
    await chip.initialise(wait=wait)


LEAST = {
    11: (RCD, t_rcd),
    12: (RP, t_rp),
    13: (RC, t_rc),
    14: (RAS, t_ras),
    15: (RFC, t_rfc),
    16: (WR, t_wr),
    17: (MRD, t_mrd),
}
LEAST |= {18: (RRD, t_rrd), 1: (POWER_UP, power_up)}


async def t_refi(chip, wait):
    await chip.initialise()
    await chip.command("REF", 0, 0, wait)
    await chip.command("REF")


async def t_ras_max(chip, wait):
    await open_row(chip, wait)
    await chip.command("PRE")


MOST = {19: (REFI, t_refi), 20: (RAS_MAX, t_ras_max)}


async def steps(chip, *commands, **options):
    await chip.initialise(**options)
    for command in commands:
        await chip.command(*command)


async def contention(chip):
    await open_row(chip)
    await chip.command("READ", 0, 0, 4)
    await chip.command("WRITE", 0, 0)


async def undriven(chip):
    await open_row(chip)
    await chip.command("WRITE", 0, 0, 1)  # one word is driven, three more are due
    await chip.wait(3)


async def unmasked(chip):
    chip.dut.dqm.value = 0
    await chip.initialise()


async def sleeping(chip):
    await open_row(chip)
    await chip.command("READ", 0, 0, 1)
    chip.dut.cke.value = 0
    await chip.wait(2)


async def mode_twice(chip, mode):
    await chip.initialise()
    await chip.command("MODE", 0, mode)


FORBIDDEN = {
    "no PRECHARGE at first": (2, lambda chip: steps(chip, skip=(0,))),
    "one REFRESH at first": (2, lambda chip: steps(chip, ("ACT",), skip=(1,))),
    "no mode": (2, lambda chip: steps(chip, ("ACT",), skip=(3,))),
    "READ of a closed bank": (3, lambda chip: steps(chip, ("ACT", 1), ("READ", 0))),
    "WRITE of a closed bank": (3, lambda chip: steps(chip, ("ACT", 0), ("PRE", 0), ("WRITE", 0))),
    "ACTIVE of an open bank": (4, lambda chip: steps(chip, ("ACT", 2), ("ACT", 2))),
    "REFRESH with an open row": (5, lambda chip: steps(chip, ("ACT", 2), ("REF",))),
    "LOAD MODE with an open row": (5, lambda chip: steps(chip, ("ACT", 2), ("MODE", 0, CL3))),
    "interleaved bursts": (6, lambda chip: mode_twice(chip, CL3 | 8)),
    "full-page bursts": (6, lambda chip: mode_twice(chip, CL3 | 7)),
    "CAS latency 1": (6, lambda chip: mode_twice(chip, 0x12)),
    "BURST TERMINATE": (7, lambda chip: steps(chip, ("STOP",))),
    "auto precharge": (7, lambda chip: steps(chip, ("ACT",), ("READ", 0, ALL))),
    "a suspended clock": (7, sleeping),
    "both drive": (8, contention),
    "nobody drives": (9, undriven),
    "dqm low at first": (10, unmasked),
    "CAS latency 2 at 133 MHz": (21, lambda chip: mode_twice(chip, CL2)),
}


SCENARIOS = [("all just kept", 0, legal)]
for code, (least, scenario) in LEAST.items():
    SCENARIOS += [
        (f"{code} just kept", 0, partial(scenario, wait=least)),
        (f"{code} broken", code, partial(scenario, wait=least - 1)),
    ]
for code, (most, scenario) in MOST.items():
    SCENARIOS += [
        (f"{code} just kept", 0, partial(scenario, wait=most)),
        (f"{code} broken", code, partial(scenario, wait=most + 1)),
    ]
SCENARIOS += [(name, code, scenario) for name, (code, scenario) in FORBIDDEN.items()]


def begin(dut, chip):
    """A new chip on the wires."""
    dut.select.value = chip
    return Chip(dut)


@cocotb.test()
async def rules(dut):
    """Each scenario leaves the code of its rule, 0 if it breaks none."""
    clock: Clock = Clock(dut.clk, 10, unit="ns")
    clock.start()
    for number, (name, code, scenario) in enumerate(SCENARIOS, 1):  # chip 0 had a clock before anybody held its pins
        await FallingEdge(dut.clk)
        await scenario(begin(dut, number))
        assert int(dut.first_violation.value) == code, f"{name}: found {int(dut.first_violation.value)}, not {code}"
        assert bool(int(dut.violations.value)) == bool(code)


@cocotb.test()
async def words(dut):
    """What goes in comes out: the order of a burst from its middle, dqm at once on the way in and two cycles later on
    the way out.
    """
    latency = parameters()["latency"]
    clock: Clock = Clock(dut.clk, 10, unit="ns")
    clock.start()
    await FallingEdge(dut.clk)
    chip = begin(dut, CHIPS - 1)
    await chip.initialise(mode=latency << 4 | 2)
    await chip.command("ACT", 2, 77)
    for first, value, masks in ((4, 0x4444, (0, 0, 0, 0)), (6, 0xA0B0, (3, 1, 2, 0))):
        for i, mask in enumerate(masks):
            dut.cs_n.value, dut.ras_n.value, dut.cas_n.value, dut.we_n.value = int(i > 0), 1, 0, 0
            dut.ba.value, dut.a.value, dut.dqm.value = 2, first, mask
            dut.dq_in.value, dut.dq_in_enable.value = value + i * 0x101, 1
            await chip.wait(1)
        dut.cs_n.value, dut.dq_in_enable.value, dut.dqm.value = 1, 0, 0
        await chip.wait(4)
    await chip.command("READ", 2, 5, 1)
    seen = []  # behind edge i, READ being at edge 0: valid at edge i + 1
    for i in range(10):
        dut.dqm.value = 2 if i == 1 else 0  # at edge 2, so the word of edge 4 lacks its high byte
        seen.append(int(dut.dq_out.value))
        await chip.wait(1)
    column = {
        4: 0x44B2,
        5: 0xA3B3,
        6: 0x4646,
        7: 0xA147,
    }  # 6 got nothing new, 7 the high byte, 4, by the wrap, the low one, 5 both
    expected = [0xBAD0] * (latency - 1) + [column[i] for i in (5, 6, 7, 4)] + [0xBAD0] * (7 - latency)
    expected[3] = 0xBA00 | expected[3] & 0xFF
    assert seen == expected, [hex(word) for word in seen]


def run(testcase, **given):
    run_verilog(
        TEXT, "sdram_chips", ["clk", "select", *PINS, *OUTPUTS], __name__, testcase=[testcase], parameters=given
    )


def test_rules():
    assert len(SCENARIOS) < CHIPS - 1
    run("rules")


@pytest.mark.parametrize("latency", [2, 3])
def test_words(latency):
    run("words", latency=latency)


def test_every_rule_is_tested():
    assert {*LEAST, *MOST, *(code for code, _ in FORBIDDEN.values())} == set(range(1, 22))
