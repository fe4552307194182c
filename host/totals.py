# SPDX-License-Identifier: Apache-2.0
"""What all passes of a command took together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgemoe.host.runtime.driver import Run
from edgemoe.hw.contract.config import HardwareConfig


@dataclass
class Totals:
    """Sums over passes."""

    cycles: int = 0
    macs: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    host_seconds: float = 0.0  # from what the device gave to predictions

    def add(self, run: Run) -> None:
        self.cycles += run.cycles
        self.macs += run.program.macs
        self.bytes_read += run.bytes_read
        self.bytes_written += run.bytes_written
        self.seconds += run.seconds

    def utilisation(self, hardware: HardwareConfig) -> float | None:
        """Useful multiplications per multiplier and cycle; None where cycles are not counted."""
        return self.macs / (self.cycles * hardware.multipliers) if self.cycles else None

    def summary(self, hardware: HardwareConfig) -> dict[str, Any]:
        """The sums, for programs."""
        return {
            "cycles": self.cycles,
            "macs": self.macs,
            "mac_utilisation": self.utilisation(hardware),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
            "host_seconds": self.host_seconds,
        }

    def rows(self, hardware: HardwareConfig, clock_mhz: float) -> list[tuple[str, str]]:
        """The sums, for people."""
        rows = [("hardware", hardware.name)]
        if (share := self.utilisation(hardware)) is not None:
            rows += [
                ("cycles", f"{self.cycles:,}, {self.cycles / clock_mhz / 1e3:,.2f} ms at {clock_mhz:g} MHz, a target"),
                ("multipliers", f"{100 * share:.1f} % of their cycles useful"),
            ]
        return rows + [
            ("memory traffic", f"{self.bytes_read / 1e6:,.2f} MB read, {self.bytes_written / 1e6:,.3f} MB written"),
            ("device took", f"{self.seconds:,.2f} s"),
            ("host took", f"{self.host_seconds:,.2f} s"),
        ]
