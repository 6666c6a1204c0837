# SPDX-License-Identifier: MIT
"""Writes this project's operators into a graph that is being rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ..calls import node_attributes
from ..config import NO_IGNORED_LABEL, LossConfig
from ..dtypes import FLOAT_DTYPES, name_of, onnx_type, stash_dtype
from ..layout import Layout, Shape, layout
from ..onnxscript_defs import DOMAIN, OPSET_VERSION, OpSpec

HARD = "SoftmaxCrossEntropyLoss"
SOFT = "SoftLabelCrossEntropyLoss"

FUSED = f"{DOMAIN}.fused"
"""The mark and the metadata of a node that `fuse` wrote: the form that it stands for."""


class UnfitError(Exception):
    """Why a place that looks like a loss is left as it is."""


class NoLossError(UnfitError):
    """There is no loss behind this place: nothing to tell."""


def hard_loss(
    op: Any,
    logits: ir.Value,
    labels: ir.Value,
    form: str,
    *,
    axis: int,
    ignore_index: int | None = None,
    reduction: str = "none",
    class_weights: ir.Value | None = None,
    **settings: Any,
) -> ir.Value:
    """The loss of integer labels, in the logits' dtype."""
    config = hard_config(axis, ignore_index, reduction, **settings)
    at = _layout(config, logits)
    inputs = [logits, as_index(op, labels), as_stash(op, class_weights, at)]
    return _result(op, config.spec.forward, inputs, form, config, at, at.loss)


def soft_loss(
    op: Any, logits: ir.Value, labels: ir.Value, form: str, *, axis: int, **settings: Any
) -> ir.Value:
    """The loss of label probabilities for each position, in the logits' dtype."""
    config = LossConfig(SOFT, {"axis": axis, "reduction": "none", **settings})
    at = _layout(config, logits)
    return _result(op, config.spec.forward, [logits, labels], form, config, at, at.loss)


def hard_gradient(
    op: Any,
    dloss: ir.Value,
    logits: ir.Value,
    labels: ir.Value,
    form: str,
    *,
    ignore_index: int | None,
    reduction: str,
    class_weights: ir.Value | None,
) -> ir.Value:
    """The gradient of the loss of integer labels on axis 1, in the logits' dtype."""
    config = hard_config(1, ignore_index, reduction)
    at = _layout(config, logits)
    inputs = [as_stash(op, dloss, at), logits, as_index(op, labels)]
    inputs.append(as_stash(op, class_weights, at))
    gradient = _call(
        op, config.spec.grad, inputs, form, node_attributes(config, config.spec.grad, at)
    )
    gradient.type, gradient.shape = logits.type, logits.shape
    return gradient


def hard_config(axis: int, ignore_index: int | None, reduction: str, **settings: Any) -> LossConfig:
    """The settings of ai.onnx's loss: a mean is over the weights of the labels that count."""
    ignored = NO_IGNORED_LABEL if ignore_index is None else ignore_index
    settings |= {"axis": axis, "ignore_index": ignored, "reduction": reduction}
    return LossConfig(HARD, settings)


def reduced(op: Any, loss: ir.Node, reduction: str) -> ir.Value:
    """The loss of a node of ours over all positions: their sum, or it divided by their number."""
    attributes = {name: attribute.value for name, attribute in loss.attributes.items()}
    attributes |= {"reduction": reduction, "mean_over": "positions"}
    inputs = list(loss.inputs)
    value: ir.Value = _node(op, loss.op_type, inputs, attributes, loss.meta[FUSED])
    value.type, value.shape = loss.outputs[0].type, ir.Shape([])
    return value


def with_attributes(op: Any, loss: ir.Node, inputs: list[Any], **changed: Any) -> ir.Value:
    """The loss of a node of ours with other inputs and attributes; its shape stays."""
    attributes = {name: attribute.value for name, attribute in loss.attributes.items()}
    value = _node(op, loss.op_type, inputs, attributes | changed, loss.meta[FUSED])
    value.type, value.shape = loss.outputs[0].type, loss.outputs[0].shape
    return value


def is_fused(node: ir.Node | None) -> bool:
    """Whether `fuse` wrote this node."""
    return node is not None and node.domain == DOMAIN and FUSED in node.meta


