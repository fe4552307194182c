# SPDX-License-Identifier: Apache-2.0
"""Control: a run from start to its end - by END, by an error or by a soft reset - that always leaves the core able to
start again.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.isa import ErrorCode
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS
from edgemoe.hw.contract.registers import REGISTER_BITS
from edgemoe.hw.memory.axi import Failure


class RunPort(wiring.Signature):
    """A run, as the register file sees it: what software asks for, how it goes, how it ended.

    start, soft_reset   pulses: run from `program`; abandon the run and drain
    idle, running       nothing runs and no transfer is outstanding; a run lasts
    done                pulse: the run is over by END
    error               pulse, with its code, instruction and address; the run is over when `idle` returns
    instruction         number of the instruction at the sequencer
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": Out(1),
                "soft_reset": Out(1),
                "watchdog": Out(REGISTER_BITS),
                "idle": In(1),
                "running": In(1),
                "done": In(1),
                "error": In(1),
                "error_code": In(ErrorCode),
                "error_instruction": In(REGISTER_BITS),
                "error_address": In(DRAM_OFFSET_BITS),
                "instruction": In(REGISTER_BITS),
            }
        )


class Control(wiring.Component):
    """IDLE -> RUN -> (STOP ->) IDLE. An error or a soft reset resets the units and stops the bus engines, which finish
    the bursts they have begun; the first error wins and is reported at once, with its instruction and address.

    The watchdog counts cycles in which neither an instruction retires nor a beat moves; at `watchdog` (0: off) it is an
    error.

    Ports:
        registers (in RunPort): what software asks for, and what it is told.
        progress (in): an instruction retired or a beat moved.
        run (out): pulse: start the sequencer.
        finished (in): pulse: END.
        instruction (in): number of the instruction at the sequencer.
        decode_error, decode_code (in): pulse: an instruction may not be issued, and why.
        read (in Failure): of the Reader.
        fetch (in Failure): of an instruction; a failed read that comes with it wins.
        write (in Failure): of the Writer.
        reader_idle, writer_idle (in): nothing of theirs is under way.
        reset (out): of every unit but the bus engines.
        stop (out): of the bus engines.
    Latency: varies: `run` and `done` come with their cause, an error is told one cycle later; a stop takes as long as
        the bus.
    Interval: none (one run at a time).
    Twin: none (no arithmetic).
    """

    def __init__(self):
        super().__init__(
            {
                "registers": In(RunPort()),
                "progress": In(1),  # an instruction retired or a beat moved
                "run": Out(1),  # pulse: start the sequencer
                "finished": In(1),  # END
                "instruction": In(REGISTER_BITS),  # number of the instruction at the sequencer
                "decode_error": In(1),
                "decode_code": In(ErrorCode),
                "read": In(Failure()),
                "fetch": In(Failure()),  # of an instruction; a failed read that comes with it wins
                "write": In(Failure()),
                "reader_idle": In(1),
                "writer_idle": In(1),
                "reset": Out(1),  # of every unit but the bus engines
                "stop": Out(1),  # of the bus engines
            }
        )

    def elaborate(self, platform):
        m = Module()
        registers = self.registers
        waited = Signal(REGISTER_BITS)
        code, address = Signal(ErrorCode), Signal(DRAM_OFFSET_BITS)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += registers.idle.eq(1)
                m.d.sync += waited.eq(0)
                with m.If(registers.start):
                    m.d.comb += self.run.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += registers.running.eq(1)
                m.d.sync += waited.eq(waited + 1)
                with m.If(self.progress):
                    m.d.sync += waited.eq(0)
                with m.If(registers.soft_reset):
                    m.next = "STOP"
                with m.Elif(self.finished):
                    m.d.comb += registers.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(self.decode_error):
                    m.d.sync += [code.eq(self.decode_code), address.eq(0)]
                    m.next = "FAIL"
                with m.Elif(self.read.valid | self.fetch.valid):
                    place = Mux(self.read.valid, self.read.address, self.fetch.address)
                    m.d.sync += [code.eq(ErrorCode.READ_BUS), address.eq(place)]
                    m.next = "FAIL"
                with m.Elif(self.write.valid):
                    m.d.sync += [code.eq(ErrorCode.WRITE_BUS), address.eq(self.write.address)]
                    m.next = "FAIL"
                with m.Elif((registers.watchdog != 0) & (waited >= registers.watchdog)):
                    m.d.sync += [code.eq(ErrorCode.WATCHDOG), address.eq(0)]
                    m.next = "FAIL"
            with m.State("FAIL"):
                m.d.comb += [registers.error.eq(1), self.reset.eq(1), self.stop.eq(1)]
                m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += [self.reset.eq(1), self.stop.eq(1)]
                with m.If(self.reader_idle & self.writer_idle):
                    m.next = "IDLE"
        m.d.comb += [
            registers.error_code.eq(code),
            registers.error_instruction.eq(self.instruction),
            registers.error_address.eq(address),
            registers.instruction.eq(self.instruction),
        ]
        return m
