# SPDX-License-Identifier: Apache-2.0
"""A model in integers of which only the sizes are true: what a program's instructions need, without any weights."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..graph import graph
from ..keys import Key
from ..operations.operation import Matrix
from .calibration import Calibration, Channels
from .folding import Folded
from .formats import WeightFormat
from .linear import Linear
from .quantise import QuantisedModel, Quantiser
from .rotation import rotatable

REACH = 1.0  # of every tensor
EXPONENT = 8


class Sketch(Quantiser):
    """Rounds nothing: every tensor reaches REACH, every matrix is made of zeros that take no memory."""

    def __init__(self, config: ModelConfig, weight_format: WeightFormat) -> None:
        self.config, self.format, self.graph = config, weight_format, graph(config)
        ones = np.ones(config.width)
        channels: defaultdict[int, Channels] = defaultdict(lambda: Channels(ones, ones, ones, ones, ones, ones))
        self.calibration = Calibration(0, channels=channels)
        shapes = {name: shape for operation in self.graph.operations for name, shape in operation.tensors().items()}
        self.tensors = {name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()}
        self.folded = defaultdict(lambda: Folded(np.zeros((1, 1)), np.zeros(1)))
        self.exponents: dict[Key, int] = {}
        self.rotated = weight_format.fast and rotatable(config)
        self.saturated, self.coarsened, self.widened, self.smoothing = 0, 0, [], {}

    def reach(self, key: Key) -> float:
        return REACH

    def sigma(self, norm: Key) -> float:
        return REACH

    def without_bias(self, matrix: Matrix, reach: NDArray) -> float:
        return REACH

    def scale(self, matrix: Matrix, factor: NDArray) -> None:
        pass

    def residual_exponent(self, *keys: Key) -> int:
        return EXPONENT

    def cap(self, matrix: Matrix, fraction: int, lowest: int = 0) -> int:
        return EXPONENT

    def linear(
        self,
        matrix: Matrix,
        *,
        old: int | None = None,
        fine: int | None = None,
        raised: float = 0.0,
        raises: float = 0.0,
        **rest: Any,
    ) -> Linear:
        experts = (self.config.experts,) if matrix.expert else ()
        zero = np.broadcast_to(np.int64(0), (*experts, matrix.outputs))
        bits = self.format.bits(matrix.expert, matrix.unpacked)
        return Linear(
            key=matrix.key,
            weights=np.broadcast_to(np.int8(0), (*experts, matrix.inputs, matrix.outputs)),
            bias=zero,
            multiplier=zero,
            bits=bits,
            accumulator_shift=0,
            output_shift=0,
            bias_first=old is not None,
            activation="" if fine is None else self.config.activation,
            groups=matrix.groups,
            input_groups=matrix.input_groups,
            packed=self.format.packed(matrix.expert, matrix.unpacked),
            raised=raises > 0,
            unsigned=raised > 0,
        )


def sketch(config: ModelConfig, weight_bits: str = WeightFormat.SIXTEEN) -> QuantisedModel:
    """As `quantise` of a checkpoint of these sizes, in no time; its programs take as long, and compute nothing."""
    return Sketch(config, WeightFormat.of(weight_bits)).run()
