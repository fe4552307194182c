# SPDX-License-Identifier: Apache-2.0
"""x + sum over the token's k best experts e of p_e * expert_e(x') of the normalised x', p the softmax over all experts,
not renormalised, or over the k best.

One router per task, with or without a bias; the experts, each an MLP, are common. Ties go to the lowest expert.
Folded: log2(e) into the routers, as their softmax is in base 2; it does not see what all experts share, so that goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..keys import Key, Role
from ..numbers.activation import FUNCTIONS
from ..numbers.error_aware import Moment
from ..numbers.folding import Folded
from ..numbers.linear import Linear
from ..numbers.words import SCORE_FRACTION
from ..steps import RESIDUAL, EachExpert, EachStream, Place, Product, Route, RowScale, Step, Value
from .mlp import first_linear, hidden_exponent, second_linear
from .norm import Norm
from .norms import norm
from .operation import Context, Matrix, Operation, Over, Quantised, Tensors, Work, linear, softmax, turned

if TYPE_CHECKING:
    from ..numbers.calibration import Calibration
    from ..numbers.error_aware import Moments
    from ..numbers.quantise import Quantiser

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class MixtureOfExperts(Operation):
    config: ModelConfig
    layer: int
    routed = True
    in_place = True

    @property
    def title(self) -> str:
        return f"layer {self.layer} experts"

    @property
    def norm(self) -> Norm:
        return norm(self.config, f"blocks.{self.layer}.norm2", self.key(Role.NORM_2))

    def key(self, role: Role, task: int | None = None) -> Key:
        return Key(role, self.layer, task=task)

    @property
    def result(self) -> Key:
        return self.key(Role.AFTER_MLP)

    def name(self, part: str) -> str:
        return f"blocks.{self.layer}.mlp.{part}"

    def gate(self, task: int) -> str:
        return self.name(f"gate.{task}.w_gate")

    def gate_bias(self, task: int) -> str:
        return self.name(f"gate.{task}.bias")

    @property
    def tasks(self) -> range:
        return range(len(self.config.tasks))

    def tensors(self) -> dict[str, tuple[int, ...]]:
        c = self.config
        return {
            **self.norm.tensors(),
            **{self.gate(task): (c.width, c.experts) for task in self.tasks},
            **{self.gate_bias(task): (c.experts,) for task in self.tasks if c.gate_bias},
            self.name("experts.htoh4.weight"): (c.experts, c.expert_hidden, c.width),
            self.name("experts.htoh4.bias"): (c.experts, c.expert_hidden),
            self.name("experts.h4toh.weight"): (c.experts, c.width, c.expert_hidden),
            self.name("experts.h4toh.bias"): (c.experts, c.width),
        }

    def router(self, task: int) -> Matrix:
        return Matrix(self.key(Role.ROUTER, task), self.key(Role.NORM_2), self.config.width, self.config.experts)

    @property
    def first(self) -> Matrix:
        return Matrix(
            self.key(Role.FIRST), self.key(Role.NORM_2), self.config.width, self.config.expert_hidden, expert=True
        )

    @property
    def second(self) -> Matrix:
        return Matrix(
            self.key(Role.SECOND), self.key(Role.HIDDEN), self.config.expert_hidden, self.config.width, expert=True
        )

    def ranges(self) -> Sequence[Key]:
        return [
            *(self.key(Role.LOGITS, task) for task in self.tasks),
            *map(self.key, (Role.FIRST_OUTPUT, Role.HIDDEN, Role.SECOND_OUTPUT)),
            self.result,
        ]

    def matrices(self) -> Sequence[Matrix]:
        return [*(self.router(task) for task in self.tasks), self.first, self.second]

    def work(self) -> Sequence[Work]:
        return [Work.of(self.router(0), Over.STREAM), Work.of(self.first, Over.QUEUE), Work.of(self.second, Over.QUEUE)]

    def forward(self, x: NDArray, context: Context) -> NDArray:
        c, w, see = self.config, context.tensors, context.observer
        y, scaled = self.norm.forward(x, context)
        logits = y @ w[self.gate(context.task)]
        if self.gate_bias(context.task) in w:
            logits = logits + w[self.gate_bias(context.task)]
        if see.active:  # the hardware's are in base 2, and free of what all experts share
            see.reach(self.key(Role.LOGITS, context.task), (logits - logits.mean(axis=-1, keepdims=True)) * LOG2_E)
        probability = softmax(logits)
        chosen = np.argsort(-probability, axis=-1, kind="stable")[..., : c.top_k]
        if self.layer in context.routing:
            chosen = np.asarray(context.routing[self.layer]).reshape(chosen.shape)
        score = np.take_along_axis(probability, chosen, axis=-1)
        if c.gate == "top-k":
            score = score / score.sum(axis=-1, keepdims=True)
        context.routes[self.layer], context.scores[self.layer] = chosen, score
        flat, seen = y.reshape(-1, c.width), scaled.reshape(-1, c.width)
        see.tokens(self.key(Role.NORM_2), flat)
        out: NDArray[Any] = np.zeros((len(flat), c.width), context.dtype)
        for expert in np.unique(chosen):
            row, place = np.nonzero(chosen.reshape(-1, c.top_k) == expert)
            weight = score.reshape(-1, c.top_k)[row, place]
            importance = weight.astype(np.float64) ** 2  # errors of a result reach as far as its score lets them
            see.rows(self.key(Role.NORM_2).of(expert), seen[row], importance)
            first = linear(flat[row], w, self.name("experts.htoh4"), expert)
            see.reach(self.key(Role.FIRST_OUTPUT), first)
            hidden = FUNCTIONS[self.config.activation](first)
            see.reach(self.key(Role.HIDDEN), hidden)
            see.rows(self.key(Role.HIDDEN).of(expert), hidden, importance)
            second = linear(hidden, w, self.name("experts.h4toh"), expert)
            see.reach(self.key(Role.SECOND_OUTPUT), second)
            np.add.at(out, row, second * weight[:, None])
        x = x + out.reshape(x.shape)
        see.residual(self.result, x)
        return x

    def hidden(self, tensors: Tensors, tokens: NDArray, expert: int) -> NDArray:
        """What an expert's second matrix would see of any normalised tokens."""
        return FUNCTIONS[self.config.activation](linear(tokens, tensors, self.name("experts.htoh4"), expert))

    def seen(self, matrix: Matrix, moments: Moments, tensors: Tensors) -> Sequence[tuple[NDArray, NDArray]]:
        """Experts that saw few tokens get the rest from all tokens.

        The second matrix sees what the first makes of a few of them.
        """
        if not matrix.expert:
            return super().seen(matrix, moments, tensors)
        if matrix == self.first:
            priors = [moments.moments[matrix.sees]] * self.config.experts
        else:
            tokens = np.concatenate(moments.kept[self.norm.key])
            priors = [Moment.of(self.hidden(tensors, tokens, expert)) for expert in range(self.config.experts)]
        return [moments.mixed(matrix.sees.of(expert), prior) for expert, prior in enumerate(priors)]

    def rotated(self, tensors: Tensors, rotation: NDArray) -> dict[str, NDArray]:
        """With biases of the routers, which take what their norm added."""
        found = self.norm.rotated(tensors, self.name("experts.htoh4"), rotation)
        found |= turned(tensors, self.name("experts.h4toh"), rotation)
        for task in self.tasks:
            bias = tensors.get(self.gate_bias(task), np.zeros(self.config.experts))
            gate, bias = self.norm.absorbed(tensors, tensors[self.gate(task)].T, bias, rotation)
            found |= {self.gate(task): gate.T, self.gate_bias(task): bias}
        return found

    def fold(self, tensors: Tensors, calibration: Calibration) -> dict[Key, Folded]:
        result = {}
        for task in self.tasks:
            gate = tensors[self.gate(task)].T * LOG2_E
            bias = tensors.get(self.gate_bias(task), np.zeros(self.config.experts)) * LOG2_E
            result[self.router(task).key] = self.norm.fold(tensors, gate - gate.mean(axis=0), bias - bias.mean())
        first = self.norm.fold(
            tensors, tensors[self.name("experts.htoh4.weight")], tensors[self.name("experts.htoh4.bias")]
        )
        second = Folded(tensors[self.name("experts.h4toh.weight")], tensors[self.name("experts.h4toh.bias")])
        return result | {self.first.key: first, self.second.key: second}

    def ceiling(self, quantiser: Quantiser) -> int:
        hidden = hidden_exponent(quantiser, self.key(Role.HIDDEN), quantiser.raised(self.second))
        return quantiser.cap(self.second, hidden)

    def quantise(self, quantiser: Quantiser, before: int, after: int) -> tuple[Quantised, int]:
        q, norm = quantiser, self.norm
        raised = q.raised(self.second)
        hidden = hidden_exponent(q, self.key(Role.HIDDEN), raised)
        q.note(self.result, before)
        lowest = norm.lowest(q.sigma(norm.key), before)
        routers = []
        for task in self.tasks:
            matrix, reach = self.router(task), q.reach(self.key(Role.LOGITS, task))
            logits = min(q.cap(matrix, norm.fraction, lowest), q.exponent(reach, low=-3, high=SCORE_FRACTION))
            q.note(self.key(Role.LOGITS, task), logits)
            bias = float(np.abs(q.folded[matrix.key].bias).max())
            linear = q.linear(matrix, fraction=norm.fraction, lowest=lowest, reach=reach + bias, output=logits)
            routers.append(Router(linear, SCORE_FRACTION - logits))
        first = first_linear(q, self.first, self.key(Role.FIRST_OUTPUT), norm, before, self.second)
        second = second_linear(q, self.second, self.key(Role.SECOND_OUTPUT), hidden, before, before, raised)
        return QuantisedMixture(self, norm.epsilon(before), routers, first, second), before


