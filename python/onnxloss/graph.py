# SPDX-License-Identifier: MIT
"""Writes a loss into a graph: the operator's inputs, its call, and what becomes of its results."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from .calls import Result, add_call, with_axis
from .config import NO_IGNORED_LABEL, LossConfig
from .dtypes import FLOAT_DTYPES, promoted, stash_dtype
from .layout import Layout, Ports
from .nodes import (
    by_their_sum,
    dloss_of,
    expanded,
    nan_if_empty,
    scaled,
    smoothed,
)
from .sampled_graph import add_sampled_loss
from .weighting import SampleWeights
from .writer import Writer, value_info

OF_LOGITS = {"log_prob": "LogSoftmax", "probabilities": "Softmax"}
"""The outputs that a standard operator computes from the logits."""

_IGNORED_FLOAT = NO_IGNORED_LABEL + 1
"""The `ignore_index` of floating labels, which no float becomes when it loses its fraction."""


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
    """Adds all of the loss but the inputs `logits`, `labels` and `sample_weights` to a model.

    The operator computes in the logits' dtype and gives a float32 loss for 16-bit logits; the
    casts around it make the loss's dtype that of the logits, as the frameworks have it.

    Args:
        model: The model.
        config: The loss.
        at: Its layout.
        ports: Its names.
        gradient: Adds the input `dloss` and the output `dlogits` too.
        sample_weights: How its sample weights meet the positions, if it has any.
        extra: The outputs besides the loss and its gradient.
    """
    if config.spec.drawn:
        add_sampled_loss(model, config, at, ports, gradient=gradient, extra=extra)
        return
    others = map(ports.other, ("lse", "dlabels", *OF_LOGITS))
    write = Writer(model.graph, ports.prefix, (ports.loss, ports.dloss, ports.dlogits, *others))
    inputs = {"labels": _labels(write, config, at, ports.labels)}
    if _ignores_floats(config, at):
        attributes = {**config.attributes, "ignore_index": _IGNORED_FLOAT}
        config = replace(config, attributes=attributes)
    inputs["logits"] = write.cast(ports.logits, at.dtype, at.compute)
    if gradient:
        inputs["dloss"] = dloss_of(write, at, ports)
    if config.class_weights is not None:
        inputs["class_weights"] = write.tensor(_class_weights(config, at), "class_weights")
    if sample_weights is not None:
        inputs["sample_weights"] = _sample_weights(write, config, sample_weights, at, ports)

    stash = stash_dtype(at.compute)
    results = {"loss": _loss(write, config, at, ports, inputs["logits"])}
    if gradient:
        results["dlogits"] = Result(ports.dlogits, at.logits, at.compute, at.dtype)
    optional = {
        "lse": Result(ports.other("lse"), at.positions, stash, stash),
        "dlabels": _dlabels(write, config, at, ports),
    }
    op = config.spec.loss_and_grad if gradient else config.spec.forward
    for port in op.outputs_with(extra):
        if port.optional:
            results[port.name] = replace(optional[port.name], shown=port.name in extra)
    add_call(model, write, config, at, ports, inputs, results)
    for name in OF_LOGITS:
        if name in extra:
            _add_output_of_logits(write, name, at, ports)


def _labels(write: Writer, config: LossConfig, at: Layout, name: str) -> str:
    """The labels in the operator's shape and dtype."""
    if not config.takes_probabilities:
        wanted = at.label_dtype if at.label_dtype in ("int32", "int64") else "int64"
        labels = write.cast(name, at.label_dtype, wanted)
        if _ignores_floats(config, at):
            # Keras compares before the fraction is lost: 1.7 is class 1, also where 1 is ignored.
            wide = promoted(at.label_dtype, "float32")
            ignored = write.number(int(config.attributes["ignore_index"]), wide)
            equal = write.node("Equal", [write.cast(name, at.label_dtype, wide), ignored])
            labels = write.node("Where", [equal, write.number(_IGNORED_FLOAT, wanted), labels])
        return labels if at.labels == at.positions else write.squeezed(labels, at.axis)
    if config.dense_smoothing == 0:
        return write.cast(name, at.label_dtype, at.compute)
    stash = stash_dtype(at.compute)
    labels = write.cast(name, at.label_dtype, stash)
    labels = smoothed(write, labels, config.dense_smoothing, stash)
    return write.cast(labels, stash, at.compute)


def _ignores_floats(config: LossConfig, at: Layout) -> bool:
    """Whether labels that are to be compared with `ignore_index` have fractions."""
    return at.label_dtype in FLOAT_DTYPES and config.ignores_a_label


def _class_weights(config: LossConfig, at: Layout) -> np.ndarray:
    """The class weights in the operator's S; numbers without a dtype are the logits' dtype."""
    weights = config.class_weights
    if isinstance(weights, tuple):
        weights = np.asarray(weights).astype(FLOAT_DTYPES[at.compute])
    return weights.astype(FLOAT_DTYPES[stash_dtype(at.compute)])


def _sample_weights(
    write: Writer, config: LossConfig, weights: SampleWeights, at: Layout, ports: Ports
) -> str:
    """The sample weights, one for each position and in S."""
    stash = stash_dtype(at.compute)
    if isinstance(config.sample_weights, np.ndarray):
        name = write.tensor(config.sample_weights.astype(stash), "sample_weights")
    else:
        name = write.cast(ports.sample_weights, at.compute, stash)
    if weights.by_sum:
        name = by_their_sum(write, name, stash)
    last = len(weights.given) - 1
    if len(weights.aligned) < len(weights.given):
        name = write.squeezed(name, last)
    elif len(weights.aligned) > len(weights.given):
        name = write.unsqueezed(name, last + 1)
    return expanded(write, name, weights.aligned, at, ports.logits)


def _loss(write: Writer, config: LossConfig, at: Layout, ports: Ports, logits: str) -> Result:
    stash = stash_dtype(at.compute)
    loss = Result(ports.loss, at.loss, stash, at.compute)
    # Only a mean, which has no axis to keep, is nan without positions.
    if at.keeps_axis:
        return with_axis(write, loss, at)
    if _may_be_empty(config, at):
        return replace(loss, changed=partial(nan_if_empty, write, logits, stash))
    return loss


def _may_be_empty(config: LossConfig, at: Layout) -> bool:
    """Whether a mean that is nan without positions may have none, for all that the shape says."""
    sized = all(isinstance(size, int) and size > 0 for size in at.logits)
    return config.nan_if_empty and config.attributes["reduction"] == "mean" and not sized


def _dlabels(write: Writer, config: LossConfig, at: Layout, ports: Ports) -> Result:
    dlabels = Result(ports.other("dlabels"), at.labels, at.compute, at.label_dtype)
    if config.dense_smoothing == 0:
        return dlabels
    kept = 1 - config.dense_smoothing
    return replace(dlabels, changed=partial(scaled, write, kept, at.compute))


def _add_output_of_logits(write: Writer, port: str, at: Layout, ports: Ports) -> None:
    """Adds the output `log_prob` or `probabilities`, computed in S, which every runtime can."""
    name, stash = ports.other(port), stash_dtype(at.dtype)
    logits = write.cast(ports.logits, at.dtype, stash)
    result = name if at.dtype == stash else None
    value = write.node(OF_LOGITS[port], [logits], result, axis=at.axis)
    write.cast(value, stash, at.dtype, name)
    write.graph.output.append(value_info(name, at.dtype, at.logits))
