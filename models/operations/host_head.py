# SPDX-License-Identifier: Apache-2.0
"""Heads that the host computes, in floating point, of the final tokens: a norm of all of them, a mean before it, or
convolutions behind it.

The array could not do the others: neither a mean over rows nor a convolution is a matrix product of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray

from ..config import ModelConfig, TaskConfig
from ..keys import Key, Role
from .norm import Norm
from .norms import norm
from .operation import Context, Tensors, affine, linear
from .pup import decode, decoder_tensors


@dataclass(frozen=True)
class HostHead:
    """Of a task of kind "features" the final norm, and the projection behind it if there is one; of a classifier that
    pools "mean-first" and of decoder "pup" all.
    """

    config: ModelConfig
    task: TaskConfig

    @staticmethod
    def serves(task: TaskConfig) -> bool:
        """Whether a task's head is of this kind."""
        return task.kind == "features" or task.pool == "mean-first" or task.decoder == "pup"

    @property
    def title(self) -> str:
        """What the host computes, for reports."""
        if self.task.kind == "features":
            return "final norm, projection" if self.task.channels else "final norm"
        if self.task.decoder == "pup":
            return "final norm, five convolutions"
        return "mean of the patches, final norm, classifier"

    @property
    def norm(self) -> Norm:
        return norm(self.config, f"heads.{self.task.name}.norm", Key(Role.NORM, head=self.task.name))

    @property
    def name(self) -> str:
        return f"heads.{self.task.name}.proj"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of its tensors in a checkpoint."""
        if self.task.kind == "features" and not self.task.channels:
            return self.norm.tensors()
        if self.task.decoder == "pup":
            name, c = f"heads.{self.task.name}", self.config
            return self.norm.tensors() | decoder_tensors(name, c.width, self.task.decoder_width, self.task.channels)
        return self.norm.tensors() | affine(self.name, self.task.channels, self.config.width)

    def forward(self, x: NDArray, tensors: Tensors) -> NDArray:
        """Tokens [B, T, D] -> features [B, T, D or channels], logits [B, 1, classes], or of "pup" [B, rows, columns,
        channels].
        """
        context, c = Context(tensors, 0, x.dtype.type), self.config
        if self.task.kind == "features":
            features = self.norm.forward(x, context)[0]
            return linear(features, tensors, self.name) if self.task.channels else features
        if self.task.decoder == "pup":
            patches = self.norm.forward(x[:, c.prefix :], context)[0]
            grid = patches.reshape(len(x), c.patches_per_column, c.patches_per_row, c.width)
            return decode(grid, tensors, f"heads.{self.task.name}")
        pooled = x[:, c.prefix :].mean(axis=1, keepdims=True)
        return linear(self.norm.forward(pooled, context)[0], tensors, self.name)
