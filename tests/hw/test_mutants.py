# SPDX-License-Identifier: Apache-2.0
"""The benches of units catch faults of these units: a bench that lets one live does not hold what it says.

Proofs have their mutants beside them (`tests/formal`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import test_accumulator
import test_activation
import test_array
import test_epilogue
import test_exponential
import test_gate
import test_layernorm
import test_link
import test_memory_system
import test_reader
import test_reciprocal
import test_register_file
import test_reweighting
import test_router
import test_rules
import test_running_sums
import test_score_functions
import test_softmax
import test_uart
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.compute.activation import ActivationFunction
from edgemoe.hw.compute.array import Array
from edgemoe.hw.compute.cosformer import CosFormer
from edgemoe.hw.compute.epilogue import Epilogue
from edgemoe.hw.compute.expert_queues import ExpertQueues
from edgemoe.hw.compute.exponential import Exponential
from edgemoe.hw.compute.gate import Gate
from edgemoe.hw.compute.layernorm import LayerNorm
from edgemoe.hw.compute.performer import Performer
from edgemoe.hw.compute.reciprocal import Reciprocal
from edgemoe.hw.compute.reweighting import Reweighting
from edgemoe.hw.compute.router import Router
from edgemoe.hw.compute.running_sums import RunningSums
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.compute.softmax import Softmax
from edgemoe.hw.control.fetch import Fetch
from edgemoe.hw.control.legality import Legality
from edgemoe.hw.control.register_file import RegisterFile
from edgemoe.hw.memory.arbiter import Arbiter
from edgemoe.hw.memory.dma import Dma
from edgemoe.hw.memory.reader import Reader
from edgemoe.hw.memory.writer import Writer
from edgemoe.hw.periphery.blocks import BlockReader, BlockWriter
from edgemoe.hw.periphery.frame_receiver import FrameReceiver
from edgemoe.hw.periphery.link import Link
from edgemoe.hw.periphery.uart import UartReceiver, UartTransmitter

from tests.mutants import Mutant, mutated, planted


@dataclass(frozen=True)
class Bench:
    """A unit, tests of its own that must hold without a fault (they stand beside it and run by themselves), and
    faults.
    """

    unit: Callable[..., Any]
    tests: tuple[Callable[[], None], ...]
    mutants: Mapping[str, Mutant]


BENCHES = [
    Bench(
        ActivationFunction,
        (partial(test_activation.test_every_input_on_the_grid, "tiny", ("silu", "relu")),),
        {
            "the correction is the word's before": Mutant("delay(m, correct, 3,", "delay(m, correct, 4,"),
            "no correction ends": Mutant("corrected & ~place[_LIMIT_BITS:].any()", "corrected"),
            "SiLU ends with the others": Mutant("Mux(halved, magnitude[1:], magnitude)", "magnitude"),
            "ReLU is corrected": Mutant("m.d.sync += [corrected.eq(0), halved.eq(0)]", "m.d.sync += halved.eq(0)"),
        },
    ),
    Bench(
        Exponential,
        (partial(test_exponential.test_random_words, 4, "gaps"),),
        {
            "lanes that do not count do": Mutant(" | ~self.mask[lane]", ""),
            "a result is told early": Mutant("self.out_valid.eq(valids[-1])", "self.out_valid.eq(valids[-2])"),
        },
    ),
    Bench(
        Sigmoid,
        (partial(test_score_functions.test_kinds, test_score_functions.FAMILY, "gaps"),),
        {
            "lanes that do not count do": Mutant("Mux(mask[4], ", "Mux(mask[4] | 1, "),
            "the bias is left out above": Mutant("plus, minus = score + self.bias", "plus, minus = score"),
            "the sign is of another word": Mutant("Mux(above[4], ", "Mux(above[5], "),
        },
    ),
    Bench(
        Gate,
        (partial(test_gate.test_words, "gaps"),),
        {
            "a value beyond is cut": Mutant("saturate(self.value[lane], WORD_BITS)", "self.value[lane]"),
            "the number is of the word before": Mutant(
                'self.STAGES.after("product") - 1', 'self.STAGES.after("product")'
            ),
            "what is multiplied is cut": Mutant("round_shift(product, FINE_PROBABILITY_BITS)", "product >> 18"),
        },
    ),
    Bench(
        RunningSums,
        (partial(test_running_sums.test_words, "back to back"),),
        {
            "a sum never starts afresh": Mutant(
                'Mux(delay(m, self.first, self.LATENCY, name="first"), 0, kept)', "kept"
            ),
            "a sum stays when its exponent grows": Mutant("kept = round_shift(read.data, late)", "kept = read.data"),
            "many octaves are few": Mutant(
                "Mux(octaves[OCTAVE_BITS:].any(), (1 << OCTAVE_BITS) - 1, octaves", "(octaves"
            ),
            "sums are cut": Mutant("round_shift(read.data, late)", "read.data >> late"),
            "a sum just written is not seen": Mutant("sums.read_port(transparent_for=[write])", "sums.read_port()"),
        },
    ),
    Bench(
        CosFormer,
        (partial(test_score_functions.test_kinds, test_score_functions.ONE_MORE["cosformer"], "gaps"),),
        {
            "lanes that do not count do": Mutant("self.mask[lane] & (score >= 0)", "score >= 0"),
            "all lanes are of one token": Mutant("Mux(self.angle.spread, self.step * lane, 0)", "0"),
            "a cosine is a sine": Mutant("Mux(angles[1].cosine, one - phase, phase)", "phase"),
            "the end of the turn is its begin": Mutant("Mux(end_3, one, ", "Mux(0, one, "),
        },
    ),
    Bench(
        Performer,
        (partial(test_score_functions.test_kinds, test_score_functions.ONE_MORE["performer"], "gaps"),),
        {
            "lanes that do not count do": Mutant("mask[lane] & (total >= 0)", "total >= 0"),
            "the bias is of the next word": Mutant("saturate(above + bias,", "saturate(above + self.bias,"),
        },
    ),
    Bench(
        Reweighting,
        (partial(test_reweighting.test_words, "back to back"),),
        {
            "a sum never starts afresh": Mutant("Mux(first, 0, read.data)", "read.data"),
            "scores that do not count do": Mutant(
                "Mux(self.score_mask[lane], self.score_word[lane], 0)", "self.score_word[lane]"
            ),
            "what is at the mean counts": Mutant("(excess > 0)", "(excess >= 0)"),
            "distances are cut": Mutant("Mux(power[DISTANCE_BITS:].any(), (1 << DISTANCE_BITS) - 1, power)", "power"),
            "a sum just written is not seen": Mutant("sums.read_port(transparent_for=[write])", "sums.read_port()"),
        },
    ),
    Bench(
        Reciprocal,
        (partial(test_reciprocal.test_values, "wide values", "gaps"),),
        {"a result does not stay": Mutant("valids[2:]", "[*valids[2:4], ~valids[1]]")},
    ),
    Bench(
        Accumulator,
        (partial(test_accumulator.test_blocks, "tiny", 5, 7, 0.3),),
        {"a sum never starts afresh": Mutant("Mux(first, bias.as_value(), memory.read_data)", "memory.read_data")},
    ),
    Bench(
        Array,
        (partial(test_array.test_schedules, "tiny", "rows, no bubble"),),
        {
            "all rows swap at once": Mutant(
                "swap.eq(Cat(self.stream.valid & self.stream.swap, swap[:-1]))",
                "swap.eq((self.stream.valid & self.stream.swap).replicate(n))",
            )
        },
    ),
    Bench(
        Epilogue,
        (partial(test_epilogue.test_rows, "tiny", 1, 0.3), partial(test_epilogue.test_rows, "rela", 5, 0.3)),
        {
            "what is gated is the residual's": Mutant(
                "Mux(gated, streamed, self.old.as_value())", "self.old.as_value()"
            ),
            "every row is gated": Mutant("Mux(gated, gate.word[lane], word)", "gate.word[lane]"),
            "sums always start from a bias": Mutant(
                "Mux(self.first.enable, self.of_bank(self.first.bank, biases), 0)", "Mux(self.first.bank, *biases)"
            ),
        },
    ),
    Bench(
        Softmax,
        (partial(test_softmax.test_rows, 4, "gaps"), partial(test_softmax.test_rows, 4, "back to back")),
        {
            "accumulate is ignored": Mutant("self.late.valid & self.late.accumulate", "self.late.valid"),
            "a row's maximum never starts afresh": Mutant("Mux(first | (best > kept), best,", "Mux(best > kept, best,"),
            "scores that do not count do": Mutant(
                "Mux(self.score.mask[lane], self.score.word[lane], LOWEST_SCORE)", "self.score.word[lane]"
            ),
            "a sum never starts afresh": Mutant("Mux(arriving.first, 0, read.data)", "read.data"),
            "lanes that do not count do": Mutant("return ((1 << lanes) - 1) >>", "return ((2 << lanes) - 1) >>"),
            "a maximum is written late": Mutant("write.data.eq(newest)", "write.data.eq(delay(m, newest, 1))"),
            "a sum is written late": Mutant("write.data.eq(total)", "write.data.eq(delay(m, total, 1))"),
            "a scale just written is not seen": Mutant(
                "scales.read_port(transparent_for=[store])", "scales.read_port()"
            ),
            "last counts without accumulate": Mutant("added.counts & added.last", "added.last"),
            "the shift comes early": Mutant("delay(m, self.late.shift, 3,", "delay(m, self.late.shift, 2,"),
        },
    ),
    Bench(
        ExpertQueues,
        (partial(test_router.test_queues, "gaps"), partial(test_router.test_queues, "back to back")),
        {
            "there is room for half of the entries": Mutant(
                "config.experts * config.rows)", "config.experts * config.rows // 2)"
            ),
            "every queue is an entry short": Mutant(
                "write_address.eq(pushed + position)",
                "write_address.eq(pushed + Mux(position == config.rows - 1, config.rows - 2, position))",
            ),
            "a push wins over a reset": Mutant("self.push & ~self.reset", "self.push"),
            "a push takes the place of the one before": Mutant("Mux(again, newest, before)", "before"),
            "an emptied queue keeps its count": Mutant(
                "Mux(self._of(filled, self.count_expert), shown.data, 0)", "shown.data"
            ),
            "an emptied queue goes on where it was": Mutant(
                "Mux(self._of(filled, self.push_expert), current.data, 0)", "current.data"
            ),
        },
    ),
    Bench(
        Router,
        (partial(test_router.test_routes, 4),),
        {
            "queues are always emptied": Mutant(
                "queues.reset.eq(command.start & command.reset_queues)", "queues.reset.eq(command.start)"
            ),
            "all experts are added up": Mutant(
                "scores.among_chosen.eq(command.among_chosen)", "scores.shift.eq(command.shift)"
            ),
            "choices are made once": Mutant(
                "scan.among_chosen.eq(command.among_chosen)", "scan.top_k.eq(command.top_k)"
            ),
        },
    ),
    Bench(
        LayerNorm,
        (partial(test_layernorm.test_rows, 4, "gaps"),),
        {"epsilon is cut short": Mutant("scaled_high + epsilon[SPLIT:]", "scaled_high + epsilon[SPLIT:40]")},
    ),
    Bench(
        Dma,
        (partial(test_memory_system.run, "tiny", testcase=["images_become_patches"]),),
        {
            "an image is scattered by the queue": Mutant("queued & ~self.image", "queued"),
            "an image goes where LOAD would": Mutant(
                "Mux(self.image, Memory.ACTIVATION, instruction.memory)", "instruction.memory"
            ),
        },
    ),
    Bench(
        Fetch,
        (partial(test_memory_system.run, "tiny", testcase=["everything_stops_and_starts_again"]),),
        {
            "instructions survive a stop": Mutant(
                "return ResetInserter(self.stop)(m)", "return ResetInserter(Signal())(m)"
            )
        },
    ),
    Bench(
        Writer,
        (partial(test_memory_system.run, "striped", testcase=["everything_stops_and_starts_again"]),),
        {
            "every error is the first burst's": Mutant("with m.Elif(axi.bvalid):", "with m.Elif(0):"),
            "the second master never fails": Mutant(
                "valid.eq(Cat(bad for bad, _ in failed).any()", "valid.eq(failed[0][0]"
            ),
        },
    ),
    Bench(
        Reader,
        (
            partial(test_reader.test_data_under_stalls, "striped", "no stall"),
            partial(test_reader.test_rate_and_fairness, "striped"),
        ),
        {
            "a failed beat has its burst's address": Mutant(
                "current.address[:inside] + position * config.bus_bytes", "current.address[:inside]"
            ),
            "the second master never fails": Mutant("Cat(one.fault for one in shown).any()", "shown[0].fault"),
            "the last but one always goes first": Mutant("turns=2", "turns=0"),
            "the last always goes first": Mutant("least, self.chosen + 1)", "least + 1, least + 1)", Arbiter),
        },
    ),
    Bench(
        RegisterFile,
        (
            test_register_file.test_write_channels,
            partial(test_register_file.test_registers, "tiny", "no stall"),
        ),
        {
            "clearing wins over an event": Mutant(
                'status & ~Mux(written("ISR"), value[:2], 0) | Cat(over, self.run.error)',
                '(status | Cat(over, self.run.error)) & ~Mux(written("ISR"), value[:2], 0)',
            ),
            "errors of a reset are kept": Mutant("self.run.error & ~failed & ~resetting", "self.run.error & ~failed"),
            "a reset keeps DONE": Mutant(
                "[started.eq(0), resetting.eq(1), done.eq(0), ready.eq(0)]", "[started.eq(0), resetting.eq(1)]"
            ),
            "the high word runs on": Mutant('words[f"{name}_HI"].eq(kept)', 'words[f"{name}_HI"].eq(high)'),
            "counters have 32 bits": Mutant("high.eq(Mux(self.run.start, 0, high + carry))", "high.eq(0)"),
        },
    ),
    Bench(
        Link,
        (
            test_link.test_a_repeated_register_access_happens_once,
            test_link.test_what_is_refused,
            test_link.test_errors_of_the_bus_are_told,
        ),
        {
            "a repeated error is fine": Mutant(
                "kept_status.eq(Mux(response[1], Status.BUS_ERROR, Status.OK))", "kept_status.eq(Status.OK)"
            ),
            "an access is never forgotten": Mutant("                    m.d.sync += kept_valid.eq(0)\n", ""),
            "payloads have no limit": Mutant("(value != 0) & (value <= LONGEST)", "(value != 0)", FrameReceiver),
            "the longest payload is refused": Mutant("(value <= LONGEST)", "(value < LONGEST)", FrameReceiver),
            "the block behind the memory is read": Mutant(
                "<= self.memory_bytes // BLOCK\n", "<= self.memory_bytes // BLOCK + 1\n", FrameReceiver
            ),
            "an odd register is read": Mutant("& (address[:2] == 0)", "", FrameReceiver),
            "a read's error stays": Mutant(
                "left.eq(self.length // self.block), self.error.eq(0)",
                "left.eq(self.length // self.block)",
                BlockReader,
            ),
            "a write's error stays": Mutant(
                "address.eq(self.address), self.error.eq(0),", "address.eq(self.address),", BlockWriter
            ),
        },
    ),
    Bench(
        UartReceiver,
        (test_uart.test_a_byte_without_stop_bit_is_dropped, test_uart.test_a_byte_that_nobody_takes_stays),
        {
            "a break is many bytes": Mutant('m.next = "BROKEN"', 'm.next = "IDLE"'),
            "an untaken byte is overwritten": Mutant(
                "with m.If(~self.bytes.valid | self.bytes.ready):", "with m.If(1):"
            ),
        },
    ),
    Bench(
        UartTransmitter,
        (partial(test_uart.test_transmitter_to_receiver, 4, 0.0),),
        {"a gap between bytes": Mutant("(bits == 0) | (bits == 1) & over", "(bits == 0)")},
    ),
    Bench(
        Legality,
        (test_rules.test_the_sequencer_refuses, test_rules.test_what_an_instruction_does_not_have_is_not_judged),
        {
            "a span has a row more": Mutant("span.rows.eq(chosen.rows - 1)", "span.rows.eq(chosen.rows)"),
            "a span ends a word early": Mutant("chosen.words.eq(words)", "chosen.words.eq(words - 1)"),
            "the limit is outside": Mutant("(end > of_end.words)", "(end >= of_end.words)"),
            "spans that do not apply count": Mutant("chosen.limit.used.eq(used)", "chosen.limit.used.eq(1)"),
            "the last span is not awaited": Mutant("TURNS + STAGES + 1", "TURNS + STAGES"),
            "bounds of a turn change places": Mutant("Mux(mine, a, b)", "Mux(mine, b, a)"),
            "every error is one of capacity": Mutant("Mux(illegal.any(), ErrorCode.ILLEGAL_INSTRUCTION,", "Mux(0, 0,"),
        },
    ),
]
CASES = [pytest.param(bench, name, id=f"{bench.unit.__name__}-{name}") for bench in BENCHES for name in bench.mutants]


@pytest.mark.parametrize("bench, name", CASES)
def test_a_mutant_applies(bench: Bench, name: str) -> None:
    """Its text still stands in the source, once."""
    mutant = bench.mutants[name]
    assert mutant.old != mutant.new and mutated(mutant.of or bench.unit, mutant)


@pytest.mark.full
@pytest.mark.parametrize("bench, name", CASES)
def test_a_mutant_is_caught(bench: Bench, name: str) -> None:
    with planted(bench.unit, bench.mutants[name]):
        for test in bench.tests:
            try:
                test()
            except AssertionError:
                return
    pytest.fail(f"{bench.unit.__name__}: nothing fails when {name}")
