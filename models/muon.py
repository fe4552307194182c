# SPDX-License-Identifier: Apache-2.0
"""Muon, an optimiser for matrices: it steps by the momentum's nearest semi-orthogonal matrix, so that every direction
of a matrix learns as fast as the strongest. torch.optim.Muon takes one matrix at a time and no stack of them, and the
experts' weights are stacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ROUNDS = 5
# Of x -> a x + b x^3 + c x^5, applied to singular values in 0..1: it brings all to about 1, fast rather than exactly.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# A step's root mean square then is AdamW's usual one, so that both have one learning rate.
STEP_RMS = 0.2


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, r, c] -> [n, r, c]: of U S V^T about U V^T, by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values in 0..1
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Of parameters [..., rows, columns], each a matrix or a stack of them."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # none needs the loss
        assert closure is None, "one gradient a step"
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                ahead = parameter.grad.lerp(momentum, MOMENTUM)
                alike.setdefault((ahead.shape[-2], ahead.shape[-1]), []).append((parameter, ahead))
            for shape, pairs in alike.items():
                stack = torch.cat([ahead.reshape(-1, *shape) for _, ahead in pairs])
                steps = orthogonal(stack).split([ahead[..., 0, 0].numel() for _, ahead in pairs])
                rate = group["lr"] * STEP_RMS * math.sqrt(max(shape))
                for (parameter, ahead), change in zip(pairs, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(change.reshape(ahead.shape), alpha=rate)
