# SPDX-License-Identifier: MIT
"""What stands behind a loss: its sign, its mask and its reduction, taken into the operator."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ..config import NO_IGNORED_LABEL
from .emit import (
    HARD,
    NoLossError,
    UnfitError,
    constant,
    is_fused,
    reduced,
    scalar,
    shape_of,
    with_attributes,
    with_shape,
)
from .operators import attribute_of
from .rules import State, rule

_MOVES = ("Squeeze", "Unsqueeze", "Reshape", "Transpose")
"""What moves the losses of the positions, but changes none."""

_REDUCTIONS = ("ReduceMean", "ReduceSum")
_PRODUCTS = ("Mul", "Div")
_LINEAR = (*_MOVES, *_REDUCTIONS, *_PRODUCTS)
"""What gives the negated result for a negated first input."""


def rules(state: State) -> list[Any]:
    """All of them."""
    return [
        # Before the sign moves past a factor in general.
        rule(state, _times_minus_one_pattern, _times_minus_one),
        *(rule(state, _of_negated(name), _moved_out) for name in (*_MOVES, *_REDUCTIONS)),
        *(rule(state, _product_of_negated(name), _moved_out) for name in _PRODUCTS),
        rule(state, _negated_pattern, _plain),
        rule(state, _plus_zero_pattern, _plus_zero),
        rule(state, _squeezed_pattern, _squeezed),
        rule(state, _reshaped_pattern, _reshaped),
        rule(state, _masked_pattern, _masked, keep=True),
        rule(state, _shape_pattern, _shape),
        rule(state, _squeezed_mean_pattern, _squeezed_mean),
        *(rule(state, _reduced(name), _over_positions) for name in _REDUCTIONS),
    ]


def _of_negated(name: str) -> Any:
    def pattern(op: Any, loss: Any) -> Any:
        return getattr(op, name)(op.Neg(loss), _allow_other_inputs=True, _outputs=["root"])

    return pattern


def _product_of_negated(name: str) -> Any:
    def pattern(op: Any, loss: Any, other: Any) -> Any:
        return getattr(op, name)(op.Neg(loss), other, _outputs=["root"])

    return pattern


def _moved_out(op: Any, loss: ir.Value, root: ir.Value, other: ir.Value | None = None) -> ir.Value:
    _loss_behind(loss)
    node = root.producer()
    assert node is not None
    if other is not None and node.inputs[0] is node.inputs[1]:
        raise NoLossError("the loss meets itself")
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    others = node.inputs[1:] if other is None else [other]
    made = getattr(op, node.op_type)(loss, *others, **attributes)
    made.type, made.shape = root.type, root.shape
    return op.Neg(made)


def _negated_pattern(op: Any, loss: Any) -> Any:
    return op.Neg(op.Neg(loss), _outputs=["root"])


def _plain(op: Any, loss: ir.Value, root: ir.Value) -> ir.Value:
    _loss_behind(loss)
    return op.Identity(loss)


def _times_minus_one_pattern(op: Any, loss: Any, factor: Any) -> Any:
    return op.Mul(op.Neg(loss), factor, _outputs=["root"])


def _times_minus_one(op: Any, loss: ir.Value, factor: ir.Value, root: ir.Value) -> ir.Value:
    return _if_constant(op, loss, factor, -1.0)


def _plus_zero_pattern(op: Any, loss: Any, term: Any) -> Any:
    return op.Add(loss, term, _outputs=["root"])


def _plus_zero(op: Any, loss: ir.Value, term: ir.Value, root: ir.Value) -> ir.Value:
    return _if_constant(op, loss, term, 0.0)


def _if_constant(op: Any, loss: ir.Value, other: ir.Value, wanted: float) -> ir.Value:
    """The loss, where it meets one number that changes nothing."""
    _loss_behind(loss)
    value = constant(other)
    if value is None or scalar(other) != wanted:
        raise NoLossError(f"the loss meets something else than {wanted:g}")
    if value.ndim > len(shape_of(loss)):
        raise NoLossError("the loss gets another shape")
    return op.Identity(loss)


def _squeezed_pattern(op: Any, loss: Any, added: Any, gone: Any) -> Any:
    return op.Squeeze(op.Unsqueeze(loss, added), gone, _outputs=["root"])


def _squeezed(op: Any, loss: ir.Value, added: ir.Value, gone: ir.Value, root: ir.Value) -> ir.Value:
    _loss_behind(loss)
    rank = len(shape_of(loss)) + 1
    first, second = scalar(added), scalar(gone)
    if first is None or second is None or (first - second) % rank:
        raise NoLossError("another axis is squeezed than was added")
    return op.Identity(loss)


def _reshaped_pattern(op: Any, loss: Any, shape: Any) -> Any:
    return op.Reshape(loss, shape, _outputs=["root"])


def _reshaped(op: Any, loss: ir.Value, shape: ir.Value, root: ir.Value) -> ir.Value:
    """What has one axis and keeps one stays as it is; tf2onnx writes it so."""
    _loss_behind(loss)
    if len(shape_of(loss)) != 1 or len(shape_of(root)) != 1:
        raise NoLossError("there are other axes")
    return op.Identity(loss)


def _masked_pattern(op: Any, label: Any, ignored: Any, logits: Any, zero: Any, nothing: Any) -> Any:
    counts = op.Not(op.Equal(label, ignored))
    labels = op.Where(counts, label, zero)
    loss = op.SoftmaxCrossEntropyLoss(logits, labels, _domain="onnxloss", _outputs=["loss"])
    return op.Where(counts, loss, nothing, _outputs=["root"])


def _masked(
    op: Any,
    label: ir.Value,
    ignored: ir.Value,
    logits: ir.Value,
    zero: ir.Value,
    nothing: ir.Value,
    loss: ir.Value,
    root: ir.Value,
) -> ir.Value:
    """PyTorch's decomposition: an ignored label counts as class 0 and its loss as 0."""
    node, value = loss.producer(), scalar(ignored)
    assert node is not None
    if not is_fused(node):
        raise NoLossError("the loss was there before")
    if value is None or scalar(nothing) != 0:
        raise UnfitError("what is ignored is not known")
    if attribute_of(node, "ignore_index", 0) != NO_IGNORED_LABEL:
        raise UnfitError("it ignores a label already")
    if attribute_of(node, "reduction", "") != "none":
        raise UnfitError("it is reduced already")
    return with_attributes(op, node, [logits, label], ignore_index=int(value))


