# SPDX-License-Identifier: Apache-2.0
"""A model as a list of typed operations, made from its configuration: what every walk over a model walks over.

`golden` is not made of them: it is the independent referee.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from .config import ModelConfig
from .keys import Key
from .operations.attention import Attention
from .operations.head import PatchHead
from .operations.mlp import Mlp
from .operations.moe import MixtureOfExperts
from .operations.operation import Matrix, Operation, Over
from .operations.patch import PatchEmbedding


@dataclass(frozen=True)
class Graph:
    """trunk: what every stream goes through, in order; heads: by the name of their task, after the trunk."""

    config: ModelConfig
    trunk: tuple[Operation, ...]
    heads: dict[str, PatchHead]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All of them, in order."""
        return (*self.trunk, *self.heads.values())

    def matrices(self) -> Iterator[tuple[Operation, Matrix]]:
        """Every matrix and its owner, in the order of use."""
        return ((operation, matrix) for operation in self.operations for matrix in operation.matrices())

    def multiplications(self, task: str) -> int:
        """What the mathematics asks for, of one picture and task."""
        c = self.config
        rows = {Over.TOKENS: c.tokens, Over.STREAM: c.tokens, Over.PATCHES: c.patches, Over.QUEUE: c.tokens * c.top_k}
        operations = [*self.trunk, *(head for name, head in self.heads.items() if name == task)]
        return sum(rows[work.over] * work.multiplications for operation in operations for work in operation.work())

    @property
    def result(self) -> Key:
        """The residual stream after the trunk."""
        return self.trunk[-1].result


@cache
def graph(config: ModelConfig) -> Graph:
    """The operations of a configuration."""
    trunk: list[Operation] = [PatchEmbedding(config)]
    for layer in range(config.layers):
        trunk += [Attention(config, layer), (MixtureOfExperts if config.is_moe(layer) else Mlp)(config, layer)]
    return Graph(
        config, tuple(trunk), {task.name: PatchHead(config, task) for task in config.tasks if task.head_outputs}
    )
