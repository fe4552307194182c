# SPDX-License-Identifier: Apache-2.0
"""A model as a list of typed operations, made from its configuration: what every walk over a model walks over.

`golden` is not made of them: it is the independent referee.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from .config import LANDMARK_KIND, ModelConfig
from .keys import Key
from .operations.attention import Attention
from .operations.feature_maps import MAPS
from .operations.gated_attention import GatedAttention, GatedNormedAttention
from .operations.head import Head
from .operations.host_head import HostHead
from .operations.landmark_attention import LandmarkAttention
from .operations.linear_attention import LinearAttention
from .operations.mlp import Mlp
from .operations.moe import MixtureOfExperts
from .operations.normed_attention import NormedAttention
from .operations.operation import Matrix, Operation, Over
from .operations.patch import PatchEmbedding
from .operations.pre_norm import PreNorm
from .operations.weighing import Rela


@dataclass(frozen=True)
class Graph:
    """trunk: what every stream goes through, in order.

    heads, host_heads: by the name of their task, after the trunk; on the array and on the host.
    """

    config: ModelConfig
    trunk: tuple[Operation, ...]
    heads: dict[str, Head]
    host_heads: dict[str, HostHead]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All of them that the array computes, in order."""
        return (*self.trunk, *self.heads.values())

    def matrices(self) -> Iterator[tuple[Operation, Matrix]]:
        """Every matrix and its owner, in the order of use."""
        return ((operation, matrix) for operation in self.operations for matrix in operation.matrices())

    def multiplications(self, task: str) -> int:
        """What the mathematics asks for, of one picture and task."""
        c = self.config
        rows = {Over.TOKENS: c.tokens, Over.STREAM: c.tokens, Over.PATCHES: c.patches, Over.QUEUE: c.tokens * c.top_k}
        trunk = sum(
            (work.rows or rows[work.over]) * work.multiplications
            for operation in self.trunk
            for work in operation.work()
        )
        head = self.heads.get(task)
        return trunk + (sum(len(head.rows) * work.multiplications for work in head.work()) if head else 0)

    @property
    def result(self) -> Key:
        """The residual stream after the trunk."""
        return self.trunk[-1].result


def attention_of(config: ModelConfig) -> type[Attention]:
    """A model's kind of attention."""
    if config.attention in MAPS:
        return LinearAttention
    if config.attention == LANDMARK_KIND:
        return LandmarkAttention
    if config.attention == Rela.kind:
        return GatedNormedAttention if config.qk_norm else GatedAttention
    return NormedAttention if config.qk_norm else Attention


@cache
def graph(config: ModelConfig) -> Graph:
    """The operations of a configuration."""
    trunk: list[Operation] = [PatchEmbedding(config)]
    if config.pre_norm:
        trunk.append(PreNorm(config))
    attention = attention_of(config)
    for layer in range(config.layers):
        trunk += [attention(config, layer), (MixtureOfExperts if config.is_moe(layer) else Mlp)(config, layer)]
    return Graph(
        config,
        tuple(trunk),
        {task.name: Head(config, task) for task in config.tasks if task.head_outputs},
        {task.name: HostHead(config, task) for task in config.tasks if HostHead.serves(task)},
    )
