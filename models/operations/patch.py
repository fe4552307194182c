# SPDX-License-Identifier: Apache-2.0
"""The patch embedding: each patch of the picture times one matrix, plus the position.

The rows before the patches are their positions alone: tokens of the model are part of these.
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
from ..numbers.words import PIXEL_FRACTION, WORD_LIMIT
from ..steps import Embed, Step
from .operation import Context, Matrix, Operation, Over, Quantised, Tensors, Work

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser

NAME = "patch_embed.proj"


def counted(config: ModelConfig, x: NDArray) -> NDArray:
    """What of embedded rows counts: a LayerNorm before the layers takes their mean away, so it goes at once."""
    return x - x.mean(axis=-1, keepdims=True) if config.pre_norm and config.norm == "layer" else x


@dataclass(frozen=True)
class PatchEmbedding(Operation):
    config: ModelConfig

    @property
    def title(self) -> str:
        return "patch embedding"

    @property
    def result(self) -> Key:
        return Key(Role.EMBEDDED)

    @property
    def matrix(self) -> Matrix:
        return Matrix(Key(Role.PATCH), Key(Role.PATCH_INPUT), self.config.patch_size_words, self.config.width)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        c = self.config
        return {
            f"{NAME}.weight": (c.width, c.image_channels, c.patch, c.patch),
            f"{NAME}.bias": (c.width,),
            "pos_embed": (c.tokens, c.width),
        }

    def ranges(self) -> Sequence[Key]:
        return [Key(Role.PATCH_OUTPUT), self.result]

    def matrices(self) -> Sequence[Matrix]:
        return [self.matrix]

    def work(self) -> Sequence[Work]:
        return [Work.of(self.matrix, Over.PATCHES)]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        """uint8 images [B, C, H, W] -> residual [B, T, D]."""
        c, w, batch = self.config, context.tensors, len(x)
        pixels = x.reshape(batch, c.image_channels, c.patches_per_column, c.patch, c.patches_per_row, c.patch)
        patches = pixels.transpose(0, 2, 4, 1, 3, 5).reshape(batch, c.patches, -1).astype(context.dtype) / (
            1 << PIXEL_FRACTION
        )
        context.observer.rows(self.matrix.sees, patches)
        embedded = counted(c, patches @ w[f"{NAME}.weight"].reshape(c.width, -1).T)
        context.observer.reach(Key(Role.PATCH_OUTPUT), embedded)
        prefix: NDArray = np.zeros((batch, c.prefix, c.width), context.dtype)
        residual = np.concatenate([prefix, embedded + counted(c, w[f"{NAME}.bias"])], axis=1)
        residual = residual + counted(c, w["pos_embed"])
        context.observer.residual(self.result, residual)
        return residual

    def rotated(self, tensors: Tensors, rotation: NDArray) -> dict[str, NDArray]:
        weight, bias = f"{NAME}.weight", f"{NAME}.bias"
        flat = rotation.T @ tensors[weight].reshape(self.config.width, -1)
        others = {name: tensors[name] @ rotation for name in (bias, "pos_embed")}
        return {weight: flat.reshape(tensors[weight].shape)} | others

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        """The bias goes into the position."""
        width = self.config.width
        weight = counted(self.config, tensors[f"{NAME}.weight"].reshape(width, -1).T).T
        return {self.matrix.key: Folded(weight, np.zeros(width))}

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q = quantiser
        position = q.tensors["pos_embed"].copy()
        position[self.config.prefix :] += q.tensors[f"{NAME}.bias"]
        position = counted(self.config, position)
        whole = q.exponent(float(np.abs(position).max()), headroom=1.0)
        after = q.note(self.result, min(after, q.cap(self.matrix, PIXEL_FRACTION)))
        before = q.note(Key(Role.POSITION), min(whole, after))
        linear = q.linear(
            self.matrix, fraction=PIXEL_FRACTION, reach=q.reach(Key(Role.PATCH_OUTPUT)), output=after, old=before
        )
        integers = np.clip(np.round(position * 2.0**before), -WORD_LIMIT - 1, WORD_LIMIT).astype(np.int16)
        return QuantisedPatchEmbedding(integers, linear), after


@dataclass(frozen=True)
class QuantisedPatchEmbedding(Quantised):
    """position: [tokens, width], the patch bias added to the patches' rows."""

    position: NDArray[np.int16]
    linear: Linear

    def linears(self) -> Sequence[Linear]:
        return [self.linear]

    def steps(self) -> Iterator[Step]:
        yield Embed("patch embedding", "", self.position, self.linear)
