# SPDX-License-Identifier: MIT
"""A loss and its gradient of the same logits as one node, which reads them once."""

from __future__ import annotations

import onnx_ir as ir

from ..onnxscript_defs import DOMAIN, OPSET_VERSION, find
from .emit import FUSED, HARD, is_fused


def join(graph: ir.Graph) -> None:
    """Joins each gradient with its loss where nothing of the loss is needed before it."""
    spec = find(HARD)
    for gradient in list(graph):
        if not is_fused(gradient) or gradient.op_type != spec.grad.name:
            continue
        for loss in list(graph):
            if is_fused(loss) and loss.op_type == HARD and _belong(loss, gradient):
                _join(graph, loss, gradient)
                break


def _belong(loss: ir.Node, gradient: ir.Node) -> bool:
    same = tuple(loss.inputs) == tuple(gradient.inputs[1:])
    settings = [
        {name: attribute.value for name, attribute in node.attributes.items()}
        for node in (loss, gradient)
    ]
    return same and settings[0] == settings[1] and not _depends(gradient.inputs[0], loss)


def _depends(value: ir.Value | None, node: ir.Node) -> bool:
    """Whether a value is made of what the node gives."""
    waiting, seen = [value], set[ir.Node]()
    while waiting:
        current = waiting.pop()
        producer = None if current is None else current.producer()
        if producer is None or producer in seen:
            continue
        if producer is node:
            return True
        seen.add(producer)
        waiting.extend(producer.inputs)
    return False


def _join(graph: ir.Graph, loss: ir.Node, gradient: ir.Node) -> None:
    both = ir.Node(
        DOMAIN,
        find(HARD).loss_and_grad.name,
        gradient.inputs,
        gradient.attributes.values(),
        num_outputs=2,
        version=OPSET_VERSION,
    )
    form = f"{loss.meta[FUSED]} and {gradient.meta[FUSED]}"
    both.meta[FUSED] = both.metadata_props[FUSED] = form
    ir.convenience.replace_nodes_and_values(
        graph,
        gradient,
        [loss, gradient],
        [both],
        [loss.outputs[0], gradient.outputs[0]],
        both.outputs,
    )
    graph.sort()
