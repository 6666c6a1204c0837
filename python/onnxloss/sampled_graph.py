# SPDX-License-Identifier: MIT
"""Writes a sampled loss into a graph: its samples' inputs, the operator's call, its casts."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from .calls import Result, add_call, with_axis
from .config import LossConfig
from .dtypes import stash_dtype
from .errors import expected
from .layout import Layout, Ports, Shape, fitting, sample_counts
from .nodes import dloss_of
from .writer import Writer, value_info, value_names


def add_sampled_loss(
    model: onnx.ModelProto,
    config: LossConfig,
    at: Layout,
    ports: Ports,
    *,
    gradient: bool,
    extra: Collection[str],
) -> None:
    """Adds all of the loss but the inputs `logits` and `labels` to a model.

    Args:
        model: The model.
        config: The loss.
        at: Its layout.
        ports: Its names.
        gradient: Adds the input `dloss` and the output `dlogits` too.
        extra: The outputs besides the loss and its gradient.
    """
    write = Writer(model.graph, ports.prefix, (ports.loss, ports.dloss, ports.dlogits))
    stash = stash_dtype(at.dtype)
    label_dtype = "int32" if at.label_dtype == "int32" else "int64"
    labels = write.cast(ports.labels, at.label_dtype, label_dtype)
    inputs = {"logits": ports.logits, "labels": labels}
    if gradient:
        inputs["dloss"] = dloss_of(write, at, ports)
    if config.samples != "drawn":
        inputs |= _samples(write, config, at, ports)
    if config.samples == "with labels":
        inputs |= _without_labels(write, config, labels, label_dtype, inputs["samples"])

    loss = Result(ports.loss, at.loss, stash, at.dtype)
    results = {"loss": with_axis(write, loss, at) if at.keeps_axis else loss}
    if gradient:
        results["dlogits"] = Result(ports.dlogits, at.logits, at.dtype, at.dtype)
    optional = {
        "lse": (at.positions, stash),
        "drawn_samples": (_samples_shape(config, at), "int64"),
        "drawn_probabilities": (_columns_shape(config, at), stash),
    }
    op = config.spec.loss_and_grad if gradient else config.spec.forward
    for port in op.outputs_with(extra):
        if port.optional:
            shape, dtype = optional[port.name]
            shown = port.name in extra
            results[port.name] = Result(ports.other(port.name), shape, dtype, dtype, shown=shown)
    add_call(model, write, config, at, ports, inputs, results)


def _columns_shape(config: LossConfig, at: Layout) -> Shape:
    return (at.logits[0], sum(sample_counts(config)))


def _samples_shape(config: LossConfig, at: Layout) -> Shape:
    """The shape that the operator's samples have."""
    _, count = sample_counts(config)
    return (at.logits[0], count) if config.samples == "with labels" else (count,)


def _samples(write: Writer, config: LossConfig, at: Layout, ports: Ports) -> dict[str, str]:
    """Adds the inputs `samples` and `probabilities`, with their default values if there are any."""
    columns = _columns_shape(config, at)
    with_labels = config.samples == "with labels"
    wanted = {
        "samples": ("int64", columns if with_labels else _samples_shape(config, at)),
        "probabilities": (stash_dtype(at.dtype), columns),
    }
    taken = value_names(write.graph) | {ports.loss, ports.dlogits}
    defaults = dict(zip(wanted, config.sample_values or (), strict=False))
    inputs = {}
    for port, (dtype, shape) in wanted.items():
        name = inputs[port] = ports.other(port)
        if name in taken:
            raise expected(config.op, "the new name", name, "one that is not taken in the model")
        if port in defaults:
            values = np.asarray(defaults[port])
            shape = fitting(config.op, port, values.shape, shape)
            tensor = onnx.numpy_helper.from_array(values.astype(dtype), name)
            write.graph.initializer.append(tensor)
        write.graph.input.append(value_info(name, dtype, shape))
    return inputs


def _without_labels(
    write: Writer, config: LossConfig, labels: str, label_dtype: str, samples: str
) -> dict[str, str]:
    """The operator's labels and samples, of samples that have the labels before them.

    The labels stand twice in the graph's inputs: where they differ, the operator meets a label out
    of range.
    """
    num_true, count = sample_counts(config)
    axis, start = write.tensor(np.array([1]), "class_axis"), write.tensor(np.array([0]), "first")
    split = write.tensor(np.array([num_true]), "num_true")
    end = write.tensor(np.array([num_true + count]), "num_columns")
    repeated = write.node("Slice", [samples, start, split, axis])
    labels = write.cast(labels, label_dtype, "int64")
    none = write.tensor(np.array(-1), "no_class")
    return {
        "labels": write.node("Where", [write.node("Equal", [labels, repeated]), labels, none]),
        "samples": write.node("Slice", [samples, split, end, axis]),
    }
