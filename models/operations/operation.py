# SPDX-License-Identifier: Apache-2.0
"""What every kind of operation says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..keys import Key, Role
from ..numbers.folding import Folded
from ..numbers.linear import Linear
from ..steps import Step

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.error_aware import Moments
    from ..numbers.quantise import Quantiser
    from .norm import Norm

Tensors = Mapping[str, NDArray[Any]]


class Observer:
    """Is shown tensors by the float model while it runs. This one does not look; calibration's does."""

    active = False  # whether what only observers need is computed

    def reach(self, key: Key, value: NDArray) -> None:
        """A tensor that must fit its format."""

    def residual(self, key: Key, value: NDArray) -> None:
        """The residual stream: it must fit, and its few outliers are weighed against its rounding."""

    def sigma(self, key: Key, value: NDArray) -> None:
        """What a norm divides its rows by."""

    def sample(self, key: Key, value: NDArray) -> None:
        """A tensor [1, heads, tokens, width] that is looked at as a whole when all images are through."""

    def rows(self, key: Key, x: NDArray, weight: NDArray | None = None) -> None:
        """Rows that matrices see; `weight`: how much the error of each counts."""

    def tokens(self, key: Key, x: NDArray) -> None:
        """Rows of which a few are kept."""


@dataclass
class Context:
    """One forward pass: tensors in its float type, the task, and what is noted on the way."""

    tensors: Tensors
    task: int
    dtype: type
    observer: Observer = field(default_factory=Observer)
    routing: Mapping[int, NDArray] = field(default_factory=dict)
    routes: dict[int, NDArray] = field(default_factory=dict)
    scores: dict[int, NDArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """A matrix that the array multiplies with.

    sees    the tensor whose rows it gets
    expert  there is one for each expert
    groups  outputs come in this many groups (heads), each in whole words; input_groups likewise
    """

    key: Key
    sees: Key
    inputs: int
    outputs: int
    expert: bool = False
    groups: int = 1
    input_groups: int = 1

    @property
    def unpacked(self) -> bool:
        """Whether two of its products never share a multiplier: in routers errors turn choices, and norms of heads, as
        what rotates back, are little work.
        """
        return self.key.role in (Role.ROUTER, Role.QUERY_GAIN, Role.KEY_GAIN, Role.BACK)


class Over(Enum):
    """Which rows a product runs over, as far as its cost is concerned."""

    TOKENS = 0  # those of all streams
    PATCHES = 1  # those of all streams, without the CLS token's
    STREAM = 2  # one stream's, one after the other
    QUEUE = 3  # one expert's, one after the other


@dataclass(frozen=True)
class Work:
    """`count` products of a row of `inputs` with inputs x outputs, in groups as of `Matrix`.

    weights: they come from memory; rows: so many rows instead, whatever it runs over.
    """

    over: Over
    inputs: int
    outputs: int
    count: int = 1
    groups: int = 1
    input_groups: int = 1
    expert: bool = False
    weights: bool = True
    rows: int = 0
    unpacked: bool = False

    @classmethod
    def of(cls, matrix: Matrix, over: Over = Over.TOKENS) -> Work:
        """What a matrix costs."""
        return cls(
            over,
            matrix.inputs,
            matrix.outputs,
            1,
            matrix.groups,
            matrix.input_groups,
            matrix.expert,
            unpacked=matrix.unpacked,
        )

    @property
    def multiplications(self) -> int:
        """Of one row, without padding."""
        return self.count * self.inputs * self.outputs


class Quantised(ABC):
    """An operation in integers."""

    @abstractmethod
    def linears(self) -> Sequence[Linear]:
        """Its matrices, in the order of their use."""

    @abstractmethod
    def steps(self) -> Iterator[Step]:
        """What the array does."""


class Operation(ABC):
    """A part of a model.

    Everything that is particular to its kind is in its class, and the walks over a model ask for it.
    """

    config: ModelConfig
    routed = False  # whether what it does depends on the task: streams of one image part before the first that is
    rotates = True  # whether the residual that it reads and writes may be rotated (`rotation`)
    in_place = (
        False  # whether it adds to the residual piece by piece, so that the exponent before it is the one after it
    )

    @property
    @abstractmethod
    def title(self) -> str:
        """As people call it."""

    @property
    @abstractmethod
    def result(self) -> Key:
        """The residual stream after it."""

    def ceiling(self, quantiser: Quantiser) -> int:
        """The largest exponent of the residual that it can add to in place."""
        return quantiser.HIGHEST

    @abstractmethod
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of its tensors in a checkpoint, in the order of their use."""

    @property
    def norm(self) -> Norm | None:
        """The norm before it, if there is one."""
        return None

    @property
    def head_norms(self) -> Sequence[Norm]:
        """Norms of parts of a row within it."""
        return ()

    @property
    def norms(self) -> Sequence[Norm]:
        """All of its norms."""
        return [*([self.norm] if self.norm else []), *self.head_norms]

    @abstractmethod
    def ranges(self) -> Sequence[Key]:
        """The tensors whose largest magnitude must be known, in the order of their use."""

    @abstractmethod
    def matrices(self) -> Sequence[Matrix]:
        """Its matrices, in the order of their use."""

    @abstractmethod
    def work(self) -> Sequence[Work]:
        """What it costs, in order, for one task."""

    @abstractmethod
    def forward(self, x: NDArray, context: Context) -> NDArray:
        """In floating point."""

    def settle(self, sampled: Callable[[Key], NDArray], calibration: Calibration) -> None:  # noqa: B027 (most have nothing to say)
        """When all pictures are through: what calibration is to know of whole tensors [images, heads, tokens,
        width].
        """

    @abstractmethod
    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        """Its matrices with everything folded in that the hardware need not do, float64."""

    def rotated(self, tensors: Tensors, rotation: NDArray) -> dict[str, NDArray]:
        """Its tensors if the residual, [..., width], is that times `rotation`."""
        raise NotImplementedError(f"{self.title} does not rotate")

    def seen(self, matrix: Matrix, moments: Moments, tensors: Tensors) -> Sequence[tuple[NDArray, NDArray]]:
        """(mean, covariance) of the rows that a matrix sees, of each expert if there is one for each."""
        return [moments.covariance(matrix.sees)]

    @abstractmethod
    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        """Its integers, and the residual stream's exponent after it: `after`, or less.

        before: the exponent before it.
        """


def affine(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def linear(x: NDArray, tensors: Tensors, name: str, expert: int | slice = np.s_[:]) -> NDArray:
    """x W^T + b; `expert`: of stacked layers."""
    return x @ tensors[f"{name}.weight"][expert].T + tensors[f"{name}.bias"][expert]


def turned(tensors: Tensors, name: str, rotation: NDArray) -> dict[str, NDArray]:
    """Of a linear layer, or stacked ones, that writes the residual, if that is rotated."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    return {weight: rotation.T @ tensors[weight], bias: tensors[bias] @ rotation}


def softmax(x: NDArray) -> NDArray:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
