# SPDX-License-Identifier: MIT
"""The state of a training step: its first value, and the model that it makes at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..dtypes import name_of
from ..errors import LossError, expected
from ..opset import check_model
from .optimizers import MOMENTS, STEP
from .parameters import with_inference_mode
from .step import METADATA_KEY, metadata, new_name
from .update import GRADIENT_SUM, GROWTH_TRACKER, LOSS_SCALE, MICRO_STEP


def state_names(step: onnx.ModelProto) -> list[str]:
    """The names of a training step's state inputs, in the graph's order."""
    outputs = {output.name for output in step.graph.output}
    return [value.name for value in step.graph.input if new_name(value.name) in outputs]


def initial_state(step: onnx.ModelProto, forward: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The state before the first step: the forward model's parameters and buffers, and zeros.

    Args:
        step: The model that `training_step` made.
        forward: The forward model that it was made of.

    Raises:
        LossError: `step` is no training step, or `forward` lacks one of its parameters.
    """
    check_model("initial_state", step, "step")
    check_model("initial_state", forward, "forward")
    entries = metadata(step)
    if METADATA_KEY not in entries:
        raise LossError("initial_state: step is another model; expected one of training_step.")
    settings = json.loads(entries[METADATA_KEY])
    initializers = {tensor.name: tensor for tensor in forward.graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in step.graph.input}
    state = {}
    for name in state_names(step):
        elem_type = inputs[name].elem_type
        shape = tuple(dim.dim_value for dim in inputs[name].shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        if name in (*settings["parameters"], *settings["buffers"]):
            tensor = initializers.get(name)
            if tensor is None:
                raise LossError(f'initial_state: the forward model has no initializer "{name}".')
            if elem_type != _master_type(tensor.data_type):
                _check("initial_state", tensor, elem_type, shape)
            _check("initial_state", tensor, tensor.data_type, shape)
            state[name] = numpy_helper.to_array(tensor).astype(dtype)
        else:
            state[name] = np.full(shape, settings[name] if name == LOSS_SCALE else 0, dtype)
    return state


def trained_model(forward: onnx.ModelProto, state: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of the forward model with the parameters and buffers of a state, for inference.

    Moments are left out. A BatchNormalization in training mode normalizes with its running
    statistics from now on.

    Raises:
        LossError: The state does not fit the model.
    """
    check_model("trained_model", forward, "forward")
    result = onnx.ModelProto()
    result.CopyFrom(forward)
    initializers = {tensor.name: tensor for tensor in result.graph.initializer}
    parameters = [name for name in state if name in initializers]
    kinds = (*MOMENTS, GRADIENT_SUM)
    others = {STEP, MICRO_STEP, LOSS_SCALE, GROWTH_TRACKER}
    others |= {f"{name}.{kind}" for name in parameters for kind in kinds}
    for name, array in state.items():
        if name not in initializers:
            if name not in others:
                allowed = "an initializer of the forward model, or a moment of one"
                raise expected("trained_model", "state", name, allowed)
            continue
        there = initializers[name]
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if tensor.data_type == _master_type(there.data_type):
            own = helper.tensor_dtype_to_np_dtype(there.data_type)
            tensor = numpy_helper.from_array(np.asarray(array).astype(own), name)
        _check("trained_model", tensor, there.data_type, there.dims)
        there.CopyFrom(tensor)
    with_inference_mode(result.graph)
    onnx.checker.check_model(result)
    return result


def _master_type(elem_type: int) -> int:
    """The type of the state of a parameter of this type."""
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return int(TensorProto.FLOAT) if elem_type in halves else elem_type


def _check(where: str, tensor: onnx.TensorProto, elem_type: int, shape: Sequence[int]) -> None:
    given, wanted = (
        f"{name_of(dtype)} of shape {tuple(dims)}"
        for dtype, dims in ((tensor.data_type, tensor.dims), (elem_type, shape))
    )
    if given != wanted:
        raise LossError(f'{where}: the parameter "{tensor.name}" is {given}; expected {wanted}.')
