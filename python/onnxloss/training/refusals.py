# SPDX-License-Identifier: MIT
"""What onnx-ad 0.3 has rules for that give wrong gradients, or leave a part of them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import LossError
from .adjoints import Adjoint, refusal


def _refuse(what: str) -> None:
    raise LossError(
        f"{what} has no derivative here; leave what it depends on out of parameters=[...]"
    )


def _unless_constant(*indices: int) -> Callable[[Adjoint, Any], None]:
    """Refuses an operator whose result depends on a parameter by other inputs too."""

    def check(op: Adjoint, node: Any) -> None:
        for index in indices:
            if len(node.input) > index and node.input[index] and op.wants(node.input[index]):
                _refuse(f'{node.op_type} by its input "{node.input[index]}"')

    return check


refusal("Det")(_unless_constant(0))
refusal("OneHot")(_unless_constant(2))
# The mean and the variance.
refusal("BatchNormalization")(_unless_constant(3, 4))


@refusal("Pad")
def _pad(op: Adjoint, node: Any) -> None:
    _unless_constant(2)(op, node)
    pads = op.constant_ints(1) or op.attributes.get("pads", ())
    if any(pad < 0 for pad in pads):
        _refuse("Pad with negative pads")


@refusal("Slice")
def _slice(op: Adjoint, node: Any) -> None:
    for index in range(1, len(node.input)):
        if node.input[index] and op.constant_ints(index) is None:
            _refuse("Slice whose starts, ends, axes or steps are not constant")


@refusal("LpPool")
def _lp_pool(op: Adjoint, node: Any) -> None:
    if any(op.attributes.get("pads", ())):
        _refuse("LpPool with pads")


@refusal("ReduceL1", "ReduceL2", "ReduceSumSquare")
def _over_no_axes(op: Adjoint, node: Any) -> None:
    """These change each element all the same."""
    if op.attributes.get("noop_with_empty_axes", 0) and not op.constant_ints(1):
        _refuse(f"{node.op_type} with noop_with_empty_axes")


@refusal("Einsum")
def _einsum(op: Adjoint, node: Any) -> None:
    sides = op.attributes["equation"].decode().replace(" ", "").split("->")
    terms = sides[0].split(",")
    for at, (name, term) in enumerate(zip(node.input, terms, strict=True)):
        kept = "".join([*sides[1:], *terms[:at], *terms[at + 1 :]])
        summed = any(letter not in kept for letter in term.replace(".", ""))
        known = all(isinstance(size, int) for size in op.dims(name) or [None])
        if len(sides) > 1 and op.wants(name) and summed and not known:
            _refuse(f'Einsum that sums over "{name}", whose sizes are not all known,')
