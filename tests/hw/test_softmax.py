# SPDX-License-Identifier: Apache-2.0
"""Softmax against its twins, and against PyTorch: maxima, probabilities, sums, and the delays that its attributes
state.
"""

import cocotb
import numpy as np
import pytest
from bench_nonlinear import GAPS, Bench, config_of, elements, padded, vector
from edgemoe.hw.compute.cosformer import ANGLE
from edgemoe.hw.compute.softmax import Softmax
from edgemoe.hw.contract.isa import Attention
from edgemoe.models.numbers.arithmetic import (
    above_zero,
    exp2_fine,
    probability,
    reciprocal,
    relu_fine,
    reweighted_fine,
    sigmoid_fine,
    turned_fine,
)
from edgemoe.models.numbers.twins import running_sums
from edgemoe.sim.bench import parameters, run_bench
from test_score_functions import FAMILY


class Rows:
    """Attention rows through the unit: scores in, scores again, probabilities and scales out, each at the earliest
    cycle allowed.
    """

    def __init__(self, dut, unit: Softmax, gap: float):
        self.bench, self.unit, self.lanes = Bench(dut, gap), unit, unit.config.lanes
        self.words, self.scales, self.due, self.asked, self.expected_words = [], {}, {}, None, set()
        self.told = False
        self.bench.each_cycle.append(self.watch)

    def watch(self) -> None:
        bench = self.bench
        if self.asked is not None:
            self.scales[self.asked] = (bench.get("scale_mantissa"), bench.get("scale_exponent"))
        self.asked = self.due.pop(bench.cycle, None)
        if self.asked is not None:
            bench.set(scale_index=self.asked)
        if self.told:  # a cycle ago
            self.words.append(elements(bench.get("out_word"), 16, self.lanes))
        valid = self.told = bool(bench.get("out_valid"))
        assert valid == (bench.cycle in self.expected_words), "out_valid comes LATENCY cycles after valid"

    async def run(self, scores: np.ndarray, shift: int, repeat: int = 2, row_major: bool = False, **choice: int):
        """scores [rows, keys] -> probabilities [repeat, rows, keys], mantissas, exponents [rows];
        row-major revisits a row as soon as allowed. `choice`: of another kind than softmax; scores are then written as
        of it.
        """
        bench, (rows, keys) = self.bench, scores.shape
        blocks = padded(scores, self.lanes)
        # Lanes that do not count hold something that would count much: the largest score, and then the row's own
        # maximum.
        again = blocks.copy()
        blocks.reshape(rows, -1)[:, keys:] = 32767
        again.reshape(rows, -1)[:, keys:] = scores.max(1, keepdims=True)
        columns = blocks.shape[1]
        order = [(i, c) for c in range(columns) for i in range(rows)]
        order = sorted(order) if row_major else order
        self.words, self.scales = [], {}
        lanes = [min(self.lanes, keys - c * self.lanes) for c in range(columns)]
        written = {"score_kind": choice["stream_kind"], "score_shift": shift} if choice else {}
        for i, c in order:
            word = vector(blocks[i, c], 16)
            fields = {"score_index": i, "score_first": c == 0, "score_word": word, "score_mask": (1 << lanes[c]) - 1}
            await bench.send("score_valid", (i, self.unit.REVISIT), **fields, **written)
        bench.set(score_valid=0)
        await bench.step(self.unit.MAX_DELAY - 1)
        for turn in range(repeat):
            for i, c in order:
                word = vector(again[i, c], 16)
                # What is only multiplied leaves the sums and the scales alone, whatever it says of first and last.
                counts = turn == 0
                first, last = (c == 0, c == columns - 1) if counts else (bench.random.random() < 0.5 for _ in range(2))
                flags = {"stream_first": first, "stream_last": last, "stream_accumulate": counts, **choice}
                await bench.send(
                    "stream_valid",
                    (i, self.unit.REVISIT),
                    stream_index=i,
                    stream_lanes=lanes[c],
                    stream_shift=shift,
                    **flags,
                )
                bench.set(stream_word=word)  # a cycle later
                self.expected_words.add(bench.cycle - 1 + self.unit.LATENCY)
                if turn == 0 and c == columns - 1:
                    self.due[bench.cycle - 1 + self.unit.SCALE_DELAY] = i
        bench.set(stream_valid=0)
        await bench.step(self.unit.SCALE_DELAY + 3)
        early = dict(self.scales)
        self.due = {bench.cycle + i: i for i in range(rows)}
        await bench.step(rows + 2)
        assert self.scales == early, "scales stay"
        result = np.zeros((repeat, rows, columns, self.lanes), np.int64)
        for n, word in enumerate(self.words):
            i, c = order[n % len(order)]
            result[n // len(order), i, c] = word
        assert len(self.words) == repeat * len(order) and len(self.scales) == rows
        result = result.reshape(repeat, rows, -1)
        assert (result[:, :, keys:] == 0).all(), "lanes that do not count give 0"
        mantissas, exponents = np.array([self.scales[i] for i in range(rows)]).T
        return result[:, :, :keys], mantissas, exponents


@cocotb.test()
async def compare(dut):
    given, random = parameters(), np.random.default_rng(5)
    config = config_of(given["lanes"])
    rows = Rows(dut, Softmax(config), given["gap"])
    await rows.bench.begin()
    for count, keys, shift in given["sizes"]:
        for spread, row_major in ((32767, False), (300, True)):
            scores = random.integers(-spread - 1, spread + 1, (count, keys))
            got, mantissas, exponents = await rows.run(scores, shift, row_major=row_major)
            fine = exp2_fine(scores.max(1, keepdims=True) - scores, shift)
            assert (got == probability(fine)).all()
            twin = reciprocal(fine.sum(1))
            assert (mantissas == twin[0]).all() and (exponents == twin[1]).all()


NO_ANGLE = 1 << ANGLE["none"].offset


@cocotb.test()
async def kinds(dut):
    """Rows of every kind, one after the other; some of nothing but zeros."""
    random = np.random.default_rng(6)
    rows = Rows(dut, Softmax(FAMILY), parameters()["gap"])
    await rows.bench.begin()
    for kind in (*Attention, *reversed(Attention)):
        scores = random.integers(-2000, 2001, (7, 19))
        scores[:2] = -np.abs(scores[:2])  # whose positive parts add up to nothing
        bias = int(random.integers(-5000, 5001))
        choice = dict(stream_kind=kind, stream_bias=bias, stream_keys=19, stream_angle=NO_ANGLE)
        choice["row_major"] = random.random() < 0.5
        got, mantissas, exponents = await rows.run(scores, 2, repeat=1, **choice)
        match kind:
            case Attention.SOFTMAX:
                fine = exp2_fine(scores.max(1, keepdims=True) - scores, 2)
            case Attention.SIGMOID:
                fine = sigmoid_fine(scores + bias, 2)
            case Attention.RELU | Attention.RELA:
                fine = relu_fine(scores)
            case Attention.TWO_PASS:
                exponent, sums = running_sums(scores, FAMILY.lanes, 2)
                fine = exp2_fine(exponent[:, None] - scores, 2)
            case Attention.SOFTPLUS:
                total = scores.sum(1, keepdims=True)
                fine = reweighted_fine(scores, scores.max(1, keepdims=True), total, scores.shape[1])
            case Attention.COSFORMER:
                fine = turned_fine(scores, 1 << 16)
            case Attention.PERFORMER:
                fine = relu_fine(above_zero(scores, bias))
            case _:
                raise NotImplementedError(kind)
        assert (got[0] == probability(fine)).all()
        twin = reciprocal(sums if kind == Attention.TWO_PASS else fine.sum(1))
        assert (mantissas == twin[0]).all() and (exponents == twin[1]).all()


@cocotb.test()
async def pytorch(dut):
    """129 scores of standard deviation 2, normalised by the scale:
    at most 1e-4 from PyTorch's softmax, 5e-6 on average.
    """
    import torch

    rows = Rows(dut, Softmax(config_of(16)), 0.0)
    await rows.bench.begin()
    shift = 1  # scores reach 16 in units of log 2
    scores = (
        np.round(np.random.default_rng(7).normal(0, 2, (24, 129)) / np.log(2) * 2 ** (12 - shift))
        .astype(np.int64)
        .clip(-32768, 32767)
    )
    got, mantissas, exponents = await rows.run(scores, shift, repeat=1)
    softmax = got[0] * 2.0**-15 * (mantissas * 2.0 ** (2 - exponents))[:, None]  # 1 / sum, in units of 2^-18
    error = np.abs(softmax - torch.softmax(torch.from_numpy(scores * 2.0 ** (shift - 12) * np.log(2)), 1).numpy())
    dut._log.info(f"error: max {error.max():.3g}, mean {error.mean():.3g}")
    assert error.max() <= 1e-4 and error.mean() <= 5e-6


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_rows(lanes, gap):
    sizes = [(1, 1, 0), (1, 2 * lanes + 1, 3), (2, 5, 4), (7, 19, 2), (3, lanes, 15)]
    unit = Softmax(config_of(lanes))
    assert unit.SCALE_DELAY == {4: 16, 8: 17, 16: 18}[lanes]
    run_bench(
        unit,
        __name__,
        testcase="compare",
        parameters={"lanes": lanes, "gap": GAPS[gap], "sizes": sizes},
        name=f"softmax_{lanes}",
    )


@pytest.mark.parametrize("gap", GAPS)
def test_kinds(gap):
    run_bench(Softmax(FAMILY), __name__, testcase="kinds", parameters={"gap": GAPS[gap]}, name="softmax_family")


def test_against_pytorch():
    run_bench(Softmax(config_of(16)), __name__, testcase="pytorch", name="softmax_16")
