# SPDX-License-Identifier: MIT
"""The node that calls a loss's operator, and the function that it calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .config import LossConfig
from .documentation import node_doc
from .dtypes import onnx_type, stash_dtype
from .functions import build_function
from .layout import Layout, Ports, Shape
from .onnxscript_defs import DOMAIN, OPSET_VERSION, LossSpec, OpSpec, Port
from .writer import Writer, value_info

IR_VERSION = 9
"""The oldest IR version whose functions declare the type and default of their attributes."""


@dataclass(frozen=True)
class Result:
    """An output of the operator, and what makes a graph output of it.

    Attributes:
        name: The graph output's name.
        shape: Its shape.
        dtype: The dtype that the operator gives.
        wanted: The graph output's.
        changed: Adds nodes before the last cast. Takes the value's name, and the name that its
            result must have where no cast follows; returns the name that it has.
        shown: Whether there is a graph output.
    """

    name: str
    shape: Shape
    dtype: str
    wanted: str
    changed: Callable[[str, str | None], str] | None = None
    shown: bool = True


def with_axis(write: Writer, loss: Result, at: Layout) -> Result:
    """The loss that gets its class axis back, of size 1."""
    return replace(loss, changed=lambda value, result: write.unsqueezed(value, at.axis, result))


def add_call(
    model: onnx.ModelProto,
    write: Writer,
    config: LossConfig,
    at: Layout,
    ports: Ports,
    inputs: Mapping[str, str],
    results: Mapping[str, Result],
) -> None:
    """Adds the operator's node, the graph outputs and the configuration as metadata to a model.

    Args:
        model: The model.
        write: The writer of its graph.
        config: The loss.
        at: Its layout.
        ports: Its names.
        inputs: The name of the value that each of the operator's inputs gets; with `dloss` the
            operator is the one that gives the gradient too.
        results: Each of the operator's outputs.
    """
    made = {
        port: result.name
        if result.shown and result.dtype == result.wanted and not result.changed
        else write.free(result.name)
        for port, result in results.items()
    }
    op = config.spec.loss_and_grad if "dloss" in inputs else config.spec.forward
    node = helper.make_node(
        op.name,
        _positional(op.inputs, inputs),
        _positional(op.outputs, made),
        ports.other(config.name or op.name),
        node_doc(op, config.source, config.attributes),
        DOMAIN,
        **node_attributes(config, op, at),
    )
    model.graph.node.extend(called_or_written_out(model, config.spec, node))
    for port, result in results.items():
        if result.shown:
            _add_output(write, result, made[port])
    entry = model.metadata_props.add()
    entry.key, entry.value = f"{DOMAIN}.{ports.loss}", _described(config)


def _add_output(write: Writer, result: Result, value: str) -> None:
    if result.changed:
        value = result.changed(value, result.name if result.dtype == result.wanted else None)
    write.cast(value, result.dtype, result.wanted, result.name)
    write.graph.output.append(value_info(result.name, result.wanted, result.shape))


def node_attributes(config: LossConfig, op: OpSpec, at: Layout) -> dict[str, Any]:
    """Every attribute of the operator, in the SPEC's order: ONNX Runtime knows no defaults."""
    stash = stash_dtype(at.compute)
    smoothing, smoothing_low = in_floats(config.attributes.get("label_smoothing", 0.0))
    epsilon, epsilon_low = in_floats(config.attributes.get("epsilon", 0.0))
    values = {
        **config.attributes,
        "axis": at.axis,
        "label_smoothing": smoothing,
        "label_smoothing_low": smoothing_low if stash == "float64" else 0.0,
        "epsilon": epsilon,
        "epsilon_low": epsilon_low,
        "stash_type": onnx_type(stash),
    }
    return {attribute.name: values[attribute.name] for attribute in op.attributes}


def in_floats(value: Any) -> tuple[float, float]:
    """A number as what a float attribute holds of it, and the rest."""
    high = float(np.float32(value))
    return high, float(value) - high


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values."""
    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def called_or_written_out(
    model: onnx.ModelProto, spec: LossSpec, node: onnx.NodeProto
) -> list[onnx.NodeProto]:
    """The node, whose function is added to the model; or the function's nodes, where it cannot be.

    A model has one function of a name: the one that folds this node's attributes in where it is
    alone; the generic one where a node with others stands beside it; and where that one has
    other optional inputs or outputs, the nodes are written out.

    Args:
        model: A model that imports ai.onnx; it gets the function and the operator's domain.
        spec: The loss.
        node: A node of one of the loss's operators, with all of its attributes.

    Returns:
        The nodes that stand for it.
    """
    op = next(op for op in spec.ops if op.name == node.op_type)
    ports = (*zip(op.inputs, node.input, strict=False), *zip(op.outputs, node.output, strict=False))
    given = [port.name for port, name in ports if port.optional and name]
    attributes = attributes_of(node)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    folded = build_function(spec, op, given=given, opset=opset, attributes=attributes)
    there = [made for made in model.functions if (made.domain, made.name) == (DOMAIN, op.name)]
    if not there:
        model.functions.append(folded)
    elif not _same_ports(there[0], folded):
        return _written_out(node, folded)
    elif there[0] != folded:
        there[0].CopyFrom(build_function(spec, op, given=given, opset=opset))
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    model.ir_version = max(model.ir_version, IR_VERSION)
    return [node]


def _positional(ports: Sequence[Port], names: Mapping[str, str]) -> list[str]:
    """The names in the ports' order; one left out before another is empty."""
    positions = [names.get(port.name, "") for port in ports]
    while not positions[-1]:
        positions.pop()
    return positions


def _same_ports(left: onnx.FunctionProto, right: onnx.FunctionProto) -> bool:
    declared = (left.input, left.output) == (right.input, right.output)
    return declared and _reads(left) == _reads(right)


def _reads(function: onnx.FunctionProto) -> set[str]:
    """The inputs that the function's nodes read; it declares those before the last one too."""
    return {name for node in function.node for name in node.input} & set(function.input)


def _written_out(call: onnx.NodeProto, function: onnx.FunctionProto) -> list[onnx.NodeProto]:
    """The function's nodes with the call's inputs and outputs."""
    names = dict(zip((*function.input, *function.output), (*call.input, *call.output), strict=True))
    nodes = []
    for inner in function.node:
        node = onnx.NodeProto()
        node.CopyFrom(inner)
        for values in (node.input, node.output):
            values[:] = [names.get(name, f"{call.name}.{name}") for name in values]
        nodes.append(node)
    return nodes


def _described(config: LossConfig) -> str:
    """The configuration as JSON, for whoever opens the file."""
    weights = config.class_weights
    return json.dumps(
        {
            "source": config.source,
            "op": config.op,
            **config.attributes,
            "class_weights": None if weights is None else len(weights),
            **config.notes,
        }
    )
