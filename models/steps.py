# SPDX-License-Identifier: Apache-2.0
"""What an operation asks of the array, in order, without sizes of an array, addresses or waits: those are the
compiler's.

Rows are the tokens of all streams of a pass, one stream's after the other. A step runs over all of them, unless it
stands in `EachStream`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .keys import Key
from .numbers.linear import Linear


class Place(Enum):
    """Kind of memory that a value needs."""

    ACTIVATION = 0  # can be streamed past the array
    KEY_VALUE = 1  # can be held by it
    SCORE = 2  # can be streamed as probabilities, or routed; of one stream at a time


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor on the way: a row for each token, `groups` times `width` channels, each group in whole words."""

    name: str
    width: int
    groups: int = 1
    place: Place = Place.ACTIVATION


RESIDUAL = Value("the residual", 0)
"""The residual stream: what is written into it is added; what reads it sees it as it was when the step began."""


class RowScale(Enum):
    """The factor of a whole row of a product."""

    NONE = 0
    NORM = 1  # 1/sigma of the row of the residual that was read
    EXPERT = 2  # the router's score
    HEAD = 3  # 1/sigma of the row of a head


@dataclass(frozen=True)
class Step:
    """where, what: the name that people see; what tells streams apart stands between them."""

    where: str
    what: str


@dataclass(frozen=True)
class Embed(Step):
    """Pictures -> residual: position [tokens, width] plus `linear` of each patch."""

    position: NDArray
    linear: Linear


@dataclass(frozen=True)
class Normalise(Step):
    """1/sigma of every row of the residual, n = `channels`: 1/sqrt(n sum x^2 - (sum x)^2 + epsilon), or without the
    middle term if not centred; `of_head`: of the rows that the last product with `row_sums` wrote.
    """

    epsilon: int
    channels: int
    centred: bool
    of_head: bool = False


@dataclass(frozen=True)
class Product(Step):
    """into = linear(reads) * scale.

    rows: of one stream, those that are meant; all of them if none are named. replaces: what is written into the
    residual is not added to it. group: of `into`, the first that is written; row_sums: what is written is to be
    normalised. diagonal: but for the blocks on its diagonal the matrix is zero; rows of what is read and of what is
    written have the same words.
    """

    linear: Linear
    reads: Value
    into: Value
    scale: RowScale = RowScale.NONE
    rows: range | None = None
    replaces: bool = False
    group: int = 0
    row_sums: bool = False
    diagonal: bool = False


@dataclass(frozen=True)
class Weights:
    """Of scores, by the hardware's kinds of attention. exponent_shift: left shift that brings scores to 12 fractional
    bits; bias: added to each, if the kind does that; normalised: a row is divided by its sum; kept: the product of
    scores must know of them, too.
    """

    kind: str
    normalised: bool
    kept: bool
    exponent_shift: int
    bias: int


@dataclass(frozen=True)
class Scores(Step):
    """into = a head's queries . keys, or a function of it; `head` and `keys` are groups of their values."""

    queries: Value
    head: int
    held: Value
    keys: int
    into: Value
    weights: Weights
    accumulator_shift: int
    output_shift: int
    function: str = ""


@dataclass(frozen=True)
class Attend(Step):
    """A group of `into` = weights of the scores times a group of the held values."""

    scores: Value
    held: Value
    values: int
    into: Value
    head: int
    weights: Weights
    accumulator_shift: int
    output_shift: int


@dataclass(frozen=True)
class Constant(Step):
    """into = these rows, the same for all streams."""

    rows: NDArray[np.int16]
    into: Value


@dataclass(frozen=True)
class Shift:
    """Of a product: `accumulator` as its sums leave the accumulators, `output` behind the epilogue's finer bits."""

    accumulator: int
    output: int


@dataclass(frozen=True)
class Features:
    """Of linear attention, by the hardware's kinds. number: the least that a feature has, or the step of a token with
    `shift`; parts: of each vector, sine and cosine of its position if there are two.
    """

    kind: str
    number: int
    shift: int
    parts: int


