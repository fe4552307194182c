# SPDX-License-Identifier: Apache-2.0
"""The kinds of norms, by the name that a configuration gives them."""

from __future__ import annotations

from ..config import ModelConfig
from ..keys import Key
from .layer_norm import LayerNorm
from .norm import Norm
from .rms_norm import RmsNorm

NORMS: dict[str, type[Norm]] = {"layer": LayerNorm, "rms": RmsNorm}


def norm(config: ModelConfig, name: str, key: Key) -> Norm:
    """A model's norm at a place."""
    return NORMS[config.norm](config, name, key, config.width)


def head_norm(config: ModelConfig, name: str, key: Key) -> Norm:
    """That of each head's queries or keys."""
    return NORMS[config.qk_norm](config, name, key, config.head_width)
