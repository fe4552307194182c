# SPDX-License-Identifier: Apache-2.0
"""A task's head: proj(norm(x)) of some rows of a stream.

Of every patch for a patch decoder (its s x s cells of `channels` values) and for classifiers that average patches; of
the CLS and distillation tokens for others. What then remains is the host's (`heads`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig, TaskConfig
from ..keys import Key, Role
from ..numbers.folding import Folded
from ..numbers.linear import Linear
from ..steps import RESIDUAL, Product, RowScale, Step, Value
from .norm import Norm
from .norms import norm
from .operation import Context, Matrix, Operation, Over, Quantised, Tensors, Work, affine, linear

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser


LOGIT_ROOM = 2  # times what calibration saw


@dataclass(frozen=True)
class Head(Operation):
    config: ModelConfig
    task: TaskConfig

    @property
    def title(self) -> str:
        return f"head {self.task.name}"

    @property
    def norm(self) -> Norm:
        return norm(self.config, f"heads.{self.task.name}.norm", self.key(Role.NORM))

    def key(self, role: Role) -> Key:
        return Key(role, head=self.task.name)

    @property
    def result(self) -> Key:
        return self.key(Role.OUTPUT)

    @property
    def matrix(self) -> Matrix:
        return Matrix(self.key(Role.HEAD), self.key(Role.NORM), self.config.width, self.task.head_outputs)

    @property
    def rows(self) -> range:
        """Of a stream, those that it sees."""
        return self.config.head_rows(self.task)

    @property
    def name(self) -> str:
        return f"heads.{self.task.name}.proj"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return self.norm.tensors() | affine(self.name, self.task.head_outputs, self.config.width)

    def ranges(self) -> Sequence[Key]:
        return [self.result]

    def matrices(self) -> Sequence[Matrix]:
        return [self.matrix]

    def work(self) -> Sequence[Work]:
        return [Work.of(self.matrix, Over.PATCHES)]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        """The residual [B, T, D] -> [B, rows, outputs]."""
        y, _ = self.norm.forward(x, context)
        values = linear(y[:, self.rows.start : self.rows.stop], context.tensors, self.name)
        context.observer.reach(self.result, values)
        return values

    def rotated(self, tensors: Tensors, rotation: NDArray) -> dict[str, NDArray]:
        return self.norm.rotated(tensors, self.name, rotation)

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        return {self.matrix.key: self.norm.fold(tensors, tensors[f"{self.name}.weight"], tensors[f"{self.name}.bias"])}

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        """`after` is the exponent of the head's values."""
        q, norm = quantiser, self.norm
        lowest = norm.lowest(q.sigma(norm.key), before)
        # Of logits one bit matters less than that the likeliest class, of whatever picture, is not limited.
        reach = q.reach(self.result) * (LOGIT_ROOM if self.task.kind == "classification" else 1)
        output = q.note(self.result, min(q.exponent(reach), after, q.cap(self.matrix, norm.fraction, lowest)))
        bias = float(np.abs(q.folded[self.matrix.key].bias).max())
        linear = q.linear(self.matrix, fraction=norm.fraction, lowest=lowest, reach=reach + bias, output=output)
        return QuantisedHead(self, norm.epsilon(before), linear), output


@dataclass(frozen=True)
class QuantisedHead(Quantised):
    operation: Head
    epsilon: int
    linear: Linear

    def linears(self) -> Sequence[Linear]:
        return [self.linear]

    def steps(self) -> Iterator[Step]:
        """The last product's value is the head's."""
        task = self.operation.task
        values = Value(f"the head of task {task.name}", task.head_outputs)
        yield self.operation.norm.step("final norm", self.epsilon)
        yield Product(f"head {task.name}", "", self.linear, RESIDUAL, values, RowScale.NORM, self.operation.rows)
