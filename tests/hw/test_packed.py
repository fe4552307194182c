# SPDX-License-Identifier: Apache-2.0
"""Two products a multiplier: the array between plain blocks, accumulators that hold two sums, rounding of activations
and its undoing, the maxima of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.compute.array import Array
from edgemoe.hw.compute.narrow import Narrow
from edgemoe.hw.compute.row_maxima import RowMaxima
from edgemoe.hw.compute.row_step import RowStep
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.models.numbers import twins
from edgemoe.models.numbers.arithmetic import maximum_code, narrow, row_step
from edgemoe.models.numbers.linear import overfull
from edgemoe.models.numbers.words import NARROW_LIMIT, PACKED_CHAIN, PACKED_SUM_BITS, UNSIGNED_LIMIT
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from test_array import Schedule, Sliced


def build(lanes: int) -> HardwareConfig:
    return replace(preset({4: "tiny", 8: "small", 16: "base", 32: "zcu102"}[lanes]), packed=1)


SIGNED, UNSIGNED = (-NARROW_LIMIT, NARROW_LIMIT - 1), (0, UNSIGNED_LIMIT)  # extremes of rounded activations
LARGEST = {SIGNED: 1023, UNSIGNED: 513}  # sum of a chain's magnitudes, of either sign together or of one sign alone


def full_chains(
    rng: np.random.Generator, lanes: int, rows: int = 0, extremes: tuple[int, int] = SIGNED
) -> NDArray[np.int64]:
    """Weights [inputs, 2, outputs] of either sign, in turns, whose magnitudes add up to as much as is allowed in every
    chain: together, or those of either sign where activations have none.
    """
    rows = rows or lanes
    length, bound = min(PACKED_CHAIN, rows), LARGEST[extremes]
    signs = np.where(np.arange(length)[:, None] % 2, 1, -1) * rng.choice([-1, 1], 2 * lanes)
    shape = (rows // length, length, 2 * lanes)
    weights = rng.integers(1, 128, shape)
    parts = [slice(None)] if extremes == SIGNED else [slice(0, None, 2), slice(1, None, 2)]
    for part in parts:
        mine = weights[:, part]
        while ((room := bound - mine.sum(axis=1)) < 0).any():  # smaller ones where there are too many
            mine = np.where((room < 0)[:, None], mine * 3 // 4, mine)
        for each in range(mine.shape[1]):  # then what is left goes to the first that can take it
            taken = np.minimum(127 - mine[:, each], bound - mine.sum(axis=1))
            mine[:, each] += taken
        weights[:, part] = mine
    return (weights * signs).reshape(rows, 2, lanes)


class PackedSchedule(Schedule):
    """With blocks of pairs of weights, whose sums come as two halves of a lane."""

    def packed_block(self, words: int, kind: str, extremes: tuple[int, int]) -> None:
        n, rows, rng = self.lanes, self.rows, self.rng
        least, most = extremes
        weights = full_chains(rng, n, rows, extremes) if kind == "full" else rng.integers(-128, 128, (rows, 2, n))
        upper = weights[:, 1] - (weights[:, 0] < 0)
        weights[:, 1] = np.clip(upper, -128, 127) + (weights[:, 0] < 0)
        stored = np.stack([weights[:, 0], weights[:, 1] - (weights[:, 0] < 0)], axis=-1).astype(np.int8)
        swap = self.free
        for index in range(rows):
            cycle = max(self.loaded, self.swap + index)
            values = stored[index].reshape(-1).view(np.int16)
            self._put(cycle, load_valid=1, load_by_column=0, load_pair=0, load_packed=1, load_index=index)
            self._put(cycle, load_data=values)
            self.loaded = cycle + 1
            swap = max(swap, self.loaded - index + self.later * (index >= rows // 2))
        self.swap = swap
        x = rng.integers(least, most + 1, (words, rows))
        if kind == "full":  # extremes that alternate with one output's weights: its sum is as large as can be
            column, half = rng.integers(n), rng.integers(2)
            signs = np.where(weights[:, half, column] < 0, -1, 1) * rng.choice([-1, 1], (words, 1))
            x = np.where(signs < 0, least, most)
            exact = twins.matmul(x, weights.reshape(rows, -1)).reshape(words, 1, 2, n)
            assert_array_equal(twins.packed_matmul(x, weights[:, None].astype(float), rows), exact)
        sums = twins.packed_matmul(x, weights[:, None].astype(float), rows).astype(np.int64)[:, 0]  # [words, 2, n]
        bits = PACKED_SUM_BITS
        for word in range(words):
            self._put(swap + word, stream_valid=1, stream_swap=int(word == 0), stream_packed=1)
            self._put(swap + word + 1, stream_data=x[word])
            self.expected[swap + word] = (sums[word, 0] & (1 << bits) - 1) | sums[word, 1] << bits
        self.free = swap + words


@pytest.mark.parametrize("array", [Array, partial(Sliced, kind=DspSlice.DSP48E2)], ids=["cells", "slices"])
@pytest.mark.parametrize(("lanes", "rows"), [(4, 4), (32, 32), (4, 8), (16, 32)])
def test_array(lanes: int, rows: int, array: Callable[[HardwareConfig], Array]) -> None:
    """Packed blocks among all others, with sums at their bound, and where lower ones run over into the upper ones."""
    plan, rng = PackedSchedule(lanes, 5, rows, 1), np.random.default_rng(6)
    for index in range(16):
        words = int(rng.choice([1, 2, rows, rows + 3]))
        if index % 2:
            by_column = bool(rng.integers(2))
            plan.block(words, by_column, pairs=not by_column and bool(rng.integers(2)), late=bool(rng.integers(2)))
        else:
            plan.packed_block(words, "any" if index % 4 else "full", UNSIGNED if index % 8 < 4 else SIGNED)
    cycles = [{"stream_data": np.zeros(rows, int)} | plan.inputs.get(c, {}) for c in range(max(plan.inputs) + 1)]
    sums = rtl(array(replace(build(lanes), array_rows=rows)), cycles)["sums"]
    assert_array_equal(sums[list(plan.expected)], list(plan.expected.values()))


@pytest.mark.parametrize("extremes", [SIGNED, UNSIGNED])
def test_bound_is_the_one_that_packed_sums_have(extremes: tuple[int, int]) -> None:
    """Weights at the bound are exact with any activations, those one beyond are not with some."""
    rng, (least, most) = np.random.default_rng(1), extremes
    weights = full_chains(rng, 32, 32, extremes)
    assert (overfull(weights.reshape(32, -1).T, 1, extremes == UNSIGNED) == 1).all()
    for sign in (-1, 1):
        x = np.where(sign * weights[:, 0, 0] < 0, most, least)[None]
        exact = twins.matmul(x, weights.reshape(32, -1)).reshape(1, 1, 2, 32)
        assert_array_equal(twins.packed_matmul(x, weights[:, None].astype(float), 32), exact)


def test_one_beyond_the_bound_runs_over() -> None:
    beyond = np.zeros((16, 1, 2, 1))
    beyond[:, 0, 0, 0] = 64
    assert overfull(beyond.reshape(16, 2).T, 1)[0] > 1
    sums = twins.packed_matmul(np.full((1, 16), -NARROW_LIMIT), beyond, 16)
    assert_array_equal(sums.ravel(), [-(1 << 18), 0])
    sums = twins.packed_matmul(np.full((1, 16), -NARROW_LIMIT), -beyond, 16)
    assert_array_equal(sums.ravel(), [-(1 << 18), 1])
    beyond[:8], beyond[8:] = 0, 64
    beyond[0] = 2  # 514 of one sign
    beyond[:, 0, 1] = 0
    assert overfull(beyond.reshape(16, 2).T, 1, True)[0] > 1 >= overfull(beyond.reshape(16, 2).T, 1)[0]
    sums = twins.packed_matmul(np.full((1, 16), UNSIGNED_LIMIT), beyond, 16)
    assert_array_equal(sums.ravel(), [UNSIGNED_LIMIT * 514 - (1 << 19), 1])


def test_accumulator() -> None:
    """Lower sums come with the last chunk, upper ones in the next block's first or in rows that add nothing up; rows of
    48 bits between them.
    """
    unit, rng, bits = Accumulator(build(4)), np.random.default_rng(3), PACKED_SUM_BITS
    sent, expected, held = [], [], np.zeros((6, 4), np.int64)
    half = 1 << bits - 1
    for block, packed in enumerate([1, 1, 0, 1, 1, 1]):
        rows, chunks, before = 6, 3, held
        low, high = rng.integers(-half, half, (2, chunks, rows, 4))
        wide = rng.integers(-(1 << 45), 1 << 45, (chunks, rows, 4))
        sums = (low & 2 * half - 1) | high << bits if packed else wide
        upper = bool(block) and packed and block != 3
        for chunk in range(chunks):
            for row in range(rows):
                tag = {"row_valid": 1, "row_index": row, "row_first": int(chunk == 0), "row_packed": packed}
                emits = int(chunk == 2 or (chunk == 0 and upper))
                tag |= {"row_last": int(chunk == 2), "row_emits": emits, "row_high": int(chunk == 0 and upper)}
                sent.append(tag | {"sums": sums[chunk, row]})
                if emits:
                    value = low.sum(0)[row] if packed else wide.sum(0)[row]
                    expected.append(
                        before[row] if chunk == 0 else (value + half) % (2 * half) - half if packed else value
                    )
        held = (high.sum(0) + half) % (2 * half) - half
        if packed and block in (1, 5):  # nothing follows them at once
            for row in range(rows):
                tag = {"row_valid": 1, "row_index": row, "row_packed": 1, "row_emits": 1, "row_high": 1, "row_flush": 1}
                sent.append(tag | {"sums": rng.integers(-99, 99, 4)})
                expected.append(held[row])
    out = rtl(unit, sent)
    due = np.array([bool(row["row_emits"]) for row in sent])
    assert_array_equal(out["out_valid"], due)
    assert_array_equal(out["out_sums"][due], expected)


def test_narrow() -> None:
    """Every word in every step, with a sign or without; others pass."""
    config = build(32)
    words = np.tile(np.arange(-(1 << 15), 1 << 15).reshape(-1, 32), (9, 1))
    count = len(words)
    mantissa, rng = np.repeat(np.arange(8, 17), count // 9), np.random.default_rng(0)
    exponent, packed = rng.integers(0, 8, count), (rng.random(count) < 0.95).astype(int)
    step, unsigned = {"mantissa": mantissa, "exponent": exponent}, rng.integers(0, 2, count)
    late = np.roll(words, 1, axis=0)  # data come a cycle behind the rest
    inputs = {"words_data": late, "words_packed": packed, "words_swap": packed, "words_valid": packed, "step": step}
    out = rtl(Narrow(config), inputs | {"unsigned": unsigned})
    found = np.where(packed[:, None], narrow(words, mantissa[:, None], exponent[:, None], unsigned[:, None]), words)
    assert_array_equal(out["out_data"][1:], found[:-1])
    for name in ("packed", "swap", "valid"):
        assert_array_equal(out[f"out_{name}"], packed)


def test_step_fits_its_row() -> None:
    """Whatever a row's maximum, it is just below 256 steps; and a step is 1, or no more than 1/8 too large."""
    maxima = np.arange((1 << 15) + 1)
    code = maximum_code(maxima)
    assert (np.diff(code) >= 0).all() and code.max() < 128
    mantissa, exponent = row_step(code)
    step = mantissa * 2.0**exponent / 8
    assert (maxima < 256 * step).all() and (maxima[256:] >= 256 * step[256:] * 8 / 9 - 1).all()
    assert (step[:256] == 1).all() and (np.abs(narrow(maxima[:-1], mantissa[:-1], exponent[:-1])) <= 255).all()
    halves = narrow(maxima[:-1], mantissa[:-1], exponent[:-1], 1)
    assert halves.max() == UNSIGNED_LIMIT and (np.abs(halves * step[:-1] / 2 - maxima[:-1]) <= step[:-1] / 2).all()