@dataclass(frozen=True)
class Summarise(Step):
    """Of a head, what linear attention keeps of all its keys and values, in the place behind these: sums of the values,
    and of ones, weighed by the features of their keys, a row for each feature.

    vectors: `rows` of them make the features; keys, values: groups of the held values; scores: shifts of the keys'
    products with vectors, sums: of those of features with values.
    """

    vectors: Value
    rows: int
    held: Value
    keys: int
    values: int
    products: Value
    ones: Linear
    features: Features
    scores: Shift
    sums: Shift


@dataclass(frozen=True)
class Recall(Step):
    """A group of `into` = features of the head's queries times the sums that `Summarise` left, divided by their
    products with those of ones.

    linear: from queries to features; weights: shifts of these products, results: of the quotients.
    """

    queries: Value
    head: int
    linear: Linear
    products: Value
    into: Value
    group: int
    features: Features
    weights: Shift
    results: Shift


NORM_CHANNELS = 8
"""Of a point of `Soften`, behind those of its query: from half of its square."""


@dataclass(frozen=True)
class Inversion:
    """Steps of an inverse. start: on the diagonal of what it begins with; factors: on the diagonal beside it, before
    each step; before: shifts of the products with the matrix, after: of these with what the inverse was.
    """

    start: int
    factors: tuple[int, ...]
    before: tuple[Shift, ...]
    after: tuple[Shift, ...]


@dataclass(frozen=True)
class Landmarks:
    """What the heads of a layer have in common that weigh values by distances from landmarks; numbers are integers.

    means      [landmarks, tokens] that make landmarks of points, whose products are shifted by `mean`
    of_rows    from half a point's square, shifted by `halves`, to its other channels where it is streamed; of_keys:
               where it is held. scores: shift of products of either
    largest    makes of anything the score of a point with itself, which no other exceeds
    ridged     from the landmarks' kernel, shifted by `kernel`, and ones of `ridge_unit` beside it to the matrix that is
               inverted
    first, second   the steps to V and to Z, of which either is what the other one is of another matrix; product: shift
               of V times the matrix, sums: of the values' sums, turned: of V times these
    rest       shift of what Z leaves, and `last` on the diagonal beside it; solution: of Z times the above, refined: of
               each refinement of that, results: of what points take of it
    """

    means: NDArray[np.int16]
    of_rows: Linear
    of_keys: Linear
    largest: Linear
    ridged: Linear
    ridge_unit: int
    first: Inversion
    second: Inversion
    last: int
    mean: Shift
    halves: Shift
    scores: Shift
    kernel: Shift
    product: Shift
    sums: Shift
    turned: Shift
    rest: Shift
    solution: Shift
    refined: Shift
    results: Shift


@dataclass(frozen=True)
class Prepare(Step):
    """What the heads behind it find on chip; held: their values."""

    held: Value
    landmarks: Landmarks


@dataclass(frozen=True)
class Soften(Step):
    """A group of `into` = K (L + ridge)^-1 (K^T values), K what the head's points are to landmarks, L these to each
    other. queries: makes the points of the normalised residual; values: a group of the held ones.
    """

    queries: Linear
    held: Value
    values: int
    into: Value
    group: int
    landmarks: Landmarks


@dataclass(frozen=True)
class Route(Step):
    """The best top_k experts of each row of logits get the row and its score into their queues.

    among_chosen: the softmax is over these, not over all experts.
    """

    key: Key
    logits: Value
    experts: int
    top_k: int
    exponent_shift: int
    among_chosen: bool


@dataclass(frozen=True)
class EachStream(Step):
    """Steps for one stream after the other; they may depend on its task."""

    steps: Callable[[int], Sequence[Step]]


@dataclass(frozen=True)
class EachExpert(Step):
    """Steps for every expert with a queue: rows of the residual are those of the queue."""

    steps: Sequence[Product]
