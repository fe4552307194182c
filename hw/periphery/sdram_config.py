# SPDX-License-Identifier: Apache-2.0
"""What an SDR SDRAM of 16 bits demands, in nanoseconds, and what the controller makes of it, in cycles of its clock."""

import math
from dataclasses import dataclass, field

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.models.errors import EdgemoeError

DQ_BITS = 16
BURST_WORDS = 4  # of the chip: one 64-bit beat is one READ or WRITE command
BEAT_BITS = BURST_WORDS * DQ_BITS
MINIMUM_RECOVERY = 2  # cycles of write recovery, which some data sheets state instead of nanoseconds
MODE_CYCLES = 2  # tMRD of every data sheet
ADDRESS_PINS, BANK_PINS = 13, 2


@dataclass(frozen=True)
class SdramTiming:
    """Nanoseconds of the data sheet. The default holds for MT48LC16M16A2-75, AS4C16M16SA-6 and IS42S16160G-7, the
    slowest value of each.
    """

    row_precharge: float = 20.0  # tRP: PRECHARGE to the next command of the bank
    row_to_column: float = 20.0  # tRCD: ACTIVE to READ or WRITE
    row_cycle: float = 66.0  # tRC: ACTIVE to ACTIVE of a bank
    row_active: float = 45.0  # tRAS: ACTIVE to PRECHARGE
    refresh_cycle: float = 66.0  # tRFC: REFRESH to the next command
    write_recovery: float = 15.0  # tWR or tDPL: the last word written to PRECHARGE
    refresh_interval: float = 64e6 / 8192  # tREFI: each row every 64 ms

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise EdgemoeError(f"SDRAM timing: {name} must be a positive number of nanoseconds, not {value}")


