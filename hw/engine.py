# SPDX-License-Identifier: Apache-2.0
"""Engine: the compute side, its units created and connected as `architecture.svg` draws them."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.compute.array import Array
from edgemoe.hw.compute.epilogue import Epilogue
from edgemoe.hw.compute.layernorm import LayerNorm
from edgemoe.hw.compute.narrow import Narrow
from edgemoe.hw.compute.router import Router
from edgemoe.hw.compute.row_maxima import RowMaxima
from edgemoe.hw.compute.row_step import RowStep
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
    """Executes issued instructions (JOB). Weight rows come in, DMA reaches the memories; nothing else crosses its
    border.

    A row's way: streamer -> activation or score memory -> (exponentials) -> array -> accumulators -> epilogue ->
    write-back -> memories and row tables; what decides over it on the way travels beside it in the row pipeline.

    Ports:
        jobs (in stream): all instructions, in order.
        loads (in stream): the MATMULs among them, ahead of their turn.
        completed (out): instructions that have written all their results, modulo 256.
        weights (in WeightRowPort): the rows of the weight stream.
        queues (in QueueQuery): asks for lengths of the experts' queues.
        dma (in DmaPort): DMA's words.
        dma_operation (out OperationPort): LOAD, STORE and IMAGE, to DMA.
        instruction (out): under way in the streamer: the events are its own.
        events (out Events): what the present cycle is spent on.
    Latency: varies: with the instruction.
    Interval: none (its units have theirs: a row a cycle on the stream path).
    Format: activations signed 16 bit with an exponent a tensor, weights signed 16 or 8 bit, sums 48 bit.
    Limits: those that the sequencer checks.
    Twin: `sim.emulator.Emulator`.
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
        m.submodules.memories = Memories(config)
        m.submodules.array = array = Array(config)
        packed = {}
        if config.packed:
            m.submodules.narrow = narrow = Narrow(config)
            m.submodules.row_step = row_step = RowStep(config)
            m.submodules.row_maxima = row_maxima = RowMaxima(config)
            packed = dict(step_latency=row_step.LATENCY, bias_delay=row_step.BIAS_DELAY)
        before, rounding, revisit = (
            (narrow.LATENCY, row_maxima.MAX_DELAY, row_maxima.REVISIT) if config.packed else (0, 0, 0)
        )
        m.submodules.accumulator = accumulator = Accumulator(config)
        m.submodules.epilogue = epilogue = Epilogue(config)
        m.submodules.softmax = softmax = Softmax(config)
        m.submodules.layernorm = layernorm = LayerNorm(config)
        m.submodules.router = Router(config)
        m.submodules.loader = Loader(config, lead=Streamer.LATENCY + before if config.packed else 0)
        m.submodules.streamer = Streamer(
            config,
            block_spacing=max(accumulator.REVISIT, softmax.REVISIT, layernorm.REVISIT, revisit),
            probability_latency=softmax.LATENCY,
        )
        m.submodules.operations = Operations(config)
        m.submodules.stream_path = StreamPath(config, probability_latency=softmax.LATENCY)
        m.submodules.row_pipeline = row_pipeline = RowPipeline(
            config,
            array_latency=before + array.LATENCY,
            accumulator_latency=accumulator.LATENCY,
            epilogue_latency=epilogue.LATENCY,
            settle=max(layernorm.STATISTICS_DELAY, softmax.MAX_DELAY, rounding),
            **packed,
        )
        if softmax.SCALE_DELAY > softmax.LATENCY + row_pipeline.entry - 2:
            raise ValueError("1/sum of a row comes later than its sums leave the accumulator")
        if config.packed and layernorm.SWEEP_DELAY > Streamer.LATENCY + row_pipeline.entry:
            raise ValueError("1/sigma of a row that follows comes later than its sums leave the accumulator")
        m.submodules.writeback = Writeback(config)
        units = m.submodules
        self._instructions(m, units)
        self._blocks(m, units)
        self._stream(m, units)
        self._rows(m, units)
        return m

    def _instructions(self, m: Module, units) -> None:
        """MATMUL in the streamer itself, with the loader ahead of it; the others in the units that execute them."""
        connect(m, flipped(self.jobs), units.streamer.jobs)
        connect(m, flipped(self.loads), units.loader.jobs)
        connect(m, units.streamer.operation, units.operations.operation)
        connect(m, units.operations.layernorm, units.layernorm.command)
        connect(m, units.operations.route, units.router.command)
        connect(m, units.operations.dma, flipped(self.dma_operation))
        connect(m, units.router.logits, units.memories.logits)
        connect(m, flipped(self.queues), units.router.query)
        connect(m, flipped(self.dma), units.memories.dma)
        connect(m, units.streamer.events, flipped(self.events))
        m.d.comb += [
            units.memories.moving.eq(units.streamer.events.moving),
            units.memories.routing.eq(units.streamer.events.routing),
            self.instruction.eq(units.streamer.operation.job.instruction),
            self.completed.eq(units.streamer.completed),
        ]

    def _blocks(self, m: Module, units) -> None:
        """Stationary blocks: weights, or keys and values, into the array; parameters into the epilogue."""
        connect(m, flipped(self.weights), units.loader.weights)
        connect(m, units.loader.key_value, units.memories.key_value)
        connect(m, units.loader.load, units.array.load)
        connect(m, units.loader.parameter, units.epilogue.parameter)
        m.d.comb += [
            units.loader.completed.eq(units.streamer.completed),
            units.loader.key_value_taken.eq(units.streamer.events.moving),
            units.loader.swap.eq(
                units.narrow.out.valid & units.narrow.out.swap if self.config.packed else units.stream_path.swap
            ),
            units.loader.column_done.eq(units.row_pipeline.column_done),
            units.streamer.ready.eq(units.loader.ready),
            units.streamer.waits_for_weights.eq(units.loader.waits_for_weights),
        ]

    def _stream(self, m: Module, units) -> None:
        """Rows into the array: from activation memory, or from score memory through the exponentials."""
        connect(m, units.streamer.entry, units.memories.entry)
        connect(m, units.memories.queues, units.router.entry)
        connect(m, units.streamer.streamed, units.stream_path.streamed)
        connect(m, units.stream_path.activation, units.memories.activation)
        connect(m, units.stream_path.score, units.memories.score)
        connect(m, units.stream_path.scores, units.softmax.stream)
        connect(m, units.softmax.out, units.stream_path.probabilities)
        if not self.config.packed:
            connect(m, units.stream_path.array, units.array.stream)
            return
        connect(m, units.stream_path.array, units.narrow.words)
        connect(m, units.narrow.out, units.array.stream)
        connect(m, units.streamer.steps, units.row_maxima.steps)
        m.d.comb += [
            units.narrow.step.eq(units.stream_path.row.tag.step),
            units.narrow.unsigned.eq(units.stream_path.unsigned),
        ]

    def _rows(self, m: Module, units) -> None:
        """Rows behind the array: accumulators, epilogue with the row's scale and its old word, memories, row tables."""
        connect(m, units.stream_path.row, units.row_pipeline.row)
        connect(m, units.row_pipeline.bias, units.epilogue.first)
        connect(m, units.row_pipeline.accumulate, units.accumulator.row)
        if self.config.packed:
            connect(m, units.accumulator.out, units.row_step.row)
            connect(m, units.row_step.out, units.epilogue.row)
            connect(m, units.writeback.maxima, units.row_maxima.write)
            m.d.comb += [
                units.streamer.first_written.eq(units.row_pipeline.first_written),
                units.row_step.packed.eq(units.row_pipeline.packed.packed),
                units.row_step.step.eq(units.row_pipeline.packed.step),
            ]
        else:
            connect(m, units.accumulator.out, units.epilogue.row)
        connect(m, units.row_pipeline.norm, units.layernorm.scale)
        connect(m, units.row_pipeline.softmax, units.softmax.scale)
        connect(m, units.epilogue.out, units.writeback.finished)
        connect(m, units.writeback.result, units.memories.result)
        connect(m, units.writeback.score, units.softmax.score)
        connect(m, units.writeback.statistics, units.layernorm.statistics)
        m.d.comb += [
            units.accumulator.sums.eq(units.array.sums),
            (units.row_step if self.config.packed else units.accumulator).bias.eq(units.epilogue.first_bias),
            units.memories.residual.address.eq(units.row_pipeline.old_address),
            units.epilogue.old.eq(units.memories.residual.data),
            units.epilogue.control.eq(units.row_pipeline.control),
            units.writeback.destination.eq(units.row_pipeline.destination),
            units.streamer.final_written.eq(units.row_pipeline.final_written),
        ]
