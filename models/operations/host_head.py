# SPDX-License-Identifier: Apache-2.0
"""Heads that the host computes, in floating point, of the final tokens: a norm of all of them, or a mean before it.

The array could not do the second: a mean over rows is no matrix product of a row. Neither is worth a pass over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray

from ..config import ModelConfig, TaskConfig
from ..keys import Key, Role
from .norm import Norm
from .norms import norm
from .operation import Context, Tensors, affine, linear


@dataclass(frozen=True)
class HostHead:
    """Of a task of kind "features" the final norm; of a classifier that pools "mean-first" all of it."""

    config: ModelConfig
    task: TaskConfig

    @staticmethod
    def serves(task: TaskConfig) -> bool:
        """Whether a task's head is of this kind."""
        return task.kind == "features" or task.pool == "mean-first"

    @property
    def norm(self) -> Norm:
        return norm(self.config, f"heads.{self.task.name}.norm", Key(Role.NORM, head=self.task.name))

    @property
    def name(self) -> str:
        return f"heads.{self.task.name}.proj"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of its tensors in a checkpoint."""
        if self.task.kind == "features":
            return self.norm.tensors()
        return self.norm.tensors() | affine(self.name, self.task.channels, self.config.width)

    def forward(self, x: NDArray, tensors: Tensors) -> NDArray:
        """Tokens [B, T, D] -> features [B, T, D], or logits [B, 1, classes]."""
        context = Context(tensors, 0, x.dtype.type)
        if self.task.kind == "features":
            return self.norm.forward(x, context)[0]
        pooled = x[:, self.config.prefix :].mean(axis=1, keepdims=True)
        return linear(self.norm.forward(pooled, context)[0], tensors, self.name)
