# SPDX-License-Identifier: Apache-2.0
"""Watching a simulated core at work through its own registers."""

from __future__ import annotations

import time

from edgemoe.host.runtime.device import Memory, Progress
from edgemoe.hw.contract import registers
from edgemoe.sim.device import VerilatorDevice

NOTED = ("CYCLES", "INSTRUCTIONS", *registers.STATE_COUNTERS, "READ_BEATS", "WRITE_BEATS")
SHOWN = 0.1  # seconds between two calls of `progress`
UNSEEN = 26  # cycles between two looks; with these an instruction's end is known to about 30


class Recorder:
    """A simulated core (fulfils :class:`edgemoe.host.runtime.device.Device`) that writes down, while it runs, what
    its counters say: whenever an instruction has retired, and every `interval` cycles.

    samples: the counters NOTED, row after row. The core runs on while a register is read, so that watching costs it
    nothing; the registers of a row are read one after the other, some cycles apart, each row in the same order.
    """

    def __init__(self, device: VerilatorDevice, interval: int) -> None:
        self.device, self.interval = device, interval
        self.name = device.name
        self.samples: list[tuple[int, ...]] = []
        self._offsets = [registers.offset(name) for name in NOTED]

    @property
    def memory(self) -> Memory:
        return self.device.memory

    def read_register(self, offset: int) -> int:
        return self.device.read_register(offset)

    def write_register(self, offset: int, value: int) -> None:
        self.device.write_register(offset, value)

    def wait(
        self, *, seconds: float | None = None, cycles: int | None = None, progress: Progress | None = None
    ) -> None:
        """Until the interrupt; a core that hangs is ended by its own watchdog, whatever the limits say."""
        self.samples = [tuple(0 for _ in NOTED)]
        due, shown = self.interval, time.monotonic()
        cycle, retired = self._offsets[:2]
        while not self.device.interrupt:
            if self.read_register(retired) > self.samples[-1][1] or self.read_register(cycle) >= due:
                self._note()
                due = self.samples[-1][0] + self.interval
                if progress and time.monotonic() - shown > SHOWN:
                    shown = time.monotonic()
                    progress(self)
            self.device.run(UNSEEN)
        self._note()

    def close(self) -> None:
        self.device.close()

    def _note(self) -> None:
        self.samples.append(tuple(self.read_register(offset) for offset in self._offsets))
