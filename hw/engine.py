# SPDX-License-Identifier: Apache-2.0
"""Engine: the compute side - memories, loader, streamer, array, accumulators, epilogue, softmax, LayerNorm, router -
wired together.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.compute.array import Array
from edgemoe.hw.compute.epilogue import Epilogue
from edgemoe.hw.compute.layernorm import LayerNorm
from edgemoe.hw.compute.router import Router
from edgemoe.hw.compute.softmax import Softmax
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.hw.contract.layouts import INSTRUCTION, JOB, TAG
from edgemoe.hw.contract.ports import DmaPort, Events, OperationPort, QueueQuery, WeightRowPort
from edgemoe.hw.control.loader import Loader
from edgemoe.hw.control.streamer import ISSUE, Streamer
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
        m.submodules.writeback = writeback = Writeback(
            config,
            array_latency=array.LATENCY,
            accumulator_latency=accumulator.LATENCY,
            epilogue_latency=epilogue.LATENCY,
            settle=max(layernorm.STATISTICS_DELAY, softmax.MAX_DELAY),
        )
        if softmax.SCALE_DELAY > softmax.LATENCY + writeback.entry - 2:
            raise ValueError("1/sum of a row comes later than its sums leave the accumulator")
        m.submodules.streamer = streamer = Streamer(
            config,
            block_spacing=max(accumulator.REVISIT, softmax.REVISIT, layernorm.REVISIT),
            probability_latency=softmax.LATENCY,
        )
        connect(m, flipped(self.jobs), streamer.jobs)
        connect(m, flipped(self.loads), loader.jobs)
        self.wire_operations(m, streamer, layernorm, router, memories)
        self.wire_stream(m, streamer, memories, softmax, array, writeback)

        m.d.comb += [
            # Loader: weight rows or key/value words into the array, parameters into the epilogue.
            loader.completed.eq(streamer.completed),
            self.completed.eq(streamer.completed),
            loader.row_valid.eq(self.weights.valid),
            self.weights.ready.eq(loader.row_ready),
            loader.row_word.eq(self.weights.word),
            loader.row_level.eq(self.weights.level),
            memories.key_value_address.eq(loader.key_value_address),
            loader.key_value_taken.eq(memories.dma_active),
            loader.key_value_data.eq(memories.key_value_data),
            array.load_valid.eq(loader.load_valid),
            array.load_by_column.eq(loader.load_by_column),
            array.load_index.eq(loader.load_index),
            array.load_data.eq(loader.load_data),
            epilogue.parameter_valid.eq(loader.parameter_valid),
            epilogue.parameter_bank.eq(loader.parameter_bank),
            epilogue.parameter_index.eq(loader.parameter_index),
            epilogue.parameter_data.eq(self.weights.word),
            streamer.ready.eq(loader.ready),
            loader.swap.eq(array.stream_valid & array.stream_swap),
            loader.column_done.eq(writeback.column_done),
            # Array -> accumulators.
            accumulator.valid.eq(writeback.accumulate.valid),
            accumulator.index.eq(writeback.accumulate.index),
            accumulator.first.eq(writeback.accumulate.first),
            accumulator.last.eq(writeback.accumulate.last),
            accumulator.sums.eq(array.sums),
            epilogue.first_bank.eq(writeback.bias_bank),
            epilogue.first_enable.eq(writeback.bias_enable),
            epilogue.first_shift.eq(writeback.bias_shift),
            accumulator.bias.eq(epilogue.first_bias),
            # Accumulators -> epilogue, with the row's scale and its old word.
            softmax.scale_index.eq(writeback.scale_tag.index),
            layernorm.scale_row.eq(writeback.scale_tag.table_row),
            writeback.norm_mantissa.eq(layernorm.scale_mantissa),
            writeback.norm_exponent.eq(layernorm.scale_exponent),
            writeback.softmax_mantissa.eq(softmax.scale_mantissa),
            writeback.softmax_exponent.eq(softmax.scale_exponent),
            memories.residual_address.eq(writeback.residual_address),
            epilogue.valid.eq(accumulator.out_valid),
            epilogue.sums.eq(accumulator.out_sums),
            epilogue.mantissa.eq(writeback.mantissa),
            epilogue.exponent.eq(writeback.exponent),
            epilogue.old.eq(memories.residual_data),
            epilogue.bank.eq(writeback.epilogue.bank),
            epilogue.control.eq(writeback.control),
            # Epilogue -> memories, row maxima, row statistics.
            memories.write_valid.eq(epilogue.out_valid),
            memories.write_memory.eq(writeback.write_memory),
            memories.write_address.eq(writeback.write_address),
            memories.write_word.eq(epilogue.out_word),
            memories.copy_valid.eq(epilogue.out_valid & writeback.write_copy),
            memories.copy_address.eq(writeback.copy_address),
            softmax.score_valid.eq(epilogue.out_valid & (writeback.write_memory == Memory.SCORE)),
            softmax.score_index.eq(writeback.write.index),
            softmax.score_first.eq(writeback.write.column == 0),
            softmax.score_word.eq(epilogue.out_word),
            softmax.score_mask.eq(writeback.write_mask),
            layernorm.valid.eq(epilogue.out_valid & (writeback.write_memory == Memory.RESIDUAL)),
            layernorm.row.eq(writeback.write_row),
            layernorm.first.eq((writeback.write.column == 0) & ~writeback.write_scatter),
            layernorm.subtract_old.eq(writeback.write_scatter),
            layernorm.new.eq(epilogue.out_word),
            layernorm.old.eq(epilogue.out_old),
            streamer.final_written.eq(writeback.final_written),
            # Expert queues.
            router.entry_expert.eq(streamer.entry_expert),
            router.entry_index.eq(Mux(self.events.moving, self.dma.entry_index, streamer.entry_index)),
            self.dma.entry_row.eq(router.entry_row),
            streamer.entry_row.eq(router.entry_row),
            streamer.entry_score.eq(router.entry_score),
            router.count_expert.eq(self.queues.count_expert),
            self.queues.count.eq(router.count),
            router.next_from.eq(self.queues.next_from),
            self.queues.next_found.eq(router.next_found),
            self.queues.next_expert.eq(router.next_expert),
            # What the present cycle is spent on.
            self.events.retired.eq(streamer.retired),
            self.events.idle.eq(streamer.idle),
            self.events.array_active.eq(streamer.active),
            self.events.waits_for_weights.eq(streamer.waits_for_block & loader.waits_for_weights),
            self.events.waits_for_operands.eq(streamer.waits_for_block & ~loader.waits_for_weights),
            self.events.waits_for_results.eq(streamer.waits_for_results),
        ]
        return m

    def wire_stream(self, m: Module, streamer, memories, softmax, array, writeback) -> None:
        """The streamed word and its tag: from activation memory directly, from score memory through the
        exponentials.
        """
        config, issue = self.config, streamer.issue
        instruction = streamer.contexts[issue.tag.context].instruction
        late = [issue]
        for i in range(softmax.LATENCY):
            late.append(Signal(ISSUE, name=f"probability_issue{i}"))
            m.d.sync += late[-1].eq(late[-2])
        probability = late[-1]
        through = issue.tag.valid & issue.probabilities
        direct = issue.tag.valid & ~issue.probabilities
        entering = Signal(TAG)
        m.d.comb += [
            memories.stream_address.eq(streamer.address),
            softmax.valid.eq(through),
            softmax.index.eq(issue.tag.index),
            softmax.word.eq(memories.score_data),
            softmax.lanes.eq(Mux(issue.lanes_left > config.lanes, config.lanes, issue.lanes_left)),
            softmax.shift.eq(instruction.exponent_shift),
            softmax.first.eq(issue.tag.first),
            softmax.last.eq(issue.tag.last),
            softmax.accumulate.eq(issue.tag.column == 0),
            entering.eq(Mux(softmax.out_valid, probability.tag, issue.tag)),
            entering.valid.eq(softmax.out_valid | direct),
            array.stream_valid.eq(entering.valid),
            array.stream_swap.eq(Mux(softmax.out_valid, probability.swap, issue.swap)),
            array.stream_data.eq(Mux(softmax.out_valid, softmax.out_word, memories.activation_data)),
            writeback.tag.eq(entering),
            writeback.contexts.eq(streamer.contexts),
        ]

    def wire_operations(self, m: Module, streamer, layernorm, router, memories) -> None:
        """Instructions that run alone: LAYERNORM, ROUTE and the three DMA ones."""
        job, opcode = streamer.current, streamer.current.instruction.opcode
        instruction = job.instruction
        norm, route = opcode == Opcode.LAYERNORM, opcode == Opcode.ROUTE
        moving = ~(norm | route)
        m.d.comb += [
            layernorm.start.eq(streamer.operation & norm),
            layernorm.rows.eq(job.rows),
            layernorm.row_base.eq(instruction.row_base),
            layernorm.elements.eq(instruction.elements),
            layernorm.epsilon.eq(instruction.epsilon),
            layernorm.uncentred.eq(instruction.uncentred),
            router.start.eq(streamer.operation & route),
            router.rows.eq(job.rows),
            router.row_base.eq(instruction.row_base),
            router.base.eq(instruction.stream_base),
            router.stride.eq(instruction.stream_stride),
            router.columns.eq(instruction.columns),
            router.experts.eq(instruction.experts),
            router.top_k.eq(instruction.top_k),
            router.shift.eq(instruction.exponent_shift),
            router.reset_queues.eq(instruction.reset_queues),
            memories.router_active.eq(streamer.operating & route),
            memories.router_address.eq(router.score_address),
            router.score_data.eq(memories.score_data),
            self.dma_operation.start.eq(streamer.operation & moving),
            self.dma_operation.job.eq(job),
            self.instruction.eq(instruction),
            memories.dma_active.eq(streamer.operating & moving),
            memories.dma_write_valid.eq(self.dma.write_valid),
            memories.dma_write_memory.eq(self.dma.write_memory),
            memories.dma_write_address.eq(self.dma.write_address),
            memories.dma_write_word.eq(self.dma.write_word),
            memories.dma_write_lanes.eq(self.dma.write_lanes),
            memories.dma_read_memory.eq(self.dma.read_memory),
            memories.dma_read_address.eq(self.dma.read_address),
            self.dma.read_data.eq(memories.dma_read_data),
            streamer.operation_done.eq(layernorm.done | router.done | self.dma_operation.done),
            self.events.moving.eq(streamer.operating & moving),
            self.events.normalising.eq(streamer.operating & norm),
            self.events.routing.eq(streamer.operating & route),
        ]
