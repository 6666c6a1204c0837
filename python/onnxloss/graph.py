# SPDX-License-Identifier: MIT
"""Writes a loss into a graph: casts, the operator's call and the function that it calls."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from .config import LossConfig
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES, onnx_type, promoted, stash_dtype
from .errors import expected
from .functions import build_function
from .onnxscript_defs import DOMAIN, OPSET_VERSION, OpSpec

IR_VERSION = 9
"""The oldest IR version whose functions declare the type and default of their attributes."""

Shape = tuple[int | str | None, ...]
Attributes = dict[str, int | float | str]


@dataclass(frozen=True)
class Ports:
    """The names that a loss has in a graph."""

    logits: str = "logits"
    labels: str = "labels"
    loss: str = "loss"
    dloss: str = "dloss"
    dlogits: str = "dlogits"

    @property
    def prefix(self) -> str:
        """What keeps the other names of this loss apart from another one's."""
        return "" if self.loss == "loss" else f"{self.loss}."


@dataclass(frozen=True)
class Layout:
    """Shapes and dtypes of one loss in a graph.

    `compute` is the logits' dtype as the operator gets them, after promotion: the dtype of `loss`
    and `dloss` too.
    """

    logits: Shape
    axis: int
    dtype: str
    label_dtype: str
    compute: str

    @property
    def positions(self) -> Shape:
        """The logits' shape without the class axis."""
        return self.logits[: self.axis] + self.logits[self.axis + 1 :]


def layout(config: LossConfig, logits: Shape, dtype: str, label_dtype: str | None) -> Layout:
    """What a loss has in a graph whose logits have this shape and dtype.

    Raises:
        LossError: The configuration does not fit them.
    """
    axis = _class_axis(config, logits)
    if dtype not in FLOAT_DTYPES:
        raise expected(config.op, "dtype", dtype, " or ".join(FLOAT_DTYPES))
    if label_dtype is None:
        label_dtype = dtype if config.takes_probabilities else "int64"
    allowed = FLOAT_DTYPES if config.takes_probabilities else LABEL_DTYPES
    if label_dtype not in allowed:
        raise expected(config.op, "label_dtype", label_dtype, " or ".join(allowed))

    compute = dtype
    others = {"label_dtype": label_dtype} if config.takes_probabilities else {}
    if isinstance(config.class_weights, np.ndarray):
        others["dtype of class_weights"] = config.class_weights.dtype.name
    for name, other in others.items():
        if config.promote:
            compute = promoted(compute, other)
        elif other != dtype:
            raise expected(config.op, name, other, f"{dtype}, that of the logits")

    classes, weights = logits[axis], config.class_weights
    if weights is not None and isinstance(classes, int) and len(weights) != classes:
        raise expected(config.op, "class_weights", f"of shape ({len(weights)},)", f"({classes},)")
    return Layout(logits, axis, dtype, label_dtype, compute)


def label_shape(config: LossConfig, at: Layout) -> Shape:
    """The shape of the labels."""
    return at.logits if config.takes_probabilities else at.positions


def add_loss(
    model: onnx.ModelProto, config: LossConfig, at: Layout, ports: Ports, *, gradient: bool
) -> None:
    """Adds all of the loss but the inputs `logits` and `labels` to a model.

    The operator computes in the logits' dtype and gives a float32 loss for 16-bit logits; the
    casts around it make the loss's dtype that of the logits, as the frameworks have it.
    """
    graph = model.graph
    loss_shape = at.positions if config.attributes["reduction"] == "none" else ()
    stash = stash_dtype(at.compute)
    label_dtype = at.compute if config.takes_probabilities else at.label_dtype
    inputs = [
        _cast(graph, ports.logits, at.dtype, at.compute),
        _cast(graph, ports.labels, at.label_dtype, label_dtype.replace("uint8", "int64")),
    ]
    if gradient:
        graph.input.append(value_info(ports.dloss, at.compute, loss_shape))
        inputs.insert(0, _cast(graph, ports.dloss, at.compute, stash))
    if config.class_weights is not None:
        name = f"{ports.prefix}class_weights"
        graph.initializer.append(onnx.numpy_helper.from_array(_class_weights(config, at), name))
        inputs.append(name)

    op = config.spec.loss_and_grad if gradient else config.spec.forward
    results = [(ports.loss, stash, at.compute, loss_shape)]
    if gradient:
        results.append((ports.dlogits, at.compute, at.dtype, at.logits))
    made = [name if dtype == wanted else f"{name}.{dtype}" for name, dtype, wanted, _ in results]
    _call(model, config, op, inputs, made, _attributes(config, op, at), ports.prefix)
    for source, (name, dtype, wanted, shape) in zip(made, results, strict=True):
        _cast(graph, source, dtype, wanted, result=name)
        graph.output.append(value_info(name, wanted, shape))
    entry = model.metadata_props.add()
    entry.key, entry.value = f"{DOMAIN}.{ports.loss}", _describe(config)


