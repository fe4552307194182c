# SPDX-License-Identifier: Apache-2.0
"""x + fc2(f(fc1(x'))) of the normalised x', with the model's activation function f."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..keys import Key, Role
from ..numbers.activation import FUNCTIONS
from ..numbers.folding import Folded
from ..numbers.linear import Linear
from ..numbers.words import ACTIVATION_FRACTION
from ..steps import RESIDUAL, Product, RowScale, Step, Value
from .norm import Norm
from .norms import norm
from .operation import Context, Matrix, Operation, Quantised, Tensors, Work, affine, linear, turned

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser


@dataclass(frozen=True)
class Mlp(Operation):
    config: ModelConfig
    layer: int

    @property
    def title(self) -> str:
        return f"layer {self.layer} MLP"

    @property
    def norm(self) -> Norm:
        return norm(self.config, f"blocks.{self.layer}.norm2", self.key(Role.NORM_2))

    def key(self, role: Role) -> Key:
        return Key(role, self.layer)

    @property
    def result(self) -> Key:
        return self.key(Role.AFTER_MLP)

    def name(self, part: str) -> str:
        return f"blocks.{self.layer}.mlp.{part}"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        c = self.config
        return (
            self.norm.tensors()
            | affine(self.name("fc1"), c.hidden, c.width)
            | affine(self.name("fc2"), c.width, c.hidden)
        )

    def ranges(self) -> Sequence[Key]:
        return [*map(self.key, (Role.FIRST_OUTPUT, Role.HIDDEN, Role.SECOND_OUTPUT)), self.result]

    def matrices(self) -> Sequence[Matrix]:
        width, hidden = self.config.width, self.config.hidden
        return [
            Matrix(self.key(Role.FIRST), self.key(Role.NORM_2), width, hidden),
            Matrix(self.key(Role.SECOND), self.key(Role.HIDDEN), hidden, width),
        ]

    def work(self) -> Sequence[Work]:
        return [Work.of(matrix) for matrix in self.matrices()]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        w, see = context.tensors, context.observer
        y, _ = self.norm.forward(x, context)
        first = linear(y, w, self.name("fc1"))
        see.reach(self.key(Role.FIRST_OUTPUT), first)
        hidden = FUNCTIONS[self.config.activation](first)
        see.reach(self.key(Role.HIDDEN), hidden)
        see.rows(self.key(Role.HIDDEN), hidden)
        second = linear(hidden, w, self.name("fc2"))
        see.reach(self.key(Role.SECOND_OUTPUT), second)
        x = x + second
        see.residual(self.result, x)
        return x

    def rotated(self, tensors: Tensors, rotation: NDArray) -> dict[str, NDArray]:
        return self.norm.rotated(tensors, self.name("fc1"), rotation) | turned(tensors, self.name("fc2"), rotation)

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        first = self.norm.fold(tensors, tensors[self.name("fc1.weight")], tensors[self.name("fc1.bias")])
        second = Folded(tensors[self.name("fc2.weight")], tensors[self.name("fc2.bias")])
        return {self.key(Role.FIRST): first, self.key(Role.SECOND): second}

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q, (first, second), norm = quantiser, self.matrices(), self.norm
        raised = q.raised(second)
        hidden = hidden_exponent(q, self.key(Role.HIDDEN), raised)
        after = q.note(self.result, min(after, q.cap(second, hidden)))
        quantised = QuantisedMlp(
            self,
            norm.epsilon(before),
            first_linear(q, first, self.key(Role.FIRST_OUTPUT), norm, before, second),
            second_linear(q, second, self.key(Role.SECOND_OUTPUT), hidden, before, after, raised),
        )
        return quantised, after


def hidden_exponent(quantiser: Quantiser, key: Key, raised: float) -> int:
    """Of an activation function's result, which cannot be finer than the function's own."""
    return quantiser.note(key, quantiser.exponent(quantiser.reach(key) + raised, low=1, high=ACTIVATION_FRACTION))


def first_linear(q: Quantiser, matrix: Matrix, output: Key, norm: Norm, residual: int, second: Matrix) -> Linear:
    """The matrix before an activation function, whose argument has a fixed exponent; `second` is behind that."""
    bias = float(np.abs(q.folded[matrix.key].bias).max())
    hidden = q.exponents[Key(Role.HIDDEN, matrix.key.layer)]
    linear = q.linear(
        matrix,
        fraction=norm.fraction,
        lowest=norm.lowest(q.sigma(norm.key), residual),
        reach=q.reach(output) + bias,
        output=hidden,
        fine=ACTIVATION_FRACTION,
        raises=q.raised(second),
    )
    linear.smoothing = q.halved(second)
    return linear


def second_linear(
    quantiser: Quantiser, matrix: Matrix, output: Key, hidden: int, before: int, after: int, raised: float
) -> Linear:
    """The matrix behind it. before, after: exponents of the residual that it adds to."""
    reach = quantiser.reach(output)
    return quantiser.linear(matrix, fraction=hidden, reach=reach, output=after, old=before, raised=raised)


@dataclass(frozen=True)
class QuantisedMlp(Quantised):
    operation: Mlp
    epsilon: int
    first: Linear
    second: Linear

    def linears(self) -> Sequence[Linear]:
        return [self.first, self.second]

    def steps(self) -> Iterator[Step]:
        name = f"layer {self.operation.layer}"
        hidden = Value("the MLP's hidden rows", self.operation.config.hidden)
        yield self.operation.norm.step(f"{name} norm 2", self.epsilon)
        yield Product(f"{name} MLP 1", "", self.first, RESIDUAL, hidden, RowScale.NORM)
        yield Product(f"{name} MLP 2", "", self.second, hidden, RESIDUAL)
