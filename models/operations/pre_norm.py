# SPDX-License-Identifier: Apache-2.0
"""A norm of the embedded rows before the layers: the residual becomes y = (x - mean) / sigma * gamma + beta.

Here the mean is taken out before, where the rows are made (`patch.counted`), as a product with I - 11^T / n would be
rounded; so what is left is a product with diag(gamma), scaled by 1 / sigma, that replaces the residual.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..keys import Key, Role
from ..numbers.folding import Folded
from ..numbers.linear import Linear
from ..steps import RESIDUAL, Product, RowScale, Step
from .norm import Norm
from .norms import norm
from .operation import Context, Matrix, Operation, Quantised, Tensors, Work

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser

NAME = "norm_pre"


@dataclass(frozen=True)
class PreNorm(Operation):
    config: ModelConfig
    rotates = False  # it replaces the residual, channel by channel

    @property
    def title(self) -> str:
        return "norm before the layers"

    @property
    def norm(self) -> Norm:
        return norm(self.config, NAME, Key(Role.PRE_NORM))

    @property
    def result(self) -> Key:
        return Key(Role.NORMALISED)

    @property
    def matrix(self) -> Matrix:
        return Matrix(Key(Role.DIAGONAL), Key(Role.PRE_NORM), self.config.width, self.config.width)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return self.norm.tensors()

    def ranges(self) -> Sequence[Key]:
        return [self.result]

    def matrices(self) -> Sequence[Matrix]:
        return [self.matrix]

    def work(self) -> Sequence[Work]:
        return [Work.of(self.matrix)]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        y, _ = self.norm.forward(x, context)
        context.observer.residual(self.result, y)
        return y

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        gamma = tensors[f"{NAME}.weight"]
        beta = tensors.get(f"{NAME}.bias", np.zeros_like(gamma))
        return {self.matrix.key: self.norm.folded(np.diag(gamma), beta)}

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q, norm = quantiser, self.norm
        lowest = norm.lowest(q.sigma(norm.key), before)
        after = q.note(self.result, min(after, q.cap(self.matrix, norm.fraction, lowest)))
        reach = q.reach(self.result) + float(np.abs(q.folded[self.matrix.key].bias).max())
        linear = q.linear(self.matrix, fraction=norm.fraction, lowest=lowest, reach=reach, output=after)
        return QuantisedPreNorm(self, norm.epsilon(before), linear), after


@dataclass(frozen=True)
class QuantisedPreNorm(Quantised):
    operation: PreNorm
    epsilon: int
    linear: Linear

    def linears(self) -> Sequence[Linear]:
        return [self.linear]

    def steps(self) -> Iterator[Step]:
        name = self.operation.title
        yield self.operation.norm.step(name, self.epsilon)
        yield Product(name, ": rows", self.linear, RESIDUAL, RESIDUAL, RowScale.NORM, replaces=True)
