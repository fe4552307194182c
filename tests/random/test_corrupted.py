# SPDX-License-Identifier: Apache-2.0
"""Corrupted instruction words, in every field: a defined end, nothing written but by stores, a correct inference
straight afterwards.
"""

import numpy as np
import pytest
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import BY_NAME, FIELDS, INSTRUCTION_BYTES, OFFSETS, ErrorCode, Instruction, Memory, Opcode
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim.device import VerilatorDevice
from edgemoe.sim.emulator import Emulator
from edgemoe.sim.simulator import open_verilator
from numpy.typing import NDArray

from ..models.support import TASKS
from .models import random_weights
from .support import emulate, execute

TINY = preset("tiny")
GUARD = 1 << 16
WATCHDOG = 4_000


def small_program() -> tuple[NDArray[np.uint8], list[Instruction], list[tuple[int, int]]]:
    """(memory with guard bytes behind it, instructions, what STOREs may write) of a model that has every kind of
    instruction.
    """
    from edgemoe.host import compiler
    from edgemoe.host.runtime.program import Stream, memory_image
    from edgemoe.models.config import ModelConfig
    from edgemoe.models.numbers.quantise import quantise

    config = ModelConfig(
        name="small", image_height=8, image_width=8, image_channels=1, patch=4, width=8, heads=1, layers=1, hidden=0,
        experts=3, expert_hidden=8, top_k=2, moe_layers=(0,), tasks=TASKS,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    model = quantise(random_weights(config, rng), "16")
    program = compiler.compile(model, [Stream(0, 0), Stream(0, 1)], TINY, save_tokens=True)
    memory = memory_image(program, [rng.integers(0, 256, (1, 8, 8), np.uint8)])
    stored = [(i.address, i.beats * TINY.bus_bytes) for i in program.instructions if i.opcode == Opcode.STORE]
    return np.concatenate([memory, rng.integers(0, 256, GUARD, np.uint8)]), program.instructions, stored


def corrupted(word: bytes, name: str, value: int) -> bytes:
    bits = int.from_bytes(word, "little")
    mask = ((1 << BY_NAME[name].bits) - 1) << OFFSETS[name]
    return (bits & ~mask | value << OFFSETS[name]).to_bytes(INSTRUCTION_BYTES, "little")


def cases(instructions: list[Instruction], share: float) -> list[tuple[int, str, int]]:
    """(instruction, field, value): one instruction of every form, in every field all zeros, all ones, and two random
    values.
    """
    rng = np.random.default_rng(1)
    forms: dict[tuple, int] = {}
    for index, i in enumerate(instructions):
        forms.setdefault((i.opcode, i.stationary, i.gather, i.scatter), index)
    found = []
    for index in forms.values():
        for field in FIELDS:
            limit = 1 << field.bits
            values = {0, limit - 1, int(rng.integers(limit)), int(rng.integers(limit))}
            outside = {limit - 4096} if field.name == "address" else set()  # aligned, and outside every memory: always
            for value in sorted(values | outside):
                if rng.random() < share or value in outside:
                    found.append((index, field.name, value))
    return found


def stores(word: bytes) -> bool:
    return word[0] & 15 == Opcode.STORE


class Victim:
    """One device on which good and bad programs follow each other without a reset."""

    def __init__(self) -> None:
        self.memory, self.instructions, self.stored = small_program()
        self.expected, _ = emulate(TINY, self.memory)
        # A bad program may write what it reads: that is no fault of the core.
        self.device: VerilatorDevice = open_verilator(TINY, self.memory.size)
        self.device.strict = False
        self.ends: dict[ErrorCode, int] = {}

    def good(self) -> None:
        outcome = execute(self.device, self.memory, watchdog=WATCHDOG)
        assert outcome.code == ErrorCode.NONE
        assert np.array_equal(outcome.memory, self.expected), "the inference after a corrupted program is wrong"

    def bad(self, index: int, name: str, value: int) -> None:
        memory = self.memory.copy()
        place = slice(index * INSTRUCTION_BYTES, (index + 1) * INSTRUCTION_BYTES)
        before = memory[place].tobytes()
        word = corrupted(before, name, value)
        memory[place] = np.frombuffer(word, np.uint8)
        what = f"instruction {index} ({self.instructions[index]}) with {name} = {value:#x}"
        outcome = execute(self.device, memory, watchdog=WATCHDOG)
        self.ends[outcome.code] = self.ends.get(outcome.code, 0) + 1
        if not stores(before) and not stores(word):
            kept = np.ones(memory.size, bool)
            for offset, size in self.stored:
                kept[offset : offset + size] = False
            changed = np.flatnonzero((memory != outcome.memory) & kept)
            assert not changed.size, (
                f"{what}: {changed.size} bytes changed that no STORE may write, from {changed[0]:#x} on"
            )
        if outcome.code in (ErrorCode.ILLEGAL_INSTRUCTION, ErrorCode.CAPACITY):
            emulated = Emulator(TINY).run(memory.copy())
            assert (emulated.error_code, emulated.error_instruction) == (outcome.code, outcome.instruction), what
        wrong = [line for line in self.device.messages if "races" not in line and "outside the memory" not in line]
        assert not wrong, f"{what}: {wrong}"


def sweep(share: float) -> Victim:
    victim = Victim()
    victim.good()
    try:
        for index, name, value in cases(victim.instructions, share):
            victim.bad(index, name, value)
            victim.good()
    finally:
        victim.device.close()
    return victim


def test_corrupted_words():
    ends = sweep(0.12).ends
    assert set(ends) >= {ErrorCode.NONE, ErrorCode.ILLEGAL_INSTRUCTION, ErrorCode.CAPACITY, ErrorCode.READ_BUS}


@pytest.mark.full
def test_corrupted_words_in_every_field():
    assert set(sweep(1.0).ends) == set(ErrorCode)


def test_single_bits_of_every_instruction():
    """Bits flip one at a time, at random places of random instructions."""
    victim = Victim()
    rng = np.random.default_rng(2)
    try:
        for _ in range(60):
            index, bit = int(rng.integers(len(victim.instructions))), int(rng.integers(sum(f.bits for f in FIELDS)))
            name = next(f.name for f in FIELDS if OFFSETS[f.name] <= bit < OFFSETS[f.name] + f.bits)
            word = int.from_bytes(victim.memory[index * 64 : index * 64 + 64].tobytes(), "little")
            value = (word ^ 1 << bit) >> OFFSETS[name] & ((1 << BY_NAME[name].bits) - 1)
            victim.bad(index, name, value)
            victim.good()
    finally:
        victim.device.close()


def test_pictures_that_disagree_with_their_instruction():
    """Hardware and emulator alike refuse patches that are none, more than the rows or longer than the words a row that
    are named.

    A picture longer than its beats ends with the watchdog; one that is shorter is complete.
    """
    victim = Victim()
    index, image = next((n, i) for n, i in enumerate(victim.instructions) if i.opcode == Opcode.IMAGE)
    cases = [(name, 0, ErrorCode.ILLEGAL_INSTRUCTION) for name in ("across", "down", "channels", "patch")]
    cases += [("memory", int(m), ErrorCode.ILLEGAL_INSTRUCTION) for m in Memory if m != Memory.ACTIVATION]
    cases += [(name, getattr(image, name) + 1, ErrorCode.CAPACITY) for name in ("across", "down", "channels", "patch")]
    cases += [
        (name, (1 << BY_NAME[name].bits) - 1, ErrorCode.CAPACITY) for name in ("across", "down", "channels", "patch")
    ]
    cases += [(name, getattr(image, name) - 1, ErrorCode.CAPACITY) for name in ("rows", "columns")]
    cases += [
        ("beats", image.beats - 1, ErrorCode.WATCHDOG),
        ("beats", 0, ErrorCode.NONE),
        ("beats", image.beats + 1, ErrorCode.NONE),
    ]
    try:
        for name, value, code in cases:
            memory = victim.memory.copy()
            place = slice(index * INSTRUCTION_BYTES, (index + 1) * INSTRUCTION_BYTES)
            memory[place] = np.frombuffer(corrupted(memory[place].tobytes(), name, value), np.uint8)
            outcome = execute(victim.device, memory, watchdog=WATCHDOG)
            copy = memory.copy()
            result = Emulator(TINY).run(copy)
            assert (outcome.code, result.error_code) == (code, code), f"{name} = {value}"
            if code in (ErrorCode.ILLEGAL_INSTRUCTION, ErrorCode.CAPACITY):
                assert outcome.instruction == result.error_instruction == index
            victim.good()
    finally:
        victim.device.close()


def test_unused_bits_do_not_matter():
    """Bits behind the last field are ignored."""
    victim = Victim()
    memory = victim.memory.copy()
    memory[63 : 64 * len(victim.instructions) : 64] |= 0xF0
    assert sum(f.bits for f in FIELDS) <= 508
    outcome = execute(victim.device, memory, watchdog=WATCHDOG)
    victim.device.close()
    assert outcome.code == ErrorCode.NONE
    assert all(np.array_equal(outcome.memory[o : o + size], victim.expected[o : o + size]) for o, size in victim.stored)


def test_words_are_decoded_alike():
    """Decoder of the host and field table: a word of all ones in any one field is that field's value."""
    for field in FIELDS:
        word = corrupted(Instruction(Opcode.MATMUL).encode(), field.name, (1 << field.bits) - 1)
        try:
            decoded = Instruction.decode(word)
        except EdgemoeError:
            assert field.name == "opcode"
            continue
        assert getattr(decoded, field.name) == (-1 if field.signed else (1 << field.bits) - 1)
