# SPDX-License-Identifier: MIT
"""Writes a loss into a graph: casts, the operator's call and the function that it calls."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .config import LossConfig
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES, onnx_type, promoted, stash_dtype
from .errors import expected, expected_shape
from .functions import build_function
from .nodes import led_back, scores_of, smoothed
from .onnxscript_defs import DOMAIN, OPSET_VERSION, LossSpec, OpSpec, Port
from .weighting import SampleWeights

IR_VERSION = 9
"""The oldest IR version whose functions declare the type and default of their attributes."""

Shape = tuple[int | str | None, ...]
Attributes = dict[str, int | float | str]


@dataclass(frozen=True)
class Ports:
    """The names that a loss has in a graph."""

    logits: str = "logits"
    labels: str = "labels"
    sample_weights: str = "sample_weights"
    loss: str = "loss"
    dloss: str = "dloss"
    dlogits: str = "dlogits"

    @property
    def lse(self) -> str:
        """The output `lse`."""
        return f"{self.prefix}lse"

    @property
    def log_prob(self) -> str:
        """The output `log_prob`."""
        return f"{self.prefix}log_prob"

    @property
    def probabilities(self) -> str:
        """The output `probabilities`."""
        return f"{self.prefix}probabilities"

    @property
    def prefix(self) -> str:
        """What keeps the other names of this loss apart from another one's."""
        return "" if self.loss == "loss" else f"{self.loss}."


@dataclass(frozen=True)
class Layout:
    """Shapes and dtypes of one loss in a graph.

    `labels` and `loss` are the shapes that the user sees, `positions` that of the operator's.
    `compute` is the logits' dtype as the operator gets them, after promotion: the dtype of `loss`
    and `dloss` too.
    """

    logits: Shape
    axis: int
    labels: Shape
    loss: Shape
    dtype: str
    label_dtype: str
    compute: str

    @property
    def positions(self) -> Shape:
        """The logits' shape without the class axis."""
        return self.logits[: self.axis] + self.logits[self.axis + 1 :]


def layout(
    config: LossConfig,
    logits: Shape,
    labels: Shape | None = None,
    *,
    dtype: str,
    label_dtype: str | None,
) -> Layout:
    """What a loss has in a graph whose logits and labels have these shapes and dtypes.

    Raises:
        LossError: The configuration does not fit them.
    """
    if config.spec.drawn:
        from .sampled_graph import sampled_layout  # it is written with this module's means

        return sampled_layout(config, logits, labels, dtype=dtype, label_dtype=label_dtype)
    if dtype not in FLOAT_DTYPES:
        raise expected(config.op, "dtype", dtype, " or ".join(FLOAT_DTYPES))
    if label_dtype is None:
        label_dtype = dtype if config.takes_probabilities else "int64"
    allowed = FLOAT_DTYPES if config.takes_probabilities else LABEL_DTYPES
    if config.cast_labels:
        allowed = {**LABEL_DTYPES, **FLOAT_DTYPES}
    if "uint8 labels" in config.refused:
        allowed = {name: kind for name, kind in allowed.items() if name != "uint8"}
    if label_dtype not in allowed:
        raise expected(config.op, "label_dtype", label_dtype, " or ".join(allowed))

    compute = promoted(dtype, config.compute_dtype or dtype)
    if config.probabilities != "no":
        # Clipping to 1e-7 is beyond the 16-bit types.
        compute = promoted(compute, "float32")
    probabilities = config.takes_probabilities and not config.cast_labels
    others = {"label_dtype": label_dtype} if probabilities else {}
    if isinstance(config.class_weights, np.ndarray):
        others["dtype of class_weights"] = config.class_weights.dtype.name
    for name, other in others.items():
        if config.promote is True or (config.promote == "class_weights" and name != "label_dtype"):
            compute = promoted(compute, other)
        elif other != dtype:
            raise expected(config.op, name, other, f"{dtype}, that of the logits")

    axis = _class_axis(config, logits)
    classes, weights = logits[axis], config.class_weights
    if weights is not None and isinstance(classes, int) and len(weights) != classes:
        raise expected_shape(config.op, "class_weights", [len(weights)], [classes])
    labels = _label_shape(config, logits, axis, labels)
    kept = logits[:axis] + (1,) + logits[axis + 1 :]
    if config.attributes["reduction"] != "none":
        loss: Shape = ()
    elif config.loss_axis == "kept" or (config.loss_axis == "as labels" and labels == kept):
        loss = kept
    else:
        loss = logits[:axis] + logits[axis + 1 :]
    return Layout(logits, axis, labels, loss, dtype, label_dtype, compute)


