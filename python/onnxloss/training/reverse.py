# SPDX-License-Identifier: MIT
"""The reverse pass of a forward model, by onnx-ad: the only module that imports it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewriteRuleSet, rewrite
from onnxscript.rewriter.rules import common as simplify

from ..errors import LossError
from ..writer import free_name, nodes_of, subgraphs, value_names
from . import convolutions, refusals, rules  # noqa: F401 (they register their rules)
from .adjoints import Tape, installed

_STANDARD_DOMAINS = ("", "ai.onnx")

# Rules with a tolerance are left out: they take the epsilon of a normalisation for 0.
_SIMPLIFICATIONS = RewriteRuleSet(
    [
        simplify.no_op_expand_rule,
        simplify.no_op_transpose_rule,
        simplify.transpose_transpose_rule,
        simplify.reshape_reshape_rule,
        simplify.unsqueeze_unsqueeze_rule,
    ]
)


class Reverse(Protocol):
    """What adds gradients to a model, with the arguments and results of `with_gradients`."""

    def __call__(
        self, model: onnx.ModelProto, *, output: str, seed: str, parameters: Sequence[str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The model with the gradients of its parameters."""


def with_gradients(
    model: onnx.ModelProto, *, output: str, seed: str, parameters: Sequence[str]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with the gradients of its parameters.

    Args:
        model: A model whose parameters are graph inputs.
        output: The graph output that is differentiated.
        seed: The graph output that holds the gradient of the scalar loss with respect to `output`.
        parameters: The graph inputs to differentiate with respect to.

    Returns:
        The model, and for each parameter the name of the output that holds its gradient.

    Raises:
        LossError: onnx-ad is missing or cannot differentiate the model, or a parameter has no
            influence on the output.
    """
    onnx_ad = _import_onnx_ad()
    _refuse_foreign_operators(model.graph, output, parameters)
    # Exporters leave sequences and shapes that are constants: neither has a derivative.
    model = _simplified(model)
    _remove_empty_axes(model.graph)
    _refuse_dropout_of_constants(model.graph)
    taken = value_names(model.graph)
    prefix = "grad."
    while any(name.startswith(prefix) for name in taken):
        prefix = f"_{prefix}"
    try:
        # Here already, so that the shapes within are inferred: the rules ask for them.
        expanded = onnx_ad.recurrent.expand_recurrent(model)
        expanded = onnx_ad.expand.expand_functions(expanded)
        inferred = onnx.shape_inference.infer_shapes(expanded, data_prop=True)
        tape = Tape(inferred, seed=(prefix + output, seed))
        with installed(onnx_ad.rules.REVERSE, onnx_ad.rules.DERIVATIVE, tape):
            derived = onnx_ad.reverse(
                expanded, inputs=list(parameters), outputs=[output], prefix=prefix, layout="onnx"
            )
    except Exception as error:
        raise LossError(
            f"training_step: onnx-ad cannot differentiate the model: {error}. Where it asks for a "
            "declared shape, fix the dynamic dimensions: onnx.tools.update_model_dims."
        ) from error
    _refuse_zero_gradients(derived.graph, prefix, parameters)
    gradients = _close_seed_axis(derived.graph, tape, prefix, output, seed, parameters)
    return _simplified(derived), gradients


def _import_onnx_ad() -> Any:
    try:
        import onnx_ad.expand
        import onnx_ad.recurrent
        import onnx_ad.rules
    except ImportError as error:
        raise LossError(
            "training_step: the onnx-ad package is missing; expected it for the reverse pass: "
            'pip install "onnxloss[train]".'
        ) from error
    return onnx_ad


def _refuse_foreign_operators(
    graph: onnx.GraphProto, output: str, parameters: Iterable[str]
) -> None:
    """onnx-ad looks at an operator's name alone: another domain's Relu may be something else."""
    depends = set(parameters)
    for node in graph.node:
        if _reads(node) & depends:
            depends.update(node.output)
    needed = {output}
    for node in reversed(graph.node):
        if not needed.intersection(node.output):
            continue
        needed |= _reads(node)
        if depends.intersection(node.output):
            for inner in _nodes_within(node):
                if inner.domain not in _STANDARD_DOMAINS:
                    raise LossError(
                        f"training_step: the node {inner.name or inner.output[0]} is "
                        f"{inner.domain}::{inner.op_type}; expected operators of ai.onnx between "
                        "the parameters and the logits: other operators have no derivative."
                    )


def _refuse_dropout_of_constants(graph: onnx.GraphProto) -> None:
    """onnx-ad computes it once, as it does with all that depends on constants alone."""
    constants = _constant_shapes(graph)
    for node in nodes_of(graph):
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[0] in constants:
            raise LossError(
                f'training_step: Dropout takes the constant "{node.input[0]}"; expected a value '
                "that depends on an input or a parameter: its mask would be drawn once."
            )


def _refuse_zero_gradients(graph: onnx.GraphProto, prefix: str, parameters: Iterable[str]) -> None:
    """onnx-ad gives zeros where nothing flows back, which is an oversight or a statistic."""
    producers = {name: node for node in graph.node for name in node.output}
    for name in parameters:
        source = producers[producers[f"{prefix}{name}"].input[0]]
        if source.op_type == "ConstantOfShape":
            raise LossError(
                f'training_step: the loss does not depend on the parameter "{name}", or not '
                "through operators with a derivative; leave it out of parameters=[...]."
            )


def _close_seed_axis(
    graph: onnx.GraphProto,
    tape: Tape,
    prefix: str,
    output: str,
    seed: str,
    parameters: Iterable[str],
) -> dict[str, str]:
    """Seeds the adjoint with one direction, and takes the direction's axis off its results."""
    inputs = {value.name: value for value in graph.input}
    taken = value_names(graph)
    gradients = {}
    axis = f"{prefix}seed_axis"
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), axis))

    nodes = list(graph.node)
    seed_producer = next(i for i, node in enumerate(nodes) if seed in node.output)
    nodes.insert(seed_producer + 1, helper.make_node("Unsqueeze", [seed, axis], [prefix + output]))
    graph.input.remove(inputs[prefix + output])
    for name in parameters:
        gradient = gradients[name] = free_name(f"{name}.grad", taken)
        plain = _plain_sources(graph, tape, prefix + name)
        kind = ("Sum" if plain[1:] else "Identity") if plain else "Squeeze"
        nodes.append(helper.make_node(kind, plain or [prefix + name, axis], [gradient]))
        result = next(value for value in graph.output if value.name == prefix + name)
        result.CopyFrom(inputs[name])
        result.name = gradient
    del graph.node[:]
    graph.node.extend(nodes)
    return gradients


