# SPDX-License-Identifier: Apache-2.0
"""Token rows of streams: slot after slot, one a stream.

A stream is one (image, task). Streams of one image share everything before the first router; from there on each has its
own rows. The first streams of the images (their leaders) have the first slots, so that the shared part runs over
contiguous rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemoe.host.runtime.program import Stream


@dataclass(frozen=True)
class Run:
    """`count` slots from `slot` on, whose images are led by the slots from `leader` on."""

    slot: int
    leader: int
    count: int

    def followed_by(self, slot: int, leader: int) -> bool:
        """Whether this pair continues the run."""
        return (slot, leader) == (self.slot + self.count, self.leader + self.count)


@dataclass(frozen=True)
class Placement:
    """Who has which rows.

    slot_of: of each stream; slots: how many there are; leaders: the first ones, one an image; followers: the others.
    """

    slot_of: tuple[int, ...]
    slots: int
    leaders: int
    followers: tuple[Run, ...]


def place(streams: Sequence[Stream], parts: bool) -> Placement:
    """Slots for streams; `parts`: whether streams of one image part at all. If not, its leader does for all of them."""
    images = list(dict.fromkeys(stream.image for stream in streams))
    if not parts:
        return Placement(tuple(images.index(s.image) for s in streams), len(images), len(images), ())
    seen = dict.fromkeys(images, 0)
    order: list[tuple[int, int, int]] = []  # (how many streams of this image came before, its leader, stream)
    for index, stream in enumerate(streams):
        order.append((seen[stream.image], images.index(stream.image), index))
        seen[stream.image] += 1
    order.sort()
    slots = {index: slot for slot, (_, _, index) in enumerate(order)}
    followers = _runs([(slot, leader) for slot, (turn, leader, _) in enumerate(order) if turn])
    return Placement(tuple(slots[index] for index in range(len(streams))), len(streams), len(images), followers)


def _runs(pairs: Sequence[tuple[int, int]]) -> tuple[Run, ...]:
    """Pairs (slot, leader's slot) as few runs."""
    runs: list[Run] = []
    for slot, leader in pairs:
        if runs and runs[-1].followed_by(slot, leader):
            runs[-1] = Run(runs[-1].slot, runs[-1].leader, runs[-1].count + 1)
        else:
            runs.append(Run(slot, leader, 1))
    return tuple(runs)
