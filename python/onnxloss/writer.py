# SPDX-License-Identifier: MIT
"""Adds nodes and initializers to a graph, under names that are free there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .dtypes import onnx_type


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    graphs = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            graphs.append(attribute.g)
        graphs.extend(attribute.graphs)
    return graphs


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes_of(inner)


def value_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values of a graph and of the graphs inside it."""
    names = {value.name for value in (*graph.input, *graph.initializer, *graph.output)}
    for node in graph.node:
        names.update(node.output)
        for inner in subgraphs(node):
            names |= value_names(inner)
    return names


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or what comes nearest to it and is free; taken from now on."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


class Writer:
    """Adds nodes and initializers to a graph, under names that are free there.

    Args:
        graph: The graph.
        prefix: What each new name begins with.
        reserved: Names that only a node gets whose result they are said to be.
    """

    def __init__(
        self, graph: onnx.GraphProto, prefix: str = "", reserved: Iterable[str] = ()
    ) -> None:
        self.graph = graph
        self._prefix = prefix
        self._taken = value_names(graph) | set(reserved)
        self._casts: dict[tuple[str, str], str] = {}
        self._numbers: dict[tuple[float, str], str] = {}

    def free(self, wanted: str) -> str:
        """A name like `wanted` that nothing has; taken from now on."""
        prefix = "" if wanted.startswith(self._prefix) else self._prefix
        return free_name(f"{prefix}{wanted}", self._taken)

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        result: str | None = None,
        *,
        like: str | None = None,
        **attributes: Any,
    ) -> str:
        """Adds a node with one output; its name is `result`, or a free one, if need be `like` it.

        Returns:
            The output's name.
        """
        result = result or self.free(like or f"{inputs[0]}.{op_type}")
        self.graph.node.append(
            helper.make_node(op_type, inputs, [result], f"{op_type} {result}", **attributes)
        )
        return result

    def tensor(self, values: np.ndarray, wanted: str) -> str:
        """Adds an initializer; its name."""
        name = self.free(wanted)
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def number(self, value: float, dtype: str) -> str:
        """A scalar initializer; one for all uses of the same number."""
        if (value, dtype) not in self._numbers:
            kind = helper.tensor_dtype_to_np_dtype(onnx_type(dtype))
            name = self.tensor(np.asarray(value, kind), f"{value:.6g}.{dtype}")
            self._numbers[value, dtype] = name
        return self._numbers[value, dtype]

    def cast(self, name: str, dtype: str, wanted: str, result: str | None = None) -> str:
        """The value `name` of `dtype` as `wanted`; one Cast for all uses that name no result."""
        if dtype == wanted:
            return name
        if result is None and (name, wanted) in self._casts:
            return self._casts[name, wanted]
        result = result or self.free(f"{name}.{wanted}")
        self._casts[name, wanted] = result
        return self.node("Cast", [name], result, to=onnx_type(wanted))

    def squeezed(self, name: str, axis: int) -> str:
        """The value without an axis of size 1."""
        return self.node("Squeeze", [name, self.tensor(np.array([axis]), "class_axis")])

    def unsqueezed(self, name: str, axis: int, result: str | None = None) -> str:
        """The value with an axis of size 1 more."""
        return self.node("Unsqueeze", [name, self.tensor(np.array([axis]), "class_axis")], result)


def value_info(name: str, dtype: str, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, onnx_type(dtype), shape)
