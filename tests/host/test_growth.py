# SPDX-License-Identifier: Apache-2.0
"""The growth study: every point comes near its floor, and the table and the plot show all of them."""

from collections import defaultdict
from pathlib import Path

import pytest
from edgemoe.host.studies import attention_growth, growth
from edgemoe.hw.contract.config import preset
from PIL import Image

from .conftest import Command

POINTS = [
    growth.Point("tokens", 33, 1000, 900.0, 0.5),
    growth.Point("tokens", 65, 2100, 2000.0, 0.6),
    growth.Point("array side", 4, 9, 8.0, 0.9),
]


def test_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    growth.table(POINTS)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("tokens", "2,100", "1.050", "array side", "90.0%"))
    growth.plot(POINTS, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 600


def test_linear_attention_grows_with_the_tokens() -> None:
    """As planned; softmax's heads with their square."""
    sizes = ((64, 256), (256, 256))  # 65 and 257 tokens
    points = attention_growth.study(preset("family"), sizes=sizes, note=lambda text: None)
    for kind in attention_growth.KINDS:
        few, many = (point.attention for point in points if point.kind == kind)
        assert (many / few > 10) if kind in ("softmax", "rela") else (3.5 < many / few < 257 / 65), kind
    assert not any(point.simulated for point in points)


def test_linear_attention_shown(tmp_path: Path, edgemoe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What simulation and planner give stands in for them."""
    monkeypatch.setattr(attention_growth.attention, "run", lambda kind, hardware: (0, 1, 2468))
    monkeypatch.setattr(attention_growth, "planned", lambda config, hardware: (config.tokens, 12 * config.tokens))
    code, shown, _ = edgemoe("growth", "--attention", "--plot", tmp_path / "growth.png")
    assert code == 0 and all(text in shown for text in ("softmax", "performer", "cosformer", "14,412", "2,468"))
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 600


@pytest.mark.full
def test_every_point_comes_near_its_floor() -> None:
    points = growth.study(lanes=(4, 16), note=lambda text: None)
    values = defaultdict(list)
    for point in points:
        values[point.quantity].append(point)
        assert 1 <= point.cycles / point.floor <= 1.3
    sizes = {quantity: len(found) for quantity, found in values.items()}
    assert sizes == {"tokens": 4, "experts": 5, "streams": 4, "latency": 5, "array side": 2}
    for quantity in ("tokens", "streams", "latency"):
        cycles = [point.cycles for point in values[quantity]]
        assert cycles == sorted(cycles), quantity
