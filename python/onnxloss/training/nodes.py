# SPDX-License-Identifier: MIT
"""Names in a graph, and nodes that are added to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or what comes nearest to it and is free; taken from now on."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    graphs = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            graphs.append(attribute.g)
        graphs.extend(attribute.graphs)
    return graphs


def value_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values of a graph and of the graphs inside it."""
    names = {value.name for value in (*graph.input, *graph.initializer, *graph.output)}
    for node in graph.node:
        names.update(node.output)
        for inner in subgraphs(node):
            names |= value_names(inner)
    return names


@dataclass
class GraphWriter:
    """The nodes and initializers that are added to a graph, under names that are free there."""

    taken: set[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    numbers: dict[tuple[float, int], onnx.TensorProto] = field(default_factory=dict)
    casts: dict[tuple[str, int], str] = field(default_factory=dict)

    def op(self, op_type: str, inputs: Iterable[str], result: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its result, `result` where that is free."""
        name = free_name(result, self.taken)
        node = helper.make_node(op_type, list(inputs), [name], name, **attributes)
        self.nodes.append(node)
        return name

    def number(self, value: float, elem_type: int) -> str:
        """A scalar initializer; one for all uses of the same number."""
        if (value, elem_type) not in self.numbers:
            dtype = helper.tensor_dtype_to_np_dtype(elem_type)
            name = free_name(f"{value:.6g}.{dtype.name}", self.taken)
            tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
            self.numbers[value, elem_type] = tensor
        return self.numbers[value, elem_type].name

    def cast(self, name: str, elem_type: int) -> str:
        """The value `name` as `elem_type`; one Cast for all uses."""
        if (name, elem_type) not in self.casts:
            result = f"{name}.{helper.tensor_dtype_to_np_dtype(elem_type).name}"
            self.casts[name, elem_type] = self.op("Cast", [name], result, to=elem_type)
        return self.casts[name, elem_type]
