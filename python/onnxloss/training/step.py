# SPDX-License-Identifier: MIT
"""training_step: forward model, loss, gradient and optimizer update in one ONNX model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..config import LossConfig
from ..dtypes import name_of
from ..errors import LossError, expected
from ..export import append_to
from ..writer import Writer, free_name, value_names
from .optimizers import LEARNING_RATE, STEP, Optimizer, Parameter, make_optimizer
from .reverse import with_gradients

METADATA_KEY = "onnxloss.training_step"
LOSS = "loss"
_TRAINABLE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_FLOATS = (*_TRAINABLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def training_step(
    model: onnx.ModelProto,
    config: LossConfig,
    *,
    logits: str | None = None,
    labels: str = "labels",
    label_dtype: str | None = None,
    optimizer: str = "sgd",
    parameters: Sequence[str] | None = None,
    **hyperparameters: Any,
) -> onnx.ModelProto:
    """One step of training as a model that stock ONNX Runtime runs.

    All state goes in and comes out, so that a caller feeds the outputs back as inputs. None has a
    default value: a state that is not fed is an error, never a step from the first value again.
    `initial_state` makes the first one, `TrainingLoop` feeds it back.

    Args:
        model: The forward model; its parameters are initializers.
        config: The loss, as `from_torch` makes it; its reduction is "mean" or "sum".
        logits: Name of the output that holds the logits; by default the only output.
        labels: Name of the labels' input.
        label_dtype: As for `export`.
        optimizer: "sgd" or "adamw", with the formulas of PyTorch.
        parameters: Names of the initializers to train; all others stay as they are. By default
            every float initializer: where some are constants, a positional encoding or a mask,
            name the parameters. (A scalar among them is refused: it may be either.)
        **hyperparameters: sgd: `momentum` (0), `weight_decay` (0). adamw: `betas` ((0.9, 0.999)),
            `eps` (1e-8), `weight_decay` (0.01).

    Returns:
        A checked model. Inputs: those of the forward model, the labels, `learning_rate` (a scalar,
        float32, or float64 where a parameter is), then the state: each parameter under its own
        name; its moments, `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` or
        `<parameter>.momentum_buffer`; `step` (int64 scalar, adamw only). Outputs: `loss`, those of
        the forward model, then `<state>.new` for each state in the same order.

    Raises:
        LossError: A setting that is not known or does not fit, names that collide, or a model
            that cannot be differentiated.

    Example:
        >>> step = onnxloss.training_step(forward, config, optimizer="adamw", weight_decay=0.1)
    """
    update = make_optimizer(optimizer, hyperparameters)
    if config.attributes["reduction"] == "none":
        raise expected("training_step", "reduction", "none", '"mean" or "sum": a scalar loss')
    chosen = _chosen(model.graph, parameters)
    forward = _without_functions(model)
    states = [*chosen, *_moments(update, chosen)]
    rate_type = max((state.data_type for state in chosen), key=_TRAINABLE.index)
    rate = helper.make_tensor_value_info(LEARNING_RATE, rate_type, ())
    taken = {*value_names(forward.graph), labels, LOSS}
    for name in (LEARNING_RATE, *_names(states[len(chosen) :]), *map(new_name, _names(states))):
        if name in taken:
            raise expected("training_step", "name of a value", name, "a name that is not taken")
        taken.add(name)

    dloss, dlogits = free_name("dloss", taken), free_name("dlogits", taken)
    step = append_to(
        forward,
        config,
        logits=logits,
        labels=labels,
        label_dtype=label_dtype,
        gradient=True,
        loss=LOSS,
        dloss=dloss,
        dlogits=dlogits,
    )
    _make_inputs(step.graph, chosen, [rate, *(_value_info(state) for state in states)])
    _make_constant(step.graph, dloss)
    step, gradients = with_gradients(
        step,
        output=logits or forward.graph.output[0].name,
        seed=dlogits,
        parameters=_names(chosen),
    )

    update.update(
        Writer(step.graph, reserved=map(new_name, _names(states))),
        [Parameter(p.name, name_of(p.data_type), gradients[p.name]) for p in chosen],
        name_of(rate_type),
        new_name,
    )
    results = {output.name: output for output in step.graph.output}
    _set_outputs(
        step.graph,
        [
            results[LOSS],
            *(results[output.name] for output in model.graph.output),
            *(_value_info(state, new_name(state.name)) for state in states),
        ],
    )
    settings = {"optimizer": optimizer, **dataclasses.asdict(update), "parameters": _names(chosen)}
    helper.set_model_props(step, {**_metadata(step), METADATA_KEY: json.dumps(settings)})
    onnx.checker.check_model(step)
    return step


def new_name(state: str) -> str:
    """The output that holds a state after the step."""
    return f"{state}.new"


def _chosen(graph: onnx.GraphProto, names: Sequence[str] | None) -> list[onnx.TensorProto]:
    """The initializers to train."""
    floats = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in _FLOATS}
    if names is None:
        for tensor in floats.values():
            if not tensor.dims:
                raise LossError(
                    f'training_step: the initializer "{tensor.name}" is a scalar, which may be a '
                    "constant or a parameter; expected parameters=[...] for such a model."
                )
        names = list(floats)
    if not names or isinstance(names, str):
        raise expected("training_step", "parameters", names, "a list of float initializers")
    for index, name in enumerate(names):
        if name not in floats:
            allowed = "a float initializer of the model: " + (", ".join(floats) or "it has none")
            raise expected("training_step", f"parameters[{index}]", name, allowed)
        if name in names[:index]:
            raise expected("training_step", f"parameters[{index}]", name, "each name once")
        if floats[name].data_type not in _TRAINABLE:
            dtype = name_of(floats[name].data_type)
            raise LossError(
                f'training_step: the dtype of "{name}" is {dtype}; expected float32 or float64: '
                "small updates vanish in 16 bits. Cast float32 parameters in the model instead."
            )
    return [floats[name] for name in names]


def _moments(update: Optimizer, parameters: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
    """The state of the optimizer, as tensors without data."""
    parameters = list(parameters)
    moments = [
        TensorProto(name=f"{p.name}.{moment}", data_type=p.data_type, dims=p.dims)
        for moment in update.moments
        for p in parameters
    ]
    return [
        *moments,
        *([TensorProto(name=STEP, data_type=TensorProto.INT64)] * update.counts_steps),
    ]


def _make_inputs(
    graph: onnx.GraphProto,
    parameters: Iterable[onnx.TensorProto],
    added: Iterable[onnx.ValueInfoProto],
) -> None:
    """Takes the parameters' values out of a graph, and puts inputs in their place."""
    names = set(_names(parameters))
    inputs = [value for value in graph.input if value.name not in names]
    frozen = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.input[:]
    graph.input.extend([*inputs, *added])
    del graph.initializer[:]
    graph.initializer.extend(frozen)


def _make_constant(graph: onnx.GraphProto, dloss: str) -> None:
    """The gradient of the loss with respect to itself is 1."""
    value = next(value for value in graph.input if value.name == dloss)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    graph.initializer.append(numpy_helper.from_array(np.ones((), dtype), dloss))
    graph.input.remove(value)


def _set_outputs(graph: onnx.GraphProto, outputs: Iterable[onnx.ValueInfoProto]) -> None:
    copies = [onnx.ValueInfoProto.FromString(output.SerializeToString()) for output in outputs]
    del graph.output[:]
    graph.output.extend(copies)


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The reverse pass has rules for operators, not for functions."""
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _value_info(tensor: onnx.TensorProto, name: str | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name or tensor.name, tensor.data_type, tensor.dims)


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _names(values: Iterable[onnx.TensorProto]) -> list[str]:
    return [value.name for value in values]
