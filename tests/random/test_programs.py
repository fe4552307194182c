# SPDX-License-Identifier: Apache-2.0
"""Random legal programs: after each, the whole memory of the RTL is the emulator's, over memories that stall at
random.
"""

import dataclasses

import numpy as np
import pytest
from edgemoe.hw.compute.layernorm import LayerNorm
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.hw.contract.isa import Activation, Attention, ErrorCode, Memory, Opcode, Scale, Stationary
from edgemoe.sim import simulator
from edgemoe.sim.device import Dram
from edgemoe.sim.emulator import Emulator

from .programs import Generator, Program, random_program
from .support import dram_of, emulate, simulate
from .test_models import WIDER

TINY = preset("tiny")
PACKED = dataclasses.replace(TINY, packed=1)
FAMILY = dataclasses.replace(TINY, attention=preset("family").attention)
DEEP = dataclasses.replace(TINY, array_rows=2 * TINY.lanes)
PACKED_DEEP = dataclasses.replace(DEEP, packed=1)
NORMED = dataclasses.replace(TINY, head_norms=1)


def check(program: Program, seed: int) -> Emulator:
    memory = program.link()
    expected, emulator = emulate(program.hardware, memory)
    outcome = simulate(program.hardware, memory, dram_of(seed))
    assert outcome.code == ErrorCode.NONE, f"seed {seed}: {outcome.code.name} at instruction {outcome.instruction}"
    different = np.flatnonzero(expected != outcome.memory)
    outside = [int(a) for a in different if not any(o <= a < o + size for o, size in program.outputs)]
    assert not outside, f"seed {seed}: bytes outside every buffer have changed, from {outside[0]:#x} on"
    assert not different.size, f"seed {seed}: {different.size} bytes differ, from {different[0]:#x} on"
    return emulator


def run(hardware: HardwareConfig, seeds: range, length: int = 30) -> None:
    for seed in seeds:
        check(random_program(hardware, seed, length), seed)


@pytest.mark.parametrize("first", [0, 40, 80])
def test_random_programs(first):
    run(TINY, range(first, first + 40))


def test_random_programs_with_every_kind_of_attention():
    run(FAMILY, range(200, 230))


def test_random_programs_with_norms_of_heads():
    """Sums of rows of any memory, and scales in a table of their own."""
    programs = [random_program(NORMED, seed) for seed in range(400, 420)]
    for seed, program in enumerate(programs, 400):
        check(program, seed)
    instructions = [i for program in programs for i in program.instructions]
    assert {i.memory for i in instructions if i.row_sums} == {Memory.ACTIVATION, Memory.KEY_VALUE, Memory.SCORE}
    assert any(i.row_sums and i.append for i in instructions)
    assert any(i.of_heads and i.scale == Scale.NORM for i in instructions)


def test_random_programs_with_packed_products():
    """Weights of any size, so that sums of products run over into those beside them."""
    programs = [random_program(PACKED, seed) for seed in range(300, 340)]
    for seed, program in enumerate(programs, 300):
        check(program, seed)
    packed = [i for program in programs for i in program.instructions if PACKED.packs(i)]
    assert len(packed) > 40 and any(i.chunks == 1 for i in packed) and any(i.columns % 2 for i in packed)
    assert any(i.steps and i.gather for i in packed) and any(i.steps and not i.gather for i in packed)
    assert {i.unsigned for i in packed} == {i.raised for i in packed if i.activation} == {0, 1}
    following = [i for program in programs for i in program.instructions if i.follow]
    assert len(following) > 40 and {i.probabilities for i in following} == {0, 1} and any(i.packed for i in following)
    pairs = [pair for program in programs for pair in zip(program.instructions, program.instructions[1:], strict=False)]
    beside = [(a.follow, b.scale) for a, b in pairs if a.opcode == Opcode.LAYERNORM and b.follow]
    assert beside.count((1, Scale.NORM)) > 20 and (0, Scale.NORM) in beside
    assert sum(i.opcode == Opcode.ROUTE for i in following) > 20