def fitted(
    config: LossConfig, logits: Shape, labels: Shape | None, label_dtype: str | None
) -> LossConfig:
    """The configuration for these labels, where there is one for each kind.

    Their dtype tells the kind; else their rank does, since only probabilities have that of the
    logits.
    """
    other = config.other_labels
    if other is None or (labels is None and label_dtype is None):
        return config
    if label_dtype is not None:
        probabilities = label_dtype in FLOAT_DTYPES
    else:
        probabilities = len(labels or ()) == len(logits)
    return config if config.takes_probabilities == probabilities else other


def fitting(op: str, name: str, given: Shape, *wanted: Shape) -> Shape:
    """The first wanted shape that `given` does not contradict."""
    for shape in wanted:
        pairs = zip(given, shape, strict=False)
        clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
        if len(given) == len(shape) and not clash:
            return shape
    raise expected_shape(op, name, given, *wanted)


def add_loss(
    model: onnx.ModelProto,
    config: LossConfig,
    at: Layout,
    ports: Ports,
    *,
    gradient: bool = False,
    sample_weights: SampleWeights | None = None,
    extra: Collection[str] = (),
) -> None:
    """Adds all of the loss but the inputs `logits` and `labels` to a model.

    The operator computes in the logits' dtype and gives a float32 loss for 16-bit logits; the
    casts around it make the loss's dtype that of the logits, as the frameworks have it.
    """
    if config.spec.drawn:
        from .sampled_graph import add_sampled_loss

        add_sampled_loss(model, config, at, ports, gradient=gradient, extra=extra)
        return
    write = _Writer(model.graph, ports)
    stash = stash_dtype(at.compute)
    keeps_axis = at.loss not in ((), at.positions)

    labels = _labels(write, config, at, ports.labels)
    if not config.takes_probabilities and at.labels != at.positions:
        labels = write.squeezed(labels, at.axis)
    logits = write.cast(ports.logits, at.dtype, at.compute)
    scores = None
    if config.probabilities != "no":
        kind = FLOAT_DTYPES[at.compute]
        scores = scores_of(write, config.probabilities, logits, at.axis, kind)
    inputs = {"logits": scores.value if scores else logits, "labels": labels}
    if gradient:
        model.graph.input.append(value_info(ports.dloss, at.compute, at.loss))
        dloss = write.cast(ports.dloss, at.compute, stash)
        inputs["dloss"] = write.squeezed(dloss, at.axis) if keeps_axis else dloss
    if config.class_weights is not None:
        inputs["class_weights"] = write.tensor(_class_weights(config, at), "class_weights")
    if sample_weights is not None:
        inputs["sample_weights"] = _sample_weights(write, config, sample_weights, at, ports)

    # The operator's results, and what stands between them and the graph's outputs.
    results = {"loss": (ports.loss, stash, at.compute, at.loss)}
    if gradient:
        results["dlogits"] = (ports.dlogits, at.compute, at.dtype, at.logits)
    if "lse" in extra:
        results["lse"] = (ports.lse, stash, stash, at.positions)
    nan_if_empty = _may_be_empty(config, at)
    changed = {"loss": keeps_axis or nan_if_empty, "dlogits": scores is not None}
    made = {
        port: name if dtype == wanted and not changed.get(port) else write.free(name)
        for port, (name, dtype, wanted, _) in results.items()
    }
    op = config.spec.loss_and_grad if gradient else config.spec.forward
    node = helper.make_node(
        op.name,
        _positional(op.inputs, inputs),
        _positional(op.outputs, made),
        f"{ports.prefix}{config.name or op.name}",
        op.doc,
        DOMAIN,
        **node_attributes(config, op, at),
    )
    model.graph.node.extend(called_or_written_out(model, config.spec, node))
    for port, (name, dtype, wanted, shape) in results.items():
        value = made[port]
        if port == "loss" and nan_if_empty:
            done = name if dtype == wanted else None
            value = write.nan_if_empty(value, inputs["logits"], dtype, done)
        if port == "loss" and keeps_axis:
            value = write.unsqueezed(value, at.axis, name if dtype == wanted else None)
        if port == "dlogits" and scores:
            value = led_back(write, scores, value, name if dtype == wanted else write.free(name))
        write.cast(value, dtype, wanted, name)
        model.graph.output.append(value_info(name, wanted, shape))
    if "log_prob" in extra:
        # In S, which every runtime has the operator for.
        log_prob = write.cast(ports.logits, at.dtype, stash_dtype(at.dtype))
        done = ports.log_prob if at.dtype == stash_dtype(at.dtype) else None
        log_prob = write.node("LogSoftmax", [log_prob], done, axis=at.axis)
        write.cast(log_prob, stash_dtype(at.dtype), at.dtype, ports.log_prob)
        model.graph.output.append(value_info(ports.log_prob, at.dtype, at.logits))
    if "probabilities" in extra:
        p = write.cast(ports.logits, at.dtype, stash_dtype(at.dtype))
        done = ports.probabilities if at.dtype == stash_dtype(at.dtype) else None
        p = write.node("Softmax", [p], done, axis=at.axis)
        write.cast(p, stash_dtype(at.dtype), at.dtype, ports.probabilities)
        model.graph.output.append(value_info(ports.probabilities, at.dtype, at.logits))
    entry = model.metadata_props.add()
    entry.key, entry.value = f"{DOMAIN}.{ports.loss}", _describe(config)


