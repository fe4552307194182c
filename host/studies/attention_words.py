# SPDX-License-Identifier: Apache-2.0
"""What kinds of attention need that are not a unit: SOFT, whose landmarks want an inverse, by the paper's Newton
iteration in numbers of so many bits and as it is built; Sinkformer, which normalises rows and columns in turn and is
not; SageAttention, whose queries and keys have 8 bits. On queries, keys and values of a trained model.

    python -m edgemoe.host.studies.attention_words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.console import show_table
from edgemoe.models.keys import Key, Role
from edgemoe.models.numbers.calibrate import unseen_images
from edgemoe.models.numbers.forward import forward
from edgemoe.models.numbers.inverse import FACTOR_FRACTION, REFINEMENTS, UNIT_FRACTION, Stage, inverse
from edgemoe.models.numbers.words import FINE_PROBABILITY_BITS, PROBABILITY_BITS, SCORE_FRACTION, WORD_BITS, WORD_LIMIT
from edgemoe.models.operations.operation import Observer, softmax
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WORDS = (16, 20, 24, 27, 32)  # bits of a number, with one exponent for each matrix, as the array has them
STEPS = 20  # of Newton's iteration
RIDGE = 0.01  # added to the diagonal
GRID = 2  # a landmark is the mean of so many by so many patches
BLOCKS = (128, 64)  # SageAttention: so many queries, and so many keys, share a scale
ROUNDS = (1, 2, 3, 5)  # Sinkformer: rows and then columns, so many times


class _Heads(Observer):
    """Queries, keys and values [heads, tokens, width] of every layer."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int | None, Role], Floats] = {}

    def sample(self, key: Key, value: NDArray) -> None:
        self.seen[key.layer, key.role] = value[0]


def heads_of(checkpoint: Checkpoint, images: int = 1) -> list[tuple[Floats, Floats, Floats]]:
    """(query, key, value) [tokens, width] of each head of each layer, on pictures that no training saw."""
    found = []
    for image in unseen_images(checkpoint.config, images):
        observer = _Heads()
        forward(checkpoint, image, observer=observer)
        for layer in range(checkpoint.config.layers):
            parts = (observer.seen[layer, role] for role in (Role.QUERY, Role.KEY, Role.VALUE))
            found += list(zip(*parts, strict=True))
    return found


def rounded(x: Floats, bits: int | None) -> Floats:
    """Numbers of so many bits with the exponent that the largest magnitude asks for; None: as they are."""
    reach = float(np.abs(x).max())
    if bits is None or reach == 0:
        return x
    step = 2.0 ** (np.ceil(np.log2(reach)) - bits + 1)
    return np.clip(np.round(x / step), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) * step


def kernel(a: Floats, b: Floats) -> Floats:
    """exp(-|a - b|^2 / 2) of all rows of either."""
    return np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 2)


def newton(p: Floats, bits: int | None = None, steps: int = STEPS) -> Floats:
    """The inverse of a symmetric positive matrix by V <- 2 V - V P V."""
    v = rounded(p * (1.8 / np.abs(p).sum(axis=1).max() ** 2), bits)
    for _ in range(steps):
        v = rounded(2 * v - rounded(v @ rounded(p @ v, bits), bits), bits)
    return v