def _shape_pattern(op: Any, loss: Any) -> Any:
    return op.Shape(loss, _outputs=["root"])


def _shape(op: Any, loss: ir.Value, root: ir.Value) -> ir.Value:
    """The shape of the labels, so that a loss that is only counted is not in the way."""
    node = loss.producer()
    part = root.producer()
    assert part is not None
    if not is_fused(node) or "end" in part.attributes or attribute_of(part, "start", 0):
        raise NoLossError("it is not the whole shape of a loss")
    assert node is not None
    if attribute_of(node, "reduction", "") != "none":
        raise UnfitError("the loss is reduced")
    if node.op_type == HARD:
        return op.Shape(node.inputs[1])
    if attribute_of(node, "axis", 1) != len(shape_of(loss)):
        raise UnfitError("the class axis is not the last")
    return op.Shape(node.inputs[0], end=-1)


def _squeezed_mean_pattern(op: Any, loss: Any) -> Any:
    return op.Squeeze(op.ReduceMean(loss, keepdims=1, _outputs=["mean"]), _outputs=["root"])


def _squeezed_mean(op: Any, loss: ir.Value, mean: ir.Value, root: ir.Value) -> ir.Value:
    """torch.onnx writes a mean over all axes so."""
    _loss_behind(loss)
    if attribute_of(mean.producer(), "noop_with_empty_axes", 0):  # type: ignore[arg-type]
        raise UnfitError("ReduceMean does nothing")
    return with_shape(op.ReduceMean(loss, keepdims=0), (), loss)


def _reduced(name: str) -> Any:
    def pattern(op: Any, losses: Any) -> Any:
        return getattr(op, name)(losses, _allow_other_inputs=True, _outputs=["root"])

    return pattern


def _over_positions(op: Any, losses: ir.Value, root: ir.Value) -> ir.Value:
    node = root.producer()
    assert node is not None
    loss = _loss_behind(losses, _MOVES)
    if attribute_of(loss, "reduction", "") != "none":
        raise UnfitError("the loss is reduced already")
    if not _is_over_all(node, losses):
        raise UnfitError("the loss is reduced over some of its axes only")
    value: ir.Value | None = losses
    while value is not None and value.producer() is not loss:
        _check_used_once(value)
        inner = value.producer()
        value = None if inner is None else inner.inputs[0]
    _check_used_once(loss.outputs[0])
    result = reduced(op, loss, "mean" if node.op_type == "ReduceMean" else "sum")
    if losses.dtype == result.dtype or losses.dtype is None:
        return result
    return with_shape(op.Cast(result, to=int(losses.dtype)), (), losses)


def _is_over_all(reduce: ir.Node, losses: ir.Value) -> bool:
    if attribute_of(reduce, "keepdims", 1):
        return False
    axes = reduce.inputs[1] if len(reduce.inputs) > 1 else None
    values = None if axes is None else constant(axes)
    if axes is None or (values is not None and values.size == 0):
        return not attribute_of(reduce, "noop_with_empty_axes", 0)
    rank = len(shape_of(losses))
    return values is not None and len({int(axis) % rank for axis in values.reshape(-1)}) == rank


def _check_used_once(value: ir.Value) -> None:
    if len(value.uses()) > 1 or value.is_graph_output():
        raise UnfitError("the losses of the positions are used elsewhere too")


def _is_float_cast(node: ir.Node) -> bool:
    to = attribute_of(node, "to", ir.DataType.UNDEFINED)
    return node.op_type == "Cast" and ir.DataType(to).is_floating_point()


def _loss_behind(value: ir.Value, through: tuple[str, ...] = _LINEAR) -> ir.Node:
    """The node of ours that the value is made of by the operators `through`."""
    node = value.producer()
    while node is not None and not is_fused(node):
        inner = node.inputs[0] if node.inputs else None
        passes = node.op_type in (*through, "Identity") or _is_float_cast(node)
        node = inner.producer() if passes and inner is not None else None
    if node is None:
        raise NoLossError("it is not of a loss")
    return node
