# SPDX-License-Identifier: Apache-2.0
"""Programs on emulator and simulation, the whole memory compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import ErrorCode
from edgemoe.sim.device import Dram, VerilatorDevice
from edgemoe.sim.emulator import Emulator
from edgemoe.sim.simulator import open_verilator
from numpy.typing import NDArray

WATCHDOG = 20_000  # cycles without any progress
LIMIT = 20_000_000  # cycles that no program here takes


@dataclass(frozen=True)
class Outcome:
    """How a run on the simulation ended, and the memory after it."""

    code: ErrorCode
    instruction: int
    address: int
    cycles: int
    memory: NDArray[np.uint8]


def write(device: VerilatorDevice, name: str, value: int) -> None:
    device.write_register(registers.offset(name), value)


def read(device: VerilatorDevice, name: str) -> int:
    return device.read_register(registers.offset(name))


def execute(
    device: VerilatorDevice, memory: NDArray[np.uint8], *, watchdog: int = WATCHDOG, program: int = 0
) -> Outcome:
    """Run the program at an offset of a memory image to its end, whatever that is;
    the core must be idle, and is so afterwards.
    """
    assert read(device, "CTRL") & 4, "the core is not idle"
    size = min(memory.size, device.memory.size)
    device.memory.write(device.memory.base, memory[:size])
    for name, value in (
        ("GIE", 1),
        ("IER", 3),
        ("ISR", 3),
        ("WATCHDOG", watchdog),
        ("PROGRAM_LO", program),
        ("PROGRAM_HI", 0),
    ):
        write(device, name, value)
    for number, address in enumerate(device.memory.bank_addresses):
        write(device, f"BASE_{number}_LO", address & 0xFFFFFFFF)
        write(device, f"BASE_{number}_HI", address >> 32)
    write(device, "CTRL", 1)
    device.wait(cycles=LIMIT)
    code = ErrorCode(read(device, "ERROR_CODE"))
    for _ in range(100):  # bursts that were under way end first
        if read(device, "CTRL") & 4:
            break
        device.step(1000)
    else:
        raise AssertionError("the core does not become idle")
    address = read(device, "ERROR_ADDRESS_LO") | read(device, "ERROR_ADDRESS_HI") << 32
    cycles = read(device, "CYCLES_LO")
    return Outcome(
        code, read(device, "ERROR_INSTRUCTION"), address, cycles, device.memory.read(device.memory.base, size)
    )


def emulate(hardware: HardwareConfig, memory: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Emulator]:
    """The memory after the emulator has run the program at its beginning."""
    emulator, memory = Emulator(hardware), memory.copy()
    result = emulator.run(memory)
    assert result.error_code == ErrorCode.NONE, f"{result.error_code.name} at instruction {result.error_instruction}"
    return memory, emulator


def dram_of(seed: int) -> Dram:
    """A fast memory, or one that stalls on every channel."""
    from edgemoe.host.studies.soak import random_dram

    rng = np.random.default_rng([seed, 99])
    return Dram(latency=int(rng.integers(1, 80)), seed=seed + 1) if rng.random() < 0.4 else random_dram(rng)


def simulate(hardware: HardwareConfig, memory: NDArray[np.uint8], dram: Dram | None = None) -> Outcome:
    """One run on a device of its own."""
    with open_verilator(hardware, memory.size, dram) as device:
        return execute(device, memory)
