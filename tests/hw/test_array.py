# SPDX-License-Identifier: Apache-2.0
"""The multiplier array: exact sums under every legal order of loads, swaps and words."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from edgemoe.hw.compute.array import Array
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.models.numbers import twins
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal


class Sliced(Array):
    """An array in the slices of a device."""

    def __init__(self, config: HardwareConfig, kind: DspSlice) -> None:
        super().__init__(config)
        self.kind = kind

    def elaborate(self, platform: object) -> Module:
        return super().elaborate(self.kind)


class Schedule:
    """A random legal schedule: inputs by cycle, and the sums expected by cycle of presentation. later: of the loading
    of the lower half of the rows, in cycles.
    """

    def __init__(self, lanes: int, seed: int, rows: int = 0, later: int = 0) -> None:
        self.lanes, self.rows, self.later = lanes, rows or lanes, later
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
        n, rows, rng = self.lanes, self.rows, self.rng
        weights = rng.integers(-(1 << 15), 1 << 15, (rows, n))
        weights[rng.random((rows, n)) < 0.1] = -(1 << 15)
        if pairs:
            weights >>= 8
        swap = self.free
        order = np.arange(0, rows, 2 if pairs else 1)
        for index in rng.permutation(order) if shuffle else order:
            first = index // n * n if by_column else index  # row that it touches, of several the first
            later = self.later * (first >= rows // 2)
            cycle = max(self.loaded, self.swap + first + (n - 1 if by_column else int(pairs)) - later * pairs)
            if rng.random() < gaps:
                cycle += int(rng.integers(1, 6))
            values = weights[first : first + n, index % n] if by_column else weights[index]
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
            swap = max(swap, cycle + 1 - (first - later if late else 0))
        self.swap = swap
        self.swaps.append(swap)
        x = rng.integers(-(1 << 15), 1 << 15, (words, rows))
        x[rng.random((words, rows)) < 0.1] = -(1 << 15)
        sums = twins.matmul(x, weights).astype(np.int64)
        cycle = swap
        for word in range(words):
            self._put(cycle, stream_valid=1, stream_swap=int(word == 0))
            self._put(cycle + 1, stream_data=x[word])
            self.expected[cycle] = sums[word]
            cycle += 1 + (int(rng.integers(1, 6)) if rng.random() < gaps else 0)
        self.free = cycle

    def _put(self, cycle: int, **inputs: Any) -> None:
        self.inputs.setdefault(cycle, {}).update(inputs)


def schedule(kind: str, lanes: int, seed: int, rows: int, later: int) -> Schedule:
    plan = Schedule(lanes, seed, rows, later)
    rng = np.random.default_rng(seed + 1)
    for index in range(12):
        match kind:
            case "rows, no bubble":  # R words hide the loading of the next R rows
                plan.block(rows, False)
            case "one word":  # the swap follows the last load at once, the next loads the swap
                plan.block(1, False)
            case "late rows":  # rows still arrive while their block already streams
                plan.block(1 + index % 3, False, late=True)
            case (
                "pairs, no bubble"
            ):  # half as many words, and one, hide the loading of pairs that do not wait for each other
                plan.block(rows // 2 + 1 - later, False, late=True, pairs=True)
            case "late pairs":
                plan.block(1 + index % 3, False, late=True, pairs=True)
            case "columns":
                plan.block(2 * rows + 1, True, shuffle=bool(index % 2))
            case "columns, one word":
                plan.block(1, True)
            case "mixed":
                words, by_column = (
                    int(rng.choice([1, 2, rows - 1, rows, rows + 1, 3 * rows])),
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
@pytest.mark.parametrize(("name", "rows"), [("tiny", 4), ("small", 8), ("base", 16), ("tiny", 8)])
def test_schedules(name: str, rows: int, kind: str) -> None:
    check(Array(replace(preset(name), array_rows=rows)), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "rows"), [("small", 8), ("tiny", 8)])
def test_schedules_of_plain_products_in_a_packed_array(name: str, rows: int, kind: str) -> None:
    check(Array(replace(preset(name), array_rows=rows, packed=1)), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slices", DspSlice)
def test_schedules_in_slices(slices: DspSlice, kind: str) -> None:
    check(Sliced(replace(preset("tiny"), array_rows=8), slices), kind)


def check(unit: Array, kind: str) -> None:
    rows, lanes, seed = unit.rows, unit.lanes, KINDS.index(kind) * 100
    plan, rng = schedule(kind, lanes, seed, rows, unit.config.packed), np.random.default_rng(seed + 2)
    if kind in ("rows, no bubble", "one word"):  # as fast as the unit says that it can be told: a load in every cycle
        assert set(np.diff(plan.swaps[1:])) == {rows}
    if kind in ("rows, no bubble", "pairs, no bubble"):
        assert set(np.diff(list(plan.expected)[rows:])) == {1}, "a word in every cycle"

    def rubbish(cycle: int) -> dict[str, Any]:
        """What comes without its valid must not matter: a swap flag, a load, data."""
        words = {"stream_data": rng.integers(-99, 99, rows), "load_data": rng.integers(-99, 99, lanes)}
        flags = {"stream_swap": 1, "load_by_column": cycle & 1, "load_pair": cycle >> 1 & 1}
        return flags | {"load_index": cycle % rows} | words

    cycles = [rubbish(cycle) | plan.inputs.get(cycle, {}) for cycle in range(max(plan.inputs) + 1)]
    sums = rtl(unit, cycles)["sums"]
    assert_array_equal(sums[list(plan.expected)], list(plan.expected.values()))


def test_expected_sums_are_pytorch_s() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weights = rng.integers(-(1 << 15), 1 << 15, (7, 16)), rng.integers(-(1 << 15), 1 << 15, (16, 16))
    assert (twins.matmul(x, weights) == (torch.from_numpy(x) @ torch.from_numpy(weights)).numpy()).all()
