# SPDX-License-Identifier: Apache-2.0
"""Weights out of an ONNX graph, under the names that its modules had.

An export keeps the names of biases and norms, but a matrix behind a MatMul is transposed and anonymous: its node is
called after its module (`/backbone/encoder/layer.0/mlp/fc1/MatMul`), which gives it its name back. Positions that the
graph resizes come as an anonymous grid and an anonymous row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import extras
from ..errors import EdgemoeError, brief
from .sources import Tensors

POSITIONS = "embeddings.position_embeddings"


def read_onnx(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """(tensors, facts as Hugging Face's config.json has them) of a graph; external data beside it are read, too."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise extras.missing("onnx", "reading .onnx files") from error
    try:
        graph = onnx.load(path).graph
        values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    except Exception as error:  # protobuf's and onnx's own errors, and those of damaged data
        raise EdgemoeError(f"{brief(path, 80)} is no readable ONNX file ({brief(error, 120)})") from error
    constants = {
        node.output[0]: numpy_helper.to_array(attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    made_by = {output: node for node in graph.node for output in node.output}
    tensors: Tensors = {name: value for name, value in values.items() if "::" not in name and value.dtype.kind == "f"}
    facts: dict[str, Any] = {}
    for node in graph.node:
        module = ".".join(node.name.strip("/").split("/")[:-1])
        if node.op_type == "MatMul" and node.input[1] in values and module:
            tensors[f"{module}.weight"] = values[node.input[1]].T
        elif (
            module.endswith("attention.attention") and node.op_type == "Reshape" and "num_attention_heads" not in facts
        ):
            facts |= _heads(node, made_by, constants)
        elif module.endswith("norm1") and node.op_type == "Add" and node.input[1] in constants:
            facts.setdefault("layer_norm_eps", float(constants[node.input[1]]))
        elif node.op_type == "LayerNormalization" and module.endswith(("norm1", "layernorm_before")):
            facts.setdefault("layer_norm_eps", next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5))
    dimensions = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] if graph.input else []
    if len(dimensions) == 4 and min(dimensions[2:]) > 0:
        facts["image_size"] = dimensions[2:]
    anchor = next((name for name in tensors if name.endswith("embeddings.cls_token")), "")
    before = anchor.removesuffix("embeddings.cls_token")
    if anchor and before + POSITIONS not in tensors:
        tensors[before + POSITIONS] = _positions(values, graph.node, made_by, tensors[anchor].shape[-1], path)
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}, facts


def _heads(node: Any, made_by: dict[str, Any], constants: dict[str, Any]) -> dict[str, Any]:
    """From the shape [batch, tokens, heads, width of a head] to which queries are brought."""
    shape = constants.get(node.input[1])
    if shape is None and (concat := made_by.get(node.input[1])) is not None and concat.op_type == "Concat":
        parts = [constants.get(name) for name in concat.input]
        shape = np.array([-1 if part is None or part.size != 1 else int(part.ravel()[0]) for part in parts])
    if shape is None or len(shape) != 4 or shape[2] < 1:
        return {}
    return {"num_attention_heads": int(shape[2])}


def _positions(values: dict[str, Any], nodes: Any, made_by: dict[str, Any], width: int, path: Path) -> Any:
    """[1, 1 + n, width]: the row of the CLS token and the grid, which the graph joins after it has resized the grid."""
    for node in nodes:
        if node.op_type != "Concat" or len(node.input) != 2 or node.input[0] not in values:
            continue
        row, source = values[node.input[0]], node.input[1]
        while source in made_by and source not in values:  # back through reshapes, transpositions and the resizing
            source = made_by[source].input[0]
        if row.shape == (1, 1, width) and source in values and values[source].shape[-1] == width:
            return np.concatenate([row, values[source].reshape(1, -1, width)], axis=1)
    raise EdgemoeError(f"{brief(path, 80)}: no position embeddings were found in its graph")