@dataclass(frozen=True)
class Router:
    linear: Linear
    exponent_shift: int


@dataclass(frozen=True)
class QuantisedMixture(Quantised):
    """routers: one per task."""

    operation: MixtureOfExperts
    epsilon: int
    routers: Sequence[Router]
    first: Linear
    second: Linear

    def linears(self) -> Sequence[Linear]:
        return [*(router.linear for router in self.routers), self.first, self.second]

    def steps(self) -> Iterator[Step]:
        c, name = self.operation.config, f"layer {self.operation.layer}"
        logits = Value("the router's logits", c.experts, place=Place.SCORE)
        hidden = Value("the experts' hidden rows", c.expert_hidden)

        def route(task: int) -> list[Step]:
            router, where = self.routers[task], f"{name} router of task {c.tasks[task].name}"
            return [
                Product(where, "", router.linear, RESIDUAL, logits, RowScale.NORM),
                Route(
                    where,
                    f": top {c.top_k}",
                    router.linear.key,
                    logits,
                    c.experts,
                    c.top_k,
                    router.exponent_shift,
                    among_chosen=c.gate == "top-k",
                ),
            ]

        yield self.operation.norm.step(f"{name} norm 2", self.epsilon)
        yield EachStream(name, " routers", route)
        yield EachExpert(
            f"{name} experts",
            "",
            [
                Product(f"{name} expert 1", "", self.first, RESIDUAL, hidden, RowScale.NORM),
                Product(f"{name} expert 2", "", self.second, hidden, RESIDUAL, RowScale.EXPERT),
            ],
        )
