# SPDX-License-Identifier: Apache-2.0
"""The whole core: engine, sequencer, memory system and registers, created and connected."""

from collections.abc import Mapping

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.hw.contract.layouts import JOB
from edgemoe.hw.control.fetch import Fetch
from edgemoe.hw.control.register_file import AxiLite, RegisterFile
from edgemoe.hw.control.run import Control
from edgemoe.hw.control.sequencer import Sequencer
from edgemoe.hw.engine import Engine
from edgemoe.hw.memory.axi import AxiRead, AxiWrite
from edgemoe.hw.memory.dma import Dma
from edgemoe.hw.memory.reader import Reader
from edgemoe.hw.memory.weights import Weights
from edgemoe.hw.memory.writer import Writer

QUEUED_JOBS = 4  # issued instructions that may wait in front of the streamer, of the loader and of the prefetch


class Top(wiring.Component):
    """AXI4-Lite slave `axil`, AXI4 masters (`read`, `write`, one or two), a level interrupt.
    Clock domain `sync`, synchronous reset.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "axil": In(AxiLite()),
                "read": Out(AxiRead(config.data_bits)).array(config.masters),
                "write": Out(AxiWrite(config.data_bits)).array(config.masters),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.registers = registers = RegisterFile(config)
        m.submodules.control = control = Control()
        m.submodules.fetch = fetch = Fetch(config)
        m.submodules.weights = weights = Weights(config)
        m.submodules.dma = dma = Dma(config)
        clients = {"fetch": fetch.CAPACITY, "weights": weights.CAPACITY, "dma": dma.CAPACITY}
        m.submodules.reader = reader = Reader(config, clients)
        m.submodules.writer = writer = Writer(config)
        sequencer, engine = Sequencer(config), Engine(config)
        m.submodules.sequencer = ResetInserter(control.reset)(sequencer)
        m.submodules.engine = ResetInserter(control.reset)(engine)

        # Borders.
        connect(m, flipped(self.axil), registers.bus)
        for i in range(config.masters):
            connect(m, reader.axi[i], flipped(self.read[i]))
            connect(m, writer.axi[i], flipped(self.write[i]))
        m.d.comb += [
            self.interrupt.eq(registers.interrupt),
            reader.base.eq(registers.base),
            writer.base.eq(registers.base),
        ]

        self.wire_reader(m, reader, {"fetch": fetch, "weights": weights, "dma": dma})
        self.wire_control(m, registers, control, sequencer, engine, reader, writer, fetch)
        self.wire_jobs(m, control, sequencer, engine, weights)
        m.d.comb += [
            fetch.stop.eq(control.stop),
            weights.stop.eq(control.stop),
            dma.stop.eq(control.stop),
            reader.stop.eq(control.stop),
            writer.stop.eq(control.stop),
            # Instructions.
            fetch.jump.eq(sequencer.jump),
            fetch.pc.eq(sequencer.jump_address),
            sequencer.program.eq(registers.program),
            sequencer.instructions.payload.eq(fetch.instruction.payload),
            sequencer.instructions.valid.eq(fetch.instruction.valid),
            fetch.instruction.ready.eq(sequencer.instructions.ready),
            # Weight rows.
            engine.weights.valid.eq(weights.row.valid),
            weights.row.ready.eq(engine.weights.ready),
            engine.weights.word.eq(weights.row.payload.word),
            engine.weights.level.eq(weights.level),
        ]
        self.wire_dma(m, dma, engine, writer)
        return m

    def wire_reader(self, m: Module, reader: Reader, clients: Mapping) -> None:
        """Every client shares the beat; its own valid tells whom it is for."""
        for name, client in clients.items():
            request = getattr(reader, f"{name}_request")
            m.d.comb += [
                request.payload.eq(client.request.payload),
                request.valid.eq(client.request.valid),
                client.request.ready.eq(request.ready),
                client.valid.eq(getattr(reader, f"{name}_valid")),
                client.data.eq(reader.data),
                getattr(reader, f"{name}_release").eq(client.release),
            ]
        fetch, weights = clients["fetch"], clients["weights"]
        m.d.comb += [fetch.last.eq(reader.last), fetch.beat_fault.eq(reader.fault), weights.last.eq(reader.last)]

    def wire_control(self, m: Module, registers, control, sequencer, engine, reader, writer, fetch) -> None:
        """Start, end, errors, what the counters count."""
        read_beat = Cat(getattr(reader, f"{name}_valid") for name in reader.clients).any()
        moved = Signal(3)  # what only counters and the watchdog see may be a cycle late
        m.d.sync += moved.eq(Cat(read_beat, writer.moved, engine.events.retired))
        current = engine.instruction
        matmul, norm, route = (current.opcode == opcode for opcode in (Opcode.MATMUL, Opcode.LAYERNORM, Opcode.ROUTE))
        on_chip, queued = current.stationary[1], current.gather | current.scatter | current.queued
        m.d.comb += [
            control.start.eq(registers.start),
            control.soft_reset.eq(registers.soft_reset),
            control.watchdog.eq(registers.watchdog),
            control.progress.eq(moved.any()),
            control.finished.eq(sequencer.done),
            control.instruction.eq(sequencer.instruction_number),
            control.decode_error.eq(sequencer.error),
            control.decode_code.eq(sequencer.error_code),
            control.read_error.eq(reader.error | fetch.fault),
            control.read_address.eq(Mux(reader.error, reader.error_address, fetch.address)),
            control.write_error.eq(writer.error),
            control.write_address.eq(writer.error_address),
            control.bus_idle.eq(reader.idle & writer.idle),
            sequencer.start.eq(control.run),
            registers.idle.eq(control.idle),
            registers.done.eq(control.done),
            registers.error.eq(control.error),
            registers.error_code.eq(control.error_code),
            registers.error_instruction.eq(control.error_instruction),
            registers.error_address.eq(control.error_address),
            registers.instruction.eq(sequencer.instruction_number),
            registers.running.eq(control.running),
            registers.state.eq(
                Cat(
                    engine.events.array_active,
                    engine.events.waits_for_weights,
                    engine.events.waits_for_operands,
                    engine.events.waits_for_results,
                    engine.events.moving,
                    engine.events.normalising,
                    engine.events.routing,
                )
            ),
            registers.kind.eq(
                Cat(
                    matmul & ~on_chip & ~queued,
                    matmul & ~on_chip & queued,
                    matmul & (current.stationary == Stationary.KEYS),
                    matmul & (current.stationary == Stationary.VALUES),
                    ~(matmul | norm | route),
                    norm,
                    route,
                )
            ),
            registers.read_beat.eq(moved[0]),
            registers.write_beat.eq(moved[1]),
            registers.retired.eq(moved[2]),
        ]

    def wire_jobs(self, m: Module, control, sequencer, engine, weights) -> None:
        """Issued instructions wait in small queues, so that loader and prefetch may run ahead of the streamer."""
        for name, sink in (("jobs", engine.jobs), ("loads", engine.loads)):
            queue = SyncFIFOBuffered(width=JOB.size, depth=QUEUED_JOBS)
            m.submodules[f"{name}_queue"] = ResetInserter(control.reset)(queue)
            source = getattr(sequencer, name)
            m.d.comb += [
                queue.w_data.eq(source.payload),
                queue.w_en.eq(source.valid),
                source.ready.eq(queue.w_rdy),
                sink.payload.eq(queue.r_data),
                sink.valid.eq(queue.r_rdy),
                queue.r_en.eq(sink.ready),
            ]
        job = sequencer.weights.payload
        m.d.comb += [
            weights.job.valid.eq(sequencer.weights.valid),
            sequencer.weights.ready.eq(weights.job.ready),
            weights.job.payload.address.eq(job.address),
            weights.job.payload.beats.eq(job.instruction.beats),
            weights.job.payload.eight_bit.eq(job.instruction.stationary == Stationary.WEIGHTS8),
            weights.job.payload.chunks.eq(job.instruction.chunks),
            weights.job.payload.columns.eq(job.instruction.columns),
            engine.queues.count_expert.eq(sequencer.count_expert),
            sequencer.count.eq(engine.queues.count),
            engine.queues.next_from.eq(sequencer.next_from),
            sequencer.next_found.eq(engine.queues.next_found),
            sequencer.next_expert.eq(engine.queues.next_expert),
            sequencer.completed.eq(engine.completed),
        ]

    def wire_dma(self, m: Module, dma, engine, writer) -> None:
        """LOAD, STORE and IMAGE run on the streamer's word, beside a memory port each way."""
        job = engine.dma_operation.job
        instruction = job.instruction
        connect(m, dma.write_request, writer.request)
        connect(m, dma.write_beats, writer.beats)
        m.d.sync += dma.write_done.eq(writer.done)  # a long way from there to the streamer: half of it a cycle later
        m.d.comb += [
            dma.start.eq(engine.dma_operation.start),
            dma.command.opcode.eq(instruction.opcode),
            dma.command.memory.eq(instruction.memory),
            dma.command.base.eq(instruction.destination_base),
            dma.command.stride.eq(instruction.destination_stride),
            dma.command.rows.eq(job.rows),
            dma.command.columns.eq(instruction.columns),
            dma.command.gather.eq(instruction.gather | instruction.scatter),
            dma.command.address.eq(job.address),
            dma.command.beats.eq(instruction.beats),
            dma.command.across.eq(instruction.across),
            dma.command.down.eq(instruction.down),
            dma.command.channels.eq(instruction.channels),
            dma.command.patch.eq(instruction.patch),
            engine.dma_operation.done.eq(dma.done),
            engine.dma.write_valid.eq(dma.write_valid),
            engine.dma.write_memory.eq(dma.write_memory),
            engine.dma.write_address.eq(dma.write_address),
            engine.dma.write_word.eq(dma.write_word),
            engine.dma.write_lanes.eq(dma.write_lanes),
            engine.dma.read_memory.eq(dma.read_memory),
            engine.dma.read_address.eq(dma.read_address),
            dma.read_data.eq(engine.dma.read_data),
            engine.dma.entry_index.eq(dma.entry_index),
            dma.entry_row.eq(engine.dma.entry_row),
        ]
