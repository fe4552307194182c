# SPDX-License-Identifier: Apache-2.0
"""What a synthesised netlist holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgemoe.hw import verilog_text

DSP_SLICES = ("DSP48E2", "DSP48E1")  # of UltraScale+; of series 7, whose multiplier is 25 x 18 instead of 27 x 18
KINDS = ("lut", "ff", "dsp", "bram", "uram")
_LUT_MEMORIES = {
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
}
_LUT_MEMORIES |= {"RAM32X1S": 1, "RAM64X1S": 1, "RAM512X1S": 8, "RAM128X1S": 2, "RAM256X1S": 4}


def is_primitive(kind: str) -> bool:
    """Whether a cell is one of the modules that generated Verilog only instantiates; Yosys' name of it has parameters
    as well."""
    return any(name in kind for name in verilog_text.primitives())


def measure(netlist: Mapping[str, Any], netlists: Mapping[str, Any]) -> dict[str, float]:
    """Counts of a module, with the primitives in it; netlists: those too."""
    counts: dict[str, float] = dict.fromkeys(KINDS, 0)
    for cell in netlist["cells"].values():
        kind = cell["type"]
        if re.fullmatch(r"LUT[1-6]|LUT6_2|SRL16E|SRLC32E|SRLC16E", kind):
            counts["lut"] += 1
        elif kind in _LUT_MEMORIES:
            counts["lut"] += _LUT_MEMORIES[kind]
        elif re.fullmatch(r"FD[RSCP]E(_1)?|LD[CP]E", kind):
            counts["ff"] += 1
        elif kind in DSP_SLICES:
            counts["dsp"] += 1
        elif kind.startswith("RAMB"):
            counts["bram"] += 0.5 if kind.startswith("RAMB18") else 1
        elif kind.startswith("URAM"):
            counts["uram"] += 1
        elif is_primitive(kind):
            for counted, number in measure(netlists[kind], netlists).items():
                counts[counted] += number
    return counts
