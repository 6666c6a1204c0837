# SPDX-License-Identifier: MIT
"""The losses that are one operator already: ai.onnx's and ONNX Runtime's, and their gradients."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from .emit import UnfitError, hard_gradient, hard_loss, scalar, shape_of
from .rules import State, rule

MICROSOFT = "com.microsoft"
LOSS = "SoftmaxCrossEntropyLoss"
INTERNAL = "SoftmaxCrossEntropyLossInternal"


def rules(state: State) -> list[Any]:
    """The gradients come first: what they read of a loss is not an obstacle to it afterwards."""
    return [
        rule(state, _gradient_pattern, _gradient, keep=True),
        rule(state, _internal_gradient_pattern, _gradient, keep=True),
        rule(state, _nll_pattern, _nll),
        rule(state, _loss_pattern, _loss, keep=True),
        rule(state, _internal_pattern, _loss, keep=True),
    ]


def _loss_pattern(op: Any, logits: Any, labels: Any) -> Any:
    return op.SoftmaxCrossEntropyLoss(logits, labels, _allow_other_inputs=True, _outputs=["root"])


def _internal_pattern(op: Any, logits: Any, labels: Any) -> Any:
    return op.SoftmaxCrossEntropyLossInternal(
        logits, labels, _allow_other_inputs=True, _domain=MICROSOFT, _outputs=["root"]
    )


def _loss(op: Any, logits: ir.Value, labels: ir.Value, root: ir.Value) -> ir.Value:
    node = _producer(root)
    form = f"{node.domain or 'ai.onnx'} {node.op_type}"
    _check_output_type(node, logits)
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        raise UnfitError(f"its output log_prob {described_uses(node.outputs[1])}")
    return hard_loss(
        op,
        logits,
        labels,
        form,
        axis=1,
        ignore_index=_ignore_index(node),
        reduction=_reduction(node),
        class_weights=_input(node, 2),
    )


def _nll_pattern(op: Any, logits: Any, labels: Any) -> Any:
    return op.NegativeLogLikelihoodLoss(
        op.LogSoftmax(logits, _outputs=["log_p"]),
        labels,
        _allow_other_inputs=True,
        _outputs=["root"],
    )


def _nll(op: Any, logits: ir.Value, log_p: ir.Value, labels: ir.Value, root: ir.Value) -> ir.Value:
    if class_axis(log_p) != 1:
        raise UnfitError(
            f"LogSoftmax has axis {class_axis(log_p)}, NegativeLogLikelihoodLoss has its classes "
            "on axis 1"
        )
    node = _producer(root)
    return hard_loss(
        op,
        logits,
        labels,
        "LogSoftmax + NegativeLogLikelihoodLoss",
        axis=1,
        ignore_index=_ignore_index(node),
        reduction=_reduction(node),
        class_weights=_input(node, 2),
    )


def _gradient_pattern(op: Any, dloss: Any, log_p: Any, labels: Any) -> Any:
    return op.SoftmaxCrossEntropyLossGrad(
        dloss, log_p, labels, _allow_other_inputs=True, _domain=MICROSOFT, _outputs=["root"]
    )


def _internal_gradient_pattern(op: Any, dloss: Any, log_p: Any, labels: Any) -> Any:
    return op.SoftmaxCrossEntropyLossInternalGrad(
        dloss, log_p, labels, _allow_other_inputs=True, _domain=MICROSOFT, _outputs=["root"]
    )


def _gradient(
    op: Any, dloss: ir.Value, log_p: ir.Value, labels: ir.Value, root: ir.Value
) -> ir.Value:
    node = _producer(root)
    if _input(node, 5 if node.op_type.endswith("InternalGrad") else 4) is not None:
        raise UnfitError("it adds a bias to the gradient")
    logits = _logits_of(log_p)
    _check_output_type(node, logits)
    return hard_gradient(
        op,
        dloss,
        logits,
        labels,
        f"{node.domain} {node.op_type}",
        ignore_index=_ignore_index(node),
        reduction=_reduction(node),
        class_weights=_input(node, 3),
    )


def _logits_of(log_p: ir.Value) -> ir.Value:
    """What log-probabilities were made of."""
    node = log_p.producer()
    is_loss = node is not None and node.op_type in (LOSS, INTERNAL) and log_p.index() == 1
    is_log_softmax = node is not None and node.op_type == "LogSoftmax"
    if node is None or not (is_loss or (is_log_softmax and class_axis(log_p) == 1)):
        raise UnfitError(f'"{log_p.name}" is not the log-softmax of logits on axis 1')
    return node.inputs[0]  # type: ignore[return-value]  # it has an input


def class_axis(log_p: ir.Value) -> int:
    """The axis of a LogSoftmax, counted from the front."""
    return attribute_of(_producer(log_p), "axis", -1) % len(shape_of(log_p))


def attribute_of(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def described_uses(value: ir.Value) -> str:
    """What a value is used for, in words."""
    names = sorted({user.op_type for user, _ in value.uses()})
    if value.is_graph_output():
        names.append("an output of the model")
    return f"feeds {' and '.join(names)}"


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if len(node.inputs) > position else None


def _reduction(node: ir.Node) -> str:
    return str(attribute_of(node, "reduction", "mean"))


def _check_output_type(node: ir.Node, logits: ir.Value) -> None:
    given = attribute_of(node, "output_type", 0)
    if given and given != logits.dtype:
        raise UnfitError("its result has another dtype than the logits")


def _ignore_index(node: ir.Node) -> int | None:
    """The attribute; ONNX Runtime's internal operators have it as an input."""
    if "Internal" not in node.op_type:
        return attribute_of(node, "ignore_index", None)
    given = _input(node, 4 if node.op_type.endswith("Grad") else 3)
    if given is None:
        return None
    value = scalar(given)
    if value is None:
        raise UnfitError("its ignore_index is not a constant")
    return int(value)
