# SPDX-License-Identifier: Apache-2.0
"""Whole programs on a whole core: through the real driver, beside the emulator, with every byte of the memory
watched.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.compiler.timing import predict
from edgemoe.host.runtime.driver import Driver, Run
from edgemoe.host.runtime.program import CompiledProgram, image_buffers
from edgemoe.host.runtime.routing import expert_queues
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Opcode
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import PRESETS, ModelConfig, TaskConfig
from edgemoe.models.numbers import calibrate, quantise
from edgemoe.sim.device import Dram, VerilatorDevice
from edgemoe.sim.emulator_device import EmulatorDevice
from edgemoe.sim.simulator import open_verilator
from numpy.typing import NDArray

from ..models.support import random_checkpoint

TASKS = (
    TaskConfig(name="seg", kind="segmentation", channels=3, grid=2),
    TaskConfig(name="dep", kind="depth", channels=1, grid=2),
)
#: As large as the preset "tiny" takes: both tasks of one image, all its width.
NANO = ModelConfig(
    name="nano", image_height=16, image_width=16, patch=4, width=32, heads=2, layers=2, hidden=64,
    experts=8, expert_hidden=32, top_k=4, moe_layers=(1,), tasks=TASKS,
)  # fmt: skip
#: 18 patches of 192 pixels: more than the activation memory of `tiny` takes at once.
STRIPS = replace(NANO, name="strips", image_height=24, image_width=48, patch=8)
#: No experts at all.
PLAIN = ModelConfig(
    name="plain vit", image_height=16, image_width=16, patch=4, width=32, heads=4, layers=2, hidden=64,
    experts=0, expert_hidden=0, top_k=0, moe_layers=(), tasks=TASKS,
)  # fmt: skip

GUARD = 0xA5
MARGIN = 8192  # bytes of guards behind the program's memory


@functools.cache
def quantised(config: ModelConfig, weight_bits: str = "16") -> quantise.QuantisedModel:
    """A small model with random weights, ready to compile."""
    return quantise.quantise(checkpoint_of(config), weight_bits)


@functools.cache
def checkpoint_of(config: ModelConfig) -> Checkpoint:
    return random_checkpoint(config)


@functools.cache
def random_m3vit_t(layers: int = 12) -> Checkpoint:
    """m3vit-t of full widths with random weights, calibrated on one scene.

    In each MoE layer three of the sixteen experts are hardly ever chosen, as with trained weights: their logits are
    always zero.
    """
    full = PRESETS["m3vit-t"]
    config = replace(full, layers=layers, moe_layers=tuple(n for n in full.moe_layers if n < layers))
    checkpoint = random_checkpoint(config, calibrated=False)
    rng = np.random.default_rng(7)
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("w_gate"):
            tensor[:, rng.choice(config.experts, 3, replace=False)] = 0
    checkpoint.calibration = calibrate.calibrate(checkpoint, calibrate.default_images(config, 1), error_aware=())
    return checkpoint


def images_of(config: ModelConfig, count: int) -> list[NDArray[np.uint8]]:
    return list(calibrate.default_images(config, count))


@contextmanager
def core(
    hardware: HardwareConfig, memory_size: int, dram: Dram | None = None
) -> Iterator[tuple[VerilatorDevice, Driver]]:
    """A simulated core and its driver."""
    with open_verilator(hardware, memory_size + MARGIN, dram) as device:
        yield device, Driver(device, hardware)


def emulated(program: CompiledProgram, images: Sequence[NDArray[np.uint8]]) -> Run:
    """The same program through the same driver on the emulator."""
    device = EmulatorDevice(program.hardware, program.memory_size + MARGIN)
    driver = Driver(device, program.hardware)
    driver.load(program)
    return driver.run(program, images)


def fill(device: VerilatorDevice, program: CompiledProgram, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Guards everywhere, then the program; returns what the memory will hold when the run starts."""
    memory = device.memory
    expected = np.full(memory.size, GUARD, np.uint8)
    memory.write(memory.base, expected)
    memory.write(memory.base, program.memory)
    expected[: program.memory.size] = program.memory
    for number, image in enumerate(images):
        for offset, strip in image_buffers(program, number, image):
            expected[offset : offset + strip.size] = strip
    return expected


