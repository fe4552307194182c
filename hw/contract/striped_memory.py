# SPDX-License-Identifier: Apache-2.0
"""A device's memory as one linear range, over one bank or several;
NumPy only, because the host beside a board uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray

#: Bytes that lie together in one bank: one beat of a 128-bit bus.
GRANULE = 16


class DeviceTimeout(EdgemoeError):
    """The device did not raise its interrupt in time."""


class StripedMemory:
    """A linear memory over the byte arrays of one or several banks.

    A core with M masters sees one wide memory: granule ``g`` (one beat of a bus, by
    default 16 bytes) lies in bank ``g % M`` at offset ``16 * (g // M)``.  This class
    hides it. Addresses are linear and begin at ``base``; ``bank_addresses`` says where each bank begins on the bus of
    its master.
    """

    def __init__(
        self,
        banks: Sequence[NDArray[np.uint8]],
        bank_addresses: Sequence[int],
        *,
        base: int | None = None,
        granule: int = GRANULE,
    ):
        if len(banks) != len(bank_addresses) or not banks:
            raise ValueError(f"{len(banks)} banks with {len(bank_addresses)} addresses")
        if len({bank.size for bank in banks}) != 1 or banks[0].size % granule:
            raise ValueError(
                f"banks must have one size, a multiple of {granule} bytes; got {[bank.size for bank in banks]}"
            )
        self._granule = granule
        self._banks = [bank.reshape(-1, granule) for bank in banks]
        self.bank_addresses = tuple(bank_addresses)
        # With one bank the linear address is the bus address; with several it is an address of no bus, and begins at
        # zero.
        self.base = base if base is not None else (self.bank_addresses[0] if len(banks) == 1 else 0)
        self.size = sum(bank.size for bank in banks)

    def _check(self, address: int, size: int) -> int:
        offset = address - self.base
        if size < 0 or offset < 0 or offset + size > self.size:
            raise EdgemoeError(
                f"{size} bytes at {address:#x} are outside the device memory {self.base:#x} to "
                f"{self.base + self.size:#x}"
            )
        return offset

    def write(self, address: int, data: bytes | NDArray[np.generic]) -> None:
        """Store bytes, or an array's bytes in C order."""
        if isinstance(data, np.ndarray):
            values = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        else:
            values = np.frombuffer(data, np.uint8)
        offset = self._check(address, values.size)
        if not values.size:
            return
        if len(self._banks) == 1:
            self._banks[0].reshape(-1)[offset : offset + values.size] = values
            return
        # Whole granules move as rows; a part of a granule at either end is merged with what lies there.
        first, last = offset // self._granule, (offset + values.size - 1) // self._granule
        rows = self._gather(first, last + 1)
        start = offset - first * self._granule
        rows.reshape(-1)[start : start + values.size] = values
        count = len(self._banks)
        for index, bank in enumerate(self._banks):
            lead = (index - first) % count
            part = rows[lead::count]
            begin = (first + lead) // count
            bank[begin : begin + len(part)] = part

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        """A copy of ``size`` bytes."""
        offset = self._check(address, size)
        if not size:
            return np.zeros(0, np.uint8)
        if len(self._banks) == 1:
            return self._banks[0].reshape(-1)[offset : offset + size].copy()
        first, last = offset // self._granule, (offset + size - 1) // self._granule
        start = offset - first * self._granule
        return self._gather(first, last + 1).reshape(-1)[start : start + size].copy()

    def _gather(self, first: int, end: int) -> NDArray[np.uint8]:
        """Granules ``first`` to ``end`` in linear order."""
        count = len(self._banks)
        rows = np.empty((end - first, self._granule), np.uint8)
        for index, bank in enumerate(self._banks):
            lead = (index - first) % count
            begin = (first + lead) // count
            part = rows[lead::count]
            part[:] = bank[begin : begin + len(part)]
        return rows