def _may_be_empty(config: LossConfig, at: Layout) -> bool:
    """Whether a mean that is nan without positions may have none, for all that the shape says."""
    sized = all(isinstance(size, int) and size > 0 for size in at.logits)
    return config.nan_if_empty and config.attributes["reduction"] == "mean" and not sized


def _labels(write: _Writer, config: LossConfig, at: Layout, name: str) -> str:
    """The labels in the operator's dtype."""
    if not config.takes_probabilities:
        wanted = at.label_dtype if at.label_dtype in ("int32", "int64") else "int64"
        return write.cast(name, at.label_dtype, wanted)
    if config.dense_smoothing == 0:
        return write.cast(name, at.label_dtype, at.compute)
    stash = stash_dtype(at.compute)
    labels = write.cast(name, at.label_dtype, stash)
    labels = smoothed(write, labels, config.dense_smoothing, stash, onnx_type(stash))
    return write.cast(labels, stash, at.compute)


def _sample_weights(
    write: _Writer, config: LossConfig, weights: SampleWeights, at: Layout, ports: Ports
) -> str:
    """The sample weights, one for each position and in S."""
    stash = stash_dtype(at.compute)
    if isinstance(config.sample_weights, np.ndarray):
        name = write.tensor(config.sample_weights.astype(stash), "sample_weights")
    else:
        name = write.cast(ports.sample_weights, at.compute, stash)
    if weights.by_sum:
        total = write.node("ReduceSum", [name], keepdims=0)
        zero = write.tensor(np.zeros((), stash), "zero")
        infinity = write.tensor(np.array(np.inf, stash), "infinity")
        is_zero = write.node("Equal", [total, zero])
        name = write.node("Div", [name, write.node("Where", [is_zero, infinity, total])])
    last = len(weights.given) - 1
    if len(weights.aligned) < len(weights.given):
        name = write.squeezed(name, last)
    elif len(weights.aligned) > len(weights.given):
        name = write.unsqueezed(name, last + 1, None)
    return write.expanded(name, weights.aligned, at, ports.logits)


def value_info(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, onnx_type(dtype), shape)


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name that a value of the graph has."""
    return {
        *(value.name for value in (*graph.input, *graph.initializer)),
        *(name for node in graph.node for name in node.output),
    }


def called_or_written_out(
    model: onnx.ModelProto, spec: LossSpec, node: onnx.NodeProto
) -> list[onnx.NodeProto]:
    """The node, whose function is added to the model; or the function's nodes, where it cannot be.

    A model has one function of a name: the one that folds this node's attributes in where it is
    alone; the generic one where a node with others stands beside it; and where that one has
    other optional inputs or outputs, the nodes are written out.
    """
    op = next(op for op in spec.ops if op.name == node.op_type)
    ports = (*zip(op.inputs, node.input, strict=False), *zip(op.outputs, node.output, strict=False))
    given = [port.name for port, name in ports if port.optional and name]
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    attributes = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in attributes.items()
    }
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    folded = build_function(spec, op, given=given, opset=opset, attributes=attributes)
    there = [made for made in model.functions if (made.domain, made.name) == (DOMAIN, op.name)]
    if not there:
        model.functions.append(folded)
    elif not _same_ports(there[0], folded):
        return _written_out(node, folded)
    elif there[0] != folded:
        there[0].CopyFrom(build_function(spec, op, given=given, opset=opset))
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    model.ir_version = max(model.ir_version, IR_VERSION)
    return [node]


def _positional(ports: Sequence[Port], names: Mapping[str, str]) -> list[str]:
    """The names in the ports' order; one left out before another is empty."""
    positions = [names.get(port.name, "") for port in ports]
    while not positions[-1]:
        positions.pop()
    return positions


def _same_ports(left: onnx.FunctionProto, right: onnx.FunctionProto) -> bool:
    return (left.input, left.output) == (right.input, right.output) and _reads(left) == _reads(
        right
    )


