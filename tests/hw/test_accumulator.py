# SPDX-License-Identifier: Apache-2.0
"""The accumulator memory: exact sums, revisits as early as REVISIT allows, results exactly LATENCY later."""

from typing import Any

import numpy as np
import pytest
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers import twins
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize(
    "name, rows, chunks", [("tiny", 1, 5), ("tiny", 4, 1), ("tiny", 5, 7), ("tiny", 40, 3), ("base", 129, 3)]
)
def test_blocks(name: str, rows: int, chunks: int, gaps: float) -> None:
    """Column blocks as the streamer sends them: `rows` rows, `chunks` times, the next block at once."""
    unit, lanes, rng = Accumulator(preset(name)), preset(name).lanes, np.random.default_rng(3)
    idle: dict[str, Any] = {"row_valid": 0, "row_index": 0, "row_last": 1, "sums": np.full(lanes, 5)}
    sent: list[dict[str, Any]] = []
    expected = []
    for _ in range(3):
        base = int(rng.integers(unit.rows - rows + 1))
        added = rng.integers(-(1 << 46), 1 << 46, (chunks, rows, lanes))
        bias = rng.integers(-(1 << 46), 1 << 46, (chunks, rows, lanes))
        for chunk in range(chunks):
            begun = len(sent)
            for row in range(rows):
                if rng.random() < gaps:
                    sent += [idle] * int(rng.integers(1, 4))
                tag = {
                    "row_valid": 1,
                    "row_index": base + row,
                    "row_first": chunk == 0,
                    "row_last": chunk == chunks - 1,
                }
                sent.append(tag | {"sums": added[chunk, row], "bias": bias[chunk, row]})
            # Fewer rows than REVISIT: the controller spaces the chunks. A gap in the middle may have brought the last
            # rows close to the next chunk's first.
            sent += [idle] * (unit.REVISIT if gaps else max(0, unit.REVISIT - (len(sent) - begun)))
        expected += list(twins.wrap_accumulator((added.sum(0) + bias[0]).astype(float)).astype(np.int64))
    out = rtl(unit, sent)
    due = np.array([bool(row["row_valid"] and row["row_last"]) for row in sent])
    assert_array_equal(out["out_valid"], due)
    assert_array_equal(out["out_sums"][due], expected)
