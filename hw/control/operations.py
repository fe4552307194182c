# SPDX-License-Identifier: Apache-2.0
"""Operations: the instructions that run alone, each sent to the unit that executes it."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.layernorm import LayerNormCommand
from edgemoe.hw.compute.router import RouterCommand
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode
from edgemoe.hw.contract.ports import OperationPort


class Operations(wiring.Component):
    """LAYERNORM and ROUTE as commands to LayerNorm and router, their operands taken from the instruction; everything
    else, that is LOAD, STORE and IMAGE, as it is to DMA.

    Only the one concerned sees `start`; whose `done` comes has been started.

    Ports:
        operation (in OperationPort): from the streamer, one at a time.
        layernorm (out LayerNormCommand): to LayerNorm.
        route (out RouterCommand): to the router.
        dma (out OperationPort): to DMA.
    Latency: LATENCY = 0 cycles.
    Interval: INTERVAL = 1 cycle.
    Twin: none (no arithmetic).
    """

    LATENCY = 0
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "operation": In(OperationPort()),
                "layernorm": Out(LayerNormCommand(config)),
                "route": Out(RouterCommand(config)),
                "dma": Out(OperationPort()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        start, job, instruction = self.operation.start, self.operation.job, self.operation.job.instruction
        is_norm, is_route = instruction.opcode == Opcode.LAYERNORM, instruction.opcode == Opcode.ROUTE
        layernorm, route, dma = self.layernorm, self.route, self.dma
        m.d.comb += [
            layernorm.start.eq(start & is_norm),
            layernorm.rows.eq(job.rows),
            layernorm.row_base.eq(instruction.row_base),
            layernorm.elements.eq(instruction.elements),
            layernorm.epsilon.eq(instruction.epsilon),
            layernorm.uncentred.eq(instruction.uncentred),
            *([layernorm.of_heads.eq(instruction.of_heads)] if self.config.head_norms else []),
            route.start.eq(start & is_route),
            route.rows.eq(job.rows),
            route.row_base.eq(instruction.row_base),
            route.base.eq(instruction.stream_base),
            route.stride.eq(instruction.stream_stride),
            route.columns.eq(instruction.columns),
            route.experts.eq(instruction.experts),
            route.top_k.eq(instruction.top_k),
            route.shift.eq(instruction.exponent_shift),
            route.reset_queues.eq(instruction.reset_queues),
            route.among_chosen.eq(instruction.among_chosen),
            dma.start.eq(start & ~(is_norm | is_route)),
            dma.job.eq(job),
            self.operation.done.eq(layernorm.done | route.done | dma.done),
        ]
        return m