def may_be_written(program: CompiledProgram, size: int) -> NDArray[np.bool_]:
    """Of every byte: may a STORE of the program (or the driver, which clears the traces) write it?"""
    mask = np.zeros(size, np.bool_)
    for i in program.instructions:
        if i.opcode == Opcode.STORE:
            bus = program.hardware.bus_bytes  # zeros fill the last beat
            length = -(-i.rows * i.columns * program.hardware.word_bytes // bus) * bus
            for copy in range(program.config.experts if i.expert_stride else 1):
                mask[i.address + copy * i.expert_stride :][:length] = True
    for trace in program.traces:
        mask[trace.offset : trace.offset + trace.size] = True
    return mask


def check_guards(device: VerilatorDevice, program: CompiledProgram, expected: NDArray[np.uint8]) -> None:
    """Nothing but the programs' results has changed, and no burst left the memory."""
    found = device.memory.read(device.memory.base, device.memory.size)
    wrong = np.flatnonzero((found != expected) & ~may_be_written(program, found.size))
    assert not wrong.size, f"{wrong.size} bytes were overwritten, the first at {wrong[0]:#x}"


def check_equal(reference: Run, run: Run) -> None:
    """Every MATMUL's result, heads and tokens: equal to the last bit."""
    for trace, a, b in zip(reference.program.traces, reference.traces, run.traces, strict=True):
        different = np.flatnonzero(a != b)
        assert not different.size, (
            f"{trace.label}: {different.size} of {a.size} bytes differ, the first at {different[0]}"
        )
    for mine, theirs in ((reference.heads, run.heads), (reference.tokens, run.tokens)):
        for a, b in zip(mine, theirs, strict=True):
            assert (a is None) == (b is None) and (a is None or np.array_equal(a, b))
    assert reference.counters["INSTRUCTIONS"] == run.counters["INSTRUCTIONS"]


def check_counters(run: Run) -> None:
    """Every cycle is counted once, under one name."""
    assert run.counters["CYCLES"] == sum(run.counters[name] for name in registers.STATE_COUNTERS)
    assert run.cycles > run.counters["ARRAY_ACTIVE"] > 0


def check_plan(reference: Run, run: Run, close: float = 0.01) -> None:
    """What the compiler's timing says of the program, with the routes that it took, on a memory without stalls."""
    program = run.program
    queues = [one.lengths for one in expert_queues(program, reference.routes)]
    costs = predict(program.instructions, program.hardware, queues)
    assert abs(sum(cost.cycles for cost in costs) / run.cycles - 1) < close
    assert sum(cost.written for cost in costs) == run.bytes_written
    # What is fetched ahead and dropped, at jumps and behind the end, is not the plan's.
    jumps = 1 + sum(1 + np.count_nonzero(lengths) for lengths in queues)
    assert 0 <= run.bytes_read - sum(cost.read for cost in costs) <= 4 * jumps * INSTRUCTION_BYTES


def check_kinds(driver: Driver) -> None:
    """The same cycles once more, by kind of instruction."""
    for state in registers.MATMUL_STATES:
        kinds = [name for name, (_, of) in registers.KIND_COUNTERS.items() if of == state]
        assert driver.read_long(state) == sum(driver.read(name) for name in kinds), state


def changed(program: CompiledProgram, index: int, opcode: int | None = None, **values: int) -> CompiledProgram:
    """The program with other fields in instruction `index`; `opcode` may be any four bits."""
    old = program.instructions[index]
    new = Instruction(old.opcode, {**old.values, **values}, old.label)
    code = bytearray(new.encode())
    if opcode is not None:
        code[0] = code[0] & 0xF0 | opcode
    memory = program.memory.copy()
    offset = program.program + index * INSTRUCTION_BYTES
    memory[offset : offset + INSTRUCTION_BYTES] = np.frombuffer(bytes(code), np.uint8)
    instructions = list(program.instructions)
    instructions[index] = new
    return replace(program, memory=memory, instructions=instructions)


def tiny_program(
    config: ModelConfig = NANO,
    streams: Sequence[tuple[int, int]] = ((0, 0), (0, 1)),
    weight_bits: str = "16",
    *,
    trace: bool = True,
) -> CompiledProgram:
    return compiler.compile(quantised(config, weight_bits), streams, preset("tiny"), trace=trace, save_tokens=True)
