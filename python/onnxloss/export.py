# SPDX-License-Identifier: MIT
"""Writes a loss as ONNX: a model of its own, or behind a forward model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import version

import numpy as np
import onnx
import onnx.inliner
from onnx import helper

from .calls import IR_VERSION
from .config import LossConfig, check_config
from .dtypes import FLOAT_DTYPES, name_of
from .errors import LossError, check_type, expected
from .graph import OF_LOGITS, add_loss
from .layout import Layout, Ports, Shape, check_sizes, fitted, layout
from .onnxscript_defs import DOMAIN
from .opset import OPSET, check_valid, with_opset
from .weighting import settled
from .writer import value_info, value_names


def export(
    config: LossConfig,
    *,
    logits: Sequence[int | str | None],
    labels: Sequence[int | str | None] | None = None,
    sample_weights: Sequence[int | str | None] | None = None,
    dtype: str = "float32",
    label_dtype: str | None = None,
    gradient: bool = False,
    outputs: Sequence[str] = ("loss",),
    inline: bool = False,
) -> onnx.ModelProto:
    """The model that computes the loss, and its gradient if asked for.

    Args:
        config: The loss and its settings, as `from_torch` makes it.
        logits: Shape of the input `logits`; a string names a dynamic dimension.
        labels: Shape of the input `labels`; by default what `logits` says.
        sample_weights: Shape of the input `sample_weights`, for losses that take them.
        dtype: Dtype of the logits: float16, bfloat16, float32 or float64.
        label_dtype: Dtype of the labels: int64 (default), int32 or uint8; for probabilities a
            floating dtype (default: that of the logits).
        gradient: Adds the input `dloss`, of the loss's shape, and the output `dlogits`.
        outputs: The outputs besides `dlogits`: "loss", then "lse" (the log of the softmax's
            denominator), "log_prob" (the log-softmax) and "probabilities" (the softmax) where
            they are asked for or the source gives them; with `gradient` "dlabels" (the gradient
            by label probabilities), where the source has one. A sampled loss has "lse",
            "drawn_samples" and "drawn_probabilities".
        inline: Writes the function's nodes in place of the call, so that no custom domain is left.

    Returns:
        A checked model: inputs `logits`, `labels` and `dloss`; outputs `loss` and `dlogits`; class
        weights are the initializer `class_weights`. A sampled loss with customised samples has the
        inputs `samples` and `probabilities` too.

    Raises:
        LossError: Shapes, dtypes or settings that do not fit together.

    Example:
        >>> config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
        >>> model = onnxloss.export(config, logits=("N", 10), gradient=True)
        >>> [output.name for output in model.graph.output]
        ['loss', 'dlogits']
    """
    check_config("export", config)
    shape = _sizes(config, "logits", logits)
    given = None if labels is None else _sizes(config, "labels", labels)
    config = fitted(config, shape, given, label_dtype)
    at = layout(config, shape, given, dtype=dtype, label_dtype=label_dtype)
    config, weights = settled(
        config,
        at.positions,
        last_axis=at.axis == len(at.logits) - 1,
        given=None if sample_weights is None else _sizes(config, "sample_weights", sample_weights),
    )
    at = layout(config, at.logits, given, dtype=dtype, label_dtype=label_dtype)
    extra = _extra(config, at, outputs, gradient=gradient)
    inputs = [
        value_info("logits", dtype, at.logits),
        value_info("labels", at.label_dtype, given or at.labels),
    ]
    if sample_weights is not None and weights is not None:
        inputs.append(value_info("sample_weights", at.compute, weights.given))
    model = helper.make_model(
        helper.make_graph([], config.op, inputs, []),
        producer_name="onnxloss",
        producer_version=version("onnxloss"),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    add_loss(model, config, at, Ports(), gradient=gradient, sample_weights=weights, extra=extra)
    return _finished("export", model, inline=inline)


def append_to(
    model: onnx.ModelProto,
    config: LossConfig,
    *,
    logits: str | None = None,
    labels: str = "labels",
    label_dtype: str | None = None,
    sample_weights: str | None = None,
    gradient: bool = False,
    loss: str = "loss",
    dloss: str = "dloss",
    dlogits: str = "dlogits",
    outputs: Sequence[str] = ("loss",),
    inline: bool = False,
) -> onnx.ModelProto:
    """A copy of a forward model with the loss behind it.

    Args:
        model: The forward model; its outputs stay.
        config: The loss and its settings, as `from_torch` makes it.
        logits: Name of the output that holds the logits; by default the only output.
        labels: Name of the labels' input; an input of this name that is there already is used.
        label_dtype: As for `export`.
        sample_weights: Name of an input of sample weights, one for each position, for losses that
            take them; it is used if it is there already.
        gradient: Adds the input `dloss` and the output `dlogits`.
        loss: Name of the loss's output.
        dloss: Name of the upstream gradient's input.
        dlogits: Name of the gradient's output.
        outputs: As for `export`; beside a loss that is not called "loss", each of the others has
            that name and a dot before its own.
        inline: As for `export`.

    Returns:
        A checked model: the forward model's inputs and outputs, then those of the loss.

    Raises:
        LossError: The model has no such output, the loss does not fit it, or a name is taken.

    Example:
        >>> model = onnxloss.append_to(forward, config, logits="scores", gradient=True)
    """
    check_config("append_to", config)
    check_type("append_to", "labels", labels, str, "a name")
    result = with_opset(model, "append_to")
    graph = result.graph
    output = _logits_output(config, graph, logits)
    dtype = name_of(output.type.tensor_type.elem_type)
    existing = [value for value in graph.input if value.name == labels]
    given = shape_of(config, existing[0]) if existing else None
    kind = name_of(existing[0].type.tensor_type.elem_type) if existing else label_dtype
    config = fitted(config, shape_of(config, output), given, kind)
    at = layout(config, shape_of(config, output), given, dtype=dtype, label_dtype=label_dtype)
    weighted = [value for value in graph.input if value.name == sample_weights]
    weights_shape = None
    if sample_weights is not None:
        weights_shape = shape_of(config, weighted[0]) if weighted else at.positions
    config, weights = settled(
        config, at.positions, last_axis=at.axis == len(at.logits) - 1, given=weights_shape
    )
    at = layout(config, at.logits, given, dtype=dtype, label_dtype=label_dtype)
    ports = Ports(
        output.name,
        labels,
        sample_weights or "sample_weights",
        loss=loss,
        dloss=dloss,
        dlogits=dlogits,
    )

    extra = _extra(config, at, outputs, gradient=gradient)
    made = (loss, *((dloss, dlogits) if gradient else ()), *map(ports.other, extra))
    taken = value_names(graph)
    for name in made:
        if not name or name in taken or name == labels or made.count(name) > 1:
            raise expected(config.op, "the new name", name, "one that is not taken in the model")
    added = value_info(labels, at.label_dtype, at.labels)
    _take_input(config, graph, "labels", existing, added, taken)
    if sample_weights is not None:
        added = value_info(sample_weights, at.compute, at.positions)
        taken.update((*made, labels))
        _take_input(config, graph, "sample_weights", weighted, added, taken)
    add_loss(result, config, at, ports, gradient=gradient, sample_weights=weights, extra=extra)
    return _finished("append_to", result, inline=inline)


def _take_input(
    config: LossConfig,
    graph: onnx.GraphProto,
    port: str,
    there: Sequence[onnx.ValueInfoProto],
    wanted: onnx.ValueInfoProto,
    taken: Collection[str],
) -> None:
    """Adds an input; or, where it is `there`, checks its dtype."""
    name = wanted.name
    if there:
        given, dtype = (name_of(v.type.tensor_type.elem_type) for v in (there[0], wanted))
        if given != dtype:
            raise expected(config.op, f'dtype of the input "{name}"', given, dtype)
    elif not name or name in taken:
        raise expected(config.op, port, name, "an input or a name that is not taken")
    else:
        graph.input.append(wanted)


def _sizes(config: LossConfig, name: str, given: Iterable[int | str | None]) -> Shape:
    """A shape as it is given; numpy's integers become Python's."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise expected(config.op, name, given, 'a sequence of sizes, as ("N", 10)')
    shape = tuple(int(size) if isinstance(size, np.integer) else size for size in given)
    check_sizes(config.op, name, shape)
    return shape