def test_row_step() -> None:
    unit, rng, count = RowStep(build(4)), np.random.default_rng(2), 4000
    packed, mantissa, exponent = rng.integers(0, 2, count), rng.integers(8, 17, count), rng.integers(0, 8, count)
    sums = np.where(
        packed[:, None], rng.integers(-(1 << 23), 1 << 23, (count, 4)), rng.integers(-(1 << 47), 1 << 47, (count, 4))
    )
    bias = rng.integers(-(1 << 46), 1 << 46, (count, 4))
    late = np.roll(bias, unit.BIAS_DELAY, axis=0)  # it comes so much later than its row
    early = {name: np.roll(column, -1) for name, column in (("mantissa", mantissa), ("exponent", exponent))}
    inputs = {"row_sums": sums, "row_valid": packed, "packed": np.roll(packed, -1), "step": early}
    out = rtl(unit, inputs | {"bias": late})["out_sums"]
    scaled = np.where(packed[:, None], sums * (mantissa << exponent)[:, None], sums)
    whole = twins.wrap_accumulator((scaled + bias).astype(float))
    exact = np.abs(sums) < 1 << 46
    exact[0] = False  # of which nothing was told
    known = slice(0, -unit.BIAS_DELAY)
    assert_array_equal(out[known][exact[known]], whole[known][exact[known]])


