# SPDX-License-Identifier: Apache-2.0
"""Words of activation memory for values, from their first use to their last; what is free may be used by the next
instruction, as the array works in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from edgemoe.host.compiler.capacities import Need, Shortage
from edgemoe.host.compiler.draft import At, Draft, Room
from edgemoe.hw.contract.config import HardwareConfig

AT_ONCE = "activation words at once"


class Activations:
    """First-fit allocator of activation words."""

    def __init__(self, words: int) -> None:
        self.words, self.taken = words, dict[int, int]()

    def take(self, size: int, high: bool = False) -> int | None:
        """The lowest room, or, with `high`, the very end of the memory."""
        if high:
            start = self.words - size
            if start < max((base + length for base, length in self.taken.items()), default=0):
                return None
            self.taken[start] = size
            return start
        start = 0
        for base, length in sorted(self.taken.items()):
            if base - start >= size:
                break
            start = base + length
        if start + size > self.words:
            return None
        self.taken[start] = size
        return start

    def free(self, base: int) -> None:
        """Give back what `take` returned."""
        del self.taken[base]

    @property
    def used(self) -> int:
        """Words taken."""
        return sum(self.taken.values())

    @property
    def piece(self) -> int:
        """Words of the largest free piece."""
        ends = [0, *(base + length for base, length in sorted(self.taken.items()))]
        return max(base - end for base, end in zip([*sorted(self.taken), self.words], ends, strict=True))


def allocate(drafts: Sequence[Draft], model: str, hardware: HardwareConfig) -> Need:
    """Give every room its base, and put numbers where drafts name words of rooms: how many are needed at once.

    Shortage if there are not enough words.
    """
    memory = Activations(hardware.activation_words)
    loops = groupby(enumerate(drafts), key=lambda pair: (pair[1].group, pair[1].group or pair[0]))
    groups = [[draft for _, draft in group] for _, group in loops]
    last = {room: number for number, group in enumerate(groups) for draft in group for room in draft.used}
    most = 0
    for number, group in enumerate(groups):
        used = dict.fromkeys(room for draft in group for room in draft.used)
        for room in used:
            if room.base < 0:
                _take(memory, room, model, hardware)
                most = max(most, memory.used)
        for draft in group:
            numbers = {
                name: value.room.base + value.offset for name, value in draft.fields.items() if isinstance(value, At)
            }
            draft.fields.update(numbers)
        for room in used:
            if last[room] == number:
                memory.free(room.base)
    return Need(AT_ONCE, most, memory.words)


def _take(memory: Activations, room: Room, model: str, hardware: HardwareConfig) -> None:
    base = memory.take(room.words, high=room.opposite is not None and room.opposite.base == 0)
    if base is None:
        amount = memory.used + room.words
        # A word more in every row, at least.
        wider = (
            hardware.words(hardware.hidden) + max(1, -(-(amount - memory.words) // hardware.wide_rows))
        ) * hardware.lanes
        need = Need(f"{AT_ONCE} ({room.words} for {room.name})", amount, memory.words, dict(hidden=wider))
        if not need.short:  # there are enough, but nowhere together
            need = Need(f"activation words in one piece, for {room.name}", room.words, memory.piece, dict(hidden=wider))
        raise Shortage(model, hardware, [need])
    room.base = base
