# SPDX-License-Identifier: Apache-2.0
"""The growth study: every point comes near its floor, and the table and the plot show all of them."""

from collections import defaultdict
from pathlib import Path

import pytest
from edgemoe.host.studies import growth
from PIL import Image

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