def _reads(function: onnx.FunctionProto) -> set[str]:
    """The inputs that the function's nodes read; it declares those before the last one too."""
    return {name for node in function.node for name in node.input} & set(function.input)


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


def node_attributes(config: LossConfig, op: OpSpec, at: Layout) -> Attributes:
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
    if rank == 1 and "unbatched" in config.refused:
        raise expected_shape(config.op, "logits", logits, ("N", "C", "..."))
    if rank == 1 and axis == 1:
        return 0
    if not -rank <= axis < rank:
        raise expected(config.op, "axis", axis, f"a number in [{-rank}, {rank - 1}]")
    axis %= rank
    if axis != rank - 1 and "inner axis" in config.refused:
        given = isinstance(config.refused, Mapping)
        reason = config.refused["inner axis"] if given else config.source
        raise expected(config.op, "axis", axis, f"the last, {rank - 1}: {reason}")
    if "empty" in config.refused and 0 in logits[:axis] + logits[axis + 1 :]:
        raise expected(config.op, "logits", logits, f"a position at least, as {config.source}")
    return axis


def _label_shape(config: LossConfig, logits: Shape, axis: int, given: Shape | None) -> Shape:
    dropped = logits[:axis] + logits[axis + 1 :]
    kept = logits[:axis] + (1,) + logits[axis + 1 :]
    if config.takes_probabilities:
        allowed = [logits]
    else:
        allowed = {"dropped": [dropped], "kept": [kept], "either": [dropped, kept]}[
            config.label_axis
        ]
    return allowed[0] if given is None else fitting(config.op, "labels", given, *allowed)


class _Writer:
    """Adds standard nodes and initializers to a graph, under names that are free there."""

    def __init__(self, graph: onnx.GraphProto, ports: Ports) -> None:
        self._graph = graph
        self._prefix = ports.prefix
        self._taken = names_in(graph) | {ports.loss, ports.dloss, ports.dlogits}
        self._taken |= {ports.lse, ports.log_prob, ports.probabilities}

    def free(self, wanted: str) -> str:
        """A name like `wanted` that nothing has; taken from now on."""
        name = wanted if wanted.startswith(self._prefix) else f"{self._prefix}{wanted}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def node(
        self, op_type: str, inputs: Sequence[str], result: str | None = None, **attributes: Any
    ) -> str:
        result = result or self.free(f"{inputs[0]}.{op_type}")
        self._graph.node.append(
            helper.make_node(op_type, inputs, [result], f"{op_type} {result}", **attributes)
        )
        return result

    def tensor(self, values: np.ndarray, wanted: str) -> str:
        name = self.free(wanted)
        self._graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return name

    def cast(self, name: str, dtype: str, wanted: str, result: str | None = None) -> str:
        if dtype == wanted:
            return name
        return self.node("Cast", [name], result, to=onnx_type(wanted))

    def squeezed(self, name: str, axis: int) -> str:
        return self.node("Squeeze", [name, self.tensor(np.array([axis]), "class_axis")])

    def unsqueezed(self, name: str, axis: int, result: str | None) -> str:
        return self.node("Unsqueeze", [name, self.tensor(np.array([axis]), "class_axis")], result)

    def nan_if_empty(self, name: str, values: str, dtype: str, result: str | None) -> str:
        """The value times size / size of `values`: 1, or nan where there are none."""
        size = self.node("Cast", [self.node("Size", [values])], to=onnx_type(dtype))
        return self.node("Mul", [name, self.node("Div", [size, size])], result)

    def expanded(self, name: str, shape: Shape, at: Layout, logits: str) -> str:
        """Weights of shape `shape`, one for each position."""
        if shape == at.positions:
            return name
        known = [size for size in at.positions if isinstance(size, int)]
        if 0 in known and len(known) == len(at.positions):
            # ONNX Runtime 1.31 infers that Expand makes [1] of [1] and [0], and reserves its place.
            return self.tensor(np.zeros(known, stash_dtype(at.compute)), "no_sample_weights")
        others = np.array([dim for dim in range(len(at.logits)) if dim != at.axis], np.int64)
        sizes = self.node("Shape", [logits])
        positions = self.node("Gather", [sizes, self.tensor(others, "position_dims")])
        return self.node("Expand", [name, positions])


def _describe(config: LossConfig) -> str:
    """The configuration as JSON, for whoever opens the file."""
    weights = config.class_weights
    return json.dumps(
        {
            "source": config.source,
            "op": config.op,
            **config.attributes,
            "class_weights": None if weights is None else len(weights),
            **config.notes,
        }
    )
