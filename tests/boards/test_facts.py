# SPDX-License-Identifier: Apache-2.0
"""Facts about boards are files: every board has its own, and a mistake in one is told by its field."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from edgemoe.boards.facts import BOARDS, Ecp5Board, ZynqBoard, from_toml
from edgemoe.models.errors import EdgemoeError

TEXTS = {name: (files("edgemoe.boards.facts") / f"{name}.toml").read_text() for name in BOARDS}


def test_every_board_is_its_file() -> None:
    assert {name: type(board) for name, board in BOARDS.items()} == {
        **dict.fromkeys(("zcu102", "kv260", "ultra96"), ZynqBoard),
        **dict.fromkeys(("ulx3s", "schoko"), Ecp5Board),
    }
    for name, board in BOARDS.items():
        assert board.name == name and from_toml(name, TEXTS[name]) == board
        assert len(board.memory_ports) == board.hardware.masters and board.why and board.memory_bytes % 4096 == 0
        assert set(board.resources) == {"lut", "ff", "dsp", "bram", "uram"}


def test_an_sdrams_beats_are_those_of_its_controller() -> None:
    measured = (Path(__file__).parents[1] / "hw" / "test_sdram.py").read_text()
    (cycles,) = re.findall(r'"read of 256 beats": (\d+)', measured)
    assert Ecp5Board.beat_cycles == int(cycles) / 256 and ZynqBoard.beat_cycles == 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('family = "ecp5"', 'family = "ice40"', "its family is 'ice40', expected one of zynquplus, ecp5"),
        ('family = "ecp5"', "", "board 'ulx3s': its family is None, expected one of zynquplus, ecp5"),
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
