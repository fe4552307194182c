# SPDX-License-Identifier: Apache-2.0
"""Attention whose queries and keys are normalised, head by head: s = norm(q) norm(k) / sqrt(d).

Each head's queries, and then its keys, are made in two products. The first gives them as they are, and sums of its rows
are kept: 1/sigma of these is taken into a table of its own, as that of the residual is needed for the next head. The
second multiplies with diag(gamma), scaled by 1/sigma. A mean is taken out in the first one's weights, which make the
rows. What softmax does not see - the scale of a query's channel against the key's, what all keys share - goes into the
second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..keys import Key, Role
from ..numbers.calibration import Channels
from ..numbers.folding import Folded
from ..numbers.linear import Linear
from ..steps import RESIDUAL, Normalise, Product, RowScale, Step, Value
from .attention import Attention, Operands
from .norm import Norm
from .norms import head_norm
from .operation import Context, Matrix, Tensors

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.quantise import Quantiser

PLAIN = (Role.PLAIN_QUERY, Role.PLAIN_KEY)  # before their norms


@dataclass(frozen=True)
class NormedAttention(Attention):
    @property
    def head_norms(self) -> Sequence[Norm]:
        """Of queries, of keys."""
        named = ((Role.QUERY_NORM, "q_norm"), (Role.KEY_NORM, "k_norm"))
        return [head_norm(self.config, self.name(name), self.key(role)) for role, name in named]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        of_query, of_key = (norm.tensors() for norm in self.head_norms)
        return super().tensors() | of_query | of_key

    def ranges(self) -> Sequence[Key]:
        return [*map(self.key, PLAIN), *super().ranges()]

    def matrices(self) -> Sequence[Matrix]:
        c, (query, key_value, projection) = self.config, super().matrices()
        gains = [
            Matrix(self.key(role), norm.key, c.head_width, c.width, groups=c.heads)
            for role, norm in zip((Role.QUERY_GAIN, Role.KEY_GAIN), self.head_norms, strict=True)
        ]
        return [query, key_value, *gains, projection]

    def queries_keys_values(self, x: NDArray, context: Context) -> Sequence[NDArray]:
        *plain, value = super().queries_keys_values(x, context)
        normal = []
        for role, norm, rows in zip(PLAIN, self.head_norms, plain, strict=True):
            context.observer.reach(self.key(role), rows - rows.mean(axis=-1, keepdims=True) * norm.centred)
            normal.append(norm.forward(rows, context)[0])
        return [*normal, value]

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        c, channel = self.config, calibration.channels[self.layer]
        _, _, *gains, _ = self.matrices()
        plain = dict(tensors)
        for part in ("weight", "bias"):
            plain[self.name(f"qkv.{part}")] = self.centred(tensors[self.name(f"qkv.{part}")])
        same, none = np.ones(c.width), np.zeros(c.width)
        folded = self.folded(plain, channel, same, same, none)  # scaled and shifted behind their norms
        means = (none, channel.mean_key)
        for matrix, norm, scale, mean in zip(gains, self.head_norms, self.scales(channel), means, strict=True):
            gamma = tensors[f"{norm.name}.weight"]
            beta = np.tile(tensors.get(f"{norm.name}.bias", np.zeros_like(gamma)), c.heads)
            weight = np.tile(np.diag(gamma), (c.heads, 1)) * scale[:, None]
            folded[matrix.key] = norm.folded(weight, (beta - mean) * scale)
        return folded

    def centred(self, tensor: NDArray) -> NDArray:
        """Weights or biases [3 x width, ...] whose queries and keys have no mean, where their norm would take it."""
        parts = tensor.reshape(3, self.config.heads, self.config.head_width, -1)
        means = parts.mean(axis=2, keepdims=True) * self.head_norms[0].centred
        return (parts - means * np.reshape((1, 1, 0), (3, 1, 1, 1))).reshape(tensor.shape)

    def operands(self, quantiser: Quantiser, before: int) -> Operands:
        q, c, channel = quantiser, self.config, quantiser.calibration.channels[self.layer]
        queries, keys_values, *gains, _ = self.matrices()
        norm, name = self.norm, f"layer {self.layer}"
        boosted = channel.value * np.abs(self.boost(channel, q.tensors))
        lowest = norm.lowest(q.sigma(norm.key), before)
        reaches = [q.reach(self.key(role)) for role in PLAIN]
        caps = [q.cap(matrix, norm.fraction, lowest) for matrix in (queries, keys_values)]
        plain = [
            q.note(self.key(role), min(cap, q.exponent(reach)))
            for role, cap, reach in zip(PLAIN, caps, reaches, strict=True)
        ]
        value = q.note(self.key(Role.VALUE), min(caps[1], q.exponent(float(boosted.max()))))
        of_query, of_key = (np.full(c.width, reach) for reach in reaches)
        query_linear = q.linear(
            queries, reach=q.without_bias(queries, of_query), output=plain[0], fraction=norm.fraction, lowest=lowest
        )
        key_value_linear = q.linear(
            keys_values,
            reach=q.without_bias(keys_values, np.concatenate([of_key, boosted])),
            output=np.repeat([plain[1], value], c.width),
            fraction=norm.fraction,
            lowest=lowest,
        )
        sides, exponent, finer = self.normed(q, channel, gains, plain)
        into, held = self.places()
        steps: list[Step] = [norm.step(f"{name} norm 1", norm.epsilon(before))]
        values = part(key_value_linear, c.width, 2 * c.width, c.heads)
        steps.append(Product(f"{name} values", "", values, RESIDUAL, held, RowScale.NORM, group=c.heads))
        for kind, linear, side, target in (("keys", key_value_linear, 1, held), ("queries", query_linear, 0, into)):
            steps += self.side(f"{name} head", kind, linear, sides[side], target)
        return Operands(exponent, exponent, value, into, held, steps, finer)

    def normed(
        self, q: Quantiser, channel: Channels, gains: Sequence[Matrix], plain: Sequence[int]
    ) -> tuple[list[tuple[Normalise, Linear]], int, tuple[int, ...]]:
        """Norm and product with its gain, of queries and of keys; the exponent of what comes out of both, and by how
        many places each head's products are finer.
        """
        both, finer = self.evened(q, channel, gains)
        least = [norm.lowest(q.sigma(norm.key), f) for norm, f in zip(self.head_norms, plain, strict=True)]
        parts = list(zip(self.head_norms, gains, plain, least, strict=True))
        caps = [q.cap(matrix, norm.fraction, lowest) for norm, matrix, _, lowest in parts]
        exponent = min(q.operand_exponent(float(both.max())), *caps)
        for role in (Role.QUERY, Role.KEY):
            q.note(self.key(role), exponent)
        made = []
        for norm, matrix, f, lowest in parts:
            reach = q.without_bias(matrix, both)
            linear = q.linear(matrix, fraction=norm.fraction, reach=reach, output=exponent, lowest=lowest)
            made.append((replace(norm.step("", norm.epsilon(f)), of_head=True), linear))
        return made, exponent, finer

    def side(self, name: str, kind: str, plain: Linear, normed: tuple[Normalise, Linear], into: Value) -> list[Step]:
        """The queries, or the keys, of every head."""
        width, steps = self.config.head_width, list[Step]()
        between = Value(f"plain {kind}", width)
        for head in range(self.config.heads):
            where, (first, last) = f"{name} {head}", (head * width, (head + 1) * width)
            norm, gain = replace(normed[0], where=f"{where} norm of {kind}"), part(normed[1], first, last)
            steps += [
                Product(where, f" plain {kind}", part(plain, first, last), RESIDUAL, between, RowScale.NORM,
                        row_sums=True),
                norm,
                Product(where, f" {kind}", gain, between, into, RowScale.HEAD, group=head),
            ]  # fmt: skip
        return steps


def part(linear: Linear, first: int, last: int, groups: int = 1) -> Linear:
    """Outputs of a matrix."""
    fields = {name: getattr(linear, name)[..., first:last] for name in ("weights", "bias", "multiplier")}
    return replace(linear, groups=groups, **fields)
