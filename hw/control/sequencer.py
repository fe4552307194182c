# SPDX-License-Identifier: Apache-2.0
"""Sequencer: fetches, checks and issues instructions; repeats EXPERTS bodies over the non-empty queues."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME, INSTRUCTION_BYTES, ErrorCode, Memory, Opcode, Scale, Stationary
from edgemoe.hw.contract.layouts import EXPERT_BITS, INSTRUCTION, JOB, MEMORY_OPERATIONS, ROW_BITS

CHECK = data.StructLayout({"used": 1, "rows": 16, "stride": 10, "base": 20, "words": 10, "depth": 21})


class Sequencer(wiring.Component):
    """Issues each instruction to the streamer, MATMULs also to the loader, and those with weights also to the weight
    prefetch.

    The queues behind `jobs`, `loads` and `weights` let the prefetch run ahead of execution across instructions. Only
    EXPERTS waits for everything before it, because its trip count is data. Before issue, every operand must lie within
    its memory (base + (rows - 1) x stride + words <= depth) and every count within the build's capacity. A picture's
    patches must be within the rows, and its pixels a patch within the words a row, that the instruction names: both are
    products, too, and checked alike.

    An instruction takes about 10 cycles here, hidden behind the execution of those before it.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "program": In(40),
                "jump": Out(1),
                "jump_address": Out(40),
                "instructions": In(stream.Signature(INSTRUCTION)),
                "jobs": Out(stream.Signature(JOB)),
                "loads": Out(stream.Signature(JOB)),
                "weights": Out(stream.Signature(JOB)),
                "completed": In(8),
                "count_expert": Out(EXPERT_BITS),
                "count": In(ROW_BITS),
                "next_from": Out(EXPERT_BITS),
                "next_found": In(1),
                "next_expert": In(EXPERT_BITS),
                "done": Out(1),
                "error": Out(1),
                "error_code": Out(ErrorCode),
                "instruction_number": Out(32),  # of the instruction being checked, counted from the program's start
                "busy": Out(1),
            }
        )

    def checks(self, instruction, pixel_columns: Signal) -> list[tuple]:
        """The operands of an instruction that must lie within a memory; of IMAGE also what its picture takes.

        pixel_columns: channels x patch, the pixels of a patch in one row of each plane.
        """
        config = self.config
        depth = data.ArrayLayout(21, 4)
        depths = Const(
            [config.activation_words, config.key_value_words, config.residual_words, config.score_words], depth
        )
        matmul, route = instruction.opcode == Opcode.MATMUL, instruction.opcode == Opcode.ROUTE
        transfer = Cat(*(instruction.opcode == o for o in MEMORY_OPERATIONS)).any()
        stream_memory = Mux(instruction.probabilities | route, Memory.SCORE, Memory.ACTIVATION)
        keys, image = instruction.stationary == Stationary.KEYS, instruction.opcode == Opcode.IMAGE
        across, patch_words = instruction.across, instruction.columns * config.lanes
        patches = (1, instruction.down, across, 0, across, instruction.rows)
        pixels = (1, instruction.patch, pixel_columns, 0, pixel_columns, patch_words)
        streamed = (
            matmul | route,
            instruction.rows,
            instruction.stream_stride,
            instruction.stream_base,
            Mux(route, instruction.columns, instruction.chunks),
            depths[stream_memory],
        )
        stationary = (
            matmul & instruction.stationary[1],
            instruction.keys,
            instruction.stationary_stride,
            instruction.stationary_base,
            Mux(keys, instruction.chunks, instruction.columns),
            config.key_value_words,
        )
        return [
            tuple(Mux(image, a, b) for a, b in zip(patches, streamed, strict=True)),
            tuple(Mux(image, a, b) for a, b in zip(pixels, stationary, strict=True)),
            (matmul | transfer, instruction.rows, instruction.destination_stride, instruction.destination_base,
             instruction.columns, depths[instruction.memory]),
            (matmul & instruction.copy, instruction.rows, instruction.copy_stride, instruction.copy_base,
             instruction.columns, config.activation_words),
        ]  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        config = self.config
        job = Signal(JOB)
        instruction = job.instruction
        pc, number, next_number = Signal(40), Signal(32), Signal(32)
        looping, body, body_length, body_start = Signal(), Signal(8), Signal(8), Signal(40)
        body_number = Signal(32)
        expert, sequence = Signal(EXPERT_BITS), Signal(8)
        matmul = Signal()
        m.d.comb += [
            self.instruction_number.eq(number),
            self.count_expert.eq(expert),
            matmul.eq(instruction.opcode == Opcode.MATMUL),
            self.busy.eq(1),
        ]

        # Counts against capacities: one bit each, registered before they are judged.
        over, wrong = Signal(11), Signal(10)
        opcode = instruction.opcode
        pixel_columns = Signal(10)
        # channels x patch, four bits by six: a sum, for which no DSP slice is worth its place.
        parts = [Mux(instruction.channels[k], instruction.patch << k, 0) for k in range(len(instruction.channels))]
        m.d.sync += pixel_columns.eq((parts[0] + parts[1]) + (parts[2] + parts[3]))
        tables = (opcode == Opcode.LAYERNORM) | (opcode == Opcode.ROUTE) | matmul
        softmax_tables = (
            instruction.probabilities | (instruction.memory == Memory.SCORE) | (instruction.scale == Scale.SOFTMAX)
        )
        scores = (matmul & softmax_tables) | (opcode == Opcode.ROUTE)
        queue = instruction.gather | instruction.scatter | instruction.queued
        route = opcode == Opcode.ROUTE
        in_dram = Cat(*(opcode == o for o in MEMORY_OPERATIONS)).any() | (matmul & ~instruction.stationary[1])
        picture = (instruction.across, instruction.down, instruction.channels, instruction.patch)
        too_many = instruction.elements > config.width if config.width < BY_NAME["elements"].limit else 0
        nothing = Cat(size == 0 for size in picture).any()
        has_rows = (opcode != Opcode.END) & (opcode != Opcode.EXPERTS)
        m.d.sync += [
            over.eq(
                Cat(
                    has_rows & ((instruction.rows == 0) | (instruction.rows > config.rows)),
                    tables & ((instruction.row_base + instruction.rows) > config.rows),
                    scores & (instruction.rows > config.tokens),
                    matmul & instruction.stationary[1] & (instruction.keys > config.tokens),
                    matmul & ((instruction.chunks == 0) | (instruction.columns == 0)),
                    route & ((instruction.experts == 0) | (instruction.experts > config.experts)),
                    route & ((instruction.top_k == 0) | (instruction.top_k > config.top_k)),
                    route & (instruction.top_k > instruction.experts),
                    route & (instruction.experts > instruction.columns * config.lanes),
                    route & (instruction.columns > config.words(config.experts)),
                    (opcode == Opcode.LAYERNORM) & ((instruction.elements == 0) | too_many),
                )
            ),
            wrong.eq(
                Cat(
                    (opcode == 0) | (opcode > max(Opcode)),
                    instruction.residual & (~matmul | (instruction.memory != Memory.RESIDUAL)),
                    (opcode == Opcode.LOAD) & (instruction.memory == Memory.SCORE),
                    matmul
                    & instruction.copy
                    & (instruction.memory == Memory.ACTIVATION),  # one memory, one word a cycle
                    matmul & (instruction.scale == Scale.EXPERT) & ~queue,
                    queue & ~looping,
                    in_dram & job.address[:6].any(),
                    looping & ~(matmul | (opcode == Opcode.LOAD) | (opcode == Opcode.STORE)),
                    (opcode == Opcode.EXPERTS) & (instruction.length == 0),
                    (opcode == Opcode.IMAGE) & (nothing | (instruction.memory != Memory.ACTIVATION)),
                )
            ),
        ]

        # Operand extents: one multiplier, one operand after another. select -> product -> last word -> verdict
        step, outside = Signal(3), Signal()
        chosen, product, end = Signal(CHECK), Signal(26), Signal(28)
        used1, depth1, used2, depth2 = Signal(), Signal(21), Signal(), Signal(21)
        rest1 = Signal(22)
        with m.Switch(step):
            for i, (used, rows, stride, base, words, depth) in enumerate(self.checks(instruction, pixel_columns)):
                with m.Case(i):
                    m.d.sync += [
                        chosen.used.eq(used), chosen.rows.eq(rows - 1), chosen.stride.eq(stride), chosen.base.eq(base),
                        chosen.words.eq(words), chosen.depth.eq(depth),
                    ]  # fmt: skip
            with m.Default():
                m.d.sync += chosen.used.eq(0)
        m.d.sync += [
            product.eq(chosen.rows * chosen.stride), rest1.eq(chosen.base + chosen.words), end.eq(product + rest1),
            used1.eq(chosen.used), used2.eq(used1), depth1.eq(chosen.depth), depth2.eq(depth1),
        ]  # fmt: skip

        issued = Signal(3)  # which of jobs, loads, weights have taken the instruction
        offset = Signal(40)  # of the expert's weights; CHECK lasts long enough for a register behind the multiplier
        m.d.sync += offset.eq(instruction.expert_stride * expert)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.d.comb += [self.jump.eq(1), self.jump_address.eq(self.program)]
                    m.d.sync += [
                        pc.eq(self.program),
                        number.eq(0),
                        next_number.eq(0),
                        looping.eq(0),
                        sequence.eq(self.completed),
                    ]
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += self.instructions.ready.eq(1)
                with m.If(self.instructions.valid):
                    m.d.sync += [
                        job.instruction.eq(self.instructions.payload),
                        job.expert.eq(expert),
                        job.sequence.eq(sequence),
                        pc.eq(pc + INSTRUCTION_BYTES),
                        number.eq(next_number),
                        next_number.eq(next_number + 1),
                        step.eq(0),
                        outside.eq(0),
                        issued.eq(0),
                    ]
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += step.eq(step + 1)
                m.d.sync += [
                    job.rows.eq(Mux(queue, self.count, instruction.rows)),
                    job.address.eq(instruction.address + Mux(looping, offset, 0)),
                ]
                with m.If(used2 & (end > depth2)):
                    m.d.sync += outside.eq(1)
                with m.If(step == 7):
                    m.next = "ISSUE"
                    m.d.comb += self.error.eq(wrong.any() | over.any() | outside)
                    m.d.comb += self.error_code.eq(Mux(wrong.any(), ErrorCode.ILLEGAL_INSTRUCTION, ErrorCode.CAPACITY))
                    with m.If(self.error):
                        m.next = "STOPPED"
                    with m.Elif(opcode == Opcode.EXPERTS):
                        m.next = "EXPERTS"
                    with m.Elif(opcode == Opcode.END):
                        m.next = "END"
            with m.State("ISSUE"):
                with_weights = matmul & ~instruction.stationary[1]
                m.d.comb += [
                    self.jobs.valid.eq(~issued[0]),
                    self.loads.valid.eq(~issued[1] & matmul),
                    self.weights.valid.eq(~issued[2] & with_weights),
                ]
                now = Signal(3)
                m.d.comb += now.eq(
                    issued | Cat(self.jobs.ready, self.loads.ready | ~matmul, self.weights.ready | ~with_weights)
                )
                m.d.sync += issued.eq(now)
                with m.If(now.all()):
                    m.d.sync += [sequence.eq(sequence + 1), body.eq(body - 1)]
                    m.next = "FETCH"
                    with m.If(looping & (body == 1)):
                        m.d.sync += expert.eq(expert + 1)
                        m.next = "LOOK UP"
            with m.State("EXPERTS"):
                with m.If(self.completed == sequence):
                    m.d.sync += [
                        expert.eq(0),
                        body_length.eq(instruction.length),
                        body_start.eq(pc),
                        body_number.eq(next_number),
                        looping.eq(1),
                    ]
                    m.next = "LOOK UP"
            with m.State("LOOK UP"):  # the queues answer next_from one cycle later
                m.next = "NEXT EXPERT"
            with m.State("NEXT EXPERT"):
                m.d.comb += self.jump.eq(1)
                m.d.sync += [expert.eq(self.next_expert), body.eq(body_length)]
                with m.If(self.next_found):
                    m.d.comb += self.jump_address.eq(body_start)
                    m.d.sync += [pc.eq(body_start), next_number.eq(body_number)]
                with m.Else():
                    after = body_start + body_length * INSTRUCTION_BYTES
                    m.d.comb += self.jump_address.eq(after)
                    m.d.sync += [pc.eq(after), next_number.eq(body_number + body_length), looping.eq(0)]
                m.next = "FETCH"
            with m.State("END"):
                with m.If(self.completed == sequence):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
            with m.State("STOPPED"):
                pass  # the control unit resets the core once the bus is quiet
        m.d.comb += [
            self.next_from.eq(expert),
            self.jobs.payload.eq(job),
            self.loads.payload.eq(job),
            self.weights.payload.eq(job),
        ]
        return m