@dataclass(frozen=True)
class SdramConfig:
    """An SDRAM of 16 bits at `clock_hz`. Byte address = {row, bank, column, 0}: a stream walks through the banks before
    it changes the row.

    `power_up_us`: silence before the first command; a simulation may shorten it, a board may not.
    `pad_registers`: registers between these pins and the chip's. 0: none, the controller samples `dq_i` itself, half a
    cycle before the chip's own edge; 1: the pad samples it at the falling edge, the chip's own, which leaves the chip's
    access time a whole cycle; 2: and every pad registers what goes out, `dq_oe` too, so that all of it changes together
    and next to the chip.
    """

    clock_hz: float
    power_up_us: float = 200.0
    timing: SdramTiming = field(default_factory=SdramTiming)
    cas_latency: int = 2  # up to 100 MHz; 3 above
    pad_registers: int = 0
    init_refreshes: int = 8
    read_buffer: int = 16  # beats that were read and not yet taken: what one word of LUT memory holds anyway
    patience: int = 16  # cycles for which a burst may keep its turn without a beat to move
    row_bits: int = 13
    bank_bits: int = 2
    column_bits: int = 9

    def __post_init__(self) -> None:
        def need(condition: bool, message: str) -> None:
            if not condition:
                raise EdgemoeError(f"SDRAM: {message}")

        need(1e6 <= self.clock_hz <= 166e6, f"clock_hz must be 1 to 166 MHz, not {self.clock_hz}")
        need(self.power_up_us >= 0, f"power_up_us must not be negative, not {self.power_up_us}")
        need(self.cas_latency in (2, 3), f"cas_latency must be 2 or 3, not {self.cas_latency}")
        need(self.cas_latency == 3 or self.clock_hz <= 100e6, f"cas_latency 2 holds up to 100 MHz, not {self.clock_hz}")
        need(0 <= self.pad_registers <= 2, f"pad_registers must be 0, 1 or 2, not {self.pad_registers}")
        need(self.init_refreshes >= 2, f"init_refreshes must be at least 2, not {self.init_refreshes}")
        need(1 <= self.read_buffer <= 256, f"read_buffer must be 1..256, not {self.read_buffer}")
        need(2 <= self.patience <= 256, f"patience must be 2..256, not {self.patience}")
        need(1 <= self.row_bits <= ADDRESS_PINS, f"row_bits must be 1..{ADDRESS_PINS}, not {self.row_bits}")
        need(1 <= self.bank_bits <= 2, f"bank_bits must be 1 or 2, not {self.bank_bits}")
        need(3 <= self.column_bits <= 10, f"column_bits must be 3..10, not {self.column_bits}")
        least = self.refresh_cycle + self.row_to_column + self.longest_close + self.row_precharge
        need(
            self.refresh_wait >= least,
            f"between two refreshes there must be time for an access: {least} cycles, not {self.refresh_wait}",
        )

    def cycles(self, nanoseconds: float) -> int:
        """The fewest cycles that last so long."""
        return max(1, math.ceil(round(nanoseconds * self.clock_hz / 1e9, 6)))

    @property
    def bytes(self) -> int:
        """Size of the memory."""
        return 2 << (self.row_bits + self.bank_bits + self.column_bits)

    @property
    def power_up(self) -> int:
        return self.cycles(self.power_up_us * 1e3)

    @property
    def row_precharge(self) -> int:
        return self.cycles(self.timing.row_precharge)

    @property
    def row_to_column(self) -> int:
        return self.cycles(self.timing.row_to_column)

    @property
    def refresh_cycle(self) -> int:
        return self.cycles(self.timing.refresh_cycle)

    @property
    def row_active(self) -> int:
        """ACTIVE to PRECHARGE: tRAS, and what tRC leaves when tRP is off, so that nobody need count tRC."""
        return max(self.cycles(self.timing.row_active), self.cycles(self.timing.row_cycle) - self.row_precharge)

    @property
    def read_to_close(self) -> int:
        """READ to PRECHARGE: the whole burst, and tRAS."""
        return max(BURST_WORDS, self.row_active - self.row_to_column)

    @property
    def write_to_close(self) -> int:
        """WRITE to PRECHARGE: the last word, its recovery, and tRAS."""
        recovery = max(MINIMUM_RECOVERY, self.cycles(self.timing.write_recovery))
        return max(BURST_WORDS - 1 + recovery, self.row_active - self.row_to_column)

    @property
    def read_to_write(self) -> int:
        """READ to WRITE: the burst has left the wires, and one cycle to turn them round."""
        return self.cas_latency + BURST_WORDS + 1

    @property
    def longest_close(self) -> int:
        return max(self.row_active, self.read_to_close, self.write_to_close)

    @property
    def refresh_interval(self) -> int:
        """Cycles between two refreshes, at most."""
        return math.floor(round(self.timing.refresh_interval * self.clock_hz / 1e9, 6))

    @property
    def refresh_wait(self) -> int:
        """Cycles from a refresh until the next one is due: early by as long as it takes to close a row that was opened
        just then.
        """
        return self.refresh_interval - 1 - self.longest_close - self.row_precharge

    @property
    def mode(self) -> int:
        """The mode register: CAS latency, sequential bursts of four, writes like reads."""
        return self.cas_latency << 4 | exact_log2(BURST_WORDS)


class SdramPins(wiring.Signature):
    """The chip as the controller sees it; `dq_oe` drives all 16 data wires."""

    def __init__(self) -> None:
        command = {
            "cke": Out(1),
            "cs_n": Out(1, init=1),
            "ras_n": Out(1, init=1),
            "cas_n": Out(1, init=1),
            "we_n": Out(1, init=1),
        }
        address = {"ba": Out(BANK_PINS), "a": Out(ADDRESS_PINS), "dqm": Out(DQ_BITS // 8, init=0b11)}
        super().__init__({**command, **address, "dq_o": Out(DQ_BITS), "dq_oe": Out(1), "dq_i": In(DQ_BITS)})


class BeatAddress(data.StructLayout):
    """Where a beat lies: `column` counts beats in its row."""

    def __init__(self, config: SdramConfig) -> None:
        column = config.column_bits - exact_log2(BURST_WORDS)
        super().__init__({"column": column, "bank": config.bank_bits, "row": config.row_bits})


class Access(data.StructLayout):
    """One beat to read or to write; `last` and `fault` come back with what was read."""

    def __init__(self, config: SdramConfig) -> None:
        beat = {"write": 1, "data": BEAT_BITS, "strobe": BEAT_BITS // 8}
        super().__init__({"address": BeatAddress(config), **beat, "last": 1, "fault": 1})


class ReadBeat(data.StructLayout):
    """A beat as it was read."""

    def __init__(self) -> None:
        super().__init__({"data": BEAT_BITS, "last": 1, "fault": 1})
