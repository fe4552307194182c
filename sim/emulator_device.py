# SPDX-License-Identifier: Apache-2.0
"""The emulator as a device: the same registers and the same memory as the core, so that the driver cannot tell them
apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.striped_memory import StripedMemory
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim.emulator import Emulator, Result
from threadpoolctl import ThreadpoolController

START, DONE, IDLE, READY = 1, 2, 4, 8
DONE_EVENT, ERROR_EVENT = 1, 2


class EmulatorDevice:
    """Fulfils `edgemoe.host.runtime.device.Device`. It counts instructions and bytes, but no cycles: CYCLES and its
    parts read 0.

    A run happens inside the register write that starts it. `result`: how the last run ended, with the router's
    decisions.
    """

    name = "emulator"

    def __init__(self, hardware: HardwareConfig, memory_size: int) -> None:
        self.hardware, self.emulator, self.result = hardware, Emulator(hardware), Result()
        granule = 4096 * hardware.masters
        self._dram = np.zeros(-(-memory_size // granule) * granule, np.uint8)
        self.memory = StripedMemory([self._dram], [0])
        self._words = {registers.offset(name): value for name, value in registers.constants(hardware).items()}
        self._done = False
        # Its matrix products are too small to gain from threads, and lose much on a busy machine.
        self._threads = ThreadpoolController()

    def read_register(self, offset: int) -> int:
        if not any(r.offset == offset for r in registers.REGISTERS):
            raise EdgemoeError(f"the emulator has no register at {offset:#x}")
        if offset == registers.offset("CTRL"):
            value = IDLE | (DONE | READY if self._done else 0)
            self._done = False
            return value
        return self._words.get(offset, 0)

    def write_register(self, offset: int, value: int) -> None:
        register = next((r for r in registers.REGISTERS if r.offset == offset), None)
        if register is None or register.access is registers.Access.READ_ONLY:
            raise EdgemoeError(f"the emulator has no writable register at {offset:#x}")
        if register.name == "CTRL":
            if value & START:
                self._run()
        elif register.name == "ISR":
            self._words[offset] = self._words.get(offset, 0) & ~value
        else:
            self._words[offset] = value & register.writable

    def wait(
        self,
        *,
        seconds: float | None = None,
        cycles: int | None = None,
        progress: Callable[[EmulatorDevice], None] | None = None,
    ) -> None:
        """The run is already over."""
        if progress:
            progress(self)

    def close(self) -> None:
        del self._dram, self.memory

    def _put(self, name: str, value: int) -> None:
        offset = registers.offset(name)
        self._words[offset] = value & 0xFFFFFFFF
        if f"{name}_LO" in registers.BY_NAME:
            self._words[offset + 4] = value >> 32

    def _run(self) -> None:
        for name in registers.COUNTERS:
            self._put(name, 0)
        low = registers.offset("PROGRAM")
        program = self._words.get(low, 0) | self._words.get(low + 4, 0) << 32
        with self._threads.limit(limits=1):
            self.result = result = self.emulator.run(self._dram, program)
        beat = self.hardware.bus_bytes
        values = {
            "INSTRUCTIONS": result.instructions,
            "READ_BEATS": result.bytes_read // beat,
            "WRITE_BEATS": result.bytes_written // beat,
            "ERROR_CODE": int(result.error_code),
            "ERROR_INSTRUCTION": result.error_instruction,
            "ERROR_ADDRESS": result.error_address,
        }
        for name, value in values.items():
            self._put(name, value)
        offset = registers.offset("ISR")
        self._words[offset] = self._words.get(offset, 0) | DONE_EVENT | (ERROR_EVENT if result.error_code else 0)
        self._done = True