def test_norms_and_routes_cost_no_more_than_they_must():
    """Without `follow` the same takes longer, by the sweeps beside which MATMULs begin, and more."""
    generator = Generator(PACKED, 7, 1)
    generator.prologue()
    while sum(i.opcode == Opcode.LAYERNORM and i.follow for i in generator.instructions) < 8:
        generator.scaled_beside()
    while sum(i.opcode == Opcode.ROUTE and i.follow for i in generator.instructions) < 8:
        generator.route()
    program, cycles = generator.finish(), []
    pairs = zip(program.instructions, program.instructions[1:], strict=False)
    beside = sum(a.rows + LayerNorm.SWEEP_DELAY for a, b in pairs if a.opcode == Opcode.LAYERNORM and b.follow)
    for follow in (1, 0):
        for i in program.instructions if not follow else ():
            i.values["follow"] = 0
        memory = program.link()
        outcome = simulate(PACKED, memory, Dram())
        assert outcome.code == ErrorCode.NONE and (outcome.memory == emulate(PACKED, memory)[0]).all()
        cycles.append(outcome.cycles)
    assert cycles[1] - cycles[0] > beside


@pytest.mark.full
def test_random_programs_in_slices(monkeypatch):
    """The whole core as a board gets it, its array in a model of the device's slices."""
    plain = simulator.verilog

    def verilog(hardware):
        text = plain(hardware, DspSlice.DSP48E2)
        assert " DSP48E2 #(" in text
        return simulator.with_slice_models(text)

    monkeypatch.setattr(simulator, "verilog", verilog)
    for seed in range(600, 620):
        check(random_program(PACKED_DEEP, seed), seed)


@pytest.mark.parametrize("hardware", [PACKED_DEEP, pytest.param(DEEP, marks=pytest.mark.full)], ids=["packed", "plain"])
def test_random_programs_with_more_rows_than_columns(hardware):
    """Rows of odd and even numbers of words, which enter the array two at a time."""
    programs = [random_program(hardware, seed) for seed in range(400, 425)]
    for seed, program in enumerate(programs, 400):
        check(program, seed)
    given = [i for program in programs for i in program.instructions if i.opcode == Opcode.MATMUL]
    for kind in Stationary:
        assert {i.chunks % 2 for i in given if i.stationary == kind} == {0, 1}, kind.name
    assert {i.chunks % 2 for i in given if i.probabilities} == {0, 1}


@pytest.mark.full
@pytest.mark.parametrize("hardware", [DEEP, PACKED_DEEP], ids=["plain", "packed"])
@pytest.mark.parametrize("first", range(0, 1000, 500))
def test_many_random_programs_with_more_rows_than_columns(hardware, first):
    run(hardware, range(first, first + 500), 45)


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 1000, 500))
def test_many_random_programs_with_packed_products(first):
    run(PACKED, range(first, first + 500), 45)


@pytest.mark.full
@pytest.mark.parametrize("first", range(1000, 5000, 500))
def test_many_random_programs(first):
    run(TINY, range(first, first + 500), 45)


@pytest.mark.full
@pytest.mark.parametrize("first", [0, 150])
def test_random_programs_on_two_masters(first):
    run(WIDER, range(first, first + 150), 45)


def test_programs_use_the_whole_instruction_set():
    """What the programs of the default tier are made of: no kind of instruction, operand or flag is missing."""
    seen: dict[str, set[int]] = {}
    queues: set[int] = set()
    rows: set[int] = set()
    for seed in range(120):
        program = random_program(TINY, seed)
        for instruction in program.instructions:
            for name, value in {"opcode": int(instruction.opcode), **instruction.values}.items():
                seen.setdefault(name, set()).add(value)
            if instruction.opcode == Opcode.MATMUL:
                rows.add(instruction.rows)
        _, emulator = emulate(TINY, program.link())
        for lengths in emulator.result.queue_lengths:
            queues.update(int(n) for n in lengths)
    for seed in range(200, 230):  # what only builds with every kind of attention have
        for instruction in random_program(FAMILY, seed).instructions:
            for name in ("activation", "attention"):
                seen.setdefault(name, set()).add(instruction.values.get(name, 0))
    assert seen["opcode"] == {int(o) for o in Opcode}
    kinds = {
        "memory": Memory,
        "stationary": Stationary,
        "scale": Scale,
        "activation": Activation,
        "attention": Attention,
    }
    for name, kind in kinds.items():
        assert seen[name] >= {int(v) for v in kind}, name
    flags = (
        "wait_stream",
        "wait_load",
        "probabilities",
        "gather",
        "scatter",
        "queued",
        "residual",
        "copy",
        "bias_first",
        "append",
    )
    for name in (*flags, "reset_queues", "among_chosen"):
        assert 1 in seen[name], name
    assert {1, TINY.tokens, TINY.rows} <= rows
    assert {0, 1, 2} <= queues and max(queues) >= TINY.tokens


