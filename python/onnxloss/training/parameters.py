# SPDX-License-Identifier: MIT
"""What of a forward model a training step changes: its parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from ..dtypes import name_of
from ..errors import LossError, check_type, expected
from ..trial import inferred, typed_values
from ..writer import free_name, subgraphs, value_names

TRAINABLE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_STATISTICS = (3, 4)
"""The inputs of BatchNormalization that are running statistics."""


def choose_parameters(
    graph: onnx.GraphProto,
    names: Sequence[str] | None,
    frozen: Sequence[str],
    buffers: Mapping[str, str],
) -> list[onnx.TensorProto]:
    """The initializers to train: the named ones, or all that are neither frozen nor buffers."""
    floats = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type in (*TRAINABLE, *_HALVES) and tensor.name not in buffers
    }
    allowed = "a float initializer of the model: " + (", ".join(floats) or "it has none")
    if frozen:
        _check_names("frozen", frozen, floats, allowed)
        if names is not None:
            raise LossError("training_step: frozen is for parameters=None; expected one of them.")
    if names is None:
        floats = {name: tensor for name, tensor in floats.items() if name not in frozen}
        for tensor in floats.values():
            if not tensor.dims:
                raise LossError(
                    f'training_step: the initializer "{tensor.name}" is a scalar, which may be a '
                    "constant or a parameter; expected parameters=[...] for such a model."
                )
        names = list(floats)
    if not names:
        raise expected("training_step", "parameters", names, "a list of float initializers")
    _check_names("parameters", names, floats, allowed)
    return [floats[name] for name in names]


def _check_names(what: str, names: Sequence[str], known: Iterable[str], allowed: str) -> None:
    if isinstance(names, str):
        raise expected("training_step", what, names, "a list of float initializers")
    for index, name in enumerate(names):
        if name not in known:
            raise expected("training_step", f"{what}[{index}]", name, allowed)
        if name in names[:index]:
            raise expected("training_step", f"{what}[{index}]", name, "each name once")


def check_buffers(model: onnx.ModelProto, named: Mapping[str, str]) -> None:
    """Refuses values of another dtype or shape than the buffers that they become."""
    values = typed_values(inferred(model, "training_step"))
    for buffer in model.graph.initializer:
        becomes = values.get(named.get(buffer.name, ""))
        if becomes is None:
            continue
        given = becomes.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in given.shape.dim]
        fits = len(sizes) == len(buffer.dims) and all(
            size in (None, own) for size, own in zip(sizes, buffer.dims, strict=True)
        )
        if given.elem_type != buffer.data_type or (given.HasField("shape") and not fits):
            found = f"{becomes.name}, {name_of(given.elem_type)} {sizes}"
            own = f"{name_of(buffer.data_type)} {list(buffer.dims)}, as the buffer is"
            raise expected("training_step", f'buffers["{buffer.name}"]', found, own)


def find_buffers(graph: onnx.GraphProto, named: Mapping[str, str] | None) -> dict[str, str]:
    """The initializers that change without a gradient, each with the value that it becomes.

    To those named come the running statistics of each BatchNormalization in training mode; it gets
    the outputs that hold them where it lacks them.
    """
    if named is not None:
        allowed = "a dictionary: the value that each initializer becomes"
        check_type("training_step", "buffers", named, Mapping, allowed)
    initializers = {tensor.name for tensor in graph.initializer}
    taken = value_names(graph)
    buffers: dict[str, str] = {}
    for name, becomes in (named or {}).items():
        if name not in initializers:
            raise expected("training_step", "name of a buffer", name, "an initializer of the model")
        if becomes not in taken:
            raise expected("training_step", f'buffers["{name}"]', becomes, "a value of the model")
        buffers[name] = becomes
    for node in graph.node:
        if not is_training_batch_norm(node):
            continue
        node.output.extend([""] * (3 - len(node.output)))
        for at, name in zip((1, 2), (node.input[i] for i in _STATISTICS), strict=True):
            if name not in initializers or (named and name in named):
                continue
            if name in buffers:
                raise LossError(
                    f'training_step: the initializer "{name}" is the running statistic of two '
                    "nodes; expected one for each: export without merging equal initializers."
                )
            node.output[at] = node.output[at] or free_name(f"{name}.next", taken)
            buffers[name] = node.output[at]
        while not node.output[-1]:
            del node.output[-1]
    return buffers


def is_training_batch_norm(node: onnx.NodeProto) -> bool:
    """Whether a node is a BatchNormalization that normalizes with its batch's statistics."""
    return (
        node.op_type == "BatchNormalization"
        and node.domain in ("", "ai.onnx")
        and any(entry.name == "training_mode" and entry.i for entry in node.attribute)
    )


def with_inference_mode(graph: onnx.GraphProto) -> None:
    """Makes each BatchNormalization normalize with its running statistics from now on."""
    used = {output.name for output in graph.output}
    used.update(name for node in graph.node for name in node.input)
    for node in graph.node:
        if is_training_batch_norm(node) and not used.intersection(node.output[1:]):
            del node.output[1:]
            for entry in node.attribute:
                if entry.name == "training_mode":
                    entry.i = 0


def with_master_weights(
    graph: onnx.GraphProto, parameters: Iterable[onnx.TensorProto]
) -> list[onnx.TensorProto]:
    """Stores 16-bit parameters in float32 and casts them where they are read; all parameters.

    Small updates vanish in 16 bits: PyTorch's mixed precision keeps float32 parameters too.
    """
    taken, casts, result = value_names(graph), [], []
    for tensor in parameters:
        if tensor.data_type in _HALVES:
            elem_type = tensor.data_type
            half = free_name(f"{tensor.name}.{name_of(elem_type)}", taken)
            casts.append(helper.make_node("Cast", [tensor.name], [half], half, to=elem_type))
            _rename_uses(graph, tensor.name, half)
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        result.append(tensor)
    replace_entries(graph, "node", [*casts, *graph.node])
    return result


def replace_entries(graph: onnx.GraphProto, field: str, entries: Iterable[Message]) -> None:
    """Puts copies of the entries, which may be the graph's own, in the place of all of a field."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    graph.ClearField(field)
    getattr(graph, field).extend(copies)


def _rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for inner in subgraphs(node):
            _rename_uses(inner, old, new)
