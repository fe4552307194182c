# SPDX-License-Identifier: Apache-2.0
"""What devices of every kind of board share: waiting for the end of a run by interrupt where there is one, else by
looking; and never giving memory back that a running core may still write."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgemoe.host.runtime.device import Memory
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.striped_memory import DeviceTimeout
from edgemoe.models.errors import EdgemoeError

# seconds that a run may take where the caller states none: the core's own watchdog ends a stuck one far earlier
TIMEOUT = 60.0
# seconds between calls of a progress function, and between looks at the registers of a core whose interrupt does not
# come
SLICE = 0.1
DRAIN = (
    5.0  # seconds that a core may take, after a soft reset, to finish the bursts it has begun: it needs microseconds
)
CTRL = registers.offset("CTRL")
START, IDLE, SOFT_RESET = (registers.BY_NAME["CTRL"].field(name).mask for name in ("START", "IDLE", "SOFT_RESET"))
#: Requests to end: kill, and a terminal or connection that is closed (which not every system knows).
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within, Ctrl-C and requests to end are kept; behind it, they do what they would have done."""
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread alone
        yield
        return
    kept: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDINGS)}
    for number in before:
        signal.signal(number, lambda caught, frame: kept.append(caught))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for caught in dict.fromkeys(kept):
            signal.raise_signal(caught)


class BoardDevice(ABC):
    """Registers behind some transport (a `edgemoe.host.runtime.device.Device`). `timeout`: seconds, see TIMEOUT.

    reset_command: what the user types to stop a core that an earlier process left running.
    """

    name: str
    memory: Memory
    timeout = TIMEOUT
    reset_command: str
    _running = False  # a run of ours was started, and its end was not seen

    @abstractmethod
    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""

    def write_register(self, offset: int, value: int) -> None:
        """Set the register at a byte offset."""
        if offset == CTRL and value & START and not self._running:
            self._running = True
            atexit.register(self.close)  # should an interrupt come just before the caller's own close
        self._write(offset, value)

    @abstractmethod
    def _write(self, offset: int, value: int) -> None:
        """As write_register."""

    @abstractmethod
    def _release(self, stopped: bool) -> None:
        """Give everything back; memory that the core writes in this processor's DRAM only if the core has stopped.
        May be repeated.
        """

    def _expect_event(self) -> None:
        """Ask for one event at the next interrupt; nothing to do where there are no interrupts."""
        return None

    def _event(self, seconds: float) -> None:
        """Return at an event, or after so many seconds."""
        time.sleep(min(seconds, 0.001))

    def _interrupt(self) -> bool:
        """The interrupt pin, by the registers that make it. A run that was just started has none, whatever an earlier
        one left.
        """
        status, enable = self.read_register(registers.offset("ISR")), self.read_register(registers.offset("IER"))
        return bool(status & enable & 3) and not self.read_register(CTRL) & START

    def wait(
        self, *, seconds: float | None = None, cycles: int | None = None, progress: Callable[[Any], None] | None = None
    ) -> None:
        """Return when the interrupt is high; DeviceTimeout after `seconds` (default: `timeout`).
        `cycles` cannot be counted here.
        """
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

    def stop(self) -> bool:
        """Abandon whatever runs: soft reset, then wait until the bus is drained; whether the core is idle, after DRAIN
        seconds at most.

        An interrupt does not end it: what called it is on its way out already.
        """
        asked, deadline = False, time.monotonic() + DRAIN
        with uninterrupted():
            while True:
                try:
                    if self.read_register(CTRL) & (IDLE | SOFT_RESET) == IDLE:
                        self._running = False
                        return True
                    if not asked:
                        self._write(CTRL, SOFT_RESET)
                        asked = True
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.0005)
                except KeyboardInterrupt:
                    continue
                except EdgemoeError:  # the transport no longer works
                    return False

    def close(self) -> None:
        """Stop the core if a run of ours may not be over, then give everything back.
        Memory of a core that does not stop is kept.
        """
        with uninterrupted():
            stopped = not self._running or self.stop()
            if not stopped:
                print(
                    f"edgemoe: the core did not stop within {DRAIN:g} s: the memory that it may still write is kept "
                    f"while this process "
                    f"lasts; next: {self.reset_command}, or load the bitstream again",
                    file=sys.stderr,
                )
            self._running = False
            self._release(stopped)
            atexit.unregister(self.close)
