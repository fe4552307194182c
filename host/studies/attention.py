# SPDX-License-Identifier: Apache-2.0
"""The kinds of attention side by side: how far their weights are from the formula, what they take, and whether the
hardware agrees with the emulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host import inference
from edgemoe.host.studies import benchmark, drawing
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Turn
from edgemoe.models.config import LANDMARK_KIND, ModelConfig, TaskConfig
from edgemoe.models.console import show_table
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.keys import Key
from edgemoe.models.numbers import twins
from edgemoe.models.numbers.arithmetic import activation, probability, relu_fine, round_shift
from edgemoe.models.numbers.calibrate import default_images
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.linear import Linear
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.numbers.sketch import Sketch
from edgemoe.models.numbers.words import (
    ACTIVATION_FRACTION,
    FINE_PROBABILITY_BITS,
    PROBABILITY_BITS,
    RECIPROCAL_FRACTION,
    SCORE_FRACTION,
    WORD_LIMIT,
)
from edgemoe.models.operations.feature_maps import MAPS, FeatureMap, step_of
from edgemoe.models.operations.gated_attention import GatedAttention
from edgemoe.models.operations.weighing import KINDS, Weighing
from numpy.typing import NDArray

LENGTHS = (129, 1201)  # scores a row
SPREADS = (1, 2, 8)  # their standard deviations
ROWS = 32  # of each
LANES = 8  # scores that come out together
HUGE = 500.0  # one score among others of standard deviation 1
# In which part of a unit what a kind needs beside others is made; within it, what another kind has is that one's.
PARTS = {
    "softmax": "softmax.exponential",
    "sigmoid": "softmax.functions.sigmoid",
    "relu": "softmax.functions",
    "two-pass": "softmax.running",
    "softplus": "softmax.reweighting",
    "rela": "epilogue.gate",
    "performer": "softmax.functions.performer",
    "cosformer": "softmax.functions.cosformer",
    LANDMARK_KIND: "",  # softmax's exponentials, and nothing else
}
UNITS = ("softmax", "epilogue")
# 129 tokens through two layers.
MODEL = ModelConfig(
    name="attention",
    image_height=128,
    image_width=256,
    width=64,
    heads=2,
    layers=2,
    hidden=64,
    experts=0,
    expert_hidden=0,
    top_k=0,
    moe_layers=(),
    tasks=(TaskConfig(name="tokens", kind="tokens"),),
)


@dataclass(frozen=True)
class Found:
    """Of one kind. errors: of the weights, or of what a gated norm makes of them, the largest in each case; mismatches:
    values of the model's tokens in which RTL and emulator differ; cycles: of all MATMULs with keys or values of the
    model, and of the whole pass; lut, dsp, bram: of what makes the weights, None if they were not counted.
    """

    kind: str
    mismatches: int
    cycles: int
    pass_cycles: int
    errors: dict[str, float]
    lut: float | None
    dsp: float | None
    bram: float | None

    @property
    def max_error(self) -> float:
        return max(self.errors.values())

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        return asdict(self) | {"max_error": self.max_error}


def cases() -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Name and rows of scores [rows, n]."""
    for count in LENGTHS:
        random = np.random.default_rng(count)
        for spread in SPREADS:
            yield f"{count} scores, sigma {spread}", random.normal(0, spread, (ROWS, count))
        rows = random.normal(0, 1, (ROWS, count))
        yield f"{count} equal scores", np.repeat(rows[:, :1], count, axis=1)
        huge, last = rows.copy(), rows.copy()
        huge[:, count // 3], last[:, -1] = HUGE, 2 * np.abs(rows).max()
        yield f"{count} scores, one of {HUGE:g}", huge
        yield f"{count} scores, the maximum last", last
    yield "1 score", rows[:, :1]
    yield "2 scores", rows[:, :2]


def weights(weighing: Weighing, scores: NDArray[np.float64], masked: bool = False) -> tuple[NDArray, NDArray]:
    """(as the hardware has them, exact) of rows of scores that are first rounded to 16 bits, as they come out of the
    product. masked: no key exists.
    """
    scaled = scores * weighing.unit
    reach = max(float(np.abs(scaled).max()), abs(weighing.bias))
    exponent = min(weighing.finest, math.floor(math.log2(WORD_LIMIT / reach)))
    words = np.round(scaled * 2.0**exponent).astype(np.int64)
    seen = words * 2.0**-exponent / weighing.unit
    if weighing.function:
        fine = np.round(scaled * (1 << ACTIVATION_FRACTION)).astype(np.int64)
        seen = fine / (1 << ACTIVATION_FRACTION)
        words = round_shift(activation(fine, weighing.function), ACTIVATION_FRACTION - exponent)
    shift, bias = max(0, SCORE_FRACTION - exponent), round(weighing.bias * 2.0**exponent)
    largest, kept = words.max(axis=1), None
    if weighing.kind == "two-pass":
        largest, kept = twins.running_sums(words[:, : 0 if masked else None], LANES, shift)
    of_row = (largest, shift, bias, None, words.sum(axis=1), scores.shape[1])
    fine = twins.weights(weighing.kind, words, *of_row) * (not masked)
    found = probability(fine) * 2.0 ** -weighing.fraction(exponent)
    if weighing.normalised:
        mantissa, power = twins.softmax_scale(fine.sum(axis=1) if kept is None else kept)
        sums = mantissa * 2.0 ** (FINE_PROBABILITY_BITS - RECIPROCAL_FRACTION - power)
        found = probability(fine) * 2.0**-PROBABILITY_BITS * sums[:, None]
    exact = weighing.weights(seen)
    return found, exact * (not masked)


def weights_by_features(
    features: FeatureMap, scores: NDArray[np.float64], masked: bool = False
) -> tuple[NDArray, NDArray]:
    """The same of linear attention, over LENGTHS[0] keys: what stands in a row are products of a query with so many
    vectors, those of the keys are random.
    """

    def rounded(products: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        exponent = math.floor(math.log2(WORD_LIMIT / max(float(np.abs(products).max()), features.floor)))
        words = np.tile(np.round(products * 2.0**exponent).astype(np.int64), features.parts)
        number, shift, factors = round(features.floor * 2.0**exponent), 0, None
        if features.turned:
            number, shift = step_of(len(words))
            factors = twins.position_factors(
                Turn.ROWS, len(words), words.shape[1], number, shift, half=products.shape[1]
            )
        fine = twins.weights(features.kind, words, words.max(axis=1), shift, number, factors)
        above = np.maximum(words[:, : products.shape[1]] * 2.0**-exponent, 0) + features.floor
        return probability(fine), features(above)

    def narrowed(sums: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        shift = max(0, int(sums.max()).bit_length() - PROBABILITY_BITS)
        return np.minimum(round_shift(sums, shift), WORD_LIMIT), shift

    keys = np.random.default_rng(scores.shape[1]).normal(0, 1, (LENGTHS[0], scores.shape[1]))
    (of_queries, exact_queries), (of_keys, exact_keys) = rounded(scores), rounded(keys)
    of_keys, exact_keys = of_keys * (not masked), exact_keys * (not masked)
    sums, first = narrowed(of_keys.sum(axis=0))
    total, second = narrowed(of_queries @ sums)
    mantissa, power = twins.softmax_scale(relu_fine(total))
    reciprocal = mantissa * 2.0 ** (FINE_PROBABILITY_BITS - PROBABILITY_BITS - RECIPROCAL_FRACTION - power)
    found = of_queries @ of_keys.T * reciprocal[:, None] * 2.0 ** -(first + second)
    exact = exact_queries @ exact_keys.T
    return found, exact / np.maximum(exact.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def near(scores: NDArray[np.float64], masked: bool = False) -> tuple[NDArray, NDArray]:
    """The same of what is exp of minus half a squared distance: here of how far scores are below the largest of a row,
    for which a word of scores has its largest number.
    """
    below = np.round((scores - scores.max(axis=1, keepdims=True)) * math.log2(math.e) * 2.0**SCORE_FRACTION)
    words = np.maximum(below + WORD_LIMIT, -WORD_LIMIT - 1).astype(np.int64)
    fine = twins.weights("softmax", words, np.full(len(words), WORD_LIMIT), 0, 0)
    return probability(fine) * 2.0**-PROBABILITY_BITS * (not masked), np.exp2(below * 2.0**-SCORE_FRACTION) * (
        not masked
    )


def gated(scores: NDArray[np.float64], masked: bool = False) -> tuple[NDArray, NDArray]:
    """The same of weights that a gated norm with gains and gates of 1 goes over: those of a row are what a query gets
    from values that are the columns of the identity.
    """
    count, reach = scores.shape[1], max(float(scores.max()), 2.0**-10)
    exponent = math.floor(math.log2(WORD_LIMIT / reach))
    words = np.round(np.maximum(scores, 0) * 2.0**exponent).astype(np.int64) * (not masked)
    seen = words * 2.0**-exponent
    config = replace(MODEL, width=count, heads=1, attention="rela")
    squares = np.square(seen).mean(axis=1, keepdims=True)
    exact = seen / np.sqrt(squares + config.eps) / (1 + np.exp(-seen))
    norm = GatedAttention(config, 0)
    alone = Alone(config, float(np.abs(exact).max()), float(np.sqrt(squares.max() if masked else squares.min())))
    alone.tensors = {name: np.ones(count) for name in norm.tensors()}
    made, results = norm.completion(alone, exponent)
    gate, scale = made.linears()

    def through(x: NDArray[np.int64], by: Linear, **more: Any) -> NDArray[np.int64]:
        sums = (x * by.weights.diagonal()).astype(np.float64)
        shifts: dict[str, Any] = dict(accumulator_shift=by.accumulator_shift, output_shift=by.output_shift)
        found = twins.epilogue(sums, multiplier=by.multiplier, function=by.activation, **shifts, **more)
        return found.astype(np.int64)

    epsilon = norm.inner.epsilon(exponent)
    mantissa, power = twins.layernorm_scale(words.sum(axis=1), np.square(words).sum(axis=1), count, epsilon, 1)
    found = through(through(words, gate), scale, mantissa=mantissa, exponent=power)
    return found * 2.0**-results, exact


class Alone(Sketch):
    """What a quantiser says of one norm whose results reach so far, and whose rows are divided by `least` or more."""

    def __init__(self, config: ModelConfig, most: float, least: float) -> None:
        super().__init__(config, WeightFormat.SIXTEEN)
        self.most, self.least = most, least

    def reach(self, key: Key) -> float:
        return self.most

    def sigma(self, norm: Key) -> float:
        return self.least


def errors(kind: str) -> dict[str, float]:
    """The largest error of a weight in each case."""

    def error(scores: NDArray[np.float64], masked: bool = False) -> float:
        if kind in MAPS:
            got, exact = weights_by_features(MAPS[kind](MODEL), scores, masked)
        elif kind == "rela":
            got, exact = gated(scores, masked)
        elif kind == LANDMARK_KIND:
            got, exact = near(scores, masked)
        else:
            got, exact = weights(KINDS[kind](scores.shape[1]), scores, masked)
        return float(np.abs(got - exact).max())

    found = {name: error(scores) for name, scores in cases()}
    masked = error(next(cases())[1], masked=True)
    return found | {"a masked row": masked}


def run(kind: str, hardware: HardwareConfig) -> tuple[int, int, int]:
    """(mismatches, cycles of attention's products, of the pass) of a model with random weights."""
    checkpoint = benchmark.random_checkpoint(replace(MODEL, attention=kind))
    common: dict[str, Any] = dict(tasks=[0], hardware=hardware, weight_bits="16", model=quantise(checkpoint, "16"))
    images = list(default_images(checkpoint.config, 1))
    told = inference.infer(checkpoint, images, device="emulator", **common)
    ran = inference.infer(checkpoint, images, device="verilator", **common)
    pairs = zip(told.runs, ran.runs, strict=True)
    mismatches = sum(
        int(np.count_nonzero(np.asarray(mine) != np.asarray(theirs)))
        for a, b in pairs
        for mine, theirs in zip(a.tokens, b.tokens, strict=True)
    )
    spent = benchmark.breakdown(ran.runs)["kinds"]
    products = sum(sum(spent[product].values()) for product in ("keys", "values"))
    return mismatches, products, ran.total(lambda run: run.cycles)


def resources(hardware: HardwareConfig) -> dict[str, dict[str, float]]:
    """Kind -> resources of what it needs beside others; nothing, with a notice, where they cannot be counted."""
    from edgemoe.sim import synthesis

    try:
        parts = {f"{unit}.{path}": part for unit in UNITS for path, part in synthesis.parts(hardware, unit).items()}
    except EdgemoeError as error:
        inference.notice(f"resources not counted: {error}")
        return {}
    found: dict[str, dict[str, float]] = {
        kind: dict.fromkeys(next(iter(parts.values())), 0.0) for kind, part in PARTS.items() if not part
    }
    for path, counts in parts.items():
        kinds = [kind for kind, part in PARTS.items() if part and f"{path}.".startswith(f"{part}.")]
        if kinds:
            kind = max(kinds, key=lambda kind: len(PARTS[kind]))
            entry = found.setdefault(kind, dict.fromkeys(counts, 0.0))
            for name, count in counts.items():
                entry[name] += count
    return found


def kinds_of(wanted: str, hardware: HardwareConfig) -> list[str]:
    """ "all" that a build has, or one; EdgemoeError if it has not."""
    kinds = [*hardware.weighings, LANDMARK_KIND]  # which takes softmax's unit
    if wanted != "all" and wanted not in kinds:
        raise EdgemoeError(
            f"hardware {hardware.name!r} has no {wanted!r} attention: choose all, or one of {', '.join(kinds)}"
        )
    return kinds if wanted == "all" else [wanted]


def study(
    kinds: Sequence[str], hardware: HardwareConfig, note: Callable[[str], None] = inference.notice
) -> list[Found]:
    """Every kind on one and the same build."""
    counted, found = resources(hardware), []
    for kind in kinds:
        note(f"{kind} attention")
        part: dict[str, Any] = counted.get(kind, {})
        spent = (part.get("lut"), part.get("dsp"), part.get("bram"))
        found.append(Found(kind, *run(kind, hardware), errors(kind), *spent))
    return found


def table(found: Sequence[Found], hardware: HardwareConfig) -> None:
    """On standard output: what they take, and their errors case by case."""

    def shown(count: float | None) -> str:
        return "not counted" if count is None else f"{math.ceil(count):,}"

    rows = [
        (f.kind, str(f.mismatches), f"{f.cycles:,}", f"{f.pass_cycles:,}", f"{f.max_error:.2e}")
        + tuple(map(shown, (f.lut, f.dsp, f.bram)))
        for f in found
    ]
    title = f"Attention on {hardware.name}: {MODEL.tokens} tokens, {MODEL.layers} layers, {MODEL.heads} heads"
    columns = ("kind", "mismatches", "cycles", "of the pass", "largest error", "LUT", "DSP", "block RAM")
    show_table(title, rows, columns)
    errors = [(case, *(f"{f.errors[case]:.2e}" for f in found)) for case in found[0].errors]
    show_table("Largest error of a weight, against the formula", errors, ("case", *(f.kind for f in found)))


def plot(found: Sequence[Found], path: Path) -> None:
    """Cycles of attention's products, and the errors in each case."""
    plt = drawing.pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained", width_ratios=(1, 2))
    left.bar([f.kind for f in found], [f.cycles / 1e3 for f in found])
    left.set_ylabel("thousand cycles of attention's products")
    names = list(found[0].errors)
    for f in found:
        right.plot(range(len(names)), [max(f.errors[name], 1e-7) for name in names], marker="o", label=f.kind)
    right.set_yscale("log")
    right.set_ylabel("largest error of a weight")
    right.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    right.legend()
    drawing.save_figure(figure, path)
