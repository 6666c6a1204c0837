# SPDX-License-Identifier: MIT
"""training_step: forward model, loss, gradient and optimizer update in one ONNX model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..config import LossConfig, check_config
from ..dtypes import name_of
from ..errors import LossError, expected
from ..export import append_to
from ..opset import check_model, check_valid
from ..writer import Writer, free_name, value_names
from .optimizers import LEARNING_RATE, STEP, Optimizer, Parameter, make_optimizer
from .parameters import (
    TRAINABLE,
    check_buffers,
    choose_parameters,
    find_buffers,
    replace_entries,
    with_master_weights,
)
from .reverse import Reverse, with_gradients
from .update import LOSS_SCALE, Extras, add_update

METADATA_KEY = "onnxloss.training_step"
LOSS = "loss"


def training_step(
    model: onnx.ModelProto,
    config: LossConfig,
    *,
    logits: str | None = None,
    labels: str = "labels",
    label_dtype: str | None = None,
    optimizer: str = "sgd",
    parameters: Sequence[str] | None = None,
    frozen: Sequence[str] = (),
    buffers: Mapping[str, str] | None = None,
    max_norm: float | None = None,
    accumulation_steps: int = 1,
    loss_scale: float | None = None,
    growth_interval: int = 2000,
    reverse: Reverse = with_gradients,
    **hyperparameters: Any,
) -> onnx.ModelProto:
    """One step of training as a model that stock ONNX Runtime runs.

    All state goes in and comes out, so that a caller feeds the outputs back as inputs. None has a
    default value: a state that is not fed is an error, never a step from the first value again.
    `initial_state` makes the first one, `Trainer` and `TrainingLoop` feed it back.

    Args:
        model: The forward model; its parameters are initializers. It keeps its dtypes: the state of
            a float16 or bfloat16 parameter is float32, and is cast where the model reads it.
        config: The loss, as `from_torch` makes it; its reduction is "mean" or "sum".
        logits: Name of the output that holds the logits; by default the only output.
        labels: Name of the labels' input.
        label_dtype: As for `export`.
        optimizer: "sgd", "adam" or "adamw", with the formulas of PyTorch.
        parameters: Names of the initializers to train; all others stay as they are. By default
            every float initializer: where some are constants, a positional encoding or a mask,
            name the parameters. (A scalar among them is refused: it may be either.)
        frozen: Names of initializers to leave as they are, where `parameters` is not given.
        buffers: Initializers that change without a gradient, each with the name of the value that
            it becomes. The running statistics of a BatchNormalization with `training_mode=1` are
            found without being named.
        max_norm: Clips the gradients to this global norm, as torch.nn.utils.clip_grad_norm_.
        accumulation_steps: How many steps make one update. Their gradients are added up, and where
            the loss is a mean divided by their number: this is the gradient of one large batch if
            all have the same number of valid labels (or the same sum of weights).
        loss_scale: The first loss scale, for gradients in 16 bits: a float such as 65536. The step
            multiplies the loss by it before the gradient and divides the gradients by it. Where
            their norm is not finite it leaves the state as it was, but for buffers, and halves the
            scale; as torch.amp.GradScaler.
        growth_interval: How many updates in a row without an overflow double the loss scale.
        reverse: What adds the gradients of the parameters; by default the reverse pass by onnx-ad.
        **hyperparameters: sgd: `momentum` (0), `dampening` (0), `weight_decay` (0), `nesterov`
            (False). adam and adamw: `betas` ((0.9, 0.999)), `eps` (1e-8), `weight_decay` (adam 0,
            adamw 0.01), `amsgrad` (False).

    Returns:
        A checked model. Inputs: those of the forward model, the labels, `learning_rate` (a scalar,
        float32, or float64 where a parameter is), then the state: each parameter under its own
        name; its moments, `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and
        `<parameter>.max_exp_avg_sq` or `<parameter>.momentum_buffer`; `step` (int64 scalar; adam,
        adamw, and sgd with a dampening); the buffers; with `accumulation_steps`
        `<parameter>.gradient_sum` and `micro_step`; with `loss_scale` `loss_scale` and
        `growth_tracker`. Outputs: `loss`, those of the forward model, then `<state>.new` for each
        state in the same order.

    Raises:
        LossError: A setting that is not known or does not fit, names that collide, or a model
            that cannot be differentiated.

    Example:
        >>> step = onnxloss.training_step(forward, config, optimizer="adamw", weight_decay=0.1)
    """
    check_model("training_step", model)
    check_config("training_step", config)
    if METADATA_KEY in metadata(model):
        raise LossError(
            "training_step: model is a training step already; expected the forward model."
        )
    update = make_optimizer(optimizer, hyperparameters)
    extras = Extras(max_norm, accumulation_steps, loss_scale, growth_interval)
    if config.attributes["reduction"] == "none":
        raise expected("training_step", "reduction", "none", '"mean" or "sum": a scalar loss')
    forward = without_functions(model)
    changing = find_buffers(forward.graph, buffers)
    if buffers:
        check_buffers(forward, buffers)
    chosen = choose_parameters(forward.graph, parameters, frozen, changing)
    chosen = with_master_weights(forward.graph, chosen)
    kept = [tensor for tensor in forward.graph.initializer if tensor.name in changing]
    optimized = [*chosen, *_moments(update, chosen)]
    states = [*optimized, *kept, *extras.states(chosen)]
    rate_type = max((state.data_type for state in chosen), key=TRAINABLE.index)
    rate = helper.make_tensor_value_info(LEARNING_RATE, rate_type, ())
    taken = _reserved(forward.graph, labels, states, {*_names(chosen), *_names(kept)})

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
    _make_inputs(step.graph, [rate, *(_value_info(state) for state in states)])
    divisor = extras.accumulation_steps if config.attributes["reduction"] == "mean" else 1
    _set_dloss(step.graph, dloss, 1 / divisor, extras)
    _add_buffers(step.graph, kept, changing)
    logits = logits or forward.graph.output[0].name
    step, gradients = reverse(step, output=logits, seed=dlogits, parameters=_names(chosen))

    trained = [Parameter(p.name, name_of(p.data_type), gradients[p.name]) for p in chosen]
    add_update(step.graph, extras, update, trained, optimized, name_of(rate_type), new_name)
    results = {output.name: output for output in step.graph.output}
    given = [results[name] for name in (LOSS, *(output.name for output in model.graph.output))]
    news = [_value_info(state, new_name(state.name)) for state in states]
    replace_entries(step.graph, "output", [*given, *news])
    settings = {
        "optimizer": optimizer,
        **dataclasses.asdict(update),
        **{k: v for k, v in dataclasses.asdict(extras).items() if v is not None},
        "logits": logits,
        "labels": labels,
        "reduction": config.attributes["reduction"],
        "parameters": _names(chosen),
        "buffers": _names(kept),
    }
    helper.set_model_props(step, {**metadata(step), METADATA_KEY: json.dumps(settings)})
    check_valid("training_step", step)
    return step


def refuse_decided(settings: Mapping[str, Any], decided: Mapping[str, str]) -> None:
    """Refuses settings of `training_step` that a framework's module decides.

    Args:
        settings: What is given.
        decided: What decides a setting, by its name.

    Raises:
        LossError: One of them is given.
    """
    for name in settings:
        if name in decided:
            raise LossError(f"training_step: {name} is given; expected none: {decided[name]}.")


def new_name(state: str) -> str:
    """The output that holds a state after the step."""
    return f"{state}.new"


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The model's own entries by key."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _reserved(
    graph: onnx.GraphProto, labels: str, states: Iterable[onnx.TensorProto], own: set[str]
) -> set[str]:
    """All names of the step but `dloss` and `dlogits`; those of the model's `own` states are there.

    Raises:
        LossError: A name that the step gives is taken.
    """
    taken = {*value_names(graph), labels, LOSS}
    added = [name for name in _names(states) if name not in own]
    for name in (LEARNING_RATE, *added, *map(new_name, _names(states))):
        if name in taken:
            raise expected("training_step", "name of a value", name, "a name that is not taken")
        taken.add(name)
    return taken


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


def _make_inputs(graph: onnx.GraphProto, added: Sequence[onnx.ValueInfoProto]) -> None:
    """Adds inputs, and takes out the initializers and inputs whose place they take."""
    names = {value.name for value in added}
    inputs = [value for value in graph.input if value.name not in names]
    replace_entries(graph, "input", [*inputs, *added])
    frozen = [tensor for tensor in graph.initializer if tensor.name not in names]
    replace_entries(graph, "initializer", frozen)


def _add_buffers(
    graph: onnx.GraphProto, buffers: Iterable[onnx.TensorProto], becomes: Mapping[str, str]
) -> None:
    """Adds the output of each buffer, the value that it becomes."""
    for buffer in buffers:
        new = new_name(buffer.name)
        graph.node.append(helper.make_node("Identity", [becomes[buffer.name]], [new]))
        graph.output.append(_value_info(buffer, new))


def _set_dloss(graph: onnx.GraphProto, dloss: str, value: float, extras: Extras) -> None:
    """The gradient of what is minimized with respect to the loss: `value`, times the loss scale."""
    given = next(entry for entry in graph.input if entry.name == dloss)
    elem_type = given.type.tensor_type.elem_type
    graph.input.remove(given)
    if extras.loss_scale is None:
        array = np.asarray(value, helper.tensor_dtype_to_np_dtype(elem_type))
        graph.initializer.append(numpy_helper.from_array(array, dloss))
        return
    write, count = Writer(graph), len(graph.node)
    scaled = write.node("Mul", [LOSS_SCALE, write.number(value, "float32")], like="loss_scale.seed")
    write.node("Cast", [scaled], dloss, to=elem_type)
    replace_entries(graph, "node", [*graph.node[count:], *graph.node[:count]])


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy; the reverse pass has rules for operators, not for functions."""
    if model.functions:
        return onnx.inliner.inline_local_functions(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _value_info(tensor: onnx.TensorProto, name: str | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name or tensor.name, tensor.data_type, tensor.dims)


def _names(values: Iterable[onnx.TensorProto]) -> list[str]:
    return [value.name for value in values]
