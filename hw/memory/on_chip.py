# SPDX-License-Identifier: Apache-2.0
"""On-chip memories: activation, key/value, residual and score words, and who may use their ports."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory
from edgemoe.hw.contract.layouts import word
from edgemoe.hw.memory.block_memory import BlockMemory


class Memories(wiring.Component):
    """Four memories with one write and one read port each (simple dual-port block RAM), a word (lanes x 16 bit) wide.

    | memory | read by | written by |
    |---|---|---|
    | activation | the stream, STORE | write-back, LOAD, IMAGE (lane by lane) |
    | key/value | the loader, STORE | write-back, LOAD |
    | residual | the epilogue, STORE | write-back, LOAD |
    | score | the stream (probabilities), the router, STORE | write-back |

    DMA and router run alone (the streamer sees to that), so a port is handed over whole (`dma_active`,
    `router_active`). Read data stands one cycle after its address. Never more than two words are written in a cycle, in
    two memories: a result and its copy.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "stream_address": In(20),
                "activation_data": Out(word(config)),
                "score_data": Out(word(config)),
                "key_value_address": In(20),
                "key_value_data": Out(word(config)),
                "residual_address": In(20),
                "residual_data": Out(word(config)),
                "router_active": In(1),
                "router_address": In(20),
                "write_valid": In(1),
                "write_memory": In(Memory),
                "write_address": In(20),
                "copy_valid": In(1),
                "copy_address": In(20),
                "write_word": In(word(config)),
                "dma_active": In(1),
                "dma_write_valid": In(1),
                "dma_write_memory": In(Memory),
                "dma_write_address": In(20),
                "dma_write_word": In(word(config)),
                "dma_write_lanes": In(config.lanes),  # an enable for each, of activation memory
                "dma_read_memory": In(Memory),
                "dma_read_address": In(20),
                "dma_read_data": Out(word(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bits = 16 * config.lanes
        depths = {
            Memory.ACTIVATION: config.activation_words,
            Memory.KEY_VALUE: config.key_value_words,
            Memory.RESIDUAL: config.residual_words,
            Memory.SCORE: config.score_words,
        }
        readers = {
            Memory.ACTIVATION: self.stream_address,
            Memory.KEY_VALUE: self.key_value_address,
            Memory.RESIDUAL: self.residual_address,
            Memory.SCORE: Mux(self.router_active, self.router_address, self.stream_address),
        }
        read_data = {}
        for which, depth in depths.items():
            name = which.name.lower()
            groups = config.lanes if which == Memory.ACTIVATION else 1
            m.submodules[name] = memory = BlockMemory(bits, depth, groups)
            read_data[which] = memory.read_data
            m.d.comb += memory.read_address.eq(Mux(self.dma_active, self.dma_read_address, readers[which]))

            # A result, or for activation memory its copy.
            result = Signal(name=f"{name}_result")
            copied = self.copy_valid if which == Memory.ACTIVATION else 0
            m.d.comb += result.eq(self.write_valid & (self.write_memory == which))
            enable = result | copied
            m.d.comb += [
                memory.write_address.eq(
                    Mux(self.dma_active, self.dma_write_address, Mux(result, self.write_address, self.copy_address))
                ),
                memory.write_data.eq(Mux(self.dma_active, Cat(*self.dma_write_word), Cat(*self.write_word))),
            ]
            dma_enable = self.dma_write_valid & (self.dma_write_memory == which)
            dma_enables = Mux(dma_enable, self.dma_write_lanes, 0) if which == Memory.ACTIVATION else dma_enable
            m.d.comb += memory.write_enable.eq(Mux(self.dma_active, dma_enables, enable.replicate(groups)))
        chosen = Signal(Memory)
        m.d.sync += chosen.eq(self.dma_read_memory)
        with m.Switch(chosen):
            for which, read_word in read_data.items():
                with m.Case(which):
                    m.d.comb += self.dma_read_data.eq(read_word)
        m.d.comb += [
            self.activation_data.eq(read_data[Memory.ACTIVATION]),
            self.score_data.eq(read_data[Memory.SCORE]),
            self.key_value_data.eq(read_data[Memory.KEY_VALUE]),
            self.residual_data.eq(read_data[Memory.RESIDUAL]),
        ]
        return m
