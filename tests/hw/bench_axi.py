# SPDX-License-Identifier: Apache-2.0
"""What the benches of DRAM units share: AXI memories that nobody here wrote, striped over the masters, and watchers of
the bus rules.
"""

import random

import cocotb
from amaranth import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiRamRead, AxiRamWrite, AxiReadBus, AxiWriteBus
from edgemoe.hw.contract.config import HardwareConfig

BASES = (0x1_2345_6000, 0x7_0000_1000, 0x2_0400_0000, 0x9_8765_4000)
MASTER_BYTES = 1 << 18
STALLS = {
    "no stall": (0.0, 0.0),
    "gaps": (0.4, 0.0),
    "back-pressure": (0.0, 0.4),
    "both": (0.4, 0.4),
}  # of the data, of the acceptance

SMALL = {"rows": 40, "tokens": 20, "width": 32, "hidden": 64, "experts": 8}
NARROW = HardwareConfig("narrow", lanes=32, data_bits=64, prefetch_beats=512, burst_beats=16, **SMALL)
STRIPED = HardwareConfig("striped", lanes=8, data_bits=64, masters=2, prefetch_beats=96, burst_beats=24, **SMALL)


class WithIds(wiring.Component):
    """A unit with the ID ports that cocotbext-axi insists on."""

    def __init__(self, unit):
        self.unit = unit
        extra = {}
        for i in range(unit.config.masters):
            if hasattr(unit.axi[0], "araddr"):
                extra |= {f"axi_{i}_arid": Out(1), f"axi_{i}_rid": In(1)}
            else:
                extra |= {f"axi_{i}_awid": Out(1), f"axi_{i}_bid": In(1)}
        super().__init__({**unit.signature.members, **extra})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self.unit
        for (_, member, inner), (_, _, outer) in zip(
            self.unit.signature.flatten(self.unit), self.unit.signature.flatten(self), strict=True
        ):
            inner, outer = Value.cast(inner), Value.cast(outer)
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        return m


class Memory:
    """DRAM behind all masters; reads and writes of linear byte offsets. `failing`: linear addresses of beats that are
    refused, by all masters, or (master, address), by one."""

    def __init__(self, dut, config, *, write: bool, stall=(0.0, 0.0), seed=1):
        self.config, self.failing = config, set()
        self.rams, self.bursts = [], []
        for m in range(config.masters):
            ram = (_write_ram if write else _read_ram)(self, m)
            bus = (AxiWriteBus if write else AxiReadBus).from_prefix(dut, f"axi_{m}")
            ram = ram(bus, dut.clk, dut.rst, size=MASTER_BYTES)
            channels = (ram.aw_channel, ram.w_channel, ram.b_channel) if write else (ram.ar_channel, ram.r_channel)
            for i, channel in enumerate(channels):
                # Gaps are in what the memory gives, back-pressure is in what it takes.
                gives = channel is channels[-1]
                channel.set_pause_generator(_coin(stall[0] if gives else stall[1], 100 * seed + 10 * m + i))
            self.rams.append(ram)
            cocotb.start_soon(watch_addresses(dut, m, "aw" if write else "ar", config, self.bursts))
        dut.base.value = sum(BASES[m] << 64 * m for m in range(config.masters))

    def fill(self, seed: int) -> bytes:
        """Random content; returns it by linear offset."""
        content = random.Random(seed).randbytes(MASTER_BYTES * self.config.masters)
        self.write(0, content)
        return content

    def write(self, address: int, content: bytes) -> None:
        size = self.config.data_bits // 8
        count = self.config.masters
        for m, ram in enumerate(self.rams):
            part = b"".join(content[i : i + size] for i in range(m * size, len(content), size * count))
            _poke(ram, BASES[m] + address // count, part)

    def read(self, address: int, length: int) -> bytes:
        size, count = self.config.data_bits // 8, self.config.masters
        parts = [_peek(ram, BASES[m] + address // count, length // count) for m, ram in enumerate(self.rams)]
        return b"".join(part[i : i + size] for i in range(0, length // count, size) for part in parts)

    def fails(self, m: int, address: int) -> bool:
        linear = self.linear(m, address)
        return linear in self.failing or (m, linear) in self.failing

    def linear(self, m: int, address: int) -> int:
        return (address - BASES[m]) * self.config.masters


def _poke(ram, address, content):
    for i in range(0, len(content), 4096):
        ram.write((address + i) % MASTER_BYTES, content[i : i + 4096])


def _peek(ram, address, length):
    return b"".join(ram.read((address + i) % MASTER_BYTES, min(4096, length - i)) for i in range(0, length, 4096))


def _read_ram(memory, m):
    class Ram(AxiRamRead):
        async def _read(self, address, length):
            if memory.fails(m, address):
                raise ValueError("refused")
            return await super()._read(address, length)

    return Ram


def _write_ram(memory, m):
    class Ram(AxiRamWrite):
        async def _write(self, address, data):
            if memory.fails(m, address):
                raise ValueError("refused")
            await super()._write(address, data)

    return Ram


def _coin(fraction, seed):
    generator = random.Random(seed)
    while True:
        yield generator.random() < fraction


async def watch_addresses(dut, m, channel, config, bursts):
    """The rules of an address channel: stable until taken, INCR of whole beats, never across 4 KiB;
    notes (master, address, beats).
    """
    names = ("addr", "len", "size", "burst", "cache", "prot")
    valid, ready = getattr(dut, f"axi_{m}_{channel}valid"), getattr(dut, f"axi_{m}_{channel}ready")
    signals = [getattr(dut, f"axi_{m}_{channel}{name}") for name in names]
    edge, offered = RisingEdge(dut.clk), None
    while True:
        await edge
        if dut.rst.value:
            offered = None
            continue
        if not valid.value:
            assert offered is None, f"{channel}valid fell before {channel}ready"
            continue
        now = [int(s.value) for s in signals]
        assert offered in (None, now), f"{channel}: the offer changed before it was taken"
        offered = now
        if ready.value:
            address, length, size, burst, cache, prot = now
            assert (1 << size, burst, cache, prot) == (config.data_bits // 8, 1, 3, 0)
            assert length < config.burst_beats
            assert address // 4096 == (address + (length + 1) * (1 << size) - 1) // 4096, "a burst crosses 4 KiB"
            bursts.append((m, address, length + 1))
            offered = None


async def cycles(dut, count):
    for _ in range(count):
        await RisingEdge(dut.clk)