@pytest.mark.parametrize("lanes", [4, 32])
def test_row_maxima(lanes: int) -> None:
    """Words of rows in any order, rows asked for at any time: a word counts from MAX_DELAY cycles on."""
    config = build(lanes)
    unit, rng, count = RowMaxima(config), np.random.default_rng(4), 3000
    words = rng.integers(-(1 << 15), 1 << 15, (count, lanes)) >> rng.integers(0, 16, count)[:, None]
    words[rng.random(count) < 0.02] = -(1 << 15)
    table, row = rng.integers(1, 4, count), rng.integers(0, 3, count)
    valid, first = (rng.random(count) < 0.7).astype(int), (rng.random(count) < 0.3).astype(int)
    asked_table, asked = rng.integers(0, 4, count), rng.integers(0, 3, count)
    seen: dict[tuple[int, int], int] = {}
    for n in np.flatnonzero(valid):  # a row again as soon as allowed, and not sooner
        place = int(table[n]), int(row[n])
        if n < seen.get(place, -unit.REVISIT) + unit.REVISIT:
            valid[n] = 0
        else:
            seen[place] = n
    inputs = {"write_valid": valid, "write_table": table, "write_row": row, "write_first": first, "write_word": words}
    inputs |= {"steps_table": asked_table, "steps_row": asked + config.table_rows * rng.integers(0, 2, count)}
    out = rtl(unit, inputs, latency={"steps_step": unit.STEP_LATENCY})["steps_step"]
    codes, history = np.zeros((4, 3), np.int64), []
    for n in range(count):
        if valid[n]:
            code = int(maximum_code(np.abs(words[n]).max()))
            codes[table[n], row[n]] = max(code, 0 if first[n] else codes[table[n], row[n]])
        history.append(codes.copy())
    for n in range(unit.MAX_DELAY, count):
        code = history[n - unit.MAX_DELAY][asked_table[n], asked[n]]
        assert (out["mantissa"][n], out["exponent"][n]) == row_step(code)
