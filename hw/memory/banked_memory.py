# SPDX-License-Identifier: Apache-2.0
"""A large memory in banks, with a register behind each."""

from functools import reduce
from operator import or_

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2
from edgemoe.hw.contract.banks import banks_of
from edgemoe.hw.memory.block_memory import BlockMemory
from edgemoe.hw.memory.pipeline import delay


class BankedMemory(wiring.Component):
    """`depth` words of `width` bits: one write port with an enable for each of `groups` equal parts, one read port.

    Block RAM answers late in its cycle: here a register comes first, and then the choice between banks. Parts of a word
    are narrow enough for block RAM of any depth: then there is one bank.

    Ports:
        write_enable (in): a bit for each part of the word.
        write_address, write_data (in): what is written where, in this cycle.
        read_address (in): the word that is read.
        read_data (out): it, LATENCY cycles later; the old one if it is written in the same cycle.
    Latency: LATENCY = 2 cycles from read_address to read_data.
    Interval: INTERVAL = 1 cycle between reads, and between writes.
    Limits: addresses below `depth`.
    Twin: none (no arithmetic).
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, width: int, depth: int, groups: int = 1):
        self.width, self.groups = width, groups
        self.depths = banks_of(depth) if groups == 1 else [depth]
        self.address_bits = max(1, ceil_log2(depth))
        super().__init__(
            {
                "write_enable": In(groups),
                "write_address": In(self.address_bits),
                "write_data": In(width),
                "read_address": In(self.address_bits),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = []
        for number, depth in enumerate(self.depths):
            m.submodules[f"bank{number}"] = bank = BlockMemory(self.width, depth, self.groups)
            kept = Signal(self.width, name=f"kept{number}", reset_less=True)
            m.d.sync += kept.eq(bank.read_data)
            m.d.comb += [
                bank.write_enable.eq(Mux(self._here(number, self.write_address), self.write_enable, 0)),
                bank.write_address.eq(self.write_address),
                bank.write_data.eq(self.write_data),
                bank.read_address.eq(self.read_address),
            ]
            read = self._here(number, self.read_address)
            words.append(kept & delay(m, read, self.LATENCY, name=f"chosen{number}").replicate(self.width))
        m.d.comb += self.read_data.eq(kept if len(words) == 1 else reduce(or_, words))
        return m

    def _here(self, number: int, address: Signal):
        """Whether a word stands in this bank: where it begins, all smaller ones could."""
        if len(self.depths) == 1:
            return Const(1)
        place = exact_log2(self.depths[number])
        return address[place:] == sum(self.depths[:number]) >> place


__all__ = ["BankedMemory"]
