# SPDX-License-Identifier: Apache-2.0
"""What the driver needs of a device, whatever it is: registers, memory, an interrupt to wait for.

`edgemoe.sim.emulator_device.EmulatorDevice` (integers in NumPy), `edgemoe.sim.device.VerilatorDevice` (the generated
Verilog in this process) and the FPGA devices are such; a driver written against :class:`Device` cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from edgemoe.hw.contract.striped_memory import GRANULE, DeviceTimeout, StripedMemory
from numpy.typing import NDArray

__all__ = ["GRANULE", "Device", "DeviceTimeout", "Memory", "Progress", "StripedMemory"]

#: What :meth:`Device.wait` calls now and then; it may read registers.
Progress = Callable[[Any], None]


class Memory(Protocol):
    """The device's memory as one linear range of addresses, ``base`` to ``base + size``."""

    base: int  #: first linear address
    size: int  #: bytes, all banks together
    bank_addresses: tuple[
        int, ...
    ]  #: where each master's region begins on its own bus: what the core's base registers are set to

    def write(self, address: int, data: bytes | NDArray[np.generic]) -> None:
        """Store bytes, or an array's bytes in C order; :class:`EdgemoeError` if the range is not inside the memory."""

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        """A copy of ``size`` bytes."""


@runtime_checkable
class Device(Protocol):
    """One accelerator core that can be programmed."""

    name: str

    @property
    def memory(self) -> Memory:
        """The memory that the core reads and writes."""

    def read_register(self, offset: int) -> int:
        """The 32-bit register at a byte offset; :class:`EdgemoeError` if the core answers with an error or not at
        all.
        """

    def write_register(self, offset: int, value: int) -> None:
        """Set the 32-bit register at a byte offset; errors as in :meth:`read_register`."""

    def wait(
        self, *, seconds: float | None = None, cycles: int | None = None, progress: Progress | None = None
    ) -> None:
        """Return when the interrupt is high; :class:`DeviceTimeout` after ``seconds`` of real time or ``cycles`` of the
        core's clock.

        A device without a countable clock ignores ``cycles``.  ``progress`` is called about ten times a second.
        """

    def close(self) -> None:
        """Give back everything; the device cannot be used afterwards."""
