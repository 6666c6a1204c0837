# SPDX-License-Identifier: MIT
"""Losses written as several operators: what picks or weighs the log-probabilities of classes.

Each of them has the *negated* loss of every position for a result; where the sign goes is the
business of `outward`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ..layout import Shape
from .emit import (
    UnfitError,
    constant,
    hard_loss,
    scalar,
    shape_of,
    soft_loss,
    squeezed,
    with_shape,
)
from .one_hot import one_hot_labels
from .operators import attribute_of, class_axis, described_uses
from .rules import State, rule


def rules(state: State) -> list[Any]:
    """All of them."""
    return [
        rule(state, _gather_elements_pattern, _gather_elements),
        rule(state, _gather_nd_pattern, _gather_nd),
        rule(state, _flat_gather_pattern, _flat_gather, keep=True),
        rule(state, _weighted_sum_pattern, _weighted_sum),
        rule(state, _exp_ratio_pattern, _exp_ratio),
        rule(state, _lse_pattern, _lse),
    ]


def _gather_elements_pattern(op: Any, logits: Any, indices: Any) -> Any:
    log_p = op.LogSoftmax(logits, _outputs=["log_p"])
    return op.GatherElements(log_p, indices, _outputs=["root"])


def _gather_elements(
    op: Any, logits: ir.Value, log_p: ir.Value, indices: ir.Value, root: ir.Value
) -> ir.Value:
    axis, shape = class_axis(log_p), shape_of(logits)
    if attribute_of(root.producer(), "axis", 0) % len(shape) != axis:  # type: ignore[arg-type]
        raise UnfitError("GatherElements has another axis than LogSoftmax")
    _check_positions(shape_of(indices), shape, axis)
    labels = squeezed(op, indices, axis)
    loss = hard_loss(op, logits, labels, "LogSoftmax + GatherElements", axis=axis)
    return _negated(op, _unsqueezed(op, loss, axis))


def _gather_nd_pattern(op: Any, logits: Any, indices: Any) -> Any:
    return op.GatherND(op.LogSoftmax(logits, _outputs=["log_p"]), indices, _outputs=["root"])


def _gather_nd(
    op: Any, logits: ir.Value, log_p: ir.Value, indices: ir.Value, root: ir.Value
) -> ir.Value:
    shape, axis = shape_of(logits), class_axis(log_p)
    batch = attribute_of(root.producer(), "batch_dims", 0)  # type: ignore[arg-type]
    if axis != len(shape) - 1:
        raise UnfitError("GatherND picks along another axis than LogSoftmax's")
    if batch == axis:
        _check_positions(shape_of(indices), shape, axis)
        labels = squeezed(op, indices, axis)
    elif batch == 0 and axis == 1:
        labels = _beside_row_numbers(op, indices, shape)
    else:
        raise UnfitError(f"GatherND has batch_dims {batch}")
    return _negated(op, hard_loss(op, logits, labels, "LogSoftmax + GatherND", axis=axis))


def _beside_row_numbers(op: Any, indices: ir.Value, shape: Shape) -> ir.Value:
    """The labels y of indices (0, y_0), (1, y_1), ..."""
    node = indices.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        raise UnfitError("GatherND does not pick a class of each row")
    rows, labels = node.inputs
    assert rows is not None and labels is not None
    _check_positions(shape_of(rows), shape, axis=1)
    _check_positions(shape_of(labels), shape, axis=1)
    # A batch of a known size has its row numbers as a constant.
    numbers = rows if constant(rows) is not None else squeezed(op, rows, 1)
    if not _counts_up(numbers):
        raise UnfitError("GatherND does not pick a class of each row")
    return squeezed(op, labels, 1)


def _counts_up(value: ir.Value | None) -> bool:
    """Whether the value is 0, 1, 2, ..."""
    numbers = constant(value)
    if numbers is not None:
        return np.array_equal(numbers.reshape(-1), np.arange(numbers.size))
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Range":
        return False
    return (scalar(node.inputs[0]), scalar(node.inputs[2])) == (0, 1)


def _flat_gather_pattern(op: Any, logits: Any, labels: Any, rows: Any, one: Any) -> Any:
    log_p = op.LogSoftmax(logits, _outputs=["log_p"])
    first = op.Mul(rows, op.Gather(op.Shape(logits), one))
    flat = op.Flatten(log_p, axis=2)
    return op.Gather(flat, op.Add(labels, first), axis=0, _outputs=["root"])


def _flat_gather(
    op: Any,
    logits: ir.Value,
    labels: ir.Value,
    log_p: ir.Value,
    rows: ir.Value,
    one: ir.Value,
    root: ir.Value,
) -> ir.Value:
    """TorchScript's exporter numbers all of [N, C] and picks C i + y_i."""
    axis = class_axis(log_p)
    if axis != 1 or scalar(one) != 1 or not _counts_up(rows):
        raise UnfitError("Gather does not pick a class of each row")
    if len(log_p.uses()) > 1 or log_p.is_graph_output():
        raise UnfitError(f"LogSoftmax {described_uses(log_p)}, and has to be computed anyway")
    loss = hard_loss(op, logits, labels, "LogSoftmax + Gather", axis=axis)
    return _negated(op, _unsqueezed(op, loss, axis))


