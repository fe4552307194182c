# SPDX-License-Identifier: Apache-2.0
"""Which word of key/value memory the array's next block takes."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig

ADDRESS_BITS, STRIDE_BITS, BLOCK_BITS, KEY_BITS = 20, 10, 10, 17


class KeyValueAddresses(wiring.Component):
    """Walks key/value memory block by block, N = lanes words a block, the words of a block `stride` apart.

    Keys (`by_column`): word i of block (column c, chunk r) is chunk r of key c N + i, at base + (c N + i) stride + r.
    Values: it is column c of key r N + i, at base + (r N + i) stride + c. Only counters and additions, no product but
    that of the stride and N.

    Ports:
        start (in): pulse, with
        base (in): of the first word.
        stride, by_column (in): from the cycle behind on, when they stand still.
        column, chunk (in): the present block.
        advance (in): its present word is read in this cycle.
        next_block (in): that was its last,
        last_chunk (in): and the column block ends with it, too.
        address (out): of the present word.
        key (out): that of the block's word 0.
    Latency: LATENCY = 0 cycles: `address` and `key` are those of the present word.
    Interval: INTERVAL = 1 cycle between words.
    Limits: addresses modulo 2^20; the sequencer has checked the extent.
    Twin: none (no arithmetic on data).
    """

    LATENCY = 0
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.lanes = config.lanes
        super().__init__(
            {
                "start": In(1),
                "base": In(ADDRESS_BITS),
                "stride": In(STRIDE_BITS),
                "by_column": In(1),
                "column": In(BLOCK_BITS),
                "chunk": In(BLOCK_BITS),
                "advance": In(1),
                "next_block": In(1),
                "last_chunk": In(1),
                "address": Out(ADDRESS_BITS),
                "key": Out(KEY_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pointer, block_start, key = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(KEY_BITS)
        stride_block = Signal(ADDRESS_BITS)  # from a block of keys to the next
        m.d.comb += [stride_block.eq(self.stride * self.lanes), self.address.eq(pointer), self.key.eq(key)]
        with m.If(self.advance):
            m.d.sync += pointer.eq(pointer + self.stride)
        with m.If(self.next_block):
            with m.If(self.last_chunk & self.by_column):
                m.d.sync += [block_start.eq(block_start + stride_block), key.eq(key + self.lanes)]
                m.d.sync += pointer.eq(block_start + stride_block)
            with m.Elif(self.last_chunk | self.by_column):
                m.d.sync += pointer.eq(block_start + Mux(self.by_column, self.chunk, self.column) + 1)
                with m.If(~self.by_column):
                    m.d.sync += key.eq(0)
            with m.Else():
                m.d.sync += [key.eq(key + self.lanes), pointer.eq(pointer + self.stride)]
        with m.If(self.start):
            m.d.sync += [pointer.eq(self.base), block_start.eq(self.base), key.eq(0)]
        return m
