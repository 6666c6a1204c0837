# SPDX-License-Identifier: MIT
"""Cuts the model-local function of an operator out of its loss's onnxscript function."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewriteRuleSet, rewrite
from onnxscript.rewriter.rules.common import add_0_rule, mul_by_1_rule, sub_0_rule

from .documentation import attribute_doc, function_doc
from .onnxscript_defs import DOMAIN, LossSpec, OpSpec, find
from .onnxscript_defs.spec import DLOGITS, LOSS
from .quiet import quiet

_UNNAMED = "tmp"
"""What onnxscript calls the parts of an expression, before a counter."""

_SIMPLIFICATIONS = RewriteRuleSet([mul_by_1_rule, add_0_rule, sub_0_rule])


def build_function(
    spec: LossSpec,
    op: OpSpec,
    *,
    given: Collection[str] = (),
    opset: int,
    attributes: Mapping[str, int | float | str] | None = None,
) -> onnx.FunctionProto:
    """The function body of `op` for graphs that import ai.onnx version `opset`.

    With `attributes` their values are folded in: what is left is what this configuration computes.
    Without, the body is generic: it refers to the attributes of the node that calls it. `given`
    names the optional inputs and outputs that the node has; a body for every choice is not
    possible, since ONNX Runtime cannot inline a function that reads an input or gives an output
    which is left out.
    """
    values = tuple(attributes.items()) if attributes is not None else None
    function = onnx.FunctionProto()
    # Paddle makes the root logger print what these log for information.
    with quiet("onnx_ir", "onnxscript"):
        built = _built(spec.name, op.name, tuple(sorted(given)), opset, values)
    function.ParseFromString(built)
    return function


@functools.cache
def _built(
    loss: str,
    name: str,
    given: tuple[str, ...],
    opset: int,
    values: tuple[tuple[str, int | float | str], ...] | None,
) -> bytes:
    """The function's bytes: folding one takes 50 ms, and a test suite asks for the same often."""
    spec = find(loss)
    op = next(op for op in spec.ops if op.name == name)
    body = spec.body.to_function_proto()
    _sort_branches(body.node)
    model = ir.Model(ir.from_proto(body).graph, ir_version=10)
    graph = model.graph
    graph.opset_imports[""] = opset
    outputs = [port.name for port in op.outputs_with(given)]
    _keep_outputs(graph, spec, outputs)
    optional = [port.name for port in op.inputs if port.optional]
    absent = set(optional).difference(given)
    flags = {f"has_{port.name}": int(port.name not in absent) for port in op.inputs}
    _bind(graph, {**dict(values or ()), **flags})
    _simplify(model, bound=values is not None)
    # Reading the graph anew forgets the uses that nodes of dropped branches still hold.
    model = ir.from_proto(ir.to_proto(model))
    common.RemoveUnusedNodesPass()(model)
    _tidy_names(model.graph)

    proto = ir.to_proto(model.graph)
    ports = [port.name for port in op.inputs]
    while ports[-1] in optional and ports[-1] not in given:
        ports.pop()
    function = onnx.helper.make_function(
        DOMAIN,
        op.name,
        inputs=ports,
        outputs=outputs,
        nodes=[_constant(tensor) for tensor in proto.initializer] + list(proto.node),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        attribute_protos=[
            onnx.helper.make_attribute(attribute.name, attribute.default, attribute_doc(attribute))
            for attribute in op.attributes
        ],
        doc_string=function_doc(spec, op),
    )
    for node in function.node:
        node.name = ""
    return function.SerializeToString()


def _keep_outputs(graph: ir.Graph, spec: LossSpec, names: Sequence[str]) -> None:
    """Drops the outputs that are not in `names`; the others are called so."""
    ports = (LOSS, DLOGITS, *spec.results, *spec.gradients)
    results = {port.name: value for port, value in zip(ports, graph.outputs, strict=True)}
    for name in names:
        results[name].name = name
    graph.outputs[:] = [results[name] for name in names]


def _bind(graph: ir.Graph, attributes: Mapping[str, int | float | str]) -> None:
    """Writes the attributes' values in the place of the references to them."""
    for node in graph.all_nodes():
        for key, attribute in list(node.attributes.items()):
            value = attributes.get(attribute.ref_attr_name or "")
            if value is not None:
                node.attributes[key] = ir.Attr(key, attribute.type, value)


