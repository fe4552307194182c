# SPDX-License-Identifier: Apache-2.0
"""Formats of the weights of a whole model."""

from __future__ import annotations

from ..compatibility import StrEnum
from ..errors import EdgemoeError
from .words import WORD_BITS

BYTE_BITS = 8


class WeightFormat(StrEnum):
    """How many bits the weights of a model have: 16, 8, or 8 in the experts and 16 in the trunk."""

    SIXTEEN = "16"
    EIGHT = "8"
    MIXED = "mixed"

    @classmethod
    def of(cls, text: str) -> WeightFormat:
        """A format by name; EdgemoeError for any other."""
        if str(text) not in tuple(cls):
            raise EdgemoeError(f"weight bits are {str(text)!r}, expected one of {', '.join(cls)}")
        return cls(str(text))

    def bits(self, expert: bool) -> int:
        """Bits of a weight of an expert's matrix, or of any other."""
        return WORD_BITS if self is WeightFormat.SIXTEEN or (self is WeightFormat.MIXED and not expert) else BYTE_BITS

    @property
    def label(self) -> str:
        """As tables have it."""
        return "8-bit experts, 16-bit trunk" if self is WeightFormat.MIXED else f"{self} bit"

    @property
    def coarse(self) -> bool:
        """Whether some weights have 8 bits."""
        return self is not WeightFormat.SIXTEEN
