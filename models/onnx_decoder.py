# SPDX-License-Identifier: Apache-2.0
"""A decoder that is an ONNX graph, run by onnxruntime: from final tokens, and perhaps the picture, to a map."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import extras
from .errors import EdgemoeError, brief


@lru_cache(maxsize=8)
def _session(graph: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise extras.missing("onnxruntime", "a decoder that is an ONNX graph") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised anyway
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def decode(graph: bytes, tokens: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[tokens, width], uint8 [C, H, W] -> [h, w, channels]; of a graph from [1, tokens, width], whose second input, if
    there is one, is the picture, to [1, channels, h, w] or [1, h, w].
    """
    try:
        session = _session(graph)
        inputs = [entry.name for entry in session.get_inputs()]
        values = session.run(None, dict(zip(inputs, (tokens[None].astype(np.float32), image[None]), strict=False)))[0]
    except EdgemoeError:
        raise
    except Exception as error:  # onnxruntime's own kinds
        raise EdgemoeError(f"onnxruntime cannot run the decoder ({brief(error, 160)})") from error
    if not isinstance(values, np.ndarray) or values.ndim not in (3, 4) or len(values) != 1 or not values.size:
        shape = brief(list(getattr(values, "shape", [])), 40)
        raise EdgemoeError(f"the decoder gives {shape}, expected [1, channels, height, width] or [1, height, width]")
    return np.moveaxis(values[0], 0, -1) if values.ndim == 4 else values[0][..., None]
