# SPDX-License-Identifier: Apache-2.0
"""On-chip memories: activation, key/value, residual and score words, and who may use their ports."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory
from edgemoe.hw.contract.ports import DmaPort, EntryPort, InputsPort, ReadPort, ResultPort
from edgemoe.hw.memory.banked_memory import BankedMemory
from edgemoe.hw.memory.pipeline import delay
from edgemoe.hw.memory.word_pairs import WordPairs


class Memories(wiring.Component):
    """Four memories with one write and one read port each (simple dual-port block RAM), a word (lanes x 16 bit) wide.

    | memory | read by | written by |
    |---|---|---|
    | activation | the stream, STORE | write-back, LOAD, IMAGE (lane by lane) |
    | key/value | the loader, STORE | write-back, LOAD |
    | residual | the epilogue, STORE | write-back, LOAD |
    | score | the stream (probabilities), the router, STORE | write-back |

    DMA and router run alone (the streamer sees to that), so a port is handed over whole: DMA gets that of the expert
    queues, too, whose memory is the router's, and reads the queue of the streamer's expert. Never more than two words
    are written in a cycle, in two memories: a result and its copy. What the stream reads gives two neighbouring words
    at a time, where the array takes so many.

    Ports:
        activation, score (in InputsPort): the stream,
        key_value, residual (in ReadPort): each memory's reader.
        logits (in ReadPort): score memory, for the router,
        routing (in): which has its port.
        result (in ResultPort): a finished word, and its copy.
        dma (in DmaPort): words of DMA,
        moving (in): which has every port.
        entry (in EntryPort): the streamer's reading of the expert queues.
        queues (out EntryPort): the queues, in the router.
    Latency: LATENCY = 2 cycles from an address to its word, DMA's as well.
    Interval: INTERVAL = 1 cycle between reads, and between writes, of each memory.
    Limits: addresses within the memories; LOAD and STORE as the sequencer checks them.
    Twin: none (no arithmetic).
    """

    LATENCY = BankedMemory.LATENCY
    INTERVAL = 1

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "activation": In(InputsPort(config)),
                "key_value": In(ReadPort(config)),
                "residual": In(ReadPort(config)),
                "score": In(InputsPort(config)),
                "logits": In(ReadPort(config)),  # score memory, for the router
                "routing": In(1),  # the router has the port of score memory
                "result": In(ResultPort(config)),
                "dma": In(DmaPort(config)),
                "moving": In(1),  # DMA has every port
                "entry": In(EntryPort()),  # the streamer's port of the expert queues
                "queues": Out(EntryPort()),  # the queues', in the router
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, result, dma = self.config, self.result, self.dma
        bits = 16 * config.lanes
        depths = {
            Memory.ACTIVATION: config.activation_words,
            Memory.KEY_VALUE: config.key_value_words,
            Memory.RESIDUAL: config.residual_words,
            Memory.SCORE: config.score_words,
        }
        readers = {
            Memory.ACTIVATION: self.activation.address,
            Memory.KEY_VALUE: self.key_value.address,
            Memory.RESIDUAL: self.residual.address,
            Memory.SCORE: Mux(self.routing, self.logits.address, self.score.address),
        }
        read_data = {}
        for which, depth in depths.items():
            name = which.name.lower()
            groups = config.lanes if which == Memory.ACTIVATION else 1
            streamed = config.words_at_once > 1 and which in (Memory.ACTIVATION, Memory.SCORE)
            m.submodules[name] = memory = (WordPairs if streamed else BankedMemory)(bits, depth, groups)
            read_data[which] = memory.read_data
            m.d.comb += memory.read_address.eq(Mux(self.moving, dma.read_address, readers[which]))

            # A result, or for activation memory its copy.
            here = Signal(name=f"{name}_result")
            copied = result.copy_valid if which == Memory.ACTIVATION else 0
            m.d.comb += here.eq(result.valid & (result.memory == which))
            enable = here | copied
            word = result.copy_word if which == Memory.ACTIVATION and config.packed else result.word
            m.d.comb += [
                memory.write_address.eq(
                    Mux(self.moving, dma.write_address, Mux(here, result.address, result.copy_address))
                ),
                memory.write_data.eq(Mux(self.moving, Cat(*dma.write_word), Cat(*word))),
            ]
            dma_enable = dma.write_valid & (dma.write_memory == which)
            dma_enables = Mux(dma_enable, dma.write_lanes, 0) if which == Memory.ACTIVATION else dma_enable
            m.d.comb += memory.write_enable.eq(Mux(self.moving, dma_enables, enable.replicate(groups)))
        with m.Switch(delay(m, dma.read_memory, self.LATENCY, name="chosen")):
            for which, word in read_data.items():
                with m.Case(which):
                    m.d.comb += dma.read_data.eq(word[:bits])
        m.d.comb += [
            self.activation.data.eq(read_data[Memory.ACTIVATION]),
            self.key_value.data.eq(read_data[Memory.KEY_VALUE]),
            self.residual.data.eq(read_data[Memory.RESIDUAL]),
            self.score.data.eq(read_data[Memory.SCORE]),
            self.logits.data.eq(read_data[Memory.SCORE][:bits]),
            self.queues.expert.eq(self.entry.expert),
            # A cycle later than it moves, which is early enough on both sides.
            self.queues.index.eq(Mux(delay(m, self.moving, 1, name="moving"), dma.entry_index, self.entry.index)),
            self.entry.row.eq(self.queues.row),
            self.entry.score.eq(self.queues.score),
            dma.entry_row.eq(self.queues.row),
        ]
        return m
