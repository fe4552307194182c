# SPDX-License-Identifier: Apache-2.0
"""A pattern from DRAM through the core and back: what shows, before the first picture, that core and processor see the
same memory.
"""

from __future__ import annotations

import numpy as np
from edgemoe.host.runtime.driver import Driver
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Memory, Opcode
from edgemoe.models.errors import EdgemoeError

ALIGNMENT = 4096
SEED = 20
FETCHED_AHEAD = 4096  # bytes behind the program that the fetcher may read


def loop_back(driver: Driver, seed: int = SEED) -> None:
    """LOAD a random pattern to the residual memory, STORE it elsewhere, compare. It spans several bursts of every
    master.

    EdgemoeError says which bytes came back wrong: with several masters, whose.
    """
    hardware, memory = driver.hardware, driver.device.memory
    driver.require_idle()
    columns = hardware.words(hardware.width)
    rows = min(hardware.rows, -(-2 * ALIGNMENT // (columns * hardware.word_bytes)))
    size = rows * columns * hardware.word_bytes
    room = -(-size // ALIGNMENT) * ALIGNMENT
    program, source, destination = 0, FETCHED_AHEAD, FETCHED_AHEAD + room
    beats = -(-size // hardware.bus_bytes)

    def transfer(opcode: Opcode, address: int) -> Instruction:
        fields = dict(
            memory=Memory.RESIDUAL, destination_stride=columns, rows=rows, columns=columns, address=address, beats=beats
        )
        return Instruction(opcode, {"wait_stream": 1, "wait_load": 1, **fields})

    instructions = (transfer(Opcode.LOAD, source), transfer(Opcode.STORE, destination), Instruction(Opcode.END))
    code = b"".join(i.encode() for i in instructions)
    assert len(code) == INSTRUCTION_BYTES * len(instructions)
    pattern = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    memory.write(memory.base + program, np.zeros(FETCHED_AHEAD, np.uint8))
    memory.write(memory.base + program, code)
    memory.write(memory.base + source, pattern)
    memory.write(memory.base + destination, np.zeros(room, np.uint8))
    driver.execute(program, ["pattern to the core", "pattern back", "end"])
    found = memory.read(memory.base + destination, size)
    wrong = np.flatnonzero(found != pattern)
    if wrong.size:
        beat = hardware.data_bits // 8
        masters = sorted({int(offset) // beat % hardware.masters for offset in wrong})
        raise EdgemoeError(
            f"device {driver.device.name!r}: a pattern came back from its memory with {wrong.size} of {size} bytes "
            f"wrong, the first "
            f"at {wrong[0]} (master {', '.join(map(str, masters))}): wrong base address, bus width or cache handling "
            f"of the platform"
        )
