# SPDX-License-Identifier: Apache-2.0
"""What stands behind the encoder in an ONNX graph, cut out as a graph of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgemoeError, brief, listing
from ..onnx_decoder import decode

PRODUCTS = ("Conv", "Gemm", "MatMul")  # what no value of the encoder comes about without
Affine = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Behind:
    """graph: from final tokens [1, tokens, width], and the picture uint8 [1, C, H, W] if it sees that, to a map of
    `channels`; name: its output's.
    """

    name: str
    graph: bytes = field(repr=False)
    channels: int
    notes: tuple[str, ...] = ()


def cut(
    model: Any, before: str, shape: tuple[int, int, int], scaling: Affine, tokens: tuple[int, int]
) -> Behind | None:
    """What the graph makes of final tokens [rows, width] and pictures [C, H, W]; None if these tokens are its output,
    as they are or normalised. EdgemoeError if it needs more than them, or does not run.

    before: what stands in the graph before the names of the trunk's tensors.
    scaling: (factor, summand) of each channel, from pixels 0..255 to what the graph takes.
    """
    import onnx

    outputs = [output.name for output in model.graph.output]
    final = _tokens(model, before)
    if {final, *_normalised(model, before)} & set(outputs[:1]):
        return None
    try:
        if not final:
            raise EdgemoeError("the graph does not show where the encoder ends")
        fixed = _fixed(model, shape)
        seen = _inputs(fixed, final, outputs[0])
        part = onnx.utils.Extractor(fixed).extract_model([final, *seen], [outputs[0]])
        if seen:
            _take_pixels(part, scaling)
        data = part.SerializeToString()
        channels = decode(data, np.zeros(tokens, np.float32), np.zeros(shape, np.uint8)).shape[-1]
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


def _fixed(model: Any, shape: tuple[int, int, int]) -> Any:
    """The graph for one picture of this size; shapes that it asks for and that are known then become constants, so that
    what needs a shape alone does not need the value.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dimensions = fixed.graph.input[0].type.tensor_type.shape.dim
    for dimension, count in zip(dimensions, (1, *shape), strict=True):
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


def _inputs(model: Any, tokens: str, output: str) -> list[str]:
    """The picture's name, if an output needs it besides the tokens; EdgemoeError if it needs more than these two."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}

    def leading_to(last: str, known: set[str]) -> set[str]:
        found, waiting = set(known), [last]
        while waiting:
            name = waiting.pop()
            if name not in found and name not in constants:
                found.add(name)
                waiting += made_by[name].input if name in made_by else []
        return found - known

    behind, encoder = leading_to(output, {tokens}), leading_to(tokens, set())
    if any(made_by[name].op_type in PRODUCTS for name in behind & encoder & made_by.keys()):
        raise EdgemoeError("it sees inner values of the encoder, not its final tokens alone")
    picture, given = model.graph.input[0].name, sorted(behind - made_by.keys())
    if given not in ([], [picture]):
        raise EdgemoeError(f"it sees {listing(given)}, not tokens and picture alone")
    return given


def _take_pixels(part: Any, scaling: Affine) -> None:
    """The second input becomes pixels as they are, uint8; the graph scales them itself."""
    import onnx

    name, kind = part.graph.input[1].name, onnx.TensorProto
    pixels, values, scaled = (f"{name}/{step}" for step in ("pixels", "values", "scaled"))
    for place, constant in zip((values, scaled), scaling, strict=True):
        tensor = np.asarray(constant, np.float32).reshape(1, -1, 1, 1)
        part.graph.initializer.append(onnx.numpy_helper.from_array(tensor, f"{place}/constant"))
    make = onnx.helper.make_node
    first = [
        make("Cast", [pixels], [values], to=kind.FLOAT),
        make("Mul", [values, f"{values}/constant"], [scaled]),
        make("Add", [scaled, f"{scaled}/constant"], [name]),
    ]
    nodes = [*first, *part.graph.node]
    del part.graph.node[:]
    part.graph.node.extend(nodes)
    part.graph.input[1].name = pixels
    part.graph.input[1].type.tensor_type.elem_type = kind.UINT8
