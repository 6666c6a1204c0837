# SPDX-License-Identifier: MIT
"""Training steps of Paddle layers for stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import paddle

from .config import LossConfig
from .errors import LossError, expected
from .from_paddle import from_paddle
from .opset import OPSET, check_valid, check_version
from .paddle_conversion import convert
from .quiet import quiet
from .training.step import refuse_decided
from .training.step import training_step as training_step_of

LOGITS = "logits"
_DECIDED = {
    "logits": "they are the layer's output",
    "parameters": "stop_gradient says which are constants",
    "frozen": "stop_gradient says which are constants",
}


def training_step(
    layer: paddle.nn.Layer,
    loss: Any,
    input_spec: Sequence[Any],
    optimizer: str = "sgd",
    *,
    opset_version: int = OPSET,
    **settings: Any,
) -> onnx.ModelProto:
    """One step of training of a Paddle layer as a model that stock ONNX Runtime runs.

    The forward pass goes through paddle2onnx, loss and optimizer are those of
    `onnxloss.training_step`, and so are the model's inputs, outputs and state. The state has the
    names of the layer's `state_dict()`, a shared tensor the first of its names; parameters with
    `stop_gradient` are constants.

    Args:
        layer: The layer; its output is the logits.
        loss: The loss, as `from_paddle` takes it, or a `LossConfig`.
        input_spec: The layer's inputs, as for `paddle.onnx.export`.
        optimizer: As for `onnxloss.training_step`: `sgd` with a momentum is
            paddle.optimizer.Momentum, and `adamw` with its `coeff` as `weight_decay` AdamW.
        opset_version: Version of ai.onnx, 19 or newer as far as paddle2onnx goes.
        **settings: Others of `onnxloss.training_step`.

    Returns:
        A checked model, as `onnxloss.training_step` gives it.

    Raises:
        LossError: A setting that is not known or does not fit; paddle2onnx failed, or made a
            constant of what a parameter is in; or the layer has a dropout in training mode, which
            paddle2onnx drops.

    Example:
        >>> spec = [paddle.static.InputSpec([None, 64], "float32", "x")]
        >>> step = onnxloss.paddle.training_step(layer, paddle.nn.CrossEntropyLoss(), spec, "adamw")
        >>> forward = onnxloss.paddle.forward_model(layer, spec)
        >>> trainer = onnxloss.Trainer(step, forward, learning_rate=1e-3)
    """
    refuse_decided(settings, _DECIDED)
    config = loss if isinstance(loss, LossConfig) else from_paddle(loss)
    model = forward_model(layer, input_spec, opset_version=opset_version)
    names, there = _names(layer), {tensor.name for tensor in model.graph.initializer}
    trained = {names[p.name]: p for p in layer.parameters() if not p.stop_gradient}
    _refuse_own_settings(trained, clips=settings.get("max_norm") is not None)
    missing = [name for name in trained if name not in there]
    if missing:
        raise LossError(
            f"training_step: the converted model has no {', '.join(missing)}: forward does not use "
            "what is named, or weight_norm or spectral_norm computes a weight of it beforehand; "
            "expected every parameter but those with stop_gradient = True. "
            "nn.utils.remove_weight_norm makes a parameter of the weight."
        )
    # Paddle makes the root logger print what these log for information.
    with quiet("onnx_ir", "onnxscript"):
        return training_step_of(
            model, config, logits=LOGITS, optimizer=optimizer, parameters=list(trained), **settings
        )


def forward_model(
    layer: paddle.nn.Layer, input_spec: Sequence[Any], *, opset_version: int = OPSET
) -> onnx.ModelProto:
    """The layer's model, as `initial_state`, `trained_model` and `Trainer` take it.

    Its initializers are the parameters and buffers, with the names of `training_step`. A
    batch normalization in training mode is in training mode there too.

    Args:
        layer: The layer; its output is the logits.
        input_spec: As for `training_step`.
        opset_version: As for `training_step`.

    Raises:
        LossError: As `training_step`.
    """
    check_version("training_step", opset_version)
    model, unused_means = convert("training_step", layer, input_spec, opset_version)
    if len(model.graph.output) != 1:
        raise expected("training_step", "number of outputs", len(model.graph.output), "1: logits")
    _set_training_mode(model.graph, unused_means)
    names = {**_names(layer), model.graph.output[0].name: LOGITS}
    _rename(model.graph, names)
    _take_constants(model.graph, set(names.values()))
    check_valid("training_step", model)
    return model


def _refuse_own_settings(parameters: Mapping[str, Any], *, clips: bool) -> None:
    """Refuses what Paddle's optimizers do for a single parameter, which its ParamAttr says."""
    for name, parameter in parameters.items():
        for setting, value, allowed in (
            ("regularizer", parameter.regularizer, None),
            ("learning_rate", parameter.optimize_attr["learning_rate"], 1.0),
            ("need_clip", parameter.need_clip or not clips, True),
        ):
            if value != allowed:
                what, reason = f'{setting} of "{name}"', "a step treats all parameters alike"
                raise expected("training_step", what, value, str(allowed), reason)


def load_state(layer: paddle.nn.Layer, state: Mapping[str, np.ndarray]) -> None:
    """Writes the parameters and buffers of a training's state into the layer.

    Raises:
        LossError: One of them has another shape, or the state has none of them.
    """
    own = layer.state_dict()
    if own.keys().isdisjoint(state):
        raise LossError(f"load_state: the state has none of the layer's {', '.join(own)}.")
    for name, tensor in own.items():
        if name in state and list(state[name].shape) != list(tensor.shape):
            raise LossError(
                f'load_state: shape of "{name}" in the state is {list(state[name].shape)}; '
                f"expected {list(tensor.shape)}."
            )
    for name, tensor in own.items():
        if name in state:
            tensor.set_value(np.array(state[name]))


def _names(layer: paddle.nn.Layer) -> dict[str, str]:
    """The name of each tensor in `state_dict()`, the first one where it has several, by its own."""
    names: dict[str, str] = {}
    for name, tensor in layer.state_dict().items():
        names.setdefault(tensor.name, name)
    return names


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for value in graph.output:
        value.name = names.get(value.name, value.name)


def _take_constants(graph: onnx.GraphProto, names: set[str]) -> None:
    """Makes initializers of the constants of these names."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Constant" and node.output[0] in names:
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            graph.node.append(node)


def _set_training_mode(graph: onnx.GraphProto, means: set[str]) -> None:
    """Each BatchNormalization with one of these running means normalizes with its batch."""
    found = set()
    for node in graph.node:
        if node.op_type == "BatchNormalization" and node.input[3] in means:
            found.add(node.input[3])
            for entry in list(node.attribute):
                if entry.name == "training_mode":
                    node.attribute.remove(entry)
            node.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    for name in means - found:
        raise LossError(
            f"training_step: the running mean of a batch_norm in training mode is {name}; expected "
            "a buffer of the layer."
        )