def _simplify(model: ir.Model, *, bound: bool) -> None:
    """Folds constants until nothing more folds.

    Merging equal nodes is for a graph whose attributes are all `bound`: onnx-ir takes two
    references to different attributes for equal, and ONNX forbids a branch of `If` to return the
    outer value that is left when an `Identity` inside it goes.
    """
    graph = model.graph
    before = -1
    while before != (before := sum(1 for _ in graph.all_nodes())):
        for node in list(graph.all_nodes()):
            _fold_string_comparison(node)
            _fold_where(node)
        optimizer.fold_constants(model, should_fold=lambda node: None if _is_bound(node) else False)
        if bound:
            rewrite(model, _SIMPLIFICATIONS)
            common.CommonSubexpressionEliminationPass()(model)
            common.IdentityEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)


def _is_bound(node: ir.Node) -> bool:
    return not any(attribute.is_ref() for attribute in node.attributes.values())


def _sort_branches(nodes: Iterable[onnx.NodeProto]) -> None:
    """Gives the results of each `If` the order of their names: onnxscript's differs by the run."""
    for node in nodes:
        graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if graphs:
            names = [_stem(output.name) for output in graphs[0].output]
            order = sorted(range(len(names)), key=names.__getitem__)
            node.output[:] = [node.output[place] for place in order]
        for graph in graphs:
            outputs = [graph.output[place] for place in order]
            del graph.output[:]
            graph.output.extend(outputs)
            _sort_branches(graph.node)


def _tidy_names(graph: ir.Graph) -> None:
    """Names a step after the value it leads to; a counter is there where a name is not alone."""
    values = [value for node in graph.all_nodes() for value in node.outputs]
    values += graph.initializers.values()
    for value in reversed(values):
        if _stem(value.name) == _UNNAMED:
            value.name = _step_name(value)
    stems = Counter(_stem(value.name) for value in values)
    counts: Counter[str] = Counter()
    for value in values:
        stem = _stem(value.name)
        if stems[stem] == 1:
            value.name = stem
        elif not value.is_graph_output() or value.graph is not graph:
            counts[stem] += 1
            value.name = f"{stem}_{counts[stem]}"


def _step_name(value: ir.Value) -> str:
    """The name of a part of an expression: that of the value it leads to, and the operator's."""
    producer, reader = value.producer(), next(iter(value.uses())).node
    number = (value.name or "").removeprefix(_UNNAMED)
    kind = producer.op_type.lower() if producer else "factor"
    return f"{_stem(reader.outputs[0].name)}_{kind}{number}"


def _stem(name: str | None) -> str:
    return re.sub(r"_\d+$", "", name or "")


def _fold_string_comparison(node: ir.Node) -> None:
    """onnxscript's folding asks onnx.reference, which cannot compare strings of unequal length."""
    if node.op_type != "Equal":
        return
    constants = [ir.convenience.get_const_tensor(value) for value in node.inputs if value]
    strings = [c for c in constants if c is not None and c.dtype == ir.DataType.STRING]
    if len(strings) == 2:
        left, right = (constant.numpy().astype(str).item() for constant in strings)
        _replace(node, ir.node("Constant", [], {"value": ir.tensor(np.array(left == right))}))


def _fold_where(node: ir.Node) -> None:
    """A scalar condition that is known picks its branch."""
    if node.op_type == "Where" and node.inputs[0] is not None:
        condition = ir.convenience.get_const_tensor(node.inputs[0])
        if condition is not None and condition.size == 1 and not condition.shape.rank():
            chosen = node.inputs[1] if condition.numpy().item() else node.inputs[2]
            _replace(node, ir.node("Identity", [chosen]))


def _replace(node: ir.Node, replacement: ir.Node) -> None:
    replacement.outputs[0].name = node.outputs[0].name
    ir.convenience.replace_nodes_and_values(
        node.graph,  # type: ignore[arg-type]  # only a node outside all graphs has none
        node,
        [node],
        [replacement],
        node.outputs,
        replacement.outputs,
    )


def _constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    return onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
