# SPDX-License-Identifier: Apache-2.0
"""The float model in NumPy, for calibration and for comparison.

Needs no PyTorch; `golden` is the same model in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..graph import graph
from ..operations.operation import Context, Observer


@dataclass
class Forward:
    """What one forward pass gives.

    tokens [B, T, D]; layers [B, T, D] each; routes, scores: layer -> [B, T, top_k]; head [B, rows, outputs], of a head
    on the array or on the host, or None.
    """

    tokens: NDArray
    layers: list[NDArray] = field(default_factory=list)
    routes: dict[int, NDArray] = field(default_factory=dict)
    scores: dict[int, NDArray] = field(default_factory=dict)
    head: NDArray | None = None


def forward(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8],
    task: int | str = 0,
    routing: Mapping[int, NDArray] | None = None,
    observer: Observer | None = None,
    dtype: type = np.float64,
) -> Forward:
    """The float model on uint8 images [B, C, H, W] (or [C, H, W]); `routing` (layer -> experts [B, T, top_k]) holds the
    router's choice.

    `observer` is shown every tensor that calibration looks at.
    """
    config = checkpoint.config
    index = config.task_index(task)
    tensors: dict[str, NDArray[Any]] = {
        name: tensor.astype(dtype, copy=False) for name, tensor in checkpoint.tensors.items()
    }
    context = Context(tensors, index, dtype, observer or Observer(), routing or {})
    model = graph(config)
    x: NDArray[Any] = images if images.ndim == 4 else images[None]
    after = []
    for operation in model.trunk:
        x = operation.forward(x, context)
        after.append(x)
    name, values = config.tasks[index].name, None
    if head := model.heads.get(name):
        values = head.forward(x, context)
    elif host_head := model.host_heads.get(name):
        values = host_head.forward(x, tensors)
    # The layers are last, two operations each.
    return Forward(x, after[-2 * config.layers :][1::2], context.routes, context.scores, values)