def _weighted_sum_pattern(op: Any, logits: Any, weights: Any, axes: Any) -> Any:
    log_p = op.LogSoftmax(logits, _outputs=["log_p"])
    return op.ReduceSum(op.Mul(weights, log_p), axes, _outputs=["root"])


def _weighted_sum(
    op: Any,
    logits: ir.Value,
    log_p: ir.Value,
    weights: ir.Value,
    axes: ir.Value,
    root: ir.Value,
) -> ir.Value:
    return weighted_sum(op, logits, weights, axes, root, "LogSoftmax", axis=class_axis(log_p))


def weighted_sum(
    op: Any,
    logits: ir.Value,
    weights: ir.Value,
    axes: ir.Value,
    root: ir.Value,
    log_p: str,
    *,
    axis: int,
    **settings: Any,
) -> ir.Value:
    """The negated loss for the sum `root` of weights times what is called `log_p`.

    Args:
        op: The rewriter's builder.
        logits: What the log-probabilities are formed of.
        weights: A one-hot of labels, or probabilities.
        axes: The axes of the sum.
        root: The sum.
        log_p: Where the log-probabilities come from, in words.
        axis: Their class axis.
        settings: Of the loss.
    """
    shape = shape_of(logits)
    product = root.producer().inputs[0].producer()  # type: ignore[union-attr]
    if product is not None and product.inputs[0] is product.inputs[1]:
        raise UnfitError(f"{log_p} is multiplied with itself")
    summed = reduced_axes(axes, len(shape))
    kept = attribute_of(root.producer(), "keepdims", 1)  # type: ignore[arg-type]
    over_all = summed == list(range(len(shape))) and not kept
    if summed != [axis] and not over_all:
        raise UnfitError(f"ReduceSum is along other axes than that of {log_p}")
    labels = one_hot_labels(op, weights, shape[axis], axis)
    if labels is not None:
        given = shape if weights.shape is None else shape_of(weights)
        if not all(map(_is_no_broadcast, given, shape)):
            raise UnfitError(f"one label stands for several rows of {log_p}")
        loss = hard_loss(op, logits, labels, f"one-hot * {log_p}", axis=axis, **settings)
    else:
        given = shape_of(weights)
        if len(given) != len(shape) or not all(map(_is_no_broadcast, given, shape)):
            raise UnfitError(f"what {log_p} is multiplied with has not the logits' shape")
        loss = soft_loss(op, logits, weights, f"probabilities * {log_p}", axis=axis, **settings)
    if over_all:
        return _negated(op, with_shape(op.ReduceSum(loss, keepdims=0), (), loss))
    return _negated(op, _unsqueezed(op, loss, axis) if kept else loss)


