# SPDX-License-Identifier: Apache-2.0
"""The emulator runs compiled programs: against the float model at every array size, and how bad programs end."""

import dataclasses

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.runtime.program import compare, memory_image
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import ErrorCode, Instruction, Memory, Opcode
from edgemoe.models.config import GATES, PRESETS
from edgemoe.models.numbers import calibrate, forward, quantise
from edgemoe.models.numbers.activation import ACTIVATIONS
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.sim.emulator import Emulator

from ..models.support import ODD, PLAIN, TINY, random_checkpoint, sqnr

RMS = dataclasses.replace(TINY, name="rms", norm="rms")
FLOOR = {"16": 60, "mixed": 40, "8": 28}


def run(checkpoint, streams, images, hardware, weight_bits="16", **options):
    model = quantise.quantise(checkpoint, weight_bits)
    program = compiler.compile(model, streams, hardware, save_tokens=True, **options)
    memory = memory_image(program, images)
    result = Emulator(hardware).run(memory)
    assert result.error_code == ErrorCode.NONE
    return program, memory, result


def accuracy(checkpoint, program, memory, result, images):
    """Of every stream: decibels of tokens and head, the float model held to the emulator's routes."""
    config, figures = program.config, []
    slots = program.slots
    per_layer = len(result.routes) // max(1, len(config.moe_layers))
    for stream, slot in zip(program.results, slots, strict=True):
        routes = {}
        for place, layer in enumerate(config.moe_layers):
            here = result.routes[place * per_layer : (place + 1) * per_layer]
            routes[layer] = next(r.experts for r in here if r.row_base == slot * config.tokens)[None]
        exact = forward.forward(checkpoint, images[stream.stream.image], stream.stream.task, routing=routes)
        figures.append(sqnr(exact.tokens[0], stream.tokens.values(memory[stream.tokens.offset :])))
        figures.append(sqnr(exact.head[0], stream.head.values(memory[stream.head.offset :])))
    return figures


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
@pytest.mark.parametrize("weight_bits", WeightFormat.plain())
def test_odd_sizes_on_every_array(lanes, weight_bits):
    hardware = dataclasses.replace(preset("base"), name=f"{lanes} lanes", lanes=lanes)
    checkpoint, images = random_checkpoint(ODD), calibrate.default_images(ODD, 2)
    streams = [(0, "seg"), (0, "dep"), (1, 1)]
    program, memory, result = run(checkpoint, streams, images, hardware, weight_bits)
    assert min(accuracy(checkpoint, program, memory, result, images)) > FLOOR[weight_bits]
    # Array size and company change nothing: the same integers from a program of one stream on another array.
    other, other_memory, _ = run(checkpoint, [(0, "dep")], images[:1], preset("base"), weight_bits)
    a, b = program.results[1].head, other.results[0].head
    assert (a.integers(memory[a.offset :]) == b.integers(other_memory[b.offset :])).all()


@pytest.mark.parametrize("config", [TINY, PLAIN, RMS], ids=lambda c: c.name)
def test_small_models(config):
    hardware = preset("base") if config is PLAIN else preset("tiny")
    checkpoint, images = random_checkpoint(config), calibrate.default_images(config, 1)
    program, memory, result = run(checkpoint, [(0, 0), (0, 1)], images, hardware)
    assert min(accuracy(checkpoint, program, memory, result, images)) > 60


