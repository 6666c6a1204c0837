# SPDX-License-Identifier: MIT
"""Writes a sampled loss into a graph: its samples' inputs, the operator's call, its casts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from . import graph as graphs
from .config import LossConfig
from .dtypes import FLOAT_DTYPES, LABEL_DTYPES, onnx_type, stash_dtype
from .errors import expected, expected_shape
from .onnxscript_defs import DOMAIN

if TYPE_CHECKING:
    from .graph import Layout, Ports, Shape

EXTRA_OUTPUTS = ("drawn_samples", "drawn_probabilities")
"""What a sampled loss can give beside itself and its gradient."""


def sampled_layout(
    config: LossConfig, logits: Shape, labels: Shape | None, *, dtype: str, label_dtype: str | None
) -> Layout:
    """What a sampled loss has in a graph whose logits and labels have these shapes and dtypes.

    Raises:
        LossError: The configuration does not fit them.
    """
    if dtype not in FLOAT_DTYPES:
        raise expected(config.op, "dtype", dtype, " or ".join(FLOAT_DTYPES))
    label_dtype = label_dtype or "int64"
    if label_dtype not in LABEL_DTYPES:
        raise expected(config.op, "label_dtype", label_dtype, " or ".join(LABEL_DTYPES))
    if len(logits) != 2:
        raise expected_shape(config.op, "logits", logits, ("N", config.num_classes or "K"))
    rows, classes = logits
    num_true, count = _sizes(config)
    if config.num_classes is not None:
        logits = graphs.fitting(config.op, "logits", logits, (rows, config.num_classes))
    elif isinstance(classes, int) and config.samples == "drawn":
        if count > classes:
            allowed = f"at most the number of classes, {classes}"
            raise expected(config.op, "num_samples", count, allowed)
    wanted: Shape = (rows, num_true)
    given = wanted if labels is None else graphs.fitting(config.op, "labels", labels, wanted)
    loss: Shape = (rows,) if config.attributes["reduction"] == "none" else ()
    if loss and config.loss_axis == "kept":
        loss = (rows, 1)
    return graphs.Layout(logits, 1, given, loss, dtype, label_dtype, dtype)


def add_sampled_loss(
    model: onnx.ModelProto,
    config: LossConfig,
    at: Layout,
    ports: Ports,
    *,
    gradient: bool,
    extra: Collection[str],
) -> None:
    """Adds all of the loss but the inputs `logits` and `labels` to a model."""
    write = graphs._Writer(model.graph, ports)
    stash = stash_dtype(at.dtype)
    keeps_axis = at.loss not in ((), at.positions)
    label_dtype = "int32" if at.label_dtype == "int32" else "int64"
    inputs = {
        "logits": ports.logits,
        "labels": write.cast(ports.labels, at.label_dtype, label_dtype),
    }
    if gradient:
        model.graph.input.append(graphs.value_info(ports.dloss, at.dtype, at.loss))
        dloss = write.cast(ports.dloss, at.dtype, stash)
        inputs["dloss"] = write.squeezed(dloss, 1) if keeps_axis else dloss
    if config.samples != "drawn":
        _add_samples(model.graph, write, config, at, ports, inputs)

    changed = keeps_axis or stash != at.dtype
    made = {"loss": write.free(ports.loss) if changed else ports.loss}
    if gradient:
        made["dlogits"] = ports.dlogits
    # A function has no output that the node could leave out before one that it has.
    drawn = EXTRA_OUTPUTS[: 1 + max((EXTRA_OUTPUTS.index(name) for name in extra), default=-1)]
    shown = {"loss": ports.loss, "dlogits": ports.dlogits}
    shown |= {name: f"{ports.prefix}{name}" for name in extra}
    made |= {name: shown.get(name) or write.free(name) for name in drawn}
    op = config.spec.loss_and_grad if gradient else config.spec.forward
    values: dict[str, Any] = {**config.attributes, "stash_type": onnx_type(stash)}
    node = helper.make_node(
        op.name,
        graphs._positional(op.inputs, inputs),
        graphs._positional(op.outputs, made),
        f"{ports.prefix}{config.name or op.name}",
        op.doc,
        DOMAIN,
        **{attribute.name: values[attribute.name] for attribute in op.attributes},
    )
    model.graph.node.extend(graphs.called_or_written_out(model, config.spec, node))
    loss = made["loss"]
    if keeps_axis:
        loss = write.unsqueezed(loss, 1, ports.loss if stash == at.dtype else None)
    write.cast(loss, stash, at.dtype, ports.loss)

    shapes = {
        "loss": (at.dtype, at.loss),
        "dlogits": (at.dtype, at.logits),
        "drawn_samples": ("int64", _samples_shape(config, at)),
        "drawn_probabilities": (stash, _columns_shape(config, at)),
    }
    for name in ("loss", *(["dlogits"] if gradient else ()), *extra):
        model.graph.output.append(graphs.value_info(shown[name], *shapes[name]))
    entry = model.metadata_props.add()
    entry.key, entry.value = f"{DOMAIN}.{ports.loss}", graphs._describe(config)


def _sizes(config: LossConfig) -> tuple[int, int]:
    """T and S."""
    return int(config.attributes["num_true"]), int(config.attributes["num_samples"])


def _columns_shape(config: LossConfig, at: Layout) -> Shape:
    return (at.logits[0], sum(_sizes(config)))


def _samples_shape(config: LossConfig, at: Layout) -> Shape:
    """The shape that the operator's samples have."""
    _, count = _sizes(config)
    return (at.logits[0], count) if config.samples == "with labels" else (count,)


