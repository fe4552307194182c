# SPDX-License-Identifier: Apache-2.0
"""The multiplier array: exact sums under every legal order of loads, swaps and words."""

from typing import Any

import numpy as np
import pytest
from edgemoe.hw.compute.array import Array
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers import twins
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal


class Schedule:
    """A random legal schedule: inputs by cycle, and the sums expected by cycle of presentation."""

    def __init__(self, lanes: int, seed: int) -> None:
        self.lanes = lanes
        self.rng = np.random.default_rng(seed)
        self.inputs: dict[int, dict[str, Any]] = {}
        self.expected: dict[int, np.ndarray] = {}
        self.swap = 0  # cycle of the last swap word
        self.free = 0  # first cycle whose stream is free
        self.loaded = 0  # first cycle whose load port is free
        self.swaps: list[int] = []

    def block(
        self,
        words: int,
        by_column: bool,
        *,
        shuffle: bool = False,
        late: bool = False,
        gaps: float = 0.0,
        pairs: bool = False,
    ) -> None:
        """Load a block as early as allowed, or with gaps, and stream words past it. pairs: of 8-bit weights, two rows a
        cycle.

        late: let the swap overtake the loading of rows as far as the rule allows (row k until k - 1 cycles after the
        swap).
        """
        n, rng = self.lanes, self.rng
        weights = rng.integers(-(1 << 15), 1 << 15, (n, n))
        weights[rng.random((n, n)) < 0.1] = -(1 << 15)
        if pairs:
            weights >>= 8
        swap = self.free
        order = np.arange(0, n, 2 if pairs else 1)
        for index in rng.permutation(order) if shuffle else order:
            cycle = max(self.loaded, self.swap + (n - 1 if by_column else index + 1 if pairs else index))
            if rng.random() < gaps:
                cycle += int(rng.integers(1, 6))
            values = weights[:, index] if by_column else weights[index]
            if pairs:
                values = weights[index : index + 2].astype(np.int8).view(np.int16).ravel()
            self._put(
                cycle,
                load_valid=1,
                load_by_column=int(by_column),
                load_pair=int(pairs),
                load_index=int(index),
                load_data=values,
            )
            self.loaded = cycle + 1
            swap = max(swap, cycle + 1 - (index if late and not by_column else 0))
        self.swap = swap
        self.swaps.append(swap)
        x = rng.integers(-(1 << 15), 1 << 15, (words, n))
        x[rng.random((words, n)) < 0.1] = -(1 << 15)
        sums = twins.matmul(x, weights).astype(np.int64)
        cycle = swap
        for word in range(words):
            self._put(cycle, stream_valid=1, stream_swap=int(word == 0), stream_data=x[word])
            self.expected[cycle] = sums[word]
            cycle += 1 + (int(rng.integers(1, 6)) if rng.random() < gaps else 0)
        self.free = cycle

    def _put(self, cycle: int, **inputs: Any) -> None:
        self.inputs.setdefault(cycle, {}).update(inputs)


def schedule(kind: str, lanes: int, seed: int) -> Schedule:
    plan = Schedule(lanes, seed)
    rng = np.random.default_rng(seed + 1)
    for index in range(12):
        match kind:
            case "rows, no bubble":  # N words hide the loading of the next N rows
                plan.block(lanes, False)
            case "one word":  # the swap follows the last load at once, the next loads the swap
                plan.block(1, False)
            case "late rows":  # rows still arrive while their block already streams
                plan.block(1 + index % 3, False, late=True)
            case (
                "pairs, no bubble"
            ):  # half as many words, and one, hide the loading of pairs that do not wait for each other
                plan.block(lanes // 2 + 1, False, late=True, pairs=True)
            case "late pairs":
                plan.block(1 + index % 3, False, late=True, pairs=True)
            case "columns":
                plan.block(2 * lanes + 1, True, shuffle=bool(index % 2))
            case "columns, one word":
                plan.block(1, True)
            case "mixed":
                words, by_column = (
                    int(rng.choice([1, 2, lanes - 1, lanes, lanes + 1, 3 * lanes])),
                    bool(rng.integers(2)),
                )
                plan.block(
                    words,
                    by_column,
                    pairs=not by_column and bool(rng.integers(2)),
                    shuffle=bool(rng.integers(2)),
                    late=bool(rng.integers(2)),
                    gaps=0.3 * rng.integers(2),
                )
    return plan


KINDS = (
    *("rows, no bubble", "one word", "late rows", "pairs, no bubble", "late pairs"),
    *("columns", "columns, one word", "mixed"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_schedules(name: str, kind: str) -> None:
    unit, lanes, seed = Array(preset(name)), preset(name).lanes, KINDS.index(kind) * 100
    plan, rng = schedule(kind, lanes, seed), np.random.default_rng(seed + 2)
    if kind in ("rows, no bubble", "one word"):  # as fast as the unit says that it can be told: a load in every cycle
        assert set(np.diff(plan.swaps[1:])) == {lanes}
    if kind in ("rows, no bubble", "pairs, no bubble"):
        assert set(np.diff(list(plan.expected)[lanes:])) == {1}, "a word in every cycle"

    def rubbish(cycle: int) -> dict[str, Any]:
        """What comes without its valid must not matter: a swap flag, a load, data."""
        words = {name: rng.integers(-99, 99, lanes) for name in ("stream_data", "load_data")}
        flags = {"stream_swap": 1, "load_by_column": cycle & 1, "load_pair": cycle >> 1 & 1}
        return flags | {"load_index": cycle % lanes} | words

    rows = [rubbish(cycle) | plan.inputs.get(cycle, {}) for cycle in range(max(plan.inputs) + 1)]
    sums = rtl(unit, rows)["sums"]
    assert_array_equal(sums[list(plan.expected)], list(plan.expected.values()))


def test_expected_sums_are_pytorch_s() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weights = rng.integers(-(1 << 15), 1 << 15, (7, 16)), rng.integers(-(1 << 15), 1 << 15, (16, 16))
    assert (twins.matmul(x, weights) == (torch.from_numpy(x) @ torch.from_numpy(weights)).numpy()).all()
