# SPDX-License-Identifier: Apache-2.0
"""The whole core: engine, sequencer, memory system and registers, created and connected."""

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import JOB
from edgemoe.hw.control.activity import Activity
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
    """The core: registers, sequencer, memory system and engine. Clock domain `sync`, synchronous reset.

    Ports:
        axil (in AxiLite): its registers.
        read (out AxiRead): memory, 1, 2 or 4 masters.
        write (out AxiWrite): the same, the other way.
        interrupt (out): level.
    Latency: varies: with the program.
    Interval: none (one program at a time).
    Format: that of Engine.
    Limits: those of the configuration; what does not fit is refused instruction by instruction.
    Twin: `sim.emulator.Emulator`.
    """

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "axil": In(AxiLite()),
                "read": Out(AxiRead(config.data_bits)).array(config.masters),
                "write": Out(AxiWrite(config.data_bits)).array(config.masters),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.registers = registers = RegisterFile(config)
        m.submodules.control = control = Control()
        m.submodules.activity = activity = Activity()
        m.submodules.fetch = fetch = Fetch(config)
        m.submodules.weights = weights = Weights(config)
        m.submodules.dma = dma = Dma(config)
        clients = {"fetch": fetch, "weights": weights, "dma": dma}
        m.submodules.reader = reader = Reader(config, {name: client.CAPACITY for name, client in clients.items()})
        m.submodules.writer = writer = Writer(config)
        # What an error or a soft reset empties. Bus engines are stopped instead: they finish what they have begun.
        sequencer, engine = Sequencer(config), Engine(config)
        queues = {name: SyncFIFOBuffered(width=JOB.size, depth=QUEUED_JOBS) for name in ("jobs", "loads")}
        m.submodules.sequencer = ResetInserter(control.reset)(sequencer)
        m.submodules.engine = ResetInserter(control.reset)(engine)
        for name, queue in queues.items():
            m.submodules[f"{name}_queue"] = ResetInserter(control.reset)(queue)
        m.d.comb += [unit.stop.eq(control.stop) for unit in (*clients.values(), reader, writer)]

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
        # DRAM.
        for name, client in clients.items():
            connect(m, client.read, getattr(reader, name))
        connect(m, dma.write, writer.client)
        # Instructions.
        connect(m, fetch.instruction, sequencer.instructions)
        m.d.comb += [
            fetch.jump.eq(sequencer.jump),
            fetch.pc.eq(sequencer.jump_address),
            sequencer.program.eq(registers.program),
        ]
        self.connect_run(m, registers, control, activity, sequencer, engine, fetch, reader, writer)
        # Issued instructions wait in small queues, so that loader and prefetch may run ahead of the streamer.
        for name, queue in queues.items():
            connect(m, getattr(sequencer, name), queue.w_stream)
            connect(m, queue.r_stream, getattr(engine, name))
        connect(m, sequencer.weights, weights.jobs)
        connect(m, weights.rows, engine.weights)
        connect(m, engine.dma_operation, dma.operation)
        connect(m, dma.memories, engine.dma)
        connect(m, sequencer.queues, engine.queues)
        m.d.comb += sequencer.completed.eq(engine.completed)
        return m

    def connect_run(self, m: Module, registers, control, activity, sequencer, engine, fetch, reader, writer) -> None:
        """Start, end, errors, what the counters count."""
        connect(m, registers.run, control.registers)
        connect(m, activity.counted, registers.counted)
        connect(m, engine.events, activity.events)
        connect(m, reader.failure, control.read)
        connect(m, fetch.failure, control.fetch)
        connect(m, writer.failure, control.write)
        m.d.comb += [
            control.reader_idle.eq(reader.idle),
            control.writer_idle.eq(writer.idle),
            control.progress.eq(activity.progress),
            sequencer.start.eq(control.run),
            control.finished.eq(sequencer.done),
            control.instruction.eq(sequencer.instruction_number),
            control.decode_error.eq(sequencer.error),
            control.decode_code.eq(sequencer.error_code),
            activity.instruction.eq(engine.instruction),
            activity.read_beat.eq(reader.moved),
            activity.write_beat.eq(writer.moved),
        ]