def _add_samples(
    graph: onnx.GraphProto,
    write: graphs._Writer,
    config: LossConfig,
    at: Layout,
    ports: Ports,
    inputs: dict[str, str],
) -> None:
    """Adds the inputs `samples` and `probabilities`, with their default values if there are any."""
    columns = _columns_shape(config, at)
    with_labels = config.samples == "with labels"
    wanted = {
        "samples": ("int64", columns if with_labels else _samples_shape(config, at)),
        "probabilities": (stash_dtype(at.dtype), columns),
    }
    taken = graphs.names_in(graph) | {ports.loss, ports.dlogits}
    defaults = dict(zip(wanted, config.sample_values or (), strict=False))
    for port, (dtype, shape) in wanted.items():
        name = f"{ports.prefix}{port}"
        if name in taken:
            raise expected(config.op, "the new name", name, "one that is not taken in the model")
        if port in defaults:
            values = np.asarray(defaults[port])
            shape = graphs.fitting(config.op, port, values.shape, shape)
            tensor = onnx.numpy_helper.from_array(values.astype(dtype), name)
            graph.initializer.append(tensor)
        graph.input.append(graphs.value_info(name, dtype, shape))
        inputs[port] = name
    if not with_labels:
        return
    # The labels stand twice in the graph's inputs: where they differ, the operator meets a label
    # out of range.
    num_true, count = _sizes(config)
    axis, start = write.tensor(np.array([1]), "class_axis"), write.tensor(np.array([0]), "first")
    split = write.tensor(np.array([num_true]), "num_true")
    end = write.tensor(np.array([num_true + count]), "num_columns")
    repeated = write.node("Slice", [inputs["samples"], start, split, axis])
    labels = write.cast(inputs["labels"], "int32", "int64") if _is_int32(at) else inputs["labels"]
    none = write.tensor(np.array(-1), "no_class")
    inputs["labels"] = write.node("Where", [write.node("Equal", [labels, repeated]), labels, none])
    inputs["samples"] = write.node("Slice", [inputs["samples"], split, end, axis])


def _is_int32(at: Layout) -> bool:
    return at.label_dtype == "int32"
