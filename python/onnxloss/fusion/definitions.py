# SPDX-License-Identifier: MIT
"""What ONNX Runtime's training operators compute, in standard operators.

Only onnxruntime-training has kernels for them. A model that has them can be compared with the
fused one in any ONNX Runtime with these functions, taken from the operators' documentation.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from ..writer import free_name

_DOMAIN = "onnxloss.definitions"

_GRADIENT = """
<opset_import: ["" : 19], domain: "onnxloss.definitions">
Gradient (dloss, log_p, labels, weights, ignored) => (dlogits)
{
    class_axis = Constant <value_ints: ints = [1]> ()
    is_ignored = Equal (labels, ignored)
    none = Sub (labels, labels)
    target = Where (is_ignored, none, labels)
    picked = Gather (weights, target)
    zero = CastLike (none, log_p)
    weight = Where (is_ignored, zero, picked)
    total = ReduceSum <keepdims: int = 0> (weight)
    scale = SCALE
    on_axis = Unsqueeze (scale, class_axis)
    index = Unsqueeze (target, class_axis)
    p = Exp (log_p)
    one = Exp (zero)
    minus_one = Neg (one)
    update = Unsqueeze (minus_one, class_axis)
    direction = ScatterElements <axis: int = 1, reduction: string = "add"> (p, index, update)
    dlogits = Mul (direction, on_axis)
}
"""
_MEAN = "    each = Div (weight, total)\n    scale = Mul (each, dloss)"

_GRADIENTS = ("SoftmaxCrossEntropyLossGrad", "SoftmaxCrossEntropyLossInternalGrad")
_LOSS = "SoftmaxCrossEntropyLossInternal"


def with_definitions(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with functions for these operators, or None where it has none of them."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    nodes: list[onnx.NodeProto] = []
    found = [
        node
        for node in model.graph.node
        if node.domain == "com.microsoft" and node.op_type in (*_GRADIENTS, _LOSS)
    ]
    if not found:
        return None
    for node in result.graph.node:
        if node not in found:
            nodes.append(node)
        elif node.op_type == _LOSS:
            nodes.append(_public_loss(result, node))
        else:
            nodes.extend(_gradient_nodes(result, node, taken))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.functions.extend(_gradient_function(name) for name in sorted({*map(_reduction, found)}))
    result.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return result


def _gradient_function(reduction: str) -> onnx.FunctionProto:
    text = _GRADIENT.replace("    scale = SCALE", _MEAN)
    if reduction != "mean":
        text = _GRADIENT.replace("SCALE", "Mul (weight, dloss)")
    function = onnx.parser.parse_function(text)
    function.name = f"Gradient_{reduction}"
    return function


def _public_loss(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.NodeProto:
    """ONNX Runtime's internal loss as ai.onnx's, whose ignore_index is an attribute."""
    inputs = list(node.input[:3])
    made = helper.make_node(
        "SoftmaxCrossEntropyLoss", inputs, list(node.output), reduction=_reduction(node)
    )
    if len(node.input) > 3 and node.input[3]:
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        value = onnx.numpy_helper.to_array(constants[node.input[3]]).item()
        made.attribute.append(helper.make_attribute("ignore_index", value))
    return made


def _gradient_nodes(
    model: onnx.ModelProto, node: onnx.NodeProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """The call of the function, with a weight for each class and an ignored label."""
    dloss, log_p, labels, *others = node.input
    inner = "InternalGrad" in node.op_type
    nodes = []
    if others and others[0]:
        weights = others[0]
    else:
        steps = ("shape", "zeros", "typed", "weights")
        shape, zeros, typed, weights = (free_name(f"{log_p}.{step}", taken) for step in steps)
        nodes = [
            helper.make_node("Shape", [log_p], [shape], start=1, end=2),
            helper.make_node("ConstantOfShape", [shape], [zeros]),
            helper.make_node("CastLike", [zeros, log_p], [typed]),
            helper.make_node("Exp", [typed], [weights]),
        ]
    if inner and len(others) > 1 and others[1]:
        ignored = others[1]
    else:
        ignored = free_name(f"{log_p}.ignored", taken)
        value = _attribute(node, "ignore_index", -(2**31) + 1)
        constant = free_name(f"{log_p}.ignored_value", taken)
        model.graph.initializer.append(
            helper.make_tensor(constant, onnx.TensorProto.INT64, [], [value])
        )
        nodes.append(helper.make_node("CastLike", [constant, labels], [ignored]))
    call = helper.make_node(
        f"Gradient_{_reduction(node)}",
        [dloss, log_p, labels, weights, ignored],
        list(node.output),
        domain=_DOMAIN,
    )
    return [*nodes, call]


def _reduction(node: onnx.NodeProto) -> str:
    return str(_attribute(node, "reduction", b"mean").decode())


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
