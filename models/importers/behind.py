# SPDX-License-Identifier: Apache-2.0
"""What stands behind the encoder in an ONNX graph, cut out as a graph of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import EdgemoeError, brief, listing
from ..onnx_decoder import decode


@dataclass(frozen=True)
class Behind:
    """graph: from final tokens [1, tokens, width] to a map of `channels`; name: its output's."""

    name: str
    graph: bytes = field(repr=False)
    channels: int
    notes: tuple[str, ...] = ()


def cut(model: Any, before: str, size: tuple[int, int], rows: int, width: int) -> Behind | None:
    """What the graph makes of the final tokens [rows, width], for pictures of a size; None if these are its output,
    as they are or normalised. EdgemoeError if it needs more than them, or does not run.

    before: what stands in the graph before the names of the trunk's tensors.
    """
    import onnx

    outputs = [output.name for output in model.graph.output]
    tokens = _tokens(model, before)
    if {tokens, *_normalised(model, before)} & set(outputs[:1]):
        return None
    try:
        if not tokens:
            raise EdgemoeError("the graph does not show where the encoder ends")
        fixed = _fixed(model, size)
        if needed := _inputs(fixed, tokens, outputs[0]):
            raise EdgemoeError(f"it sees {listing(sorted(needed))}, not the final tokens alone")
        part = onnx.utils.Extractor(fixed).extract_model([tokens], [outputs[0]])
        data = part.SerializeToString()
        channels = decode(data, np.zeros((rows, width), np.float32)).shape[-1]
    except EdgemoeError:
        raise
    except Exception as error:  # protobuf's and onnx's own errors
        raise EdgemoeError(brief(error, 160)) from error
    notes = [f"behind the encoder, {len(part.graph.node)} nodes of the graph are kept: the host runs them"]
    if len(outputs) > 1:
        notes.append(f"of the graph's outputs only {brief(outputs[0])} is given, not {listing(outputs[1:])}")
    named = outputs[0] if re.fullmatch(r"[\w-]{1,64}", outputs[0]) else "map"
    return Behind(named, data, int(channels), tuple(notes))


def _tokens(model: Any, before: str) -> str:
    """The residual stream behind the last layer, where the bias of its MLP leads to; "" if that is unknown."""
    name = re.compile(rf"{re.escape(before)}(?:encoder\.)?(?:layers?|blocks)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.bias")
    constants = {tensor.name for tensor in model.graph.initializer}
    biases = {int(match[1]): match[0] for match in map(name.fullmatch, constants) if match}
    value = biases[max(biases)] if biases else ""
    # In the order of the graph, which is that of execution.
    for node in model.graph.node:
        if value not in node.input:
            continue
        value = node.output[0]
        if node.op_type == "Add" and not constants & set(node.input):
            return str(value)
    return ""


def _normalised(model: Any, before: str) -> list[str]:
    """What the final norm makes of them."""
    biases = {f"{before}{norm}.bias" for norm in ("norm", "layernorm")}
    return [node.output[0] for node in model.graph.node if biases & set(node.input)]


def _fixed(model: Any, size: tuple[int, int]) -> Any:
    """The graph for one picture of this size; shapes that it asks for and that are known then become constants, so that
    what needs a shape alone does not need the value.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dimensions = fixed.graph.input[0].type.tensor_type.shape.dim
    for dimension, count in zip(dimensions, (1, dimensions[1].dim_value, *size), strict=True):
        dimension.dim_value = count
    del fixed.graph.value_info[:]
    fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {}
    for value in (*fixed.graph.input, *fixed.graph.value_info):
        counts = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if counts and min(counts) > 0:
            shapes[value.name] = counts
    for node in fixed.graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes and not node.attribute:
            constant = onnx.numpy_helper.from_array(np.array(shapes[node.input[0]], np.int64))
            node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), node.name, value=constant))
    return fixed


def _inputs(model: Any, tokens: str, output: str) -> set[str]:
    """Inputs of the graph that an output needs besides the tokens."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    needed, seen, waiting = set(), {tokens}, [output]
    while waiting:
        name = waiting.pop()
        if name in seen or name in constants:
            continue
        seen.add(name)
        if name in made_by:
            waiting += made_by[name].input
        else:
            needed.add(name)
    return needed
