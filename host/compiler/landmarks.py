# SPDX-License-Identifier: Apache-2.0
"""Words that attention by landmarks takes beside queries and values, for one head at a time."""

from __future__ import annotations

from itertools import accumulate

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.config import ModelConfig
from edgemoe.models.steps import NORM_CHANNELS


class Spaces:
    """point    words of a point: of a head's query, and of its norm's channels
    along       words of a row with a number for each token; among: for each landmark
    block       rows of a square matrix of landmarks with whole words either way
    start       where each value begins in key/value memory, counted from the first of these words; words: of all. Ones
                are behind one matrix and before the other, and so is the first solution
    """

    def __init__(self, c: ModelConfig, h: HardwareConfig) -> None:
        self.lanes, self.tokens, self.marks = h.lanes, c.tokens, c.landmarks
        self.head = h.words(c.head_width)
        self.point = self.head + h.words(NORM_CHANNELS)
        self.along, self.among = h.words(c.tokens), h.words(self.marks)
        self.block = self.among * h.lanes
        square, rows = self.block * self.among, self.block * self.head
        sizes = dict(points=self.tokens * self.point, marks=self.marks * self.point, matrix=square, unit=square)
        sizes |= {"product": square, "inverse 0": square, "inverse 1": square, "sums": rows, "turned": rows}
        sizes |= {"solution 0": rows, "first": rows, "solution 1": rows}
        self.start = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
        self.words = sum(sizes.values())

    @property
    def activation(self) -> int:
        """Words of activation memory."""
        rows = {"points": self.tokens, "marks": self.marks}
        return sum(count * self.point for count in rows.values()) + self.squares + self.marks * self.stride

    @property
    def squares(self) -> int:
        """Products of points with those near to them: two words for each, and one more for each word of points."""
        return (2 * self.lanes + 1) * self.along + 2 * self.lanes

    @property
    def stride(self) -> int:
        """Words of a landmark: its weights of tokens, its kernel, inverse, factor and rest with ones beside them."""
        return self.along + 9 * self.among
