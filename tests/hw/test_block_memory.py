# SPDX-License-Identifier: Apache-2.0
"""Block memory, and the sliced one that ECP5 builds have in its place: both are the same memory. Pairs of words, and
banks.
"""

from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from edgemoe.boards.flows import ecp5
from edgemoe.hw.contract.banks import BANK_WORDS, banks_of
from edgemoe.hw.memory.banked_memory import BankedMemory
from edgemoe.hw.memory.block_memory import BlockMemory
from edgemoe.hw.memory.word_pairs import WordPairs
from edgemoe.sim.bench import flat_ports, parameters, run_verilog, to_verilog
from edgemoe.sim.rtl import rtl

CYCLES = 3000


@cocotb.test()
async def random_accesses(dut: Any) -> None:
    """Words that were written come back a cycle after they are asked for, old ones if they are written meanwhile;
    they hold.
    """
    given, rng = parameters(), np.random.default_rng(3)
    width, depth, groups = given["width"], given["depth"], given["groups"]
    part = width // groups
    places = rng.choice(depth, min(depth, 24), replace=False).tolist() + [0, depth - 1]
    words = {place: int.from_bytes(rng.bytes(width // 8), "little") for place in places}
    cocotb.start_soon(Clock(dut.clk, 2).start())
    dut.rst.value = 0
    for place, word in words.items():
        await FallingEdge(dut.clk)
        dut.write_enable.value, dut.write_address.value, dut.write_data.value = (1 << groups) - 1, place, word
        dut.read_enable.value, dut.read_address.value = 1, 0
    expected = None
    for _ in range(CYCLES):
        await FallingEdge(dut.clk)
        if expected is not None:
            assert int(dut.read_data.value) == expected
        reads, read_at, written, enables = (
            rng.random() < 0.7,
            *rng.choice(places, 2).tolist(),
            int(rng.integers(1 << groups)),
        )
        word = int.from_bytes(rng.bytes(width // 8), "little")
        dut.read_enable.value, dut.read_address.value = int(reads), read_at
        dut.write_enable.value, dut.write_address.value, dut.write_data.value = enables, written, word
        if reads:
            expected = words[read_at]
        mask = sum(((1 << part) - 1) << part * group for group in range(groups) if enables >> group & 1)
        words[written] = words[written] & ~mask | word & mask


@pytest.mark.parametrize("sliced", [False, True], ids=["plain", "sliced"])
@pytest.mark.parametrize(
    "width, depth, groups", [(64, 17, 1), (24, 1032, 1), (64, 1500, 1), (128, 1030, 2), (192, 1025, 1)]
)
def test_it_is_a_memory(sliced: bool, width: int, depth: int, groups: int) -> None:
    memory = BlockMemory(width, depth, groups)
    ports = flat_ports(memory)
    name = f"memory_{width}_{depth}_{'sliced' if sliced else 'plain'}"
    verilog = to_verilog(memory, name, ports)
    given = {"width": width, "depth": depth, "groups": groups}
    run_verilog(
        ecp5.with_sliced_memories(verilog) if sliced else verilog,
        name,
        [*ports, "clk", "rst"],
        __name__,
        parameters=given,
    )


@pytest.mark.parametrize("depth", [2, 9, 40])
def test_two_neighbouring_words_at_a_time(depth: int) -> None:
    """From any word on, while parts of words are written."""
    rng, width, groups = np.random.default_rng(depth), 24, 3
    words, pairs = rng.integers(0, 1 << width, depth), []
    first = {"write_enable": np.full(depth, 7), "write_address": np.arange(depth), "write_data": words.copy()}
    enable, place = rng.integers(0, 8, CYCLES), rng.integers(0, depth, CYCLES)
    data, read = rng.integers(0, 1 << width, CYCLES), rng.integers(0, depth - 1, CYCLES)
    for cycle in range(CYCLES):
        pairs.append(words[read[cycle]] | words[read[cycle] + 1] << width)
        mask = sum(0xFF << 8 * group for group in range(groups) if enable[cycle] >> group & 1)
        words[place[cycle]] = words[place[cycle]] & ~mask | data[cycle] & mask
    then = {"write_enable": enable, "write_address": place, "write_data": data}
    inputs = {name: np.concatenate([first[name], then[name]]) for name in first}
    inputs["read_address"] = np.concatenate([np.zeros(depth, int), read])
    out = rtl(WordPairs(width, depth, groups), inputs)
    assert (out["read_data"][depth:] == pairs).all()


def test_depths_of_banks() -> None:
    assert banks_of(9) == [16]
    assert banks_of(2376) == [2048, 512]
    assert banks_of(3168) == [BANK_WORDS]
    assert banks_of(6336) == [BANK_WORDS, 2048, 256]


@pytest.mark.parametrize("depth", [9, BANK_WORDS, 2 * BANK_WORDS + 5, 6336])
def test_banks(depth: int) -> None:
    """The first and the last words of every bank, read while they are written."""
    rng, width = np.random.default_rng(depth), 24
    starts = np.cumsum([0, *banks_of(depth)[:-1]])
    edges = {int(place) for start in starts for place in (start, start + 1, start - 1, depth - 1)}
    places = np.array(sorted(place for place in edges if place >= 0))
    words, found = dict.fromkeys(places.tolist(), 0), []
    enable, place = rng.integers(0, 2, CYCLES), rng.choice(places, CYCLES)
    data, read = rng.integers(0, 1 << width, CYCLES), rng.choice(places, CYCLES)
    enable[: len(places)], place[: len(places)] = 1, places
    for cycle in range(CYCLES):
        found.append(words[int(read[cycle])])
        if enable[cycle]:
            words[int(place[cycle])] = int(data[cycle])
    inputs = {"write_enable": enable, "write_address": place, "write_data": data, "read_address": read}
    out = rtl(BankedMemory(width, depth), inputs)
    assert (out["read_data"][len(places) :] == found[len(places) :]).all()
