# SPDX-License-Identifier: Apache-2.0
"""However a run on a board ends, the core is idle before its memory is given back:
every way to end, at every moment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from edgemoe.host.runtime import board_device
from edgemoe.host.runtime.board_device import CTRL, IDLE, SOFT_RESET, START, BoardDevice, uninterrupted
from edgemoe.host.runtime.driver import Driver
from edgemoe.host.runtime.loopback import loop_back
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.striped_memory import DeviceTimeout, StripedMemory
from edgemoe.models.errors import EdgemoeError

HARDWARE = preset("tiny")
ENDS: dict[str, Callable[[], Any]] = {
    "interrupt": lambda: KeyboardInterrupt(),
    "protocol": lambda: EdgemoeError("the board did not take it"),
    "mistake": lambda: ZeroDivisionError("a mistake in Python"),
    "exit": lambda: SystemExit(143),
}


class Core(BoardDevice):
    """Registers of a core whose runs never end. raises: access number after the start -> exception. slow:
    looks that draining takes.
    """

    name = "made up"
    reset_command = "edgemoe reset --device made-up"
    timeout = 0.05

    def __init__(self, raises: dict[int, Any] | None = None, slow: int = 3) -> None:
        import numpy as np

        self.memory = StripedMemory([np.zeros(1 << 16, np.uint8)], [0x6000_0000], base=0)
        self.words = {registers.offset(name): value for name, value in registers.constants(HARDWARE).items()}
        self.raises, self.slow = raises or {}, slow
        self.busy, self.resetting, self.accesses = False, False, 0
        self.events: list[str] = []

    def _access(self) -> None:
        if self.busy:
            self.accesses += 1
            if error := self.raises.get(self.accesses):
                raise error

    def read_register(self, offset: int) -> int:
        self._access()
        if offset != CTRL:
            return self.words.get(offset, 0)
        if self.resetting:
            self.slow -= 1
            if self.slow <= 0:
                self.busy = self.resetting = False
                self.events.append("idle")
        return SOFT_RESET if self.resetting else START if self.busy else IDLE

    def _write(self, offset: int, value: int) -> None:
        self._access()
        if offset == CTRL and value & START:
            self.busy = True
            self.events.append("start")
        if offset == CTRL and value & SOFT_RESET:
            self.resetting = True
            self.events.append("reset")

    def _release(self, stopped: bool) -> None:
        self.events.append("given back" if stopped else "kept")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("moment", range(1, 8))
def test_however_a_run_ends(end: str, moment: int) -> None:
    """The first interrupt at every access after the start;
    the core is idle when the driver lets go, and given back after that.
    """
    core = Core({moment: ENDS[end]()})
    with pytest.raises(type(ENDS[end]())):
        loop_back(Driver(core, HARDWARE))
    assert core.events == ["start", "reset", "idle"]
    core.close()
    assert core.events == ["start", "reset", "idle", "given back"]


@pytest.mark.parametrize("second", range(4, 10))
def test_a_second_interrupt_while_cleaning_up(second: int) -> None:
    core = Core({3: KeyboardInterrupt(), second: KeyboardInterrupt()}, slow=8)
    with pytest.raises(KeyboardInterrupt):
        loop_back(Driver(core, HARDWARE))
    core.close()
    assert core.events == ["start", "reset", "idle", "given back"]


def test_a_time_out() -> None:
    core = Core()
    with pytest.raises(DeviceTimeout, match=r"within 0\.05 s"):
        loop_back(Driver(core, HARDWARE))
    assert core.events == ["start", "reset", "idle"] and core.read_register(CTRL) == IDLE


def test_close_alone_stops_a_core() -> None:
    """Whoever starts the core without the driver: close is enough."""
    core = Core()
    core.write_register(CTRL, START)
    core.close()
    assert core.events == ["start", "reset", "idle", "given back"]


def test_memory_of_a_core_that_does_not_stop_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board_device, "DRAIN", 0.05)
    core = Core(slow=1 << 60)
    with pytest.raises(DeviceTimeout):
        loop_back(Driver(core, HARDWARE))
    core.close()
    assert core.events == ["start", "reset", "reset", "kept"]
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and core.reset_command in told


def test_a_core_left_busy_is_not_touched() -> None:
    """It is somebody else's until the user says otherwise: the message names the command."""
    core = Core()
    core.busy = True
    with pytest.raises(
        EdgemoeError,
        match="'made up' is busy: an earlier process left it running; stop it: edgemoe reset --device made-up",
    ):
        loop_back(Driver(core, HARDWARE))
    assert not core.memory.read(0, 1 << 16).any(), "nothing was written under a running core"
    core.close()
    assert core.events == ["given back"]
    assert core.stop() and core.events[1:] == ["reset", "idle"]


def test_signals_wait_for_the_end_of_cleaning_up() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell has it ignored
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("cleaned up")
        done.append("too far")
    assert done == ["cleaned up"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
