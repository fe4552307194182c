# SPDX-License-Identifier: Apache-2.0
"""Facts about boards are files: every board has its own, and a mistake in one is told by its field."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from edgemoe.boards import facts
from edgemoe.boards.facts import BOARDS, Ecp5Board, Zynq7000Board, ZynqBoard, from_toml
from edgemoe.hw.contract.config import preset
from edgemoe.models.errors import EdgemoeError

TEXTS = {name: (files("edgemoe.boards.facts") / f"{name}.toml").read_text() for name in BOARDS}


def test_every_board_is_its_file() -> None:
    assert {name: type(board) for name, board in BOARDS.items()} == {
        **dict.fromkeys(("zcu102", "kv260", "ultra96"), ZynqBoard),
        "pynqz2": Zynq7000Board,
        **dict.fromkeys(("ulx3s", "schoko"), Ecp5Board),
    }
    for name, board in BOARDS.items():
        assert board.name == name and from_toml(name, TEXTS[name]) == board
        assert len(board.ports) == board.hardware.masters and board.why and board.memory_bytes % 4096 == 0
        assert set(board.resources) == {"lut", "ff", "dsp", "bram", "uram"}


def test_an_sdrams_beats_are_those_of_its_controller() -> None:
    measured = (Path(__file__).parents[1] / "hw" / "test_sdram.py").read_text()
    (cycles,) = re.findall(r'"read of 256 beats": (\d+)', measured)
    assert {board.beat_cycles for board in BOARDS.values() if isinstance(board, Ecp5Board)} == {int(cycles) / 256}
    # A ZCU102 gives 48 of the 64 bytes that its four ports take; of a core with two of them it gives all.
    assert BOARDS["zcu102"].beat_cycles == 64 / 48 and BOARDS["kv260"].beat_cycles == 1
    assert BOARDS["zcu102"].carrying(replace(preset("zcu102"), masters=2)).beat_cycles == 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('family = "ecp5"', 'family = "ice40"', "its family is 'ice40', expected one of zynquplus, zynq7000, ecp5"),
        ('family = "ecp5"', "", "board 'ulx3s': its family is None, expected one of zynquplus, zynq7000, ecp5"),
        ("input_mhz = 25", "input_hz = 25_000_000", "board 'ulx3s' lacks input_mhz"),
        ("input_mhz = 25", "input_mhz = 25\nboard_part = 'x'", "board 'ulx3s' has unknown board_part"),
        ('hardware = "ulx3s"', 'hardware = "ulx4s"', "unknown hardware 'ulx4s'"),
        ("input_mhz = 25", "input_mhz =", "board 'ulx3s' is no TOML file: "),
    ],
)
def test_mistakes_are_told(old: str, new: str, message: str) -> None:
    assert TEXTS["ulx3s"].count(f"\n{old}\n") == 1
    with pytest.raises(EdgemoeError, match=message):
        from_toml("ulx3s", TEXTS["ulx3s"].replace(old, new))


OWN = """# A board of one's own.
title = "My Zynq"
family = "zynq7000"
part = "xc7z020clg484-1"
processor = "mine.tcl"
resources = { lut = 53_200, ff = 106_400, dsp = 220, bram = 140, uram = 0 }
clock_mhz = 80
memory_ports = ["HP2"]
memory_bytes = 0x200_0000
core_address = 0x43C0_0000
why = "it is here"
linux = "Plain Linux."

[hardware]
base = "tiny"
data_bits = 64
rows = 68
"""


def test_a_board_of_ones_own(tmp_path: Path) -> None:
    """A file wherever a name is taken; its hardware a table, its files found beside it."""
    file = tmp_path / "mine.toml"
    file.write_text(OWN)
    found = facts.board(str(file))
    assert isinstance(found, Zynq7000Board) and found.name == "mine" and found.processor == str(tmp_path / "mine.tcl")
    assert (found.hardware.rows, found.hardware.data_bits, found.hardware.lanes) == (68, 64, 4)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "data_bits = 64",
            "data_bits = 128",
            "has data_bits 128 and burst_beats 16; give it data_bits = 64",
        ),
        ("rows = 68", "rows = 68\nburst_beats = 32\nprefetch_beats = 128", "burst_beats 32; give it data_bits = 64"),
        ('processor = "mine.tcl"\n', "", "give board_part, the name of Vivado's board file, or processor"),
        ("rows = 68", "row = 68", "no field 'row', perhaps 'rows'"),
        ('[hardware]\nbase = "tiny"\ndata_bits = 64\nrows = 68\n', "", "board 'mine' lacks hardware"),
    ],
)
def test_mistakes_in_ones_own_board_are_told(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert OWN.count(old) == 1
    (tmp_path / "mine.toml").write_text(OWN.replace(old, new))
    with pytest.raises(EdgemoeError, match=re.escape(message)):
        facts.board(str(tmp_path / "mine.toml"))
    with pytest.raises(EdgemoeError, match="cannot read board .*absent.toml: No such file"):
        facts.board(str(tmp_path / "absent.toml"))


def test_the_smaller_ulx3s(tmp_path: Path) -> None:
    """A ULX3S with the 45 k device takes the preset of the other board with that device, on its own pins; the devices
    of 25 k and 12 k have 28 multipliers, which no build of this core fits.
    """
    text = TEXTS["ulx3s"]
    for old, new in (
        ('part = "LFE5U-85F-6BG381C"', 'part = "LFE5U-45F-6BG381C"'),
        ('device = "85k"', 'device = "45k"'),
        ('hardware = "ulx3s"', 'hardware = "schoko"\ncheckpoint = "m3vit-nano"'),
        (re.search(r"resources = .*", text)[0], re.search(r"resources = .*", TEXTS["schoko"])[0]),  # type: ignore[index]
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "ulx3s-45f.toml").write_text(text)
    found = facts.board(str(tmp_path / "ulx3s-45f.toml"))
    assert isinstance(found, Ecp5Board) and found.pins == facts.board("ulx3s").pins
    assert found.hardware == facts.board("schoko").hardware and found.resources == facts.board("schoko").resources
    assert found.hardware.lanes**2 < found.resources["dsp"] and found.hardware.lanes == 4, "no array is smaller"
