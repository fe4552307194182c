# SPDX-License-Identifier: Apache-2.0
"""What the present cycle is spent on, for the performance counters and the watchdog."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.hw.contract.layouts import INSTRUCTION
from edgemoe.hw.contract.ports import Events
from edgemoe.hw.contract.registers import MATMUL_KINDS, OPERATIONS, STATE_COUNTERS

KINDS = (*MATMUL_KINDS, *OPERATIONS)


class Counted(wiring.Signature):
    """What a cycle is counted as.

    state                  the lowest set bit, in the order of registers.STATE_COUNTERS without OTHER; none set: OTHER
    kind                   one bit for each of KINDS, of the instruction that the state belongs to (none in OTHER)
    read_beat, write_beat, retired   pulses for the last three counters
    """

    def __init__(self) -> None:
        pulses = {"read_beat": Out(1), "write_beat": Out(1), "retired": Out(1)}
        super().__init__({"state": Out(len(STATE_COUNTERS) - 1), "kind": Out(len(KINDS)), **pulses})


class Activity(wiring.Component):
    """Events of the units -> what the counters count.

    Ports:
        events (in Events): of the engine.
        instruction (in): the one at the streamer, whatever its opcode.
        read_beat, write_beat (in): pulses of Reader and Writer.
        counted (out Counted): to the register file.
        progress (out): an instruction retired or a beat moved: the watchdog is fed.
    Latency: LATENCY = 1 cycle from a pulse to `counted` and `progress`: they come from far away, and nobody is in a
        hurry. `state` and `kind` are combinational.
    Interval: INTERVAL = 1 cycle between pulses.
    Twin: none (no arithmetic).
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self) -> None:
        super().__init__(
            {
                "events": In(Events()),
                "instruction": In(INSTRUCTION),
                "read_beat": In(1),
                "write_beat": In(1),
                "counted": Out(Counted()),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        events, instruction, counted = self.events, self.instruction, self.counted
        matmul, norm, route = (instruction.opcode == o for o in (Opcode.MATMUL, Opcode.LAYERNORM, Opcode.ROUTE))
        keys, values = (instruction.stationary == s for s in (Stationary.KEYS, Stationary.VALUES))
        weights, queued = ~(keys | values), instruction.gather | instruction.scatter | instruction.queued
        kinds = {
            "WEIGHTS": matmul & weights & ~queued,
            "EXPERT": matmul & weights & queued,
            "KEYS": matmul & keys,
            "VALUES": matmul & values,
            "DMA": ~(matmul | norm | route),
            "LAYERNORM": norm,
            "ROUTE": route,
        }
        states = {
            "ARRAY_ACTIVE": events.array_active,
            "WAIT_WEIGHTS": events.waits_for_weights,
            "WAIT_OPERAND": events.waits_for_operands,
            "WAIT_DRAIN": events.waits_for_results,
            "DMA": events.moving,
            "LAYERNORM": events.normalising,
            "ROUTE": events.routing,
        }
        pulses = Signal(3)
        m.d.sync += pulses.eq(Cat(self.read_beat, self.write_beat, events.retired))
        m.d.comb += [
            counted.state.eq(Cat(states[name] for name in STATE_COUNTERS if name != "OTHER")),
            counted.kind.eq(Cat(kinds[name] for name in KINDS)),
            Cat(counted.read_beat, counted.write_beat, counted.retired).eq(pulses),
            self.progress.eq(pulses.any()),
        ]
        return m
