# SPDX-License-Identifier: MIT
"""The state of a training step: its first value, and the model that it makes at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..dtypes import name_of
from ..errors import LossError, expected
from .optimizers import MOMENTS, STEP
from .step import METADATA_KEY, new_name


def state_names(step: onnx.ModelProto) -> list[str]:
    """The names of a training step's state inputs, in the graph's order."""
    outputs = {output.name for output in step.graph.output}
    return [value.name for value in step.graph.input if new_name(value.name) in outputs]


def initial_state(step: onnx.ModelProto, forward: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The state before the first step: the forward model's parameters, and zeros.

    Args:
        step: The model that `training_step` made.
        forward: The forward model that it was made of.

    Raises:
        LossError: `step` is no training step, or `forward` lacks one of its parameters.
    """
    metadata = {entry.key: entry.value for entry in step.metadata_props}
    if METADATA_KEY not in metadata:
        raise LossError("initial_state: step is another model; expected one of training_step.")
    parameters = json.loads(metadata[METADATA_KEY])["parameters"]
    initializers = {tensor.name: tensor for tensor in forward.graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in step.graph.input}
    state = {}
    for name in state_names(step):
        elem_type = inputs[name].elem_type
        shape = tuple(dim.dim_value for dim in inputs[name].shape.dim)
        if name in parameters:
            tensor = initializers.get(name)
            if tensor is None:
                raise LossError(f'initial_state: the forward model has no initializer "{name}".')
            _check("initial_state", tensor, elem_type, shape)
            state[name] = numpy_helper.to_array(tensor).copy()
        else:
            state[name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(elem_type))
    return state


def trained_model(forward: onnx.ModelProto, state: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of the forward model with the parameters of a state; moments are left out.

    Raises:
        LossError: The state does not fit the model.
    """
    result = onnx.ModelProto()
    result.CopyFrom(forward)
    initializers = {tensor.name: tensor for tensor in result.graph.initializer}
    parameters = [name for name in state if name in initializers]
    others = {STEP, *(f"{name}.{moment}" for name in parameters for moment in MOMENTS)}
    for name, array in state.items():
        if name not in initializers:
            if name not in others:
                allowed = "an initializer of the forward model, or a moment of one"
                raise expected("trained_model", "state", name, allowed)
            continue
        tensor = numpy_helper.from_array(np.asarray(array), name)
        there = initializers[name]
        _check("trained_model", tensor, there.data_type, there.dims)
        there.CopyFrom(tensor)
    onnx.checker.check_model(result)
    return result


def _check(where: str, tensor: onnx.TensorProto, elem_type: int, shape: Sequence[int]) -> None:
    given, wanted = (
        f"{name_of(dtype)} of shape {tuple(dims)}"
        for dtype, dims in ((tensor.data_type, tensor.dims), (elem_type, shape))
    )
    if given != wanted:
        raise LossError(f'{where}: the parameter "{tensor.name}" is {given}; expected {wanted}.')
