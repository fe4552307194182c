# SPDX-License-Identifier: Apache-2.0
"""Weights out of an ONNX graph, under the names that its modules had.

An export keeps the names of biases and norms. A matrix behind a MatMul is transposed and anonymous: it is called after
the bias that is added to its product, or else after its node (`/encoder/layer.0/mlp/fc1/MatMul`). Tokens and positions
may have lost their names, too, where the graph prepares them: they are found by what is joined and added.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import extras
from ..errors import EdgemoeError, brief
from ..numbers.activation import QUICK
from .sources import Tensors

PROJECTION = "patch_embeddings.projection.weight"
QUERY = re.compile(r"(query|q_proj)\.bias$")
FIRST = re.compile(r"(intermediate\.dense|mlp\.fc1)\.bias$")
NORM = re.compile(r"(norm1|layernorm_before)(\.weight)?$")


def read_onnx(path: Path) -> tuple[Tensors, dict[str, Any], Any]:
    """(tensors, facts as Hugging Face's config.json has them, the model) of a file and of external data beside it."""
    try:
        import onnx
    except ImportError as error:
        raise extras.missing("onnx", "reading .onnx files") from error
    try:
        model = onnx.load(path)
        graph = Graph(model.graph)
    except Exception as error:  # protobuf's and onnx's own errors, and those of damaged data
        raise EdgemoeError(f"{brief(path, 80)} is no readable ONNX file ({brief(error, 120)})") from error
    tensors = graph.matrices() | graph.named()
    anchor = next((name for name in tensors if name.endswith(PROJECTION)), "")
    if anchor:
        before, width = anchor.removesuffix(PROJECTION), tensors[anchor].shape[0]
        tensors = graph.embeddings(before, width) | tensors
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}, graph.facts(), model