def _plain_sources(graph: onnx.GraphProto, tape: Tape, result: str) -> list[str]:
    """The values without the seed axis that a gradient is the sum of; none where there are not."""
    producers = {name: node for node in graph.node for name in node.output}
    alias = producers[result]
    expand = producers[alias.input[0]]
    producer = producers[expand.input[0]]
    parts = producer.input if producer.op_type == "Sum" else expand.input[:1]
    return [tape.plain[name] for name in parts] if all(n in tape.plain for n in parts) else []


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes on constants, or that a seed axis of length 1 makes needless."""
    functions = list(model.functions)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    # The loss is as it should be, and folding it would only compute on its constants.
    del inferred.functions[:]
    graph = ir.from_proto(inferred)
    optimizer.fold_constants(graph, should_fold=_may_fold)
    rewrite(graph, _SIMPLIFICATIONS)
    _eliminate_identities(graph)
    common.RemoveUnusedNodesPass()(graph)
    result = ir.to_proto(graph)
    result.graph.ClearField("value_info")
    result.functions.extend(functions)
    return result


def _may_fold(node: ir.Node) -> bool | None:
    """No operator that draws anew each time, of which onnxscript knows some; else None."""
    return False if node.op_type in ("Bernoulli", "Dropout") else None


def _remove_empty_axes(graph: onnx.GraphProto) -> None:
    """A reduction along no axes named is along all, as without the input; onnx-ad differs."""
    empty = {name for name, shape in _constant_shapes(graph).items() if shape == (0,)}
    for node in nodes_of(graph):
        noop = any(entry.name == "noop_with_empty_axes" and entry.i for entry in node.attribute)
        if node.op_type.startswith("Reduce") and not noop and {*node.input[1:]} & empty:
            del node.input[1:]


def _constant_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes of initializers and of what Constant nodes hold, by name."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in nodes_of(graph):
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            tensor = isinstance(value, onnx.TensorProto)
            shapes[node.output[0]] = tuple(value.dims) if tensor else np.shape(value)
    return shapes


def _eliminate_identities(model: ir.Model) -> None:
    """Takes out each Identity that is not needed for an output to be a value of its own.

    onnx_ir's pass makes one value of two outputs, and an outer graph's value an output. Of a Scan
    whose body has one value as its state and its scan output, ONNX Runtime computes wrong numbers.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type != "Identity" or node.domain not in _STANDARD_DOMAINS:
            continue
        source, result, graph = node.inputs[0], node.outputs[0], node.graph
        assert source is not None and graph is not None
        if result.is_graph_output():
            producer = source.producer()
            if producer is None or producer.graph is not graph or source.is_graph_output():
                continue
            source.name, source.type, source.shape = result.name, result.type, result.shape
        result.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _nodes_within(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    inner = [n for graph in subgraphs(node) for n in graph.node]
    return [node, *(found for n in inner for found in _nodes_within(n))]


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, the values that its subgraphs capture included."""
    return {name for inner in _nodes_within(node) for name in inner.input if name}
