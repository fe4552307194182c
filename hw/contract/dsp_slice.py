# SPDX-License-Identifier: Apache-2.0
"""Slices of AMD devices that hold a whole cell of the multiplier array."""

from collections.abc import Mapping

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.compatibility import StrEnum
from edgemoe.models.numbers.words import FINE_BITS, WORD_BITS


class DspSlice(StrEnum):
    """Of UltraScale and UltraScale+, which multiply 27 x 18 bits, and of series 7, 25 x 18."""

    DSP48E2 = "DSP48E2"
    DSP48E1 = "DSP48E1"

    @property
    def weight_bits(self) -> int:
        """Of the multiplier's wide side, with the adder before it."""
        return 27 if self is DspSlice.DSP48E2 else 25

    @property
    def operation_bits(self) -> int:
        """Of the port that says what is added up."""
        return 9 if self is DspSlice.DSP48E2 else 7

    def holds(self, config: HardwareConfig) -> bool:
        """Whether a weight of this build, or a pair of them, goes into one slice."""
        return (FINE_BITS if config.packed else WORD_BITS) <= self.weight_bits

    def filled(self, template: str, **more: str) -> str:
        """Verilog of this slice from one that is for all: every @WORD@ filled."""
        of_all = {
            "SLICE": self.value,
            "WEIGHT_BITS": str(self.weight_bits),
            "OPERATION_BITS": str(self.operation_bits),
        }
        for word, value in (of_all | dict(_WORDS[self]) | more).items():
            template = template.replace(f"@{word}@", value)
        return template


# The setting that takes the adder before the multiplier; AMD's user guide.
_WORDS: Mapping[DspSlice, Mapping[str, str]] = {
    DspSlice.DSP48E2: {"PREADDER": "AMULTSEL", "PREADDED": "AD", "GUIDE": "UG579"},
    DspSlice.DSP48E1: {"PREADDER": "USE_DPORT", "PREADDED": "TRUE", "GUIDE": "UG479"},
}
