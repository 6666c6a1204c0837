# SPDX-License-Identifier: MIT
"""Tells what is the one-hot form of labels, as exporters write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .emit import constant, scalar, shape_of, squeezed, with_shape
from .operators import attribute_of


def one_hot_labels(op: Any, value: ir.Value, classes: Any, axis: int) -> ir.Value | None:
    """The labels that `value` is the one-hot form of, with its classes on `axis`."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type in ("Cast", "Identity"):
        return one_hot_labels(op, node.inputs[0], classes, axis)  # type: ignore[arg-type]
    if node.op_type == "Reshape":
        return _flat_labels(op, node, classes, axis)
    if node.op_type == "OneHot":
        return _labels_of_one_hot(node, classes, axis)
    if node.op_type == "Equal":
        left, right = node.inputs
        for labels, numbers in ((left, right), (right, left)):
            values = constant(numbers)
            last = axis == len(shape_of(value)) - 1
            counted = values is not None and np.array_equal(values, np.arange(classes or 0))
            if labels is not None and last and counted and shape_of(labels)[-1] == 1:
                return squeezed(op, labels, axis)
    return None


def _labels_of_one_hot(node: ir.Node, classes: Any, axis: int) -> ir.Value | None:
    labels, depth, values = node.inputs
    off_and_on = constant(values)
    if labels is None or scalar(depth) is None or off_and_on is None:
        return None
    if scalar(depth) != classes or off_and_on.tolist() != [0, 1]:
        return None
    given = shape_of(labels)
    return labels if attribute_of(node, "axis", -1) % (len(given) + 1) == axis else None


def _flat_labels(op: Any, reshape: ir.Node, classes: Any, axis: int) -> ir.Value | None:
    """The labels in one row, where their one-hot form has all positions in one row."""
    one_hot, target = reshape.inputs
    sizes = constant(target)
    if one_hot is None or sizes is None or sizes.tolist() != [-1, classes] or axis != 1:
        return None
    rank = len(shape_of(one_hot))
    labels = one_hot_labels(op, one_hot, classes, rank - 1)
    if labels is None or rank == 2:
        return labels
    return with_shape(op.Reshape(labels, op.Constant(value_ints=[-1])), (None,), labels)
