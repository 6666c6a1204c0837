# SPDX-License-Identifier: MIT
"""Keras's losses of probabilities: the logarithms of what is clipped, divided by its sum or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ..calls import in_floats
from ..onnxscript_defs import DOMAIN
from .emit import (
    HARD,
    SOFT,
    NoLossError,
    UnfitError,
    constant,
    is_fused,
    shape_of,
    with_attributes,
    with_shape,
)
from .forms import reduced_axes, weighted_sum
from .operators import attribute_of
from .rules import State, rule


def rules(state: State) -> list[Any]:
    """All of them."""
    return [
        rule(state, _categorical_pattern, _categorical),
        *(rule(state, _loss(name), _sparse) for name in (HARD, SOFT)),
    ]


def _categorical_pattern(op: Any, clipped: Any, weights: Any, axes: Any) -> Any:
    return op.ReduceSum(op.Mul(weights, op.Log(clipped)), axes, _outputs=["root"])


def _categorical(
    op: Any, clipped: ir.Value, weights: ir.Value, axes: ir.Value, root: ir.Value
) -> ir.Value:
    """Keras's categorical losses, which divide each row by its sum first."""
    quotients, epsilon = _clipped(clipped)
    numbers, axis = _divided_by_sum(quotients)
    settings = {"from_logits": 0, "normalize": "before_clip", "epsilon": epsilon}
    form = "Log of clipped shares"
    return weighted_sum(op, numbers, weights, axes, root, form, axis=axis, **settings)


def _loss(name: str) -> Any:
    def pattern(op: Any, logits: Any) -> Any:
        loss = getattr(op, name)
        return loss(logits, _allow_other_inputs=True, _domain=DOMAIN, _outputs=["root"])

    return pattern


def _sparse(op: Any, logits: ir.Value, root: ir.Value) -> ir.Value:
    """Keras's sparse losses, a softmax of logarithms: numbers divided by their sum."""
    node = root.producer()
    if node is None or not is_fused(node) or attribute_of(node, "from_logits", 1) != 1:
        raise NoLossError("it is no loss of logits")
    logarithms, shape = _before_reshape(logits)
    log = logarithms.producer()
    if log is None or log.op_type != "Log":
        raise NoLossError("its logits are no logarithms")
    numbers, epsilon = _clipped(log.inputs[0])
    if shape is not None:
        numbers = with_shape(op.Reshape(numbers, shape), shape_of(logits), numbers)
    high, low = in_floats(epsilon)
    settings = {"from_logits": 0, "normalize": "after_clip", "epsilon": high, "epsilon_low": low}
    return with_attributes(op, node, [numbers, *node.inputs[1:]], **settings)


def _before_reshape(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """What is reshaped, and to which shape, if it is at all."""
    node = value.producer()
    if node is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return value, None
    return node.inputs[0], node.inputs[1]


def _clipped(value: ir.Value | None) -> tuple[ir.Value, float]:
    """What is clipped to [epsilon, 1 - epsilon], and epsilon."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Clip" and len(node.inputs) == 3:
        numbers, *bounds = node.inputs
        least, most = map(constant, bounds)
    else:
        lowered, least = _with_constant(value, "Max")
        numbers, most = _with_constant(lowered, "Min")
    if numbers is None or least is None or most is None or least.size != 1 or most.size != 1:
        raise NoLossError("nothing is clipped")
    epsilon = least.item()
    if not epsilon > 0 or most.item() != least.dtype.type(1 - epsilon):
        raise UnfitError(
            f"its input is clipped to [{epsilon:g}, {most.item():g}], not to "
            "[epsilon, 1 - epsilon] as Keras does"
        )
    return numbers, epsilon


def _with_constant(
    value: ir.Value | None, op_type: str
) -> tuple[ir.Value | None, np.ndarray | None]:
    """The inputs of an operator of two, of which one is a constant."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or len(node.inputs) != 2:
        return None, None
    left, right = node.inputs
    return (left, constant(right)) if constant(left) is None else (right, constant(left))


def _divided_by_sum(value: ir.Value) -> tuple[ir.Value, int]:
    """What is divided by its sum along an axis, and the axis."""
    division = value.producer()
    numbers, total = division.inputs if division and division.op_type == "Div" else (None, None)
    node = None if total is None else total.producer()
    if numbers is None or node is None or node.op_type != "ReduceSum":
        raise NoLossError("nothing is divided by a sum")
    along = node.inputs[1] if len(node.inputs) > 1 else None
    axes = reduced_axes(along, len(shape_of(numbers))) or []
    if node.inputs[0] is not numbers or not attribute_of(node, "keepdims", 1) or len(axes) != 1:
        raise NoLossError("it is not divided by its own sum along one axis")
    return numbers, axes[0]
