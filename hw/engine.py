# SPDX-License-Identifier: Apache-2.0
"""Engine: the compute side - memories, loader, streamer, array, accumulators, epilogue, softmax, LayerNorm, router -
wired together.
"""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.compute.array import Array
from edgemoe.hw.compute.epilogue import Epilogue
from edgemoe.hw.compute.layernorm import LayerNorm
from edgemoe.hw.compute.router import Router
from edgemoe.hw.compute.softmax import Softmax
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import INSTRUCTION, JOB
from edgemoe.hw.contract.ports import DmaPort, Events, OperationPort, QueueQuery, WeightRowPort
from edgemoe.hw.control.loader import Loader
from edgemoe.hw.control.operations import Operations
from edgemoe.hw.control.row_pipeline import RowPipeline
from edgemoe.hw.control.stream_path import StreamPath
from edgemoe.hw.control.streamer import Streamer
from edgemoe.hw.control.writeback import Writeback
from edgemoe.hw.memory.on_chip import Memories


class Engine(wiring.Component):
    """Executes issued instructions (JOB). Weight rows come in, DMA reaches the memories through `dma`; nothing else
    crosses its border.

    Stream path: streamer -> activation or score memory -> (exponentials) -> array -> accumulators -> epilogue ->
    memories.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "jobs": In(stream.Signature(JOB)),
                "loads": In(stream.Signature(JOB)),
                "completed": Out(8),
                "weights": In(WeightRowPort(config)),
                "queues": In(QueueQuery()),
                "dma": In(DmaPort(config)),
                "dma_operation": Out(OperationPort()),
                "instruction": Out(INSTRUCTION),  # under way in the streamer: the events are its own
                "events": Out(Events()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.memories = memories = Memories(config)
        m.submodules.array = array = Array(config)
        m.submodules.accumulator = accumulator = Accumulator(config)
        m.submodules.epilogue = epilogue = Epilogue(config)
        m.submodules.softmax = softmax = Softmax(config)
        m.submodules.layernorm = layernorm = LayerNorm(config)
        m.submodules.router = router = Router(config)
        m.submodules.loader = loader = Loader(config)
        m.submodules.streamer = streamer = Streamer(
            config,
            block_spacing=max(accumulator.REVISIT, softmax.REVISIT, layernorm.REVISIT),
            probability_latency=softmax.LATENCY,
        )
        m.submodules.operations = operations = Operations(config)
        m.submodules.stream_path = stream_path = StreamPath(config, probability_latency=softmax.LATENCY)
        m.submodules.row_pipeline = row_pipeline = RowPipeline(
            config,
            array_latency=array.LATENCY,
            accumulator_latency=accumulator.LATENCY,
            epilogue_latency=epilogue.LATENCY,
            settle=max(layernorm.STATISTICS_DELAY, softmax.MAX_DELAY),
        )
        if softmax.SCALE_DELAY > softmax.LATENCY + row_pipeline.entry - 2:
            raise ValueError("1/sum of a row comes later than its sums leave the accumulator")
        m.submodules.writeback = writeback = Writeback(config)

        # Instructions: MATMUL in the streamer itself, the others in the units that execute them.
        connect(m, flipped(self.jobs), streamer.jobs)
        connect(m, flipped(self.loads), loader.jobs)
        connect(m, streamer.operation, operations.operation)
        connect(m, operations.layernorm, layernorm.command)
        connect(m, operations.route, router.command)
        connect(m, operations.dma, flipped(self.dma_operation))
        connect(m, flipped(self.dma), memories.dma)
        connect(m, router.logits, memories.logits)
        connect(m, flipped(self.queues), router.query)
        connect(m, streamer.events, flipped(self.events))
        # Stationary blocks: weights or keys and values into the array, parameters into the epilogue.
        connect(m, flipped(self.weights), loader.weights)
        connect(m, loader.key_value, memories.key_value)
        connect(m, loader.load, array.load)
        connect(m, loader.parameter, epilogue.parameter)
        # The stream: activation memory, or score memory through the exponentials, into the array.
        connect(m, streamer.entry, memories.entry)
        connect(m, memories.queues, router.entry)
        connect(m, stream_path.activation, memories.activation)
        connect(m, stream_path.score, memories.score)
        connect(m, stream_path.scores, softmax.stream)
        connect(m, softmax.out, stream_path.probabilities)
        connect(m, stream_path.array, array.stream)
        # Rows behind the array: accumulators, epilogue with the row's scale, memories and row tables.
        connect(m, row_pipeline.bias, epilogue.first)
        connect(m, row_pipeline.accumulate, accumulator.row)
        connect(m, accumulator.out, epilogue.row)
        connect(m, row_pipeline.norm, layernorm.scale)
        connect(m, row_pipeline.softmax, softmax.scale)
        connect(m, epilogue.out, writeback.finished)
        connect(m, writeback.result, memories.result)
        connect(m, writeback.score, softmax.score)
        connect(m, writeback.statistics, layernorm.statistics)
        m.d.comb += [
            self.instruction.eq(streamer.operation.job.instruction),
            self.completed.eq(streamer.completed),
            memories.moving.eq(streamer.events.moving),
            memories.routing.eq(streamer.events.routing),
            loader.completed.eq(streamer.completed),
            loader.key_value_taken.eq(streamer.events.moving),
            loader.swap.eq(stream_path.swap),
            loader.column_done.eq(row_pipeline.column_done),
            streamer.ready.eq(loader.ready),
            streamer.waits_for_weights.eq(loader.waits_for_weights),
            streamer.final_written.eq(row_pipeline.final_written),
            stream_path.address.eq(streamer.address),
            stream_path.issue.eq(streamer.issue),
            stream_path.contexts.eq(streamer.contexts),
            row_pipeline.tag.eq(stream_path.tag),
            row_pipeline.contexts.eq(streamer.contexts),
            accumulator.sums.eq(array.sums),
            accumulator.bias.eq(epilogue.first_bias),
            memories.residual.address.eq(row_pipeline.old_address),
            epilogue.old.eq(memories.residual.data),
            epilogue.control.eq(row_pipeline.control),
            writeback.destination.eq(row_pipeline.destination),
        ]
        return m