GATED = {f"{gate}, bias {bias}": dict(gate=gate, gate_bias=bias) for gate in GATES for bias in (False, True)}
VARIANTS = {
    **{name: dict(activation=name) for name in ACTIVATIONS if name != TINY.activation},
    **{name: fields for name, fields in GATED.items() if fields != dict(gate=TINY.gate, gate_bias=TINY.gate_bias)},
    "a norm before the layers": dict(pre_norm=True),
    "RMSNorm before the layers": dict(pre_norm=True, norm="rms"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_as_accurate(variant):
    config = dataclasses.replace(TINY, name=variant, **VARIANTS[variant])
    checkpoint, images = random_checkpoint(config), calibrate.default_images(config, 1)
    for weight_bits in ("16", "8"):
        program, memory, result = run(checkpoint, [(0, 0), (0, 1)], images, preset("tiny"), weight_bits)
        assert min(accuracy(checkpoint, program, memory, result, images)) > FLOOR[weight_bits]


def test_micro_size():
    config = PRESETS["m3vit-micro"]
    checkpoint = random_checkpoint(config, calibrated=False)
    images = calibrate.default_images(config, 1)
    checkpoint.calibration = calibrate.calibrate(checkpoint, images, error_aware=())
    program, memory, result = run(checkpoint, [(0, 0), (0, 1)], images, preset("base"))
    assert min(accuracy(checkpoint, program, memory, result, images)) > 60
    assert not result.saturated
    assert result.bytes_read < program.weight_bytes + 1_000_000


def test_trace_changes_nothing_and_compares():
    checkpoint, images = random_checkpoint(TINY), calibrate.default_images(TINY, 1)
    program, memory, _ = run(checkpoint, [(0, 0), (0, 1)], images, preset("tiny"), trace=True)
    plain, plain_memory, _ = run(checkpoint, [(0, 0), (0, 1)], images, preset("tiny"))
    for a, b in zip(program.results, plain.results, strict=True):
        assert (
            a.tokens.integers(memory[a.tokens.offset :]) == b.tokens.integers(plain_memory[b.tokens.offset :])
        ).all()
    assert len(program.traces) == sum(i.opcode == Opcode.MATMUL for i in program.instructions)
    other = memory.copy()
    assert compare(program, memory, other) == []
    trace = program.traces[3]
    other[trace.offset + 2] ^= 1
    (found,) = compare(program, memory, other)
    assert (found.instruction, found.label, found.count, found.offset) == (
        trace.instruction,
        trace.label,
        1,
        trace.offset + 2,
    )


def execute(*instructions, size=4096, hardware="tiny"):
    """The end of a program in a memory of `size` bytes."""
    memory = np.zeros(size, np.uint8)
    code = b"".join(i.encode() for i in instructions)
    memory[: len(code)] = np.frombuffer(code, np.uint8)
    return Emulator(preset(hardware)).run(memory), memory


def test_illegal_instruction():
    result, _ = execute(Instruction(Opcode.LAYERNORM, dict(rows=1, elements=4)))  # then zeros: no opcode
    assert (result.error_code, result.error_instruction, result.error_address) == (ErrorCode.ILLEGAL_INSTRUCTION, 1, 0)
    route = Instruction(Opcode.ROUTE, dict(rows=1, columns=2, experts=8, top_k=1, reset_queues=1))
    body = [route, Instruction(Opcode.EXPERTS, dict(length=1)), route, Instruction(Opcode.END)]
    result, _ = execute(*body)
    assert (result.error_code, result.error_instruction) == (ErrorCode.ILLEGAL_INSTRUCTION, 2)


def test_program_and_data_outside_memory():
    memory = np.zeros(4096, np.uint8)
    result = Emulator(preset("tiny")).run(memory, 4096)
    assert (result.error_code, result.error_address) == (ErrorCode.READ_BUS, 4096)
    move = dict(memory=Memory.ACTIVATION, rows=10, columns=2, destination_stride=2, address=4096 - 64)
    assert execute(Instruction(Opcode.LOAD, move))[0].error_code == ErrorCode.READ_BUS
    result, after = execute(Instruction(Opcode.STORE, move))
    assert (result.error_code, result.error_address) == (ErrorCode.WRITE_BUS, 4096 - 64)


@pytest.mark.parametrize(
    "instruction",
    [
        Instruction(
            Opcode.LOAD, dict(memory=Memory.RESIDUAL, rows=1, columns=1, destination_base=preset("tiny").residual_words)
        ),
        Instruction(Opcode.LAYERNORM, dict(rows=41, elements=4)),
        Instruction(Opcode.ROUTE, dict(rows=1, columns=2, experts=9, top_k=1)),
        Instruction(Opcode.ROUTE, dict(rows=1, columns=2, experts=8, top_k=5)),
        Instruction(Opcode.MATMUL, dict(rows=41, chunks=1, columns=1)),
        Instruction(Opcode.MATMUL, dict(rows=1, chunks=1, columns=1, stream_base=preset("tiny").activation_words)),
    ],
)
def test_capacity(instruction):
    result, _ = execute(instruction, Instruction(Opcode.END))
    assert (result.error_code, result.error_instruction) == (ErrorCode.CAPACITY, 0)


def test_restarts_after_an_error():
    checkpoint, images = random_checkpoint(TINY), calibrate.default_images(TINY, 1)
    program = compiler.compile(quantise.quantise(checkpoint), [(0, 0)], preset("tiny"))
    emulator = Emulator(preset("tiny"))
    first, second = memory_image(program, images), memory_image(program, images)
    assert emulator.run(first).error_code == ErrorCode.NONE
    assert emulator.run(np.zeros(4096, np.uint8)).error_code == ErrorCode.ILLEGAL_INSTRUCTION
    assert emulator.run(second).error_code == ErrorCode.NONE
    assert (first == second).all()