class Graph:
    """values: constants by name; made_by: output -> node; used_by: input -> nodes."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.values: dict[str, NDArray[Any]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.values[node.output[0]] = numpy_helper.to_array(attribute.t)
        self.initial = {i.name for i in graph.initializer}
        self.made_by = {output: node for node in self.nodes for output in node.output}
        self.used_by: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.used_by.setdefault(name, []).append(node)
        self.input = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] if graph.input else []

    def named(self) -> dict[str, NDArray[Any]]:
        """Floating-point constants that have a module's name."""
        return {
            name: value
            for name, value in self.values.items()  # in the graph's order
            if name in self.initial and "." in name and value.dtype.kind == "f"
        }

    def matrices(self) -> dict[str, NDArray[Any]]:
        """What MatMuls multiply by, [outputs, inputs]."""
        found = {}
        for node in self.nodes:
            if node.op_type != "MatMul" or node.input[1] not in self.initial:
                continue
            bias = next((name for name in self.added(node.output[0]) if name.endswith(".bias")), "")
            module = bias.removesuffix(".bias") or ".".join(node.name.strip("/").split("/")[:-1])
            if module:
                found[f"{module}.weight"] = self.values[node.input[1]].T
        return found

    def added(self, name: str) -> list[str]:
        """The constants that are added to a value."""
        adds = [node for node in self.used_by.get(name, ()) if node.op_type == "Add"]
        return [other for node in adds for other in node.input if other in self.initial]

    def embeddings(self, before: str, width: int) -> dict[str, NDArray[Any]]:
        """Tokens and positions: of an Add, one side joins tokens and patches, the other one is or makes positions."""
        for node in self.nodes:
            sides = [self.origin(name) for name in node.input] if node.op_type == "Add" else []
            joins = [self.made_by.get(name) for name in node.input]
            for place, join in enumerate(joins):
                if len(sides) != 2 or join is None or join.op_type != "Concat" or sides[place] is not None:
                    continue
                tokens = [value for value in map(self.origin, join.input) if value is not None]
                positions = self.positions(node.input[1 - place], width)
                if positions is not None and tokens and all(token.shape[-1] == width for token in tokens):
                    rows = np.concatenate([token.reshape(-1, width) for token in tokens])[None]
                    return {
                        f"{before}cls_token": rows[:, :1],
                        f"{before}position_embeddings": positions,
                        **({f"{before}distillation_token": rows[:, 1:]} if rows.shape[1] > 1 else {}),
                    }
        return {}

    def origin(self, name: str) -> NDArray[Any] | None:
        """The constant that a value is, or is repeated, reshaped or resized from."""
        for _ in range(len(self.nodes)):
            if name in self.values:
                value = self.values[name]
                return value if value.dtype.kind == "f" and value.ndim > 1 else None
            node = self.made_by.get(name)
            if node is None or node.op_type in ("Conv", "Concat", "MatMul", "Add"):
                return None
            name = node.input[0]
        return None

    def positions(self, name: str, width: int) -> NDArray[Any] | None:
        """[1, rows, width]: a constant, or a row and a grid that the graph joins after it has resized the grid."""
        join = self.made_by.get(name)
        names = join.input if join is not None and join.op_type == "Concat" else [name]
        parts = [self.origin(part) for part in names]
        if any(part is None or part.shape[-1] != width for part in parts):
            return None
        return np.concatenate([part.reshape(1, -1, width) for part in parts if part is not None], axis=1)

    def facts(self) -> dict[str, Any]:
        """Heads, eps and the pictures' size, as far as the graph shows them."""
        facts: dict[str, Any] = {}
        for node in self.nodes:
            query = next((name for name in node.input if QUERY.search(name)), "")
            if node.op_type == "Add" and query and (width := self.head_width(node.output[0])):
                facts.setdefault("num_attention_heads", self.values[query].size // width)
            if node.op_type == "LayerNormalization" and NORM.search(node.input[1]):
                facts.setdefault("layer_norm_eps", next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5))
            # A norm that was taken apart: the only constant that is added in its module.
            module = ".".join(node.name.strip("/").split("/")[:-1])
            if node.op_type == "Add" and NORM.search(module) and (value := self.values.get(node.input[1])) is not None:
                if value.size == 1:
                    facts.setdefault("layer_norm_eps", float(value.ravel()[0]))
        if activation := self.activation():
            facts["hidden_act"] = activation
        if len(self.input) == 4 and min(self.input[2:]) > 0:
            facts["image_size"] = self.input[2:]
        return facts

    def activation(self) -> str:
        """The function between the matrices of the MLPs, by Hugging Face's name; "": the graph does not show them."""
        firsts = [n for n in self.nodes if n.op_type == "Add" and any(FIRST.search(name) for name in n.input)]
        return " and ".join(sorted({self.function(node.output[0]) for node in firsts}))

    def function(self, value: str) -> str:
        """What stands between a value and the next product: a function, or else its operations."""
        between: dict[str, Any] = {}  # nodes by what they make
        waiting = [value]
        while waiting:
            for node in self.used_by.get(waiting.pop(), ()):
                if node.op_type not in ("MatMul", "Gemm") and node.output[0] not in between:
                    between[node.output[0]] = node
                    waiting += node.output
        kinds = {node.op_type for node in between.values()}
        match sorted(kinds & {"Erf", "Gelu", "Tanh", "Sigmoid", "Relu"}):
            case ["Erf"]:
                return "gelu"
            case ["Gelu"]:
                attributes = [a.s for node in between.values() if node.op_type == "Gelu" for a in node.attribute]
                return "gelu_pytorch_tanh" if b"tanh" in attributes else "gelu"
            case ["Tanh"]:
                return "gelu_pytorch_tanh"
            case ["Sigmoid"]:
                constants = [self.values[n] for node in between.values() for n in node.input if n in self.values]
                return "quick_gelu" if any(c.size == 1 and abs(c - QUICK) < 1e-3 for c in constants) else "silu"
            case ["Relu"]:
                return "relu"
        return "+".join(sorted(kinds)) or "none"

    def head_width(self, queries: str) -> int:
        """From the shape [batch, tokens, heads, width of a head] to which queries are brought; 0 if it is not known."""
        for node in self.used_by.get(queries, ()):
            if node.op_type != "Reshape":
                continue
            shape = self.values.get(node.input[1])
            if shape is not None and shape.size == 4:
                return max(0, int(shape.ravel()[-1]))
            join = self.made_by.get(node.input[1])
            last = self.values.get(join.input[-1]) if join is not None and join.op_type == "Concat" else None
            if join is not None and last is not None and last.size == 1 and len(join.input) == 4:
                return max(0, int(last.ravel()[0]))
        return 0
