# SPDX-License-Identifier: MIT
"""TensorFlow's means: the sum over the number of positions, and 0 where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .emit import HARD, NoLossError, UnfitError, constant, is_fused, scalar, with_attributes
from .operators import attribute_of
from .rules import State, rule


def rules(state: State) -> list[Any]:
    """The one of them."""
    return [rule(state, _mean_pattern, _mean)]


def _mean_pattern(op: Any, loss: Any, count: Any, none: Any, zero: Any) -> Any:
    return op.Where(op.Equal(count, none), zero, op.Div(loss, count), _outputs=["root"])


def _mean(
    op: Any, loss: ir.Value, count: ir.Value, none: ir.Value, zero: ir.Value, root: ir.Value
) -> ir.Value:
    node = loss.producer()
    if node is None or not is_fused(node):
        raise NoLossError("it is not of a loss")
    if attribute_of(node, "reduction", "") != "sum" or len(loss.uses()) > 1:
        raise UnfitError("what is divided is no sum of losses")
    if scalar(none) != 0 or scalar(zero) != 0 or not _counts_positions(count, node):
        raise UnfitError("the sum is not divided by the number of positions")
    return with_attributes(
        op, node, list(node.inputs), reduction="mean", mean_over="positions", empty_mean="zero"
    )


def _counts_positions(count: ir.Value, loss: ir.Node) -> bool:
    """Whether a number is the product of the sizes of the loss's positions.

    Keras multiplies them, tf.compat.v1.losses adds up as many ones.
    """
    node = _before_casts(count)
    if node is None:
        return False
    if node.op_type == "ReduceProd":
        sizes = _before_casts(node.inputs[0])
        if sizes is not None and sizes.op_type == "Slice" and _is_whole(sizes):
            sizes = _before_casts(sizes.inputs[0])
        return _is_shape_of_positions(sizes, loss)
    ones = _before_casts(node.inputs[0]) if node.op_type == "ReduceSum" else None
    if ones is None or ones.op_type != "Expand" or scalar(ones.inputs[0]) != 1:
        return False
    return _is_shape_of_positions(_before_casts(ones.inputs[1]), loss)


def _before_casts(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _is_whole(part: ir.Node) -> bool:
    """Whether a Slice of a shape is all of it."""
    source = part.inputs[0]
    start, end, *others = (constant(value) for value in part.inputs[1:])
    if source is None or source.shape is None or start is None or end is None:
        return False
    size = source.shape[0]
    steps = others[1] if len(others) > 1 else np.ones(1)
    is_forward = steps is not None and (steps == 1).all()
    return bool(is_forward and isinstance(size, int) and start.item() == 0 and end.item() >= size)


def _is_shape_of_positions(shape: ir.Node | None, loss: ir.Node) -> bool:
    """Whether the node is the Shape that `outward` gives for the losses of the positions."""
    if shape is None or shape.op_type != "Shape":
        return False
    if loss.op_type == HARD:
        return shape.inputs[0] is loss.inputs[1] and not shape.attributes
    return shape.inputs[0] is loss.inputs[0] and attribute_of(shape, "end", 0) == -1
