# SPDX-License-Identifier: Apache-2.0
"""What devices of every kind of board share: waiting for the end of a run by interrupt where there is one, else by looking."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from edgemoe.hw import registers
from edgemoe.sim.memory import DeviceTimeout

TIMEOUT = 60.0  # seconds that a run may take where the caller states none: the core's own watchdog ends a stuck one far earlier
SLICE = 0.1  # seconds between calls of a progress function, and between looks at the registers of a core whose interrupt does not come
START = 1


class BoardDevice(ABC):
    """Registers behind some transport (`edgemoe.host.device.Device` without its memory). `timeout`: seconds, see TIMEOUT."""

    timeout = TIMEOUT

    @abstractmethod
    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""

    @abstractmethod
    def write_register(self, offset: int, value: int) -> None:
        """Set the register at a byte offset."""

    def _expect_event(self) -> None:
        """Ask for one event at the next interrupt; nothing to do where there are no interrupts."""
        return None

    def _event(self, seconds: float) -> None:
        """Return at an event, or after so many seconds."""
        time.sleep(min(seconds, 0.001))

    def _interrupt(self) -> bool:
        """The interrupt pin, by the registers that make it. A run that was just started has none, whatever an earlier one left."""
        status, enable = self.read_register(registers.offset("ISR")), self.read_register(registers.offset("IER"))
        return bool(status & enable & 3) and not self.read_register(registers.offset("CTRL")) & START

    def wait(self, *, seconds: float | None = None, cycles: int | None = None, progress: Callable[[Any], None] | None = None) -> None:
        """Return when the interrupt is high; DeviceTimeout after `seconds` (default: `timeout`). `cycles` cannot be counted here."""
        limit = self.timeout if seconds is None else seconds
        begun = shown = time.monotonic()
        self._expect_event()
        while not self._interrupt():
            now = time.monotonic()
            if now - begun > limit:
                raise DeviceTimeout(f"the accelerator did not finish within {limit:g} s")
            if progress is not None and now - shown >= SLICE:
                shown = now
                progress(self)
            self._event(min(SLICE, max(begun + limit - now, 0.001)))
