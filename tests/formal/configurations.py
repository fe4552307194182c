# SPDX-License-Identifier: Apache-2.0
"""Sizes small enough to be searched completely, below what a build may have."""

from dataclasses import dataclass

from edgemoe.hw.contract.config import HardwareConfig


@dataclass(frozen=True)
class SmallConfig(HardwareConfig):
    """A configuration without the limits that make a build sensible: short bursts, narrow buses, few rows."""

    def __post_init__(self) -> None:
        pass


def small(name: str, **sizes: int) -> HardwareConfig:
    tiny = {"lanes": 4, "data_bits": 16, "rows": 4, "tokens": 4, "width": 8, "hidden": 8, "experts": 4, "top_k": 2}
    return SmallConfig(name, **{**tiny, "prefetch_beats": 32, "burst_beats": 2, "outstanding": 2, **sizes})


ONE = small("one master")
TWO = small("two masters", masters=2, data_bits=8)
