# SPDX-License-Identifier: MIT
"""Training steps of PyTorch modules for stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper

from .config import LossConfig
from .errors import LossError, check_type
from .from_torch import from_torch
from .opset import check_version
from .torch_trace import LOGITS, Trace, trace
from .training.step import refuse_decided
from .training.step import training_step as training_step_of
from .writer import free_name, value_names

OPSET = 20
_DECIDED = {
    "logits": "they are the module's output",
    "parameters": "requires_grad says which are trained",
    "frozen": "requires_grad says which are trained",
    "buffers": "they are the module's that the forward pass changes",
    "reverse": "the backward pass is PyTorch's",
}
DynamicShapes = Sequence[Mapping[int, Any]] | Mapping[str, Mapping[int, Any]]


def training_step(
    module: torch.nn.Module,
    loss: Any,
    example_inputs: Sequence[torch.Tensor],
    optimizer: str = "sgd",
    *,
    target: str = "indices",
    labels: str = "labels",
    label_dtype: str | None = None,
    input_names: Sequence[str] | None = None,
    dynamic_shapes: DynamicShapes | None = None,
    opset_version: int = OPSET,
    **settings: Any,
) -> onnx.ModelProto:
    """One step of training of a PyTorch module as a model that stock ONNX Runtime runs.

    Forward and backward pass are PyTorch's own, traced in the mode (train or eval) that the module
    is in; loss and optimizer are those of `onnxloss.training_step`, and so are the model's inputs,
    outputs and state. The state has the names of the module's parameters and buffers. Parameters
    without `requires_grad` are constants; of these and of the buffers those that the forward pass
    changes, as the running statistics of BatchNorm, are part of the state.

    Args:
        module: The module; its output is the logits, as the loss takes them.
        loss: The loss, as `from_torch` takes it, or a `LossConfig`.
        example_inputs: The module's inputs, for their shapes and dtypes. A dimension that is to be
            dynamic has at least size 2 here.
        optimizer: As for `onnxloss.training_step`.
        target: As for `from_torch`.
        labels: Name of the labels' input.
        label_dtype: As for `export`.
        input_names: Names of the module's inputs; by default those of its `forward`.
        dynamic_shapes: For each input its dynamic dimensions, as for `torch.export.export`:
            `[{0: torch.export.Dim("N")}]`. By default all sizes are those of the examples.
        opset_version: Version of ai.onnx, 19 or newer.
        **settings: Others of `onnxloss.training_step`: the optimizer's hyperparameters, `max_norm`
            and the like.

    Returns:
        A checked model, as `onnxloss.training_step` gives it.

    Raises:
        LossError: A setting that is not known or does not fit; a module that PyTorch cannot trace
            or export; or a trained parameter that is neither float32 nor float64.

    Example:
        >>> inputs = [torch.zeros(2, 64)]
        >>> rows = [{0: torch.export.Dim("N")}]
        >>> loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        >>> step = onnxloss.torch.training_step(module, loss, inputs, "adamw", dynamic_shapes=rows)
        >>> forward = onnxloss.torch.forward_model(module, inputs, dynamic_shapes=rows)
        >>> trainer = onnxloss.Trainer(step, forward, learning_rate=1e-3)
        >>> onnxloss.torch.load_state(module, trainer.state)
    """
    refuse_decided(settings, _DECIDED)
    config = loss if isinstance(loss, LossConfig) else from_torch(loss, target=target)
    _check_module(module, example_inputs, opset_version)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise LossError(
            "training_step: no parameter has requires_grad; expected one or more to train."
        )
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise LossError(
                f'training_step: the dtype of "{name}" is {parameter.dtype}; expected float32 or '
                "float64: small updates vanish in 16 bits. Compute in 16 bits by torch.autocast."
            )
    traced = trace(
        module,
        example_inputs,
        gradients=True,
        input_names=input_names,
        dynamic_shapes=dynamic_shapes,
        opset_version=opset_version,
    )
    return training_step_of(
        traced.forward,
        config,
        logits=LOGITS,
        labels=labels,
        label_dtype=label_dtype,
        optimizer=optimizer,
        parameters=list(traced.gradients),
        buffers=traced.buffers,
        reverse=_Reverse(traced),
        **settings,
    )


def forward_model(
    module: torch.nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    input_names: Sequence[str] | None = None,
    dynamic_shapes: DynamicShapes | None = None,
    opset_version: int = OPSET,
) -> onnx.ModelProto:
    """The module for inference, as `initial_state`, `trained_model` and `Trainer` take it.

    Its initializers are all parameters and buffers of the module, under their own names; it is the
    module in eval mode.

    Args:
        module: The module; its output is the logits.
        example_inputs: As for `training_step`.
        input_names: As for `training_step`.
        dynamic_shapes: As for `training_step`.
        opset_version: As for `training_step`.

    Raises:
        LossError: PyTorch cannot trace or export the module.
    """
    _check_module(module, example_inputs, opset_version)
    modes = {part: part.training for part in module.modules()}
    try:
        return trace(
            module.eval(),
            example_inputs,
            gradients=False,
            input_names=input_names,
            dynamic_shapes=dynamic_shapes,
            opset_version=opset_version,
        ).forward
    finally:
        for part, mode in modes.items():
            part.training = mode


def _check_module(module: Any, example_inputs: Any, opset_version: Any) -> None:
    where = "training_step"
    check_type(where, "module", module, torch.nn.Module, "a torch.nn.Module")
    check_type(where, "example_inputs", example_inputs, list | tuple, "a list of tensors")
    check_version(where, opset_version)


def load_state(module: torch.nn.Module, state: Mapping[str, np.ndarray]) -> None:
    """Writes the parameters and buffers of a training's state into the module.

    Raises:
        LossError: The state lacks a parameter that the module trains, or one has another shape.
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in own.items():
        shape = list(state[name].shape) if name in state else None
        if shape != list(tensor.shape) and (shape is not None or tensor.requires_grad):
            raise LossError(
                f'load_state: shape of "{name}" in the state is {shape}; '
                f"expected {list(tensor.shape)}."
            )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(torch.from_numpy(np.array(state[name])))


class _Reverse:
    """The backward pass of a trace, for `onnxloss.training_step`."""

    def __init__(self, traced: Trace) -> None:
        self._traced = traced

    def __call__(
        self, model: onnx.ModelProto, *, output: str, seed: str, parameters: Sequence[str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The model with the gradients of its parameters, as `with_gradients` gives it."""
        traced, graph = self._traced, model.graph
        taken = value_names(graph)
        names = {traced.seed: seed}
        for node in traced.backward:
            names |= {name: free_name(f"grad.{name}", taken) for name in node.output if name}
        for node in traced.backward:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"grad.{node.name}"
            for values in (copy.input, copy.output):
                values[:] = [names.get(name, name) for name in values]
            graph.node.append(copy)
        shapes = {value.name: value for value in graph.input}
        gradients = {name: names[traced.gradients[name]] for name in parameters}
        for name, gradient in gradients.items():
            tensor = shapes[name].type.tensor_type
            graph.output.append(
                helper.make_tensor_value_info(
                    gradient, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim]
                )
            )
        return model, gradients
