# SPDX-License-Identifier: Apache-2.0
"""Every rule of legality: an instruction that breaks it and no other is refused with its error, by the emulator and by
the sequencer; the same instruction just within it is not.

The instructions are written by hand: what the table should say, beside what it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import (
    BY_NAME,
    INSTRUCTION_BYTES,
    Activation,
    Attention,
    ErrorCode,
    Instruction,
    Memory,
    Opcode,
    Scale,
    Stationary,
)
from edgemoe.hw.contract.rules import BOUNDS, CONDITIONS, RULES, Place, violated
from edgemoe.hw.control.legality import Legality, turns
from edgemoe.hw.control.sequencer import Sequencer
from edgemoe.models.numbers.words import MOST_KEYS
from edgemoe.sim.emulator import Emulator

TINY = replace(preset("tiny"), experts=6, activations="gelu,relu")  # no whole number of words of logits
DATA = 4096  # where transfers and weights are

MATRIX = dict(rows=2, chunks=1, columns=1, address=DATA, beats=64)
KEYS = dict(stationary=Stationary.KEYS, memory=Memory.SCORE, rows=2, keys=3, chunks=1, columns=1)
VALUES = dict(stationary=Stationary.VALUES, rows=2, keys=3, chunks=1, columns=1)
MOVE = dict(rows=2, columns=1, address=DATA, beats=8)
PICTURE = dict(rows=6, columns=9, destination_stride=9, address=DATA, beats=40, across=3, down=2, channels=2, patch=3)
NORM = dict(rows=2, elements=4)
ROUTE = dict(rows=2, columns=2, experts=5, top_k=2, reset_queues=1)
RESIDUAL = dict(MATRIX, memory=Memory.RESIDUAL)

LAST_ROW = TINY.rows - 1
TABLE = TINY.rows - 2  # two rows from here on are the last ones

#: rule -> (opcode, fields within the rule, what breaks it, in a body) for each way to break it
CASES: dict[str, list[tuple[Opcode, dict[str, int], dict[str, int], bool]]] = {
    "residual": [
        (Opcode.MATMUL, dict(RESIDUAL, residual=1), dict(memory=Memory.KEY_VALUE), False),
        (Opcode.STORE, dict(MOVE, memory=Memory.RESIDUAL), dict(residual=1), False),
    ],
    "queue": [(o, f, {q: 1}, False) for o, f in ((Opcode.MATMUL, MATRIX), (Opcode.STORE, MOVE), (Opcode.END, {}))
              for q in ("gather", "scatter", "queued")],
    "body": [(o, f, {}, True) for o, f in ((Opcode.END, {}), (Opcode.IMAGE, PICTURE), (Opcode.LAYERNORM, NORM),
                                           (Opcode.ROUTE, ROUTE), (Opcode.EXPERTS, dict(length=1)))],
    "length": [(Opcode.EXPERTS, dict(length=1), dict(length=0), False)],
    "address": [
        (Opcode.LOAD, MOVE, dict(address=DATA + 1), False),
        (Opcode.STORE, MOVE, dict(address=DATA + 32), False),
        (Opcode.IMAGE, PICTURE, dict(address=DATA + 63), False),
        (Opcode.MATMUL, MATRIX, dict(address=DATA + 8), False),
        (Opcode.MATMUL, dict(MATRIX, expert_stride=64), dict(expert_stride=80), True),
    ],
    "load to scores": [(Opcode.LOAD, dict(MOVE, memory=Memory.RESIDUAL), dict(memory=Memory.SCORE), False)],
    # (No patches one below the other is one rule more: as many as the field holds, and one.)
    "picture": [(Opcode.IMAGE, PICTURE, {name: 0}, False) for name in ("across", "channels", "patch")],
    "picture's memory": [(Opcode.IMAGE, PICTURE, dict(memory=m), False) for m in Memory if m != Memory.ACTIVATION],
    "copy's memory": [(Opcode.MATMUL, dict(RESIDUAL, copy=1), dict(memory=Memory.ACTIVATION), False)],
    "expert's score": [(Opcode.MATMUL, dict(MATRIX, queued=1, scale=Scale.EXPERT), dict(queued=0), True)],
    "activation": [(Opcode.MATMUL, dict(MATRIX, activation=Activation.RELU), dict(activation=n), False)
                   for n in (Activation.GELU_TANH, Activation.SILU, 6, 7)],
    "rows": [
        *((o, f, dict(rows=0), False) for o, f in ((Opcode.MATMUL, MATRIX), (Opcode.LOAD, MOVE), (Opcode.STORE, MOVE),
                                                   (Opcode.LAYERNORM, NORM), (Opcode.ROUTE, dict(ROUTE, row_base=0)))),
        (Opcode.STORE, dict(MOVE, rows=TINY.rows), dict(rows=TINY.rows + 1), False),
    ],
    "rows of a table": [
        (Opcode.MATMUL, dict(MATRIX, row_base=TABLE), dict(row_base=TABLE + 1), False),
        (Opcode.LAYERNORM, dict(NORM, row_base=TABLE), dict(row_base=TABLE + 1), False),
        (Opcode.ROUTE, dict(ROUTE, row_base=TABLE), dict(row_base=(1 << 16) - 1), False),
    ],
    "rows of scores": [
        (Opcode.MATMUL, dict(MATRIX, rows=TINY.tokens, memory=Memory.SCORE), dict(rows=TINY.tokens + 1), False),
        (Opcode.MATMUL, dict(MATRIX, rows=TINY.tokens, scale=Scale.SOFTMAX), dict(rows=TINY.tokens + 1), False),
        (Opcode.MATMUL, dict(VALUES, rows=TINY.tokens, probabilities=1), dict(rows=TINY.tokens + 1), False),
        (Opcode.ROUTE, dict(ROUTE, rows=TINY.tokens), dict(rows=TINY.tokens + 1), False),
    ],
    "keys": [(Opcode.MATMUL, dict(f, keys=MOST_KEYS, stationary_stride=0), dict(keys=MOST_KEYS + 1), False)
             for f in (KEYS, VALUES, dict(MATRIX, probabilities=1, chunks=1))],
    "blocks": [(Opcode.MATMUL, MATRIX, {name: 0}, False) for name in ("chunks", "columns")],
    "elements": [(Opcode.LAYERNORM, NORM, dict(elements=0), False)],
    "experts": [(Opcode.ROUTE, dict(ROUTE, experts=TINY.experts), dict(experts=TINY.experts + 1), False)],
    "top-k": [(Opcode.ROUTE, dict(ROUTE, top_k=TINY.top_k), dict(top_k=n), False) for n in (0, TINY.top_k + 1)],
    "choices": [(Opcode.ROUTE, dict(ROUTE, experts=2), dict(experts=1), False)],
    "logits": [(Opcode.ROUTE, dict(ROUTE, experts=4, columns=1), dict(experts=5), False)],
    "words of logits": [(Opcode.ROUTE, ROUTE, dict(columns=TINY.words(TINY.experts) + 1), False)],
    "streamed words": [
        (Opcode.MATMUL, dict(MATRIX, stream_stride=3, stream_base=TINY.activation_words - 4),
         dict(stream_base=TINY.activation_words - 3), False),
        (Opcode.MATMUL, dict(VALUES, probabilities=1, stream_base=TINY.score_words - 1),
         dict(stream_base=TINY.score_words), False),
        (Opcode.ROUTE, dict(ROUTE, stream_base=TINY.score_words - 2), dict(stream_stride=1), False),
    ],
    "stationary words": [
        (Opcode.MATMUL, dict(KEYS, stationary_stride=5, stationary_base=TINY.key_value_words - 11),
         dict(stationary_base=TINY.key_value_words - 10), False),
        (Opcode.MATMUL, dict(VALUES, stationary_base=TINY.key_value_words - 1, columns=1), dict(columns=2), False),
        (Opcode.MATMUL, dict(KEYS, stationary_base=TINY.key_value_words - 2, chunks=2), dict(chunks=3), False),
    ],
    "destination's words": [
        *((Opcode.STORE, dict(MOVE, memory=memory, destination_stride=1, destination_base=words - 2),
           dict(destination_base=words - 1), False)
          for memory, words in zip(Memory, (TINY.activation_words, TINY.key_value_words, TINY.residual_words,
                                            TINY.score_words), strict=True)),
        (Opcode.LOAD, dict(MOVE, destination_base=TINY.activation_words - 1), dict(columns=2), False),
        (Opcode.IMAGE, dict(PICTURE, destination_base=TINY.activation_words - 54), dict(destination_stride=10), False),
        (Opcode.MATMUL, dict(KEYS, destination_base=TINY.score_words - 1), dict(destination_stride=1), False),
    ],
    "copy's words": [
        (Opcode.MATMUL, dict(RESIDUAL, copy=1, copy_stride=2, copy_base=TINY.activation_words - 3),
         dict(copy_stride=3), False),
    ],
    "patches": [(Opcode.IMAGE, PICTURE, {name: getattr(Instruction(Opcode.IMAGE, PICTURE), name) + 1}, False)
                for name in ("across", "down")],
    "pixels of a patch": [(Opcode.IMAGE, dict(PICTURE, columns=5), dict(columns=4), False),
                          (Opcode.IMAGE, PICTURE, dict(patch=5), False)],
}  # fmt: skip

ROUTES = Instruction(Opcode.ROUTE, dict(ROUTE, experts=2))  # score memory of zeros: expert 0, then expert 1
LOOP = Instruction(Opcode.EXPERTS, dict(length=1))


def flat() -> list[tuple[str, Opcode, dict[str, int], dict[str, int], bool]]:
    return [(name, *case) for name, cases in CASES.items() for case in cases]


def emulated(instruction: Instruction, looping: bool) -> ErrorCode:
    """How a program of it ends, in a body or alone; the error must be its own."""
    before = [ROUTES, LOOP] if looping else []
    program = [*before, instruction, Instruction(Opcode.END), Instruction(Opcode.END)]
    memory = np.zeros(1 << 16, np.uint8)
    code = b"".join(i.encode() for i in program)
    memory[: len(code)] = np.frombuffer(code, np.uint8)
    result = Emulator(TINY).run(memory)
    assert not result.error_code or result.error_instruction == len(before)
    return result.error_code


def sequenced(words: Iterable[tuple[bytes, bool]], config: HardwareConfig = TINY) -> list[ErrorCode]:
    """What the sequencer says of instructions, each alone after a reset, or as the body of EXPERTS for expert 1."""
    dut, found = Sequencer(config), list[ErrorCode]()

    async def give(ctx, word: bytes) -> None:
        ctx.set(dut.instructions.payload.as_value(), int.from_bytes(word, "little"))
        ctx.set(dut.instructions.valid, 1)
        while not ctx.get(dut.instructions.ready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(dut.instructions.valid, 0)

    async def bench(ctx) -> None:
        ctx.set(dut.queues.next_found, 1)
        ctx.set(dut.queues.next_expert, 1)
        ctx.set(dut.queues.count, 1)
        for word, looping in words:
            for reset in (1, 0):
                ctx.set(dut_reset, reset)
                await ctx.tick()
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            if looping:
                await give(ctx, LOOP.encode())
            await give(ctx, word)
            for _ in range(Legality.LATENCY - 1):
                assert not ctx.get(dut.error) and not ctx.get(dut.jobs.valid)
                await ctx.tick()
            found.append(ErrorCode(ctx.get(dut.error_code)) if ctx.get(dut.error) else ErrorCode.NONE)
            await ctx.tick()
            assert not ctx.get(dut.error)
            assert not (found[-1] and (ctx.get(dut.jobs.valid) or ctx.get(dut.done)))

    m, dut_reset = Module(), Signal()
    m.submodules.dut = ResetInserter(dut_reset)(dut)
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


#: Of builds with some kinds of attention beside softmax: kind -> what instructions with it must be.
BUILD = replace(TINY, attention="softmax,relu")
SCORED = (dict(KEYS), dict(MATRIX, memory=Memory.SCORE), dict(VALUES, probabilities=1))


def test_kinds_of_attention() -> None:
    """A build that has a choice refuses what it has not, where it matters; softmax alone is what it is."""
    words, expected = [], []
    for fields in (*SCORED, VALUES, MATRIX):
        for kind in range(8):
            instruction = Instruction(Opcode.MATMUL, dict(fields, attention=kind))
            legal = kind in (Attention.SOFTMAX, Attention.RELU) or fields not in SCORED
            names = [rule.name for rule in violated(instruction, BUILD, Place.of(instruction))]
            assert names == [] if legal else names == ["attention"]
            assert violated(instruction, TINY, Place.of(instruction)) == []
            words.append((instruction.encode(), False))
            expected.append(ErrorCode.NONE if legal else ErrorCode.ILLEGAL_INSTRUCTION)
    assert sequenced(words, BUILD) == expected
    assert sequenced(words, TINY) == [ErrorCode.NONE] * len(words)


def test_row_sums_are_not_scattered() -> None:
    """In a build that keeps them; others take no notice."""
    build, body = replace(TINY, head_norms=1), dict(MATRIX, queued=1)
    cases = {(row_sums, scatter): dict(body, row_sums=row_sums, scatter=scatter)
             for row_sums in (0, 1) for scatter in (0, 1)}  # fmt: skip
    words = [(Instruction(Opcode.MATMUL, fields).encode(), True) for fields in cases.values()]
    illegal = [ErrorCode.ILLEGAL_INSTRUCTION if all(case) else ErrorCode.NONE for case in cases]
    for config, expected in ((build, illegal), (TINY, [ErrorCode.NONE] * 4)):
        for fields, code in zip(cases.values(), expected, strict=True):
            i = Instruction(Opcode.MATMUL, fields)
            names = [rule.name for rule in violated(i, config, Place.of(i, looping=True, expert=1))]
            assert names == (["row sums"] if code else [])
        assert sequenced(words, config) == expected


#: A build that gates: what a MATMUL that does must be.
GATING = replace(TINY, attention="softmax,rela")


def test_gates() -> None:
    gated = dict(MATRIX, activation=Activation.GATED)
    cases = [(gated, [], False), (dict(gated, gather=1), [], True), (dict(gated, scatter=1), ["gate"], True)]
    cases += [(dict(gated, memory=m), ["gate"], False) for m in Memory if m != Memory.ACTIVATION]
    for fields, expected, looping in cases:
        instruction = Instruction(Opcode.MATMUL, fields)
        names = [rule.name for rule in violated(instruction, GATING, Place.of(instruction, looping, 1))]
        assert names == expected
        assert "activation" in [r.name for r in violated(instruction, TINY, Place.of(instruction, looping, 1))]
    words = [(Instruction(Opcode.MATMUL, fields).encode(), looping) for fields, _, looping in cases]
    codes = [ErrorCode.ILLEGAL_INSTRUCTION if expected else ErrorCode.NONE for _, expected, _ in cases]
    assert sequenced(words, GATING) == codes


def test_every_rule_is_here() -> None:
    assert set(CASES) | {"opcode", "attention", "row sums", "gate"} == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name, opcode, within, change, looping", flat())
def test_the_emulator_refuses(name: str, opcode: Opcode, within: dict, change: dict, looping: bool) -> None:
    """Exactly this rule is broken, and its error comes; within the rule the instruction is executed."""
    rule = next(rule for rule in RULES if rule.name == name)
    broken, legal = Instruction(opcode, within | change), Instruction(opcode, within)
    assert violated(broken, TINY, Place.of(broken, looping, 1)) == [rule]
    assert emulated(broken, looping) == rule.error
    if name == "body":
        looping = False
    assert violated(legal, TINY, Place.of(legal, looping, 1)) == []
    assert emulated(legal, looping) == ErrorCode.NONE


def test_the_sequencer_refuses() -> None:
    """All cases, and the opcodes that are none, alone and in a body."""
    words: list[tuple[bytes, bool]] = []
    expected: list[ErrorCode] = []
    errors = {rule.name: rule.error for rule in RULES}
    for name, opcode, within, change, looping in flat():
        words += [
            (Instruction(opcode, within).encode(), looping and name != "body"),
            (Instruction(opcode, within | change).encode(), looping),
        ]
        expected += [ErrorCode.NONE, errors[name]]
    for code in (0, *range(max(Opcode) + 1, 16)):
        words += [(bytes([code]) + bytes(INSTRUCTION_BYTES - 1), looping) for looping in (False, True)]
        expected += [errors["opcode"]] * 2
    assert sequenced(words) == expected


def test_what_an_instruction_does_not_have_is_not_judged() -> None:
    """Bases of operands that it lacks lie outside every memory."""
    bases = {f"{name}_base": BY_NAME[f"{name}_base"].limit for name in ("stream", "stationary", "destination", "copy")}
    own = {Opcode.MATMUL: ("stream_base", "destination_base"), Opcode.ROUTE: ("stream_base",)}
    own |= dict.fromkeys((Opcode.LOAD, Opcode.STORE, Opcode.IMAGE), ("destination_base",))
    fields = {Opcode.MATMUL: MATRIX, Opcode.ROUTE: ROUTE, Opcode.LOAD: MOVE, Opcode.STORE: MOVE, Opcode.IMAGE: PICTURE}
    fields[Opcode.LAYERNORM] = NORM
    words = [Instruction(o, bases | dict.fromkeys(own.get(o, ()), 0) | f) for o, f in fields.items()]
    assert [emulated(i, False) for i in words] == [ErrorCode.NONE] * len(words)
    assert sequenced((i.encode(), False) for i in words) == [ErrorCode.NONE] * len(words)


def test_illegal_comes_before_capacity() -> None:
    both = Instruction(Opcode.LOAD, dict(MOVE, memory=Memory.SCORE, rows=0, columns=1023))
    codes = [rule.error for rule in violated(both, TINY, Place.of(both))]
    assert set(codes) == {ErrorCode.ILLEGAL_INSTRUCTION, ErrorCode.CAPACITY} and codes == sorted(codes)
    assert emulated(both, False) == sequenced([(both.encode(), False)])[0] == ErrorCode.ILLEGAL_INSTRUCTION


def test_a_limit_that_the_field_cannot_pass() -> None:
    """A build whose width is all that `elements` holds: nothing is too much."""
    wide = HardwareConfig("wide", lanes=32, rows=1, tokens=1, width=4095, hidden=32, data_bits=64)
    norm = Instruction(Opcode.LAYERNORM, dict(rows=1, elements=4095))
    assert violated(norm, wide, Place.of(norm)) == []
    assert sequenced([(norm.encode(), False)], wide) == [ErrorCode.NONE]


def test_an_instruction_takes_as_long_as_it_says() -> None:
    """Where everybody takes it at once, in every port."""
    dut, taken = Sequencer(TINY), list[int]()

    async def bench(ctx) -> None:
        word = Instruction(Opcode.MATMUL, MATRIX).encode()
        ctx.set(dut.instructions.payload.as_value(), int.from_bytes(word, "little"))
        for signal in (dut.start, dut.instructions.valid, dut.jobs.ready, dut.loads.ready, dut.weights.ready):
            ctx.set(signal, 1)
        for cycle in range(5 * Sequencer.INTERVAL):
            if ctx.get(dut.instructions.ready):
                taken.append(cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert {b - a for a, b in zip(taken, taken[1:], strict=False)} == {Sequencer.INTERVAL}


def test_turns_hold_every_bound_once() -> None:
    """And none shares a turn with one that it could be judged together with."""
    listed = [bound for turn in turns() for bound in turn]
    assert len(listed) == len(BOUNDS) and set(map(id, listed)) == set(map(id, BOUNDS))
    for turn in turns():
        opcodes = [opcode for bound in turn for opcode in bound.opcodes]
        assert len(set(opcodes)) == len(opcodes)
    assert all(rule.text and rule.opcodes for rule in (*CONDITIONS, *BOUNDS))
