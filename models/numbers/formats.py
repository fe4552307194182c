# SPDX-License-Identifier: Apache-2.0
"""Formats of the weights of a whole model."""

from __future__ import annotations

from ..compatibility import StrEnum
from ..errors import EdgemoeError
from .words import WORD_BITS

BYTE_BITS = 8


class WeightFormat(StrEnum):
    """How many bits the weights of a model have: 16, 8, or 8 in the experts and 16 in the trunk.

    Or how many its products: 9-bit activations times 8-bit weights, two in a multiplier, everywhere but in attention
    and routers (fast), or also not in the experts, which stay 16 x 8 (fast-trunk). Or 16 everywhere, but queries and
    keys have 8 (sage, as in SageAttention).
    """

    SIXTEEN = "16"
    EIGHT = "8"
    MIXED = "mixed"
    FAST = "fast"
    FAST_TRUNK = "fast-trunk"
    SAGE = "sage"

    @classmethod
    def of(cls, text: str) -> WeightFormat:
        """A format by name; EdgemoeError for any other."""
        if str(text) not in tuple(cls):
            raise EdgemoeError(f"weight bits are {str(text)!r}, expected one of {', '.join(cls)}")
        return cls(str(text))

    def bits(self, expert: bool, unpacked: bool = False) -> int:
        """Bits of a weight of an expert's matrix, of one whose products are never packed, or of any other."""
        mixed, packed = self is WeightFormat.MIXED and not expert, self.fast and unpacked
        return WORD_BITS if not self.coarse or mixed or packed else BYTE_BITS

    def packed(self, expert: bool, unpacked: bool = False) -> bool:
        """Whether two products of such a matrix share a multiplier."""
        return self.fast and not unpacked and not (expert and self is WeightFormat.FAST_TRUNK)

    @property
    def fast(self) -> bool:
        """Whether it packs products."""
        return self in (WeightFormat.FAST, WeightFormat.FAST_TRUNK)

    @property
    def roundings(self) -> tuple[WeightFormat, ...]:
        """The formats whose error-aware rounding its 8-bit weights have, the best one first."""
        return tuple(dict.fromkeys((self, WeightFormat.FAST, WeightFormat.EIGHT))) if self.fast else (self,)

    @classmethod
    def plain(cls) -> list[WeightFormat]:
        """Those of weights alone, which every build runs."""
        return [each for each in cls if not each.fast and not each.byte_scores]

    @property
    def label(self) -> str:
        """As tables have it."""
        named = {
            WeightFormat.MIXED: "8-bit experts, 16-bit trunk",
            WeightFormat.FAST: "8 bit, two products a multiplier",
            WeightFormat.FAST_TRUNK: "8 bit, two products a multiplier but in experts",
            WeightFormat.SAGE: "16 bit, queries and keys of 8 bits",
        }
        return named.get(self, f"{self} bit")

    @property
    def coarse(self) -> bool:
        """Whether some weights have 8 bits."""
        return self not in (WeightFormat.SIXTEEN, WeightFormat.SAGE)

    @property
    def byte_scores(self) -> bool:
        """Whether scores are products of 8-bit numbers."""
        return self is WeightFormat.SAGE
