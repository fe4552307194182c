# SPDX-License-Identifier: Apache-2.0
"""Coverage of the generated Verilog (preset tiny) by the random tests:
lines that run, bits that move, module by module.
"""

import json
from pathlib import Path

import pytest
from edgemoe.hw.contract.config import preset
from edgemoe.sim.coverage import Coverage, open_covered

from . import support, test_corrupted, test_models
from .programs import random_program

GOAL = 0.95
EXCLUSIONS = json.loads(Path(__file__).with_name("coverage_exclusions.json").read_text())


def excluded(module: str) -> str | None:
    return next((reason for name, reason in EXCLUSIONS.items() if module == name or module.endswith(f".{name}")), None)


def collect(monkeypatch: pytest.MonkeyPatch) -> Coverage:
    """Coverage of random programs, random models and corrupted words."""
    coverage = Coverage()

    def opened(hardware, memory_size, dram=None):
        return open_covered(hardware, memory_size, coverage, dram)

    for module in (support, test_models, test_corrupted):
        monkeypatch.setattr(module, "open_verilator", opened)
    tiny = preset("tiny")
    for seed in range(12):
        support.simulate(tiny, random_program(tiny, seed).link(), support.dram_of(seed))
    test_corrupted.sweep(0.04)
    for seed in range(3):
        test_models.compare(tiny, seed)
    return coverage


@pytest.mark.full
def test_lines_of_the_generated_verilog(monkeypatch, record_property):
    coverage = collect(monkeypatch)
    modules = {name: row for name, row in coverage.modules().items() if excluded(name) is None}
    for name, (lines, all_lines, changes, all_changes) in modules.items():
        text = f"lines {lines} of {all_lines}, bit changes {changes} of {all_changes}"
        record_property(name, text)
        print(f"{name}: {text}; never: {coverage.missed(name)[:20]}")
    ran, lines, moved, changes = (sum(row[k] for row in modules.values()) for k in range(4))
    print(f"lines {ran / lines:.1%} of {lines}, bit changes {moved / changes:.1%} of {changes}")
    assert ran >= GOAL * lines
    assert moved >= 0.5 * changes


def test_exclusions_have_reasons():
    assert all(isinstance(reason, str) and len(reason) > 20 for reason in EXCLUSIONS.values())


def test_coverage_files_are_read():
    """Points of one line or several, of two runs, of two modules."""
    coverage = Coverage()
    line = "C '\x01f\x02top.v\x01l\x0212\x01page\x02v_line/core.loader\x01o\x02if\x01S\x0212-14,20\x01h\x02TOP' {}\n"
    toggle = "C '\x01f\x02top.v\x01l\x0230\x01page\x02v_toggle/core.array\x01o\x02valid:0->1\x01h\x02TOP' {}\n"
    coverage.add("# SystemC::Coverage-3\n" + line.format(0) + toggle.format(0))
    assert coverage.modules() == {"core.array": (0, 0, 0, 1), "core.loader": (0, 4, 0, 0)}
    assert coverage.missed("core.loader") == [12, 13, 14, 20]
    coverage.add(line.format(3) + toggle.format(1))
    assert coverage.modules() == {"core.array": (0, 0, 1, 1), "core.loader": (4, 4, 0, 0)}
    assert not coverage.missed("core.loader")
