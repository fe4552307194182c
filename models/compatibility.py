# SPDX-License-Identifier: Apache-2.0
"""What Python 3.10 lacks: PYNQ's images have it, and the base install runs there."""

from __future__ import annotations

import sys
from enum import Enum

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["StrEnum", "tomllib"]


class StrEnum(str, Enum):
    """As `enum.StrEnum` of Python 3.11: members are texts and print as them."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)
