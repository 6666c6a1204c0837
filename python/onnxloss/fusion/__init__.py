# SPDX-License-Identifier: MIT
"""Finds softmax cross entropy in a model, and puts this project's operators in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RULE_NAME_TAG, RewriteRuleSet

from ..calls import called_or_written_out
from ..errors import LossError
from ..onnxscript_defs import CATALOGUE, DOMAIN
from ..opset import check_is_kept, check_valid, with_opset
from ..trial import inferred, typed_values
from ..writer import free_name
from . import forms, means, operators, outward, pairs, probabilities, views
from .emit import FUSED, is_fused
from .leftovers import Left, left_alone
from .rules import State
from .verify import roots_of, verify

__all__ = ["Fused", "Fusion", "Left", "find_and_fuse", "fuse"]


@dataclass(frozen=True)
class Fused:
    """A loss that was put in: its operator, its result's name, and the form it stands for."""

    op_type: str
    name: str
    form: str

    def __str__(self) -> str:
        return f'{self.op_type} "{self.name}" for {self.form}'


@dataclass(frozen=True)
class Fusion:
    """A model with this project's losses, what they stand for, and what was left alone."""

    model: onnx.ModelProto
    fused: tuple[Fused, ...]
    left: tuple[Left, ...]


def fuse(
    model: onnx.ModelProto, *, inputs: Mapping[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """A copy of a model with this project's operators where it computes softmax cross entropy.

    What is found: ai.onnx's SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss;
    log-probabilities that are picked by GatherElements, GatherND or a one-hot of the labels, or
    weighed by probabilities, as torch.onnx, tf2onnx and paddle2onnx write them, with their sign,
    mask, sum and mean; Keras's losses of probabilities; and ONNX Runtime's training operators with
    their gradients. The fused model is run beside the original one on random data, through the
    function bodies and the kernels.

    Args:
        model: A model; it stays as it is.
        inputs: Arrays for the model's inputs. Both models are run on them as a whole, instead of
            the parts that changed on random data.

    Returns:
        A checked model, of ai.onnx version 19 at least.

    Raises:
        LossError: There is nothing to fuse, with what was left alone and why; or the results
            differ, or could not be compared.

    Example:
        >>> model = onnxloss.fuse(onnx.load("classifier_with_loss.onnx"))
    """
    return find_and_fuse(model, inputs=inputs).model


def find_and_fuse(
    model: onnx.ModelProto, *, inputs: Mapping[str, np.ndarray] | None = None
) -> Fusion:
    """As `fuse`, with a report of what was fused and what was left alone."""
    original = with_opset(model, "fuse")
    check_is_kept("fuse", original, "onnx_ir")
    known = {value.name for value in original.graph.value_info}
    try:
        graph_model = ir.from_proto(inferred(original, "fuse"))
    except (ir.serde.SerdeError, onnx.checker.ValidationError) as error:
        raise LossError(f"fuse: onnx_ir cannot read the model: {error}") from error
    _tidy(graph_model)
    original = ir.to_proto(graph_model)
    state = State(graph_model.graph)
    _rewrite(graph_model, state)
    left = tuple(left_alone(graph_model.graph, state))
    fused = tuple(
        Fused(node.op_type, node.outputs[0].name or "", node.meta[FUSED])
        for node in graph_model.graph
        if is_fused(node)
    )
    if not fused:
        found = "; ".join(map(str, left)) or "no LogSoftmax and no loss of ai.onnx"
        raise LossError(f"fuse: the model has no loss that can be replaced: {found}.")
    result = ir.to_proto(graph_model)
    types = typed_values(result)
    kept = [value for value in result.graph.value_info if value.name in known]
    del result.graph.value_info[:]
    result.graph.value_info.extend(kept)
    names = {made.name for made in fused}
    roots = roots_of(original, result, names)
    _add_functions(result, names)
    check_valid("fuse", result)
    verify(original, result, roots, types, inputs)
    return Fusion(result, fused, left)


def _tidy(model: ir.Model) -> None:
    """Removes what no output needs, and what does nothing; branches and functions stay."""
    common.RemoveUnusedNodesPass()(model)
    for node in list(model.graph):
        given, output = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Identity" or node.domain or given is None:
            continue
        if output.is_graph_output():
            if given.producer() is None or given.is_graph_output():
                continue
            given.name, output.name = output.name, None
            given.type, given.shape = given.type or output.type, given.shape or output.shape
        # paddle2onnx declares a scalar for an output of shape [1]; what comes in is right.
        ir.convenience.replace_all_uses_with(output, given, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def _rewrite(model: ir.Model, state: State) -> None:
    """Applies the rules until none applies: each one makes the next one's form."""
    rules = [
        made
        for room in (operators, views, forms, probabilities, outward, means)
        for made in room.rules(state)
    ]
    rule_set = RewriteRuleSet(rules, commute=True)
    while rule_set.apply_to_model(model):
        _tidy(model)
    pairs.join(model.graph)
    common.RemoveUnusedNodesPass()(model)
    for node in model.graph.all_nodes():
        node.metadata_props.pop(RULE_NAME_TAG, None)
    _rename_apart(model.graph)


def _rename_apart(graph: ir.Graph) -> None:
    """Gives new values names that no branch or loop has; onnx_ir looks at the graph alone."""
    within = {
        value.name
        for inner in graph.subgraphs()
        for value in (*inner.inputs, *inner.initializers.values(), *_results(inner))
    }
    own = {value.name for value in (*graph.inputs, *graph.initializers.values(), *_results(graph))}
    taken = {name for name in within | own if name}
    for value in _results(graph):
        if value.name and value.name in within:
            value.name = free_name(value.name, taken)


def _results(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs]


def _add_functions(model: onnx.ModelProto, fused: Collection[str]) -> None:
    """Adds the functions of the nodes whose first results are `fused`."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        new = node.domain == DOMAIN and node.output[0] in fused
        nodes.extend(_with_function(model, node) if new else [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _with_function(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    spec, op = next((spec, op) for spec in CATALOGUE for op in spec.ops if op.name == node.op_type)
    node.name = node.name or f"{op.name} {node.output[0]}"
    node.doc_string = op.doc
    return called_or_written_out(model, spec, node)
