# SPDX-License-Identifier: Apache-2.0
"""Control: a run from start to its end - by END, by an error or by a soft reset - that always leaves the core able to
start again.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.isa import ErrorCode


class Control(wiring.Component):
    """IDLE -> RUN -> (STOP ->) IDLE. An error or a soft reset resets the units (`reset`) and stops the bus engines
    (`stop`), which finish the bursts they have begun; the first error wins and is reported at once, with its
    instruction and address.

    The watchdog counts cycles in which neither an instruction retires nor a beat moves; at `watchdog` (0: off) it is an
    error.
    """

    def __init__(self):
        super().__init__(
            {
                "start": In(1),
                "soft_reset": In(1),
                "watchdog": In(32),
                "progress": In(1),  # an instruction retired or a beat moved
                "finished": In(1),  # END
                "instruction": In(32),  # number of the instruction at the sequencer
                "decode_error": In(1),
                "decode_code": In(ErrorCode),
                "read_error": In(1),
                "read_address": In(40),
                "write_error": In(1),
                "write_address": In(40),
                "bus_idle": In(1),
                "run": Out(1),  # pulse: start the sequencer
                "running": Out(1),
                "idle": Out(1),
                "reset": Out(1),  # of every unit but the bus engines
                "stop": Out(1),  # of the bus engines
                "done": Out(1),
                "error": Out(1),
                "error_code": Out(ErrorCode),
                "error_instruction": Out(32),
                "error_address": Out(40),
            }
        )

    def elaborate(self, platform):
        m = Module()
        waited = Signal(32)
        code, address = Signal(ErrorCode), Signal(40)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                m.d.sync += waited.eq(0)
                with m.If(self.start):
                    m.d.comb += self.run.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.running.eq(1)
                m.d.sync += waited.eq(waited + 1)
                with m.If(self.progress):
                    m.d.sync += waited.eq(0)
                with m.If(self.soft_reset):
                    m.next = "STOP"
                with m.Elif(self.finished):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(self.decode_error):
                    m.d.sync += [code.eq(self.decode_code), address.eq(0)]
                    m.next = "FAIL"
                with m.Elif(self.read_error):
                    m.d.sync += [code.eq(ErrorCode.READ_BUS), address.eq(self.read_address)]
                    m.next = "FAIL"
                with m.Elif(self.write_error):
                    m.d.sync += [code.eq(ErrorCode.WRITE_BUS), address.eq(self.write_address)]
                    m.next = "FAIL"
                with m.Elif((self.watchdog != 0) & (waited >= self.watchdog)):
                    m.d.sync += [code.eq(ErrorCode.WATCHDOG), address.eq(0)]
                    m.next = "FAIL"
            with m.State("FAIL"):
                m.d.comb += [self.error.eq(1), self.reset.eq(1), self.stop.eq(1)]
                m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += [self.reset.eq(1), self.stop.eq(1)]
                with m.If(self.bus_idle):
                    m.next = "IDLE"
        m.d.comb += [
            self.error_code.eq(code),
            self.error_instruction.eq(self.instruction),
            self.error_address.eq(address),
        ]
        return m