def _exp_ratio_pattern(
    op: Any, logits: Any, one_hot: Any, axes: Any, axes_p: Any, axes_sum: Any
) -> Any:
    exp = op.Exp(op.Sub(logits, op.ReduceMax(logits, axes)))
    picked = op.ReduceSum(op.Mul(one_hot, exp), axes_p, _outputs=["picked"])
    total = op.ReduceSum(exp, axes_sum, _outputs=["total"])
    return op.Log(op.Div(picked, total), _outputs=["root"])


def _exp_ratio(
    op: Any,
    logits: ir.Value,
    one_hot: ir.Value,
    axes: ir.Value,
    axes_p: ir.Value,
    axes_sum: ir.Value,
    picked: ir.Value,
    total: ir.Value,
    root: ir.Value,
) -> ir.Value:
    """tf2onnx's sparse loss, which is inf from logit gaps of about 100 on; ours is not."""
    shape = shape_of(logits)
    axis = len(shape) - 1
    if any(reduced_axes(given, len(shape)) != [axis] for given in (axes, axes_p, axes_sum)):
        raise UnfitError("its sums are not along the last axis")
    labels = one_hot_labels(op, one_hot, shape[axis], axis)
    if labels is None:
        raise UnfitError("what picks a class is not a one-hot of labels")
    for value in (picked, total):
        if attribute_of(value.producer(), "keepdims", 1):  # type: ignore[arg-type]
            raise UnfitError("its sums keep their axis")
    return _negated(op, hard_loss(op, logits, labels, "one-hot * Exp / ReduceSum", axis=axis))


def _lse_pattern(op: Any, logits: Any, axes: Any, indices: Any, gone: Any) -> Any:
    lse = op.ReduceLogSumExp(logits, axes, keepdims=0)
    picked = op.GatherElements(logits, indices, _outputs=["picked"])
    return op.Sub(lse, op.Squeeze(picked, gone), _outputs=["root"])


def _lse(
    op: Any,
    logits: ir.Value,
    axes: ir.Value,
    indices: ir.Value,
    gone: ir.Value,
    picked: ir.Value,
    root: ir.Value,
) -> ir.Value:
    shape = shape_of(logits)
    (axis,) = reduced_axes(axes, len(shape)) or [-1]
    gathered = attribute_of(picked.producer(), "axis", 0) % len(shape)  # type: ignore[arg-type]
    if axis != gathered or reduced_axes(gone, len(shape)) != [axis]:
        raise UnfitError("ReduceLogSumExp and GatherElements have not the same axis")
    _check_positions(shape_of(indices), shape, axis)
    labels = squeezed(op, indices, axis)
    return hard_loss(op, logits, labels, "ReduceLogSumExp - GatherElements", axis=axis)


def reduced_axes(axes: ir.Value | None, rank: int) -> list[int] | None:
    """The axes that a reduction names, if they are known, counted from the front."""
    values = constant(axes)
    return None if values is None else sorted(int(axis) % rank for axis in np.atleast_1d(values))


def _check_positions(indices: tuple[Any, ...], shape: tuple[Any, ...], axis: int) -> None:
    """Whether there is one index for each position, as far as the shapes are known."""
    if len(indices) != len(shape) or indices[axis] != 1:
        raise UnfitError("it picks not one class for each position")
    others = zip(np.delete(indices, axis), np.delete(shape, axis), strict=True)
    if not all(_is_no_broadcast(index, size) for index, size in others):
        raise UnfitError("it picks classes of some positions only")


def _may_be_equal(left: Any, right: Any) -> bool:
    return not (isinstance(left, int) and isinstance(right, int) and left != right)


def _is_no_broadcast(given: Any, size: Any) -> bool:
    return _may_be_equal(given, size) and (given != 1 or size == 1)


def _unsqueezed(op: Any, loss: ir.Value, axis: int) -> ir.Value:
    shape = shape_of(loss)
    made = op.Unsqueeze(loss, op.Constant(value_ints=[axis]))
    return with_shape(made, shape[:axis] + (1,) + shape[axis:], loss)


def _negated(op: Any, loss: ir.Value) -> ir.Value:
    return with_shape(op.Neg(loss), shape_of(loss), loss)
