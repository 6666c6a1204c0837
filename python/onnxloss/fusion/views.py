# SPDX-License-Identifier: MIT
"""What stands between logits and what picks their log-probabilities, out of the way."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from ..layout import Shape
from .emit import NoLossError, UnfitError, constant, shape_of, with_shape
from .operators import class_axis
from .rules import State, rule


def rules(state: State) -> list[Any]:
    """All of them."""
    return [
        rule(state, _log_of_softmax_pattern, _log_of_softmax),
        rule(state, _reshaped_pattern, _reshaped),
        rule(state, _expanded_pattern, _expanded, keep=True),
        rule(state, _shape_pattern, _shape, keep=True),
    ]


def _log_of_softmax_pattern(op: Any, logits: Any) -> Any:
    return op.Log(op.Softmax(logits, _outputs=["p"]), _outputs=["root"])


def _log_of_softmax(op: Any, logits: ir.Value, p: ir.Value, root: ir.Value) -> ir.Value:
    return with_shape(op.LogSoftmax(logits, axis=class_axis(p)), shape_of(p), logits)


def _reshaped_pattern(op: Any, logits: Any, shape: Any) -> Any:
    return op.Reshape(op.LogSoftmax(logits, _outputs=["log_p"]), shape, _outputs=["root"])


def _reshaped(
    op: Any, logits: ir.Value, log_p: ir.Value, shape: ir.Value, root: ir.Value
) -> ir.Value:
    """The log-softmax of what is reshaped: the class axis is not torn apart."""
    given, axis = shape_of(logits), class_axis(log_p)
    target, inner = _sizes(shape, given), _product(given[axis + 1 :])
    for place, size in enumerate(target):
        # The product of the sizes behind it says where the class axis is now.
        if size == given[axis] and inner is not None and _product(target[place + 1 :]) == inner:
            made = with_shape(op.Reshape(logits, shape), target, logits)
            return with_shape(op.LogSoftmax(made, axis=place), target, logits)
    raise UnfitError("LogSoftmax is reshaped across its class axis")


def _sizes(shape: ir.Value, given: Shape) -> Shape:
    """The sizes that a Reshape gives, with None for what is not known."""
    sizes = constant(shape)
    if sizes is None or (sizes == 0).any():
        raise UnfitError("LogSoftmax is reshaped to a shape that is not known")
    total, known = _product(given), math.prod(int(size) for size in sizes if size > 0)
    rest = None if total is None else total // known
    return tuple(int(size) if size > 0 else rest for size in sizes)


def _product(sizes: Shape) -> int | None:
    """The product of sizes that are all known."""
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _expanded_pattern(op: Any, value: Any, sized: Any, least: Any) -> Any:
    return op.Expand(value, op.Max(op.Shape(sized), least), _outputs=["root"])


def _expanded(
    op: Any, value: ir.Value, sized: ir.Value, least: ir.Value, root: ir.Value
) -> ir.Value:
    """paddle2onnx expands what is gathered to the larger of its own sizes and known ones."""
    node = value.producer()
    same = node is not None and node.op_type == "LogSoftmax" and node.inputs[0] is sized
    if sized is not value and not same:
        raise NoLossError("it is expanded to another value's shape")
    sizes, shape = constant(least), shape_of(value)
    if sizes is None or len(sizes) != len(shape):
        raise UnfitError("it is expanded to a shape that is not known")
    for size, least_size in zip(shape, sizes, strict=True):
        if least_size > 1 and size != least_size:
            raise UnfitError("it is expanded to a larger shape")
    return op.Identity(value)


def _shape_pattern(op: Any, logits: Any) -> Any:
    return op.Shape(op.LogSoftmax(logits), _outputs=["root"])


def _shape(op: Any, logits: ir.Value, root: ir.Value) -> ir.Value:
    """The same shape from the logits, so that it is no use of the log-probabilities."""
    attributes = root.producer().attributes  # type: ignore[union-attr]
    return op.Shape(logits, **{name: entry.value for name, entry in attributes.items()})
