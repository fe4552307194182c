# SPDX-License-Identifier: Apache-2.0
"""A deep memory in banks, with a register behind each."""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from edgemoe.hw.memory.block_memory import BlockMemory
from edgemoe.hw.memory.pipeline import delay

BANK_WORDS = 4096  # as many as block RAM of FPGAs gives side by side, in parts of 9 bits


class BankedMemory(wiring.Component):
    """`depth` words of `width` bits: one write port, one read port.

    Block RAM answers late in its cycle: here a register comes first, and then the choice between banks.

    Ports:
        write_enable (in): a word is written,
        write_address, write_data (in): what and where, in this cycle.
        read_address (in): the word that is read.
        read_data (out): it, LATENCY cycles later; the old one if it is written in the same cycle.
    Latency: LATENCY = 2 cycles from read_address to read_data.
    Interval: INTERVAL = 1 cycle between reads, and between writes.
    Limits: addresses below `depth`.
    Twin: none (no arithmetic).
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, width: int, depth: int):
        self.width, self.depth = width, depth
        self.address_bits = max(1, ceil_log2(depth))
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(self.address_bits),
                "write_data": In(width),
                "read_address": In(self.address_bits),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place, banks = ceil_log2(BANK_WORDS), range(0, self.depth, BANK_WORDS)
        if len(banks) > 1:
            chosen = delay(m, self.read_address[place:], self.LATENCY, name="chosen")
            written = self.write_address[place:]
        else:
            chosen = written = Const(0)
        for number, start in enumerate(banks):
            bank = BlockMemory(self.width, min(BANK_WORDS, self.depth - start))
            m.submodules[f"bank{number}"] = bank
            kept = Signal(self.width, name=f"kept{number}", reset_less=True)
            m.d.sync += kept.eq(bank.read_data)
            m.d.comb += [
                bank.write_enable.eq(self.write_enable & (written == number)),
                bank.write_address.eq(self.write_address),
                bank.write_data.eq(self.write_data),
                bank.read_address.eq(self.read_address),
            ]
            with m.If(chosen == number):
                m.d.comb += self.read_data.eq(kept)
        return m


__all__ = ["BankedMemory"]