@pytest.mark.parametrize("rows", [1, 2, 3, TINY.rows])
def test_short_and_full_streams_back_to_back(rows):
    """Streams shorter than every pipeline, one after another without a wait:
    accumulators and tables are never visited too early.
    """
    generator = Generator(TINY, 7000 + rows, 1)

    def short_ones() -> None:
        for _ in range(40):
            generator.matmul(rows=rows)

    generator.store = short_ones  # type: ignore[method-assign]
    generator.length = 60
    check(generator.generate(), rows)


@pytest.mark.parametrize("kind", ["all in one", "one each", "two", "none but the last"])
def test_queues(kind):
    """Expert queues of length 0, 1, 2 and of all rows, gathered, scattered and dense."""
    for seed in range(8000, 8012):
        generator = Generator(TINY, seed, 12)
        generator.rows = TINY.rows
        generator.prologue()
        rows, experts = {
            "all in one": (TINY.tokens, 1),
            "one each": (1, 4),
            "two": (2, 8),
            "none but the last": (3, 8),
        }[kind]
        generator.prologue = lambda: None  # type: ignore[method-assign]
        top_k = {"all in one": 1, "one each": 4, "two": 4, "none but the last": 1}[kind]
        generator.blocking(
            Opcode.ROUTE,
            rows=rows,
            row_base=5,
            columns=2,
            experts=experts,
            top_k=top_k,
            stream_stride=0,
            exponent_shift=9,
            reset_queues=1,
        )
        generator.routed[5 : 5 + rows] = True
        generator.route = lambda: None  # type: ignore[method-assign]
        for _ in range(3):
            generator.experts()
        emulator = check(generator.generate(), seed)
        lengths = sorted(emulator.queues.lengths)
        # Rows alike choose alike.
        assert lengths == [0] * (TINY.experts - top_k) + [rows] * top_k


def test_a_difference_is_found():
    """The comparison sees a single wrong bit of a single weight."""
    program = random_program(TINY, 5)
    memory = program.link()
    expected, _ = emulate(TINY, memory)
    weights = next(
        i for i in program.instructions if i.opcode == Opcode.MATMUL and i.stationary == Stationary.WEIGHTS16
    )
    memory[weights.address + TINY.parameter_words * TINY.word_bytes + 1] ^= 0x40
    outcome = simulate(TINY, memory)
    changed = np.flatnonzero(expected != outcome.memory)
    assert any(o <= a < o + size for a in changed for o, size in program.outputs)


def test_without_a_needed_wait_the_rtl_differs():
    """The dependency rule is needed: some program without its wait flags gives other results (so the others prove that
    it suffices).
    """
    for seed in range(20):
        program = random_program(TINY, seed)
        expected, _ = emulate(TINY, program.link())
        bare = [
            dataclasses.replace(i, values={k: v for k, v in i.values.items() if not k.startswith("wait")})
            for i in program.instructions
        ]
        bare_program = Program(TINY, bare, program.memory, program.outputs)
        memory = bare_program.link()
        outcome = simulate(TINY, memory)
        if any(not np.array_equal(expected[o : o + size], outcome.memory[o : o + size]) for o, size in program.outputs):
            return
    raise AssertionError("no program of twenty needed its wait flags")