def shape_of(value: ir.Value) -> Shape:
    """The shape, with None for what is unknown.

    Raises:
        UnfitError: Not even the rank is known.
    """
    if value.shape is None:
        raise UnfitError(f'the rank of "{value.name}" is unknown')
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def with_shape(value: ir.Value, shape: Shape, like: ir.Value) -> ir.Value:
    """The value, of this shape and the dtype of `like`."""
    value.shape, value.type = ir.Shape(shape), like.type
    return value


def squeezed(op: Any, value: ir.Value, axis: int) -> ir.Value:
    """The value without an axis of size 1; what was unsqueezed for it is taken as it was."""
    shape = shape_of(value)
    node = value.producer()
    if node is not None and node.op_type == "Unsqueeze":
        added = scalar(node.inputs[1])
        if added is not None and int(added) % len(shape) == axis:
            return node.inputs[0]  # type: ignore[return-value]  # Unsqueeze has an input
    made = op.Squeeze(value, op.Constant(value_ints=[axis]))
    return with_shape(made, shape[:axis] + shape[axis + 1 :], value)


def constant(value: ir.Value | None) -> np.ndarray | None:
    """What a value that does not depend on the model's inputs holds, if that is easily seen."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy()
    node = value.producer()
    if node is None:
        return None
    if node.op_type in ("Squeeze", "Identity", "Unsqueeze"):
        inner = constant(node.inputs[0])
        return None if inner is None else inner.reshape(-1)[0] if inner.size == 1 else None
    if node.op_type == "Range":
        bounds = [constant(bound) for bound in node.inputs]
        if all(bound is not None for bound in bounds):
            return np.arange(*(bound.item() for bound in bounds if bound is not None))
    return None


def scalar(value: ir.Value | None) -> float | None:
    """The one number of a value that is a constant, or None."""
    array = constant(value)
    return array.item() if array is not None and array.size == 1 else None


def as_index(op: Any, labels: ir.Value) -> ir.Value:
    """The labels as the operators take them."""
    if labels.dtype in (ir.DataType.INT32, ir.DataType.INT64):
        return labels
    if labels.dtype is None or labels.dtype.is_floating_point():
        raise UnfitError(f'the labels "{labels.name}" are not integers')
    return op.Cast(labels, to=ir.DataType.INT64)


def as_stash(op: Any, value: ir.Value | None, at: Layout) -> ir.Value | None:
    """A value of the logits' dtype in the operators' S."""
    wanted = stash_dtype(at.compute)
    return value if value is None or at.compute == wanted else op.Cast(value, to=onnx_type(wanted))


def _layout(config: LossConfig, logits: ir.Value) -> Layout:
    dtype = name_of(int(logits.dtype or 0))
    if dtype not in FLOAT_DTYPES:
        raise UnfitError(f'the dtype of "{logits.name}" is {dtype}')
    return layout(config, shape_of(logits), dtype=dtype, label_dtype=None)


def _result(
    op: Any,
    spec: OpSpec,
    inputs: list[ir.Value | None],
    form: str,
    config: LossConfig,
    at: Layout,
    shape: Shape,
) -> ir.Value:
    loss = _call(op, spec, inputs, form, node_attributes(config, spec, at))
    stash = stash_dtype(at.compute)
    loss.type, loss.shape = ir.TensorType(ir.DataType(onnx_type(stash))), ir.Shape(shape)
    if stash == at.compute:
        return loss
    return with_shape(op.Cast(loss, to=onnx_type(at.compute)), shape, inputs[0])  # type: ignore[arg-type]


def _call(
    op: Any,
    spec: OpSpec,
    inputs: list[ir.Value | None],
    form: str,
    attributes: Mapping[str, Any],
) -> ir.Value:
    while inputs[-1] is None:
        inputs.pop()
    return _node(op, spec.name, inputs, attributes, form)


def _node(
    op: Any, name: str, inputs: list[Any], attributes: Mapping[str, Any], form: str
) -> ir.Value:
    value: ir.Value = getattr(op, name)(
        *inputs, _domain=DOMAIN, _version=OPSET_VERSION, **attributes
    )
    producer = value.producer()
    assert producer is not None
    # The metadata is for whoever opens the file; a model may have some from before.
    producer.meta[FUSED] = producer.metadata_props[FUSED] = form
    return value