def landmarks(query: Floats, grid: tuple[int, int]) -> Floats:
    """Means of GRID x GRID patches; tokens before the patches have none. (SOFT learns a convolution for it.)"""
    rows, columns = (n // GRID * GRID for n in grid)
    patches = query[len(query) - grid[0] * grid[1] :].reshape(*grid, -1)[:rows, :columns]
    return patches.reshape(rows // GRID, GRID, columns // GRID, GRID, -1).mean(axis=(1, 3)).reshape(-1, query.shape[1])


def soft(query: Floats, value: Floats, grid: tuple[int, int], bits: int | None = None) -> Floats:
    """K1 (K2 + RIDGE I)^-1 (K1^T v): softmax-free attention, whose keys are its queries. Without `bits`, exact."""
    q = query / query.shape[1] ** 0.25
    p = landmarks(q, grid)
    k1, k2 = rounded(kernel(q, p), bits), rounded(kernel(p, p) + RIDGE * np.eye(len(p)), bits)
    inverse = np.linalg.inv(k2) if bits is None else newton(k2, bits)
    return rounded(k1 @ rounded(inverse @ rounded(k1.T @ value, bits), bits), bits)


def word(sums: Floats, shift: float) -> Floats:
    """16-bit words of exact sums, which are so many places finer."""
    return np.clip(np.floor(sums * 2.0**-shift + 0.5), -WORD_LIMIT - 1, WORD_LIMIT)


def fraction(reach: float) -> int:
    """Of words that hold so much, and a little more."""
    return int(np.floor(np.log2(WORD_LIMIT / (reach * 1.05))))


def soft_in_words(query: Floats, value: Floats, grid: tuple[int, int]) -> Floats:
    """The same in products of the array, as `landmark_attention` has it: 16-bit words with one exponent for each
    matrix, exact sums, softmax's exponentials, and `inverse` in place of Newton's iteration.

    |q|^2 / 2 of the scores q p - |q|^2 / 2 - |p|^2 / 2 is a word of each row, and all scores are raised by 8 less their
    last bit, so that they fill theirs.
    """
    q = query / query.shape[1] ** 0.25
    p = landmarks(q, grid)
    count, scaled = len(p), q * np.sqrt(np.log2(np.e))
    half, values = np.square(scaled).sum(axis=1).max() / 2, kernel(q, p).T @ value
    solved = np.linalg.inv(kernel(p, p) + RIDGE * np.eye(count)) @ values
    of_v, of_y, of_w, of_o = (fraction(np.abs(x).max()) for x in (value, values, solved, kernel(q, p) @ solved))
    of_half, of_norm = fraction(half), min(SCORE_FRACTION, fraction(max(4, half - 4)))
    of_q = min(fraction(np.abs(scaled).max()), (WORD_BITS + of_norm) // 2)
    rows = np.round(scaled * 2.0**of_q)
    marks = word(landmarks(rows, grid), 0)
    raised = (8 << of_norm) - 1

    def norms(x: Floats) -> Floats:
        return word((4 << of_half) - word(np.square(x).sum(axis=1), 2 * of_q + 1 - of_half), of_half - of_norm)

    def weights(a: Floats, b: Floats) -> Floats:
        scores = a @ b.T + (norms(a)[:, None] + norms(b) - 1) * 2.0 ** (2 * of_q - of_norm)
        below = np.maximum(raised * 2.0 ** (SCORE_FRACTION - of_norm) - word(scores, 2 * of_q - SCORE_FRACTION), 0)
        fine = np.round(2.0 ** (FINE_PROBABILITY_BITS - below * 2.0**-SCORE_FRACTION))
        return np.minimum(word(fine, FINE_PROBABILITY_BITS - PROBABILITY_BITS), WORD_LIMIT)

    one, unit = np.eye(count), 2.0**UNIT_FRACTION
    matrix = word(weights(marks, marks) + np.round(RIDGE * 2.0**21) * 2.0**-6 * one, PROBABILITY_BITS - UNIT_FRACTION)
    y = word(weights(marks, rows) @ np.round(value * 2.0**of_v), PROBABILITY_BITS + of_v - of_y)

    def inverted(of: Floats, exponent: int, stage: Stage) -> tuple[Floats, int]:
        x = one * np.round(stage.start * 2.0 ** stage.fractions[0])
        for f, a, shift in zip(stage.fractions, stage.factors, stage.shifts(), strict=False):
            ones = np.round(a * 2.0 ** (f + exponent - UNIT_FRACTION)) * unit
            x = word(word(one * ones - x @ of, f + exponent - FACTOR_FRACTION) @ x, shift)
        return x, stage.fractions[-1]

    first, second = inverse(RIDGE, count + RIDGE)
    v, of_x = inverted(matrix, UNIT_FRACTION, first)
    product = word(v @ matrix, of_x + UNIT_FRACTION - FACTOR_FRACTION)
    of_u = fraction(np.abs(v @ y).max() * 2.0 ** -(of_x + of_y))
    z, of_z = inverted(product, FACTOR_FRACTION, second)
    rest = word(one * 2.0 ** (of_z + FACTOR_FRACTION) - z @ product, of_z + FACTOR_FRACTION - UNIT_FRACTION)
    w = start = word(z @ word(v @ y, of_x + of_y - of_u), of_z + of_u - of_w)
    for _ in range(REFINEMENTS):
        w = word(rest @ w + unit * start, UNIT_FRACTION)
    return word(weights(rows, marks) @ w, PROBABILITY_BITS + of_w - of_o) * 2.0**-of_o


def sinkhorn(scores: Floats, rounds: int) -> Floats:
    """exp(s), its rows and then its columns divided by their sums, so many times; rows last."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    for _ in range(rounds):
        weights = weights / weights.sum(axis=1, keepdims=True)
        weights = weights / weights.sum(axis=0, keepdims=True)
    return weights / weights.sum(axis=1, keepdims=True)


def eight_bits(x: Floats, rows: int) -> Floats:
    """Rows in blocks, each of integers -127..127 times a scale of its own; halves away from zero."""
    parts = []
    for block in (x[start : start + rows] for start in range(0, len(x), rows)):
        scale = max(float(np.abs(block).max()), 1e-30) / 127
        parts.append(np.sign(block) * np.floor(np.abs(block) / scale + 0.5) * scale)
    return np.concatenate(parts)


def sage(query: Floats, key: Floats, value: Floats, centred: bool) -> Floats:
    """Softmax attention with queries and keys of 8 bits; `centred`: keys lose their mean first."""
    keys = key - key.mean(axis=0) if centred else key
    scores = eight_bits(query, BLOCKS[0]) @ eight_bits(keys, BLOCKS[1]).T / np.sqrt(query.shape[1])
    return softmax(scores) @ value


def decibels(exact: Floats, found: Floats) -> float:
    """Signal over error."""
    return float(10 * np.log10(np.square(exact).sum() / max(np.square(exact - found).sum(), 1e-300)))


@dataclass(frozen=True)
class Study:
    """Over all heads; a pair is decibels in the worst and in the middle one.

    soft: by the bits of its numbers; words: as it is built; converged: by Newton's iteration in floating point;
    condition: the largest of a landmark kernel; uneven: by rounds of Sinkformer, how far a column's sum is from 1 at
    most; sage: with centred keys or not.
    """

    soft: dict[int, tuple[float, float]]
    words: tuple[float, float]
    converged: tuple[float, float]
    condition: float
    uneven: dict[int, float]
    sage: dict[bool, tuple[float, float]]


def study(checkpoint: Checkpoint, words: Sequence[int] = WORDS) -> Study:
    """On the heads of a model."""
    config = checkpoint.config
    grid, heads = (config.patches_per_column, config.patches_per_row), heads_of(checkpoint)

    def spread(bits: int) -> tuple[float, float]:
        each = [decibels(soft(q, v, grid), soft(q, v, grid, bits)) for q, _, v in heads]
        return min(each), float(np.median(each))

    of_array = [decibels(soft(q, v, grid), soft_in_words(q, v, grid)) for q, _, v in heads]

    def with_eight(centred: bool) -> tuple[float, float]:
        each = [decibels(softmax(q @ k.T / np.sqrt(q.shape[1])) @ v, sage(q, k, v, centred)) for q, k, v in heads]
        return min(each), float(np.median(each))

    condition, uneven = 0.0, dict.fromkeys(ROUNDS, 0.0)
    for q, k, _ in heads:
        p = landmarks(q / q.shape[1] ** 0.25, grid)
        condition = max(condition, float(np.linalg.cond(kernel(p, p) + RIDGE * np.eye(len(p)))))
        scores = q @ k.T / np.sqrt(q.shape[1])
        for rounds in ROUNDS:
            columns = sinkhorn(scores, rounds).sum(axis=0)
            uneven[rounds] = max(uneven[rounds], float(np.abs(columns - 1).max()))
    eight = {centred: with_eight(centred) for centred in (False, True)}
    in_words = (min(of_array), float(np.median(of_array)))
    return Study({bits: spread(bits) for bits in words}, in_words, spread(64), condition, uneven, eight)


def table(found: Study) -> None:
    """On standard output."""
    rows = [(f"{bits} bits", f"{worst:.1f}", f"{middle:.1f}") for bits, (worst, middle) in found.soft.items()]
    rows.append(("16 bits, as it is built", f"{found.words[0]:.1f}", f"{found.words[1]:.1f}"))
    rows.append(("float64", f"{found.converged[0]:.1f}", f"{found.converged[1]:.1f}"))
    title = f"SOFT by {STEPS} steps of Newton, against the exact inverse (condition up to {found.condition:.0f}), dB"
    show_table(title, rows, ("numbers", "worst head", "median head"))
    uneven = [(str(rounds), f"{error:.3f}") for rounds, error in found.uneven.items()]
    show_table("Sinkformer: how far a column's sum is from 1", uneven, ("rounds", "largest"))
    eight = [
        ("without their mean" if centred else "as they are", f"{worst:.1f}", f"{middle:.1f}")
        for centred, (worst, middle) in found.sage.items()
    ]
    show_table("SageAttention: queries and keys of 8 bits, dB", eight, ("keys", "worst head", "median head"))


if __name__ == "__main__":
    table(study(checkpoints.load("m3vit-micro")))
