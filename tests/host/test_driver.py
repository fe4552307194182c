# SPDX-License-Identifier: Apache-2.0
"""The driver, on the emulator behind the registers of a device: identity, refusals, errors, results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.inference import infer, open_device, passes, tasks_of
from edgemoe.host.runtime.device import Device
from edgemoe.host.runtime.driver import DeviceError, Driver
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import ErrorCode
from edgemoe.models.config import PRESETS
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers import calibrate, quantise
from edgemoe.sim.emulator_device import EmulatorDevice

from ..models.support import TINY, random_checkpoint

HARDWARE = preset("tiny")


@pytest.fixture(scope="module")
def program() -> CompiledProgram:
    model = quantise.quantise(random_checkpoint(TINY))
    return compiler.compile(model, [(0, 0), (0, 1)], HARDWARE, save_tokens=True)


def images(count: int = 1) -> list[np.ndarray]:
    return list(calibrate.default_images(TINY, count))


def opened(program: CompiledProgram) -> tuple[EmulatorDevice, Driver]:
    device = EmulatorDevice(HARDWARE, program.memory_size)
    driver = Driver(device, HARDWARE)
    driver.load(program)
    return device, driver


def test_the_emulator_is_a_device(program: CompiledProgram) -> None:
    device, driver = opened(program)
    assert isinstance(device, Device)
    first, second = driver.run(program, images()), driver.run(program, images())
    for a, b in zip(first.heads + first.tokens, second.heads + second.tokens, strict=True):
        assert a is not None and b is not None and (a == b).all()
    assert first.cycles == 0 and first.mac_utilisation == 0  # it counts no cycles
    assert first.counters["INSTRUCTIONS"] > len(program.instructions) / 2
    assert first.bytes_read > program.image_bytes and first.bytes_written > 0
    assert len(first.routes) == 2 and first.routes[0].shape == (17, 3)
    assert driver.read("CTRL") & 2 and not driver.read("CTRL") & 2, "DONE is cleared by reading"
    device.close()


def test_registers_of_the_emulator() -> None:
    device = EmulatorDevice(HARDWARE, 1 << 16)
    with pytest.raises(EdgemoeError, match="no register at 0xffc"):
        device.read_register(0xFFC)
    with pytest.raises(EdgemoeError, match="no writable register"):
        device.write_register(registers.offset("MAGIC"), 1)
    device.write_register(registers.offset("PROGRAM"), 0xFFFFFFFF)
    assert device.read_register(registers.offset("PROGRAM")) == 0xFFFFFFC0  # programs are aligned


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("MAGIC", 0, "is no edgemoe core: its identity reads 0x00000000"),
        ("VERSION", 7 << 16, "has version 7, this driver is for version 2"),
        ("LANES", 16, "was built for other sizes than hardware 'tiny': LANES is 16 instead of 4"),
        ("CONFIG_HASH", 1, "CONFIG_HASH is 1 instead of"),
    ],
)
def test_a_device_that_is_not_what_programs_are_for(name: str, value: int, message: str) -> None:
    device = EmulatorDevice(HARDWARE, 1 << 16)
    device._words[registers.offset(name)] = value
    with pytest.raises(EdgemoeError, match=message):
        Driver(device, HARDWARE)


def test_a_newer_minor_version_and_another_name_are_no_reason_to_refuse(program: CompiledProgram) -> None:
    """Another major version is one (above), another size too: what is compared are the registers that say so."""
    device = EmulatorDevice(HARDWARE, program.memory_size)
    device._words[registers.offset("VERSION")] = registers.VERSION + 7
    driver = Driver(device, replace(HARDWARE, name="another name"))
    driver.load(program)
    results, expected = driver.run(program, images()), opened(program)[1].run(program, images())
    assert all((a == b).all() for a, b in zip(results.heads, expected.heads, strict=True))


def test_refusals(program: CompiledProgram) -> None:
    device, driver = opened(program)
    with pytest.raises(EdgemoeError, match="compiled for hardware 'tiny'.*the device has 'tiny'.*compile it again"):
        driver.load(replace(program, hardware=replace(HARDWARE, rows=36)))
    with pytest.raises(EdgemoeError, match=f"needs {1 << 30} bytes of device memory, {device.memory.size} are there"):
        driver.load(replace(program, memory_size=1 << 30))
    with pytest.raises(EdgemoeError, match="the program is for 1 images, got 2"):
        driver.run(program, images(2))
    with pytest.raises(EdgemoeError, match=r"image is float32 .*expected uint8 \[3, 16, 16\]"):
        driver.run(program, [images()[0].astype(np.float32)])


def test_errors_name_the_instruction(program: CompiledProgram) -> None:
    device, driver = opened(program)
    index = program.labels.index("layer 1 queries")
    device.memory.write(device.memory.base + program.program + 64 * index, bytes(64))
    with pytest.raises(
        DeviceError, match=rf"ILLEGAL_INSTRUCTION \(1\) at instruction {index} \(layer 1 queries\)"
    ) as stop:
        driver.run(program, images())
    assert (stop.value.code, stop.value.instruction) == (ErrorCode.ILLEGAL_INSTRUCTION, index)
    driver.load(program)
    assert driver.run(program, images()).heads[0] is not None


def test_progress_names_instructions(program: CompiledProgram) -> None:
    _, driver = opened(program)
    seen: list[tuple[int, int, str]] = []
    driver.run(program, images(), progress=lambda *step: seen.append(step))
    assert seen and all(total == len(program.instructions) for _, total, _ in seen)


def test_passes_fill_the_rows() -> None:
    """As many streams at once as there are rows for; an image's tasks together if they fit."""
    config, base = PRESETS["m3vit-micro"], preset("base")
    assert passes(config, base, 2, [0, 1]) == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    assert passes(config, base, 3, [1]) == [[(0, 1), (1, 1)], [(2, 1)]]
    small = replace(base, rows=136, tokens=136)
    assert passes(config, small, 2, [0, 1]) == [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]]
    assert tasks_of(config, None) == [0, 1] and tasks_of(config, ["depth"]) == [1]


def test_infer_over_several_passes() -> None:
    """Five images, both tasks: results come back in the order of the streams, the same as one by one."""
    checkpoint, batch = random_checkpoint(TINY), images(5)
    model = quantise.quantise(checkpoint)
    together = infer(checkpoint, batch, device="emulator", hardware=HARDWARE, model=model, save_tokens=True)
    assert together.streams == [(i, t) for i in range(5) for t in range(2)] and len(together.runs) == 5
    for stream, (image, task) in enumerate(together.streams):
        alone = infer(
            checkpoint,
            [batch[image]],
            tasks=[task],
            device="emulator",
            hardware=HARDWARE,
            model=model,
            save_tokens=True,
        )
        for a, b in ((together.heads[stream], alone.heads[0]), (together.tokens[stream], alone.tokens[0])):
            assert a is not None and b is not None and (a == b).all()


def test_unknown_device() -> None:
    with pytest.raises(EdgemoeError, match="unknown device 'abacus': choose one of verilator, emulator"):
        open_device("abacus", HARDWARE, 1 << 16)
