# SPDX-License-Identifier: MIT
"""A loss as one node of a graph, with its gradient in the form that ONNX Runtime registers.

ONNX Runtime training finds a registered gradient by the operator's name alone, keeps the first one
of a name, and shows it no attributes. So the whole loss becomes a function whose name is made of
what it and its gradient do, and the gradient has all settings written out: two settings never share
a name, and one setting has the same name in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from ..calls import called_or_written_out
from ..config import LossConfig
from ..onnxscript_defs import DOMAIN
from ..writer import free_name, value_names

TRAINING_DOMAIN = "onnxloss.training"
_ATTRIBUTE_TYPES = {
    onnx.AttributeProto.INT: "int",
    onnx.AttributeProto.INTS: "int",
    onnx.AttributeProto.FLOAT: "float",
    onnx.AttributeProto.STRING: "string",
}


@dataclass(frozen=True)
class NodeDefinition:
    """A node of a gradient: `I(k)`, `O(k)`, `GO(k)` and `GI(k)` are the values around the loss.

    An attribute is its name, its value and the name of its type.
    """

    domain: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any, str], ...]


@dataclass(frozen=True)
class Gradient:
    """The nodes that compute the gradient of the operator `op_type` of `TRAINING_DOMAIN`."""

    op_type: str
    nodes: tuple[NodeDefinition, ...]


def fold_loss(
    model: onnx.ModelProto,
    forward: onnx.ModelProto,
    config: LossConfig,
    both: onnx.ModelProto,
    names: Mapping[str, str],
) -> Gradient:
    """Makes one node of a loss in a model.

    Args:
        model: The forward model with the loss behind it, as `append_to` gives it.
        forward: The forward model.
        config: The loss.
        both: The loss and its gradient by themselves, as `export(config, gradient=True)`.
        names: What the inputs and outputs of `both` are called in the model.

    Returns:
        The gradient of the node.
    """
    graph = model.graph
    nodes = list(graph.node)[len(forward.graph.node) :]
    constants = list(graph.initializer)[len(forward.graph.initializer) :]
    outputs = [value.name for value in list(graph.output)[len(forward.graph.output) :]]
    outputs.insert(0, outputs.pop(outputs.index(names["loss"])))

    backward = _backward(model, config, both)
    known = {**names, **_shared(model, constants, both, _read(backward))}
    needed = {known[name] for name in _read(backward)} - {known["dloss"], *outputs}
    logits = names["logits"]
    inputs = [logits, *sorted((_read(nodes) | needed) - {logits})]
    terms = {name: f"I({index})" for index, name in enumerate(inputs)}
    terms |= {name: f"O({index})" for index, name in enumerate(outputs)}
    terms |= {known["dloss"]: "GO(0)", known["dlogits"]: "GI(0)"}
    definitions = tuple(_definition(node, known, terms) for node in backward)

    text = repr((definitions, inputs, outputs, _texts(nodes)))
    op_type = f"{config.op}_{_digest(text)}"
    del graph.node[len(forward.graph.node) :]
    _add_function(model, op_type, inputs, outputs, nodes)
    graph.node.append(
        helper.make_node(op_type, inputs, outputs, names["loss"], domain=TRAINING_DOMAIN)
    )
    return Gradient(op_type, definitions)


def _backward(
    model: onnx.ModelProto, config: LossConfig, both: onnx.ModelProto
) -> list[onnx.NodeProto]:
    """The nodes of `both` that make `dlogits`, with the operator of the gradient alone."""
    needed, kept = {"dlogits"}, []
    for node in reversed(both.graph.node):
        if needed.intersection(node.output):
            if node.domain == DOMAIN:
                node = _with_function(model, config, _gradient_alone(config, node))
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _gradient_alone(config: LossConfig, call: onnx.NodeProto) -> onnx.NodeProto:
    """The node of loss and gradient as one of the gradient, which takes what the loss has drawn."""
    op = config.spec.grad
    given = dict(zip((port.name for port in op.inputs), call.input, strict=False))
    for port in config.spec.drawn:
        given[port] = given.get(port) or f"drawn_{port}"
    node = helper.make_node(
        op.name, list(given.values()), [call.output[1]], call.name, op.doc, DOMAIN
    )
    node.attribute.extend(call.attribute)
    return node


def _with_function(
    model: onnx.ModelProto, config: LossConfig, call: onnx.NodeProto
) -> onnx.NodeProto:
    """The node, whose function is in the model; around it one more where it cannot stand alone.

    That is where the model has a function of its name with other inputs, and where an attribute
    has more than the 32 bits that ONNX Runtime keeps of an integer in a registered gradient.
    """
    nodes = called_or_written_out(model, config.spec, call)
    if nodes == [call] and all(-(2**31) <= entry.i < 2**31 for entry in call.attribute):
        return call
    inputs = [name for name in call.input if name]
    name = f"{call.op_type}_{_digest(repr(_texts(nodes)))}"
    _add_function(model, name, inputs, call.output, nodes)
    return helper.make_node(name, inputs, call.output, domain=TRAINING_DOMAIN)


def _shared(
    model: onnx.ModelProto,
    constants: Sequence[onnx.TensorProto],
    both: onnx.ModelProto,
    wanted: Collection[str],
) -> dict[str, str]:
    """The model's names of the wanted initializers of `both`; those that it lacks are added."""
    there = {_content(tensor): tensor.name for tensor in constants}
    taken = value_names(model.graph)
    names = {}
    for tensor in both.graph.initializer:
        if tensor.name in wanted:
            content = _content(tensor)
            if content not in there:
                there[content] = free_name(tensor.name, taken)
                model.graph.initializer.add().CopyFrom(tensor)
                model.graph.initializer[-1].name = there[content]
            names[tensor.name] = there[content]
    return names


def _add_function(
    model: onnx.ModelProto,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
) -> None:
    """Adds a function of `TRAINING_DOMAIN`, if it is not there from an equal loss."""
    if any((made.domain, made.name) == (TRAINING_DOMAIN, name) for made in model.functions):
        return
    used = {node.domain for node in nodes}
    imports = [opset for opset in model.opset_import if opset.domain in used | {"", "ai.onnx"}]
    model.functions.append(
        helper.make_function(TRAINING_DOMAIN, name, inputs, outputs, nodes, imports)
    )
    if all(opset.domain != TRAINING_DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(TRAINING_DOMAIN, 1))


def _definition(
    node: onnx.NodeProto, known: Mapping[str, str], terms: Mapping[str, str]
) -> NodeDefinition:
    attributes = []
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        value = value.decode() if isinstance(value, bytes) else value
        attributes.append((attribute.name, value, _ATTRIBUTE_TYPES[attribute.type]))
    inputs, outputs = (
        tuple(terms.get(known.get(name, name), name) for name in names)
        for names in (node.input, node.output)
    )
    return NodeDefinition(node.domain, node.op_type, inputs, outputs, tuple(attributes))


def _read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """What the nodes read and do not make."""
    read = {name for node in nodes for name in node.input if name}
    return read - {name for node in nodes for name in node.output}


def _content(tensor: onnx.TensorProto) -> bytes:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("name")
    return copy.SerializeToString(deterministic=True)


def _texts(nodes: Sequence[onnx.NodeProto]) -> list[bytes]:
    return [node.SerializeToString(deterministic=True) for node in nodes]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
