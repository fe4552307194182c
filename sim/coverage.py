# SPDX-License-Identifier: Apache-2.0
"""Which lines of the generated Verilog ran and which bits moved, summed over many simulations, module by module."""

from __future__ import annotations

import ctypes
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.sim import build
from edgemoe.sim.device import Dram, VerilatorDevice
from edgemoe.sim.simulator import verilog

# What the harness needs in addition. It stands here because every simulator is built anew when harness.cpp changes.
_WRITER = """
#include "verilated_cov.h"
API void edgemoe_write_coverage(Simulation* simulation, const char* path) {
    simulation->context.coveragep()->write(path);
}
"""


@dataclass
class Coverage:
    """Counts of every point, as the files spell it: a run adds some hundred thousand of them, so they are taken apart
    only at the end.
    """

    points: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Take in the text of a coverage file as Verilator writes it."""
        for entry in text.splitlines():
            if entry.startswith("C '"):
                point, _, count = entry.rpartition(" ")
                self.points[point] += int(count)

    def _decode(self) -> tuple[dict[tuple[str, int], int], dict[tuple[str, str], int]]:
        """Counts of lines by (module, line) and of bits by (module, signal and direction)."""
        lines: Counter[tuple[str, int]] = Counter()
        toggles: Counter[tuple[str, str]] = Counter()
        for point, count in self.points.items():
            # Pairs of \\x01 key \\x02 value.
            values = dict(part.split("\x02", 1) for part in point[3:-1].split("\x01") if "\x02" in part)
            kind, _, module = values["page"].partition("/")
            if kind == "v_toggle":
                toggles[module, f"{values.get('l')}:{values.get('o')}"] += count
            else:
                for line in _lines(values.get("S") or values["l"]):
                    lines[module, line] += count
        return lines, toggles

    def modules(self) -> dict[str, tuple[int, int, int, int]]:
        """Module -> (lines that ran, lines, bit changes seen, bit changes)."""
        found: dict[str, list[int]] = {}
        lines, toggles = self._decode()
        for place, points in ((0, lines), (2, toggles)):
            for (module, _), count in points.items():
                row = found.setdefault(module, [0, 0, 0, 0])
                row[place] += count > 0
                row[place + 1] += 1
        return {module: (row[0], row[1], row[2], row[3]) for module, row in sorted(found.items())}

    def missed(self, module: str) -> list[int]:
        """Lines of a module that never ran."""
        return sorted(line for (name, line), count in self._decode()[0].items() if name == module and not count)


def _lines(text: str) -> Iterable[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


class CoverageDevice(VerilatorDevice):
    """A simulation that adds what it has covered to `coverage` when it is closed."""

    def __init__(self, library: Path, coverage: Coverage, **options) -> None:
        self.coverage = coverage
        super().__init__(library, **options)

    def close(self) -> None:
        if self._handle:
            write = self._library.edgemoe_write_coverage
            write.restype, write.argtypes = None, [ctypes.c_void_p, ctypes.c_char_p]
            with tempfile.NamedTemporaryFile(suffix=".dat") as file:
                write(self._handle, file.name.encode())
                self.coverage.add(Path(file.name).read_text(errors="replace"))
        super().close()


def open_covered(
    config: HardwareConfig, memory_size: int, coverage: Coverage, dram: Dram | None = None
) -> CoverageDevice:
    """As `edgemoe.sim.simulator.open_verilator`, with counting."""
    defines = {"EDGEMOE_MASTERS": config.masters, "EDGEMOE_DATA_BITS": config.data_bits}
    with tempfile.TemporaryDirectory(prefix="edgemoe-coverage-") as folder:
        harness = Path(folder) / "harness.cpp"
        harness.write_text(build.HARNESS.read_text() + _WRITER)
        library = build.build_library(verilog(config), "edgemoe", harness=harness, defines=defines, coverage=True)
    page = 4096 * config.masters
    return CoverageDevice(library, coverage, memory_size=-(-memory_size // page) * page, dram=dram)