def _finished(where: str, model: onnx.ModelProto, *, inline: bool) -> onnx.ModelProto:
    """The model, checked; without a function and domain of ours if they are to be inlined."""
    if inline:
        ours = [(made.domain, made.name) for made in model.functions if made.domain == DOMAIN]
        model = onnx.inliner.inline_selected_functions(model, ours)
        others = [opset for opset in model.opset_import if opset.domain != DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend(others)
    check_valid(where, model)
    return model


def _logits_output(
    config: LossConfig, graph: onnx.GraphProto, name: str | None
) -> onnx.ValueInfoProto:
    outputs = {output.name: output for output in graph.output}
    if name is None and len(outputs) == 1:
        return graph.output[0]
    if name not in outputs:
        raise expected(config.op, "logits", name, f"an output of the model: {', '.join(outputs)}")
    return outputs[name]


def shape_of(config: LossConfig, value: onnx.ValueInfoProto) -> Shape:
    """The shape of a graph input or output."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise LossError(
            f'{config.op}: shape of "{value.name}" is unknown; expected one of known rank: '
            "run onnx.shape_inference on the model first."
        )
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in tensor.shape.dim
    )


def _extra(
    config: LossConfig, at: Layout, outputs: Sequence[str], *, gradient: bool
) -> tuple[str, ...]:
    """The outputs besides the loss and its gradient."""
    if isinstance(outputs, str):
        raise expected(config.op, "outputs", outputs, 'a sequence of names, as ("loss", "lse")')
    first, *extra = outputs or ("",)
    known = [port.name for port in config.spec.results]
    if gradient:
        known += [port.name for port in config.spec.gradients]
    if not config.spec.drawn:
        known += OF_LOGITS
    if first != "loss" or not set(extra) <= set(known) or len(set(extra)) < len(extra):
        allowed = f"loss, then {', '.join(known)} or less"
        raise expected(config.op, "outputs", tuple(outputs), allowed)
    extra += [name for name in config.outputs if name not in outputs]
    for name in extra:
        reason = _unavailable(config, at, name)
        if reason:
            raise expected(config.op, "outputs", tuple(outputs), f"no {name}", reason)
    return tuple(extra)


def _unavailable(config: LossConfig, at: Layout, output: str) -> str:
    """Why the loss has not this output, or nothing."""
    if output in OF_LOGITS:
        attributes = config.attributes
        plain = attributes["from_logits"] == 1 and attributes["logit_softcap"] == 0
        return "" if plain else "the softmax's input is not what the logits are"
    if output == "dlabels":
        if config.attributes["class_weighting"] == "position":
            return "class weights weigh whole positions"
        if at.label_dtype not in FLOAT_DTYPES:
            return f"labels are {at.label_dtype}"
        return config.refused.get("label gradient", "")
    return ""
