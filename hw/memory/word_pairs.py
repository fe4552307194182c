# SPDX-License-Identifier: Apache-2.0
"""A memory that gives two neighbouring words at a time."""

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from edgemoe.hw.memory.banked_memory import BankedMemory
from edgemoe.hw.memory.pipeline import delay


class WordPairs(wiring.Component):
    """`depth` words of `width` bits: one write port, as of `BankedMemory`, one read port for words a and a + 1.

    Even words lie in one bank, odd ones in another; a pair may begin with either.

    Ports:
        write_enable (in): a bit for each part of the word.
        write_address, write_data (in): what is written where, in this cycle.
        read_address (in): the first word that is read.
        read_data (out): it, and above it the next one, LATENCY cycles later; old ones if they are written in the
            same cycle.
    Latency: LATENCY = 2 cycles from read_address to read_data.
    Interval: INTERVAL = 1 cycle between reads, and between writes.
    Limits: addresses below `depth`; of the last word the one above it is anything.
    Twin: none (no arithmetic).
    """

    LATENCY = BankedMemory.LATENCY
    INTERVAL = 1

    def __init__(self, width: int, depth: int, groups: int = 1):
        self.width, self.depth, self.groups = width, depth, groups
        address = max(1, ceil_log2(depth))
        super().__init__(
            {
                "write_enable": In(groups),
                "write_address": In(address),
                "write_data": In(width),
                "read_address": In(address),
                "read_data": Out(2 * width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.even = even = BankedMemory(self.width, -(-self.depth // 2), self.groups)
        m.submodules.odd = odd = BankedMemory(self.width, max(1, self.depth // 2), self.groups)
        for parity, bank in enumerate((even, odd)):
            m.d.comb += [
                bank.write_enable.eq(Mux(self.write_address[0] == parity, self.write_enable, 0)),
                bank.write_address.eq(self.write_address >> 1),
                bank.write_data.eq(self.write_data),
                bank.read_address.eq(self.read_address + 1 - parity >> 1),
            ]
        from_odd = delay(m, self.read_address[0], self.LATENCY, name="from_odd")
        pair, other = Cat(even.read_data, odd.read_data), Cat(odd.read_data, even.read_data)
        m.d.comb += self.read_data.eq(Mux(from_odd, other, pair))
        return m


__all__ = ["WordPairs"]
