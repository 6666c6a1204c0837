# SPDX-License-Identifier: MIT
"""What of a model looks like a softmax cross entropy and was left as it is, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from .emit import is_fused
from .operators import described_uses
from .rules import State

_LOSSES = (
    "SoftmaxCrossEntropyLoss",
    "NegativeLogLikelihoodLoss",
    "SoftmaxCrossEntropyLossInternal",
    "SoftmaxCrossEntropyLossGrad",
    "SoftmaxCrossEntropyLossInternalGrad",
)


@dataclass(frozen=True)
class Left:
    """A node that was left alone: its operator, the name of its output, and the reason."""

    op_type: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f'{self.op_type} "{self.name}": {self.reason}'


def left_alone(graph: ir.Graph, state: State) -> list[Left]:
    """The nodes of a graph that compute a loss, or log-probabilities, still."""
    found = []
    for node in graph.all_nodes():
        name = node.outputs[0].name or "" if node.outputs else ""
        if node.op_type in _LOSSES and node.domain in ("", "com.microsoft"):
            reason = state.reasons.get(name) or _reason(node, state)
        elif node.op_type == "LogSoftmax" and node.domain == "":
            reason = _reason_behind(node, state) or _reason(node, state)
        elif node.op_type == "Log" and (behind := _reason_behind(node, state)):
            reason = behind
        else:
            continue
        found.append(Left(node.op_type, name, reason))
    return found


def _reason_behind(log_softmax: ir.Node, state: State) -> str | None:
    """Why the form that begins here was no loss, if a form was found at all."""
    if len(log_softmax.outputs[0].uses()) != 1:
        return None
    for value in _behind(log_softmax.outputs[0], steps=3):
        if value.name in state.reasons:
            return state.reasons[value.name]
    return None


def _behind(value: ir.Value, steps: int) -> Iterator[ir.Value]:
    for user, _ in value.uses():
        for output in user.outputs:
            yield output
            if steps > 1:
                yield from _behind(output, steps - 1)


def _reason(node: ir.Node, state: State) -> str:
    output = node.outputs[0]
    users = [user for user, _ in output.uses()]
    if node.graph is not state.graph:
        return "it is in a branch, a loop or a function"
    if node.op_type != "LogSoftmax":
        return "its log-probabilities are not those of a LogSoftmax that feeds nothing else"
    if len(users) + output.is_graph_output() > 1:
        return f"it {described_uses(output)}, and has to be computed anyway"
    if output.is_graph_output():
        return "it is an output of the model"
    if users and is_fused(users[0]):
        return "it feeds a loss as its logits"
    return f"it {described_uses(output)}: no form of a loss that is known"