def value_info(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, onnx_type(dtype), shape)


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name that a value of the graph has."""
    return {
        *(value.name for value in (*graph.input, *graph.initializer)),
        *(name for node in graph.node for name in node.output),
    }


def _call(
    model: onnx.ModelProto,
    config: LossConfig,
    op: OpSpec,
    inputs: list[str],
    outputs: list[str],
    attributes: Attributes,
    prefix: str,
) -> None:
    """Adds the operator's node, and its function; or the function's nodes, where it cannot stand.

    A model has one function of a name: the one that folds this configuration in where it is
    alone; the generic one where another configuration stands beside it; and where that one has
    another signature, with or without class weights, the nodes are written out.
    """
    node = helper.make_node(
        op.name, inputs, outputs, f"{prefix}{op.name}", op.doc, DOMAIN, **attributes
    )
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    weighted = config.class_weights is not None
    folded = build_function(config.spec, op, weighted=weighted, opset=opset, attributes=attributes)
    there = [made for made in model.functions if (made.domain, made.name) == (DOMAIN, op.name)]
    if not there:
        model.functions.append(folded)
    elif list(there[0].input) != list(folded.input):
        model.graph.node.extend(_written_out(node, folded))
        return
    elif there[0] != folded:
        there[0].CopyFrom(build_function(config.spec, op, weighted=weighted, opset=opset))
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    model.ir_version = max(model.ir_version, IR_VERSION)
    model.graph.node.append(node)


def _written_out(call: onnx.NodeProto, function: onnx.FunctionProto) -> list[onnx.NodeProto]:
    """The function's nodes with the call's inputs and outputs."""
    names = dict(zip((*function.input, *function.output), (*call.input, *call.output), strict=True))
    nodes = []
    for inner in function.node:
        node = onnx.NodeProto()
        node.CopyFrom(inner)
        for values in (node.input, node.output):
            values[:] = [names.get(name, f"{call.name}.{name}") for name in values]
        nodes.append(node)
    return nodes


def _attributes(config: LossConfig, op: OpSpec, at: Layout) -> Attributes:
    """Every attribute of the operator, in the SPEC's order: ONNX Runtime knows no defaults."""
    stash = stash_dtype(at.compute)
    smoothing = float(config.attributes["label_smoothing"])
    high = float(np.float32(smoothing))
    values = {
        **config.attributes,
        "axis": at.axis,
        "label_smoothing": high,
        "label_smoothing_low": smoothing - high if stash == "float64" else 0.0,
        "stash_type": onnx_type(stash),
    }
    return {attribute.name: values[attribute.name] for attribute in op.attributes}


def _class_weights(config: LossConfig, at: Layout) -> np.ndarray:
    """The class weights in the operator's S; numbers without a dtype are the logits' dtype."""
    weights = config.class_weights
    if isinstance(weights, tuple):
        weights = np.asarray(weights).astype(FLOAT_DTYPES[at.compute])
    return weights.astype(FLOAT_DTYPES[stash_dtype(at.compute)])


def _class_axis(config: LossConfig, logits: Shape) -> int:
    """The class axis, counted from the front; unbatched logits `[C]` have only one."""
    for size in logits:
        if isinstance(size, bool) or not (size is None or isinstance(size, int | str)):
            raise expected(config.op, "logits", logits, "a shape of numbers and names")
        if isinstance(size, int) and size < 0:
            raise expected(config.op, "logits", logits, "sizes of at least 0")
    rank, axis = len(logits), int(config.attributes["axis"])
    if rank == 0:
        raise expected(config.op, "logits", "a scalar", "a shape with a class axis")
    if rank == 1 and axis == 1:
        return 0
    if not -rank <= axis < rank:
        raise expected(config.op, "axis", axis, f"a number in [{-rank}, {rank - 1}]")
    return axis % rank


def _cast(
    graph: onnx.GraphProto, name: str, dtype: str, wanted: str, *, result: str | None = None
) -> str:
    """The name of the value in the wanted dtype; a cast that is there already is used again."""
    if dtype == wanted:
        return name
    result = result or f"{name}.{wanted}"
    if result not in names_in(graph):
        graph.node.append(
            helper.make_node("Cast", [name], [result], f"Cast to {result}", to=onnx_type(wanted))
        )
    return result


def _describe(config: LossConfig) -> str:
    """The configuration as JSON, for whoever opens the file."""
    weights = config.class_weights
    return json.dumps(
        {
            "source": config.source,
            "op": config.op,
            **config.attributes,
            "class_weights": None if weights is None else len(weights),
        }
    )
