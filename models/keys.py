# SPDX-License-Identifier: Apache-2.0
"""Identities: which matrix or tensor of a model is meant.

Files know them as text, `str(key)`; the code does not look into it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .compatibility import StrEnum
from .errors import EdgemoeError, brief


class Role(StrEnum):
    """What a matrix or a tensor is in its operation."""

    # patch embedding
    PATCH = "patch"
    PATCH_INPUT = "patch.input"
    PATCH_OUTPUT = "patch.output"
    POSITION = "position"
    EMBEDDED = "residual.embed"
    # norm before the layers
    PRE_NORM = "norm_pre"
    DIAGONAL = "diagonal"
    NORMALISED = "residual.norm"
    # attention
    NORM_1 = "norm1"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    KEY_VALUE = "key_value"
    PLAIN_QUERY = "query.plain"
    PLAIN_KEY = "key.plain"
    QUERY_NORM = "query.norm"
    KEY_NORM = "key.norm"
    QUERY_GAIN = "query.gain"
    KEY_GAIN = "key.gain"
    SCORES = "scores"
    FEATURES = "features"
    QUERY_FEATURES = "features.query"
    KEY_FEATURES = "features.key"
    SUMMARY = "features.values"
    FEATURE_SUMS = "features.sums"
    WEIGHT_SUMS = "features.weights"
    LANDMARKS = "landmarks"
    HALF_SQUARES = "landmarks.norms"
    TURNED = "landmarks.turned"
    SOLVED = "landmarks.solved"
    ATTENTION = "attention"
    GATE = "gate"
    GATED = "attention.gated"
    GATED_NORM = "attention.norm"
    RESULTS = "attention.results"
    PROJECTION = "projection"
    AFTER_ATTENTION = "residual.attention"
    # MLP and experts
    NORM_2 = "norm2"
    ROUTER = "router"
    LOGITS = "logits"
    FIRST = "first"
    FIRST_OUTPUT = "fc1"
    HIDDEN = "hidden"
    SECOND = "second"
    SECOND_OUTPUT = "fc2"
    AFTER_MLP = "residual.mlp"
    # behind the trunk
    BACK = "back"
    TOKENS = "tokens"
    # task head
    NORM = "norm"
    HEAD = "head"
    OUTPUT = "output"


_TEXT = re.compile(r"(?:blocks\.(?P<layer>\d+)\.|heads\.(?P<head>[^.]+)\.?)?(?P<role>[a-z_12.]*?)(?:\.(?P<task>\d+))?")


@dataclass(frozen=True)
class Key:
    """A matrix or tensor: its role, and where it is.

    layer: of the trunk; head: the name of the task whose head it is in; task: of a router; expert: one expert's part.
    """

    role: Role
    layer: int | None = None
    head: str | None = None
    task: int | None = None
    expert: int | None = None

    def of(self, expert: int) -> Key:
        """The part of one expert."""
        return replace(self, expert=expert)

    def __str__(self) -> str:
        place = (
            f"blocks.{self.layer}."
            if self.layer is not None
            else f"heads.{self.head}."
            if self.head is not None
            else ""
        )
        role = "" if self.role is Role.HEAD else self.role.value
        indices = [str(index) for index in (self.task, self.expert) if index is not None]
        return ".".join([(place + role).rstrip("."), *indices])

    @classmethod
    def parse(cls, text: str) -> Key:
        """The inverse of `str`, for keys without an expert; EdgemoeError for anything else."""
        found = _TEXT.fullmatch(text)
        role = (found["role"] or Role.HEAD.value) if found else ""
        if (
            found is None
            or role not in tuple(Role)
            or (role == Role.HEAD) != (found["head"] is not None and not found["role"])
        ):
            raise EdgemoeError(f"{brief(text)!r} names no tensor of a model; calibrate the checkpoint again")
        layer, task = (int(found[name]) if found[name] is not None else None for name in ("layer", "task"))
        return cls(Role(role), layer, found["head"], task)
