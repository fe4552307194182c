# SPDX-License-Identifier: Apache-2.0
"""Large on-chip memories, as one small Verilog module that every tool maps to block RAM."""

from pathlib import Path

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

MODULE = "edgemoe_block_memory"
SOURCE = Path(__file__).with_suffix(".v")


class BlockMemory(wiring.Component):
    """`depth` words of `width` bits: one write port with an enable for each of `groups` equal parts, one read port.

    Contents are undefined at start. Why not `amaranth.lib.memory`: that spells out an initial value for every bit, ten
    megabytes of Verilog for the default preset, which takes the generator a minute and FPGA tools a needless
    initialisation.

    Ports:
        write_enable (in): a bit for each part of the word.
        write_address, write_data (in): what is written where, in this cycle.
        read_enable (in): 0: `read_data` holds.
        read_address (in): the word that is read.
        read_data (out): it, one cycle later; the old one if it is written in the same cycle.
    Latency: LATENCY = 1 cycle from read_address to read_data.
    Interval: INTERVAL = 1 cycle between reads, and between writes.
    Limits: addresses below `depth`.
    Twin: none (no arithmetic).
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, width: int, depth: int, groups: int = 1):
        self.width, self.depth, self.groups = width, depth, groups
        self.address_bits = max(1, ceil_log2(depth))
        super().__init__(
            {
                "write_enable": In(groups),
                "write_address": In(self.address_bits),
                "write_data": In(width),
                "read_enable": In(1, init=1),
                "read_address": In(self.address_bits),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = Instance(
            MODULE,
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            p_ADDRESS_BITS=self.address_bits,
            p_GROUPS=self.groups,
            i_clk=ClockSignal(),
            i_write_enable=self.write_enable,
            i_write_address=self.write_address,
            i_write_data=self.write_data,
            i_read_enable=self.read_enable,
            i_read_address=self.read_address,
            o_read_data=self.read_data,
        )
        return m
