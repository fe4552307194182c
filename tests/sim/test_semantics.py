# SPDX-License-Identifier: Apache-2.0
"""The manual's reference machine and the emulator leave the same memory and the same tables behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import Activation, ErrorCode, Instruction, Memory, Opcode, Stationary
from edgemoe.hw.contract.machine import Machine, Refused
from edgemoe.hw.contract.semantics import OPERATIONS, epilogue, run
from edgemoe.hw.contract.weight_stream import WeightStream
from edgemoe.models.numbers import twins
from edgemoe.sim.emulator import Emulator
from numpy.typing import NDArray

from ..random.programs import Program, random_program
from ..random.test_corrupted import small_program

TINY = preset("tiny")
PACKED = replace(TINY, packed=1)
FAMILY = replace(TINY, attention=preset("family").attention, head_norms=1)
SEEDS = range(24)


def program_of(seed: int) -> Program:
    return random_program(TINY, seed, length=20)


def same(memory: NDArray[np.uint8], config: HardwareConfig = TINY) -> Machine:
    """Both run the program at the memory's beginning; everything that a program can change is compared."""
    machine, emulator, after = Machine(config, bytearray(memory.tobytes())), Emulator(config), memory.copy()
    run(machine)
    assert emulator.run(after).error_code == ErrorCode.NONE
    different = np.flatnonzero(after != np.frombuffer(machine.dram, np.uint8))
    assert not different.size, f"{different.size} bytes differ, from {different[0]:#x} on"
    for memory_ in Memory:
        assert np.array_equal(machine.memory[memory_], emulator.memories[memory_]), memory_.name
    assert machine.sums == emulator.total.tolist() and machine.squares == emulator.squares.tolist()
    assert machine.maximum == emulator.maximum.tolist() and machine.codes == emulator.codes.tolist()
    for scales, (mantissa, exponent) in (
        (machine.sigma, emulator.norm_scales[0]),
        (machine.head_sigma, emulator.norm_scales[1]),
        (machine.softmax, emulator.softmax_scale),
    ):
        assert scales == list(zip(mantissa.tolist(), exponent.tolist(), strict=True))
    for queue, rows, scores in zip(machine.queues, emulator.queues.rows, emulator.queues.scores, strict=True):
        assert queue == list(zip(rows.tolist(), scores.tolist(), strict=True))
    return machine


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed: int) -> None:
    same(program_of(seed).link())


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_with_every_kind_of_attention(seed: int) -> None:
    same(random_program(FAMILY, seed, length=20).link(), FAMILY)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_with_packed_products(seed: int) -> None:
    same(random_program(PACKED, seed, length=20).link(), PACKED)
    deep = replace(PACKED, array_rows=8)  # its chains are longer
    same(random_program(deep, seed, length=20).link(), deep)


def test_a_compiled_model() -> None:
    """Every kind of instruction as the compiler makes them, two tasks through the experts."""
    memory, instructions, _ = small_program()
    assert {i.opcode for i in instructions} == set(Opcode)
    same(memory)


def test_every_opcode_is_there() -> None:
    found = {i.opcode for seed in SEEDS for i in program_of(seed).instructions}
    assert found == set(Opcode) == set(OPERATIONS)


def test_what_no_program_does() -> None:
    """A sum beyond 48 bits, a picture of no beats, rows of RMSNorm."""
    stream = WeightStream(TINY, 2, 1, 16)
    weights, bias = np.full((8, 4), 3), np.array([(1 << 16) + 5, -(1 << 26), (1 << 26) - 1, 77])
    data = stream.pack(weights, bias, np.full(4, 1 << 15))
    fields = dict(rows=1, chunks=2, columns=1, address=1024, beats=stream.beats, memory=Memory.RESIDUAL)
    program = [
        Instruction(Opcode.LOAD, dict(rows=1, columns=2, address=2048, beats=1)),
        Instruction(Opcode.MATMUL, fields | dict(bias_first=1, bias_shift=31, accumulator_shift=32)),
        Instruction(Opcode.IMAGE, dict(rows=1, columns=1, across=1, down=1, channels=1, patch=1, address=2048)),
        Instruction(Opcode.LAYERNORM, dict(rows=1, elements=4, uncentred=1)),
        Instruction(Opcode.END),
    ]
    memory = np.full(4096, 200, np.uint8)
    code = b"".join(i.encode() for i in program)
    memory[: len(code)] = np.frombuffer(code, np.uint8)
    memory[1024 : 1024 + data.size] = data
    machine = same(memory)
    assert program[1].stationary == Stationary.WEIGHTS16 and machine.sums[0] != 0


def test_the_epilogue() -> None:
    """Sums of every size, so that each step is limited now and then."""
    rng, limited = np.random.default_rng(1), set()
    for _ in range(2000):
        total, added = (
            int(rng.integers(-1 << 47, 1 << 47)) >> int(rng.integers(47)),
            int(rng.integers(-1 << 26, 1 << 26)),
        )
        mantissa, exponent, multiplier = int(rng.integers(1 << 16)), int(rng.integers(20)), int(rng.integers(1 << 16))
        kind, shift, narrow = int(rng.integers(len(Activation))), int(rng.integers(-64, 64)), int(rng.integers(16))
        raised = int(rng.integers(2))
        i = Instruction(Opcode.MATMUL, dict(accumulator_shift=shift, output_shift=narrow, activation=kind))
        found = epilogue(i, total, (mantissa, exponent), multiplier, added, raised)
        expected = twins.epilogue(
            np.array([[float(total)]]),
            accumulator_shift=shift,
            mantissa=np.array([mantissa]),
            exponent=np.array([exponent]),
            multiplier=np.array([multiplier]),
            bias=np.array([added]),
            output_shift=narrow,
            function=Activation(kind).function,
            raise_result=raised,
        )
        assert found == int(expected[0, 0])
        limited.add(abs(found) >= 32767)
    assert limited == {False, True}


@pytest.mark.parametrize(
    "word",
    [bytes(64), Instruction(Opcode.LAYERNORM, dict(rows=41, elements=4)).encode()],
    ids=["no opcode", "too many rows"],
)
def test_what_is_refused(word: bytes) -> None:
    memory = np.zeros(4096, np.uint8)
    memory[:64] = np.frombuffer(word, np.uint8)
    with pytest.raises(Refused) as stop:
        run(Machine(TINY, bytearray(memory.tobytes())))
    assert stop.value.code == Emulator(TINY).run(memory).error_code
