# SPDX-License-Identifier: MIT
"""Each loss of a model by itself, with random arrays for its inputs: for `check` and `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .config import NO_IGNORED_LABEL
from .dtypes import FLOAT_DTYPES, name_of, stash_dtype
from .errors import LossError
from .onnxscript_defs import CATALOGUE, DOMAIN, LossSpec, OpSpec, Port
from .trial import SIZE, typed_values
from .writer import nodes_of


@dataclass(frozen=True)
class LossNode:
    """A node of this project's operators.

    Attributes:
        node: The node.
        spec: Its loss.
        op: Its operator.
        body: The function in its file, if it has one.
    """

    node: onnx.NodeProto
    spec: LossSpec
    op: OpSpec
    body: onnx.FunctionProto | None

    @property
    def name(self) -> str:
        """The node's name, or its first output's."""
        return self.node.name or self.node.output[0]

    @property
    def settings(self) -> dict[str, Any]:
        """The attributes of the node; those left out have the SPEC's default."""
        values = {attribute.name: attribute.default for attribute in self.op.attributes}
        for entry in self.node.attribute:
            value = helper.get_attribute_value(entry)
            if isinstance(value, float):
                value = float(str(np.float32(value)))  # 0.1, not the nearest float32's digits
            values[entry.name] = value.decode() if isinstance(value, bytes) else value
        return values

    @property
    def inputs(self) -> dict[str, str]:
        """The name of the value that each port gets."""
        ports = zip(self.op.inputs, self.node.input, strict=False)
        return {port.name: name for port, name in ports if name}

    @property
    def draws(self) -> bool:
        """Whether it draws numbers, which body and kernel do each in its own way."""
        return not set(self.spec.drawn) <= set(self.inputs)


@dataclass(frozen=True)
class Trial:
    """A loss of a model as a model of its own, and arrays for its inputs."""

    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]


def losses_of(model: onnx.ModelProto) -> list[LossNode]:
    """The nodes of this project's operators that this version knows, in branches and loops too."""
    known = {op.name: (spec, op) for spec in CATALOGUE for op in spec.ops}
    bodies = {made.name: made for made in model.functions if made.domain == DOMAIN}
    return [
        LossNode(node, *known[node.op_type], bodies.get(node.op_type))
        for node in nodes_of(model.graph)
        if node.domain == DOMAIN and node.op_type in known
    ]


def unknown_of(model: onnx.ModelProto) -> list[str]:
    """The operators of this project's domain in a model that this version does not know."""
    known = {op.name for spec in CATALOGUE for op in spec.ops}
    found = {node.op_type for node in nodes_of(model.graph) if node.domain == DOMAIN}
    return sorted(found - known)


def trial_of(
    model: onnx.ModelProto, loss: LossNode, sizes: Mapping[str, int] | int = SIZE
) -> Trial:
    """The loss by itself with random arrays.

    Args:
        model: The model, after `onnx.shape_inference`.
        loss: One of its losses.
        sizes: The size of each dynamic dimension by its name, or one for all.

    Raises:
        LossError: The types of its inputs are not known.
    """
    values, inputs = typed_values(model), loss.inputs
    for port in ("logits", "labels"):
        if inputs[port] not in values:
            raise LossError(f'the type of "{inputs[port]}" is not known')
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    given = {port: constants[name] for port, name in inputs.items() if name in constants}
    feeds = _random(loss, values, given, sizes)
    graph = helper.make_graph(
        [loss.node],
        loss.name,
        [_info(inputs[port], array) for port, array in feeds.items()],
        [_output(port, name, feeds) for port, name in _outputs(loss)],
    )
    alone = helper.make_model(
        graph,
        functions=list(model.functions),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    return Trial(alone, {inputs[port]: array for port, array in feeds.items()})


def without_body(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without this project's functions: it runs where there is a kernel for it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [made for made in model.functions if made.domain != DOMAIN]
    del result.functions[:]
    result.functions.extend(kept)
    return result


def _outputs(loss: LossNode) -> list[tuple[Port, str]]:
    ports = zip(loss.op.outputs, loss.node.output, strict=False)
    return [(port, name) for port, name in ports if name]


def _random(
    loss: LossNode,
    values: Mapping[str, onnx.ValueInfoProto],
    given: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | int,
) -> dict[str, np.ndarray]:
    """An array for each port: labels in their range, a quarter of them ignored."""
    rng = np.random.default_rng(0)
    inputs, settings = loss.inputs, loss.settings
    logits, labels = (values[inputs[port]] for port in ("logits", "labels"))
    dtype = FLOAT_DTYPES[name_of(logits.type.tensor_type.elem_type)]
    stash = FLOAT_DTYPES[stash_dtype(dtype.name)]
    shape = _shape(loss, logits, given, sizes)
    axis = settings.get("axis", 1) % len(shape)
    positions = shape[:axis] + shape[axis + 1 :]
    hard = name_of(labels.type.tensor_type.elem_type)
    rows, true, count = shape[0], settings.get("num_true", 1), settings.get("num_samples", 1)
    shapes = {
        "dloss": positions if settings["reduction"] == "none" else (),
        "class_weights": (shape[axis],),
        "sample_weights": positions,
        "probabilities": (rows, true + count),
    }
    arrays = {}
    for port in inputs:
        if port in given:
            arrays[port] = given[port]
        elif port == "logits":
            scores = settings.get("from_logits", 1) == 1
            drawn = 3 * rng.standard_normal(shape) if scores else rng.uniform(0.05, 0.95, shape)
            arrays[port] = drawn.astype(dtype)
        elif port == "samples":
            arrays[port] = rng.permutation(shape[axis])[:count].astype(np.int64)
        elif port == "labels" and hard in FLOAT_DTYPES:
            arrays[port] = rng.dirichlet(np.ones(shape[axis]), positions).astype(dtype)
            arrays[port] = np.moveaxis(arrays[port], -1, axis).copy()
        elif port == "labels":
            wanted = (rows, true) if loss.spec.drawn else positions
            ignored = settings.get("ignore_index", NO_IGNORED_LABEL)
            arrays[port] = _labels(rng, wanted, shape[axis], ignored, np.dtype(hard))
        else:
            arrays[port] = rng.uniform(0.25, 1.0, shapes[port]).astype(stash)
    return arrays


def _labels(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    classes: int,
    ignored: int,
    dtype: np.dtype[Any],
) -> np.ndarray:
    labels = rng.integers(0, classes, shape).astype(dtype)
    if np.iinfo(dtype).min <= ignored <= np.iinfo(dtype).max and ignored != NO_IGNORED_LABEL:
        labels = np.where(rng.random(shape) < 0.25, dtype.type(ignored), labels)
    return labels


def _shape(
    loss: LossNode,
    logits: onnx.ValueInfoProto,
    given: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | int,
) -> tuple[int, ...]:
    """The logits' shape, whose unknown sizes are those of constant labels and weights."""
    tensor = logits.type.tensor_type
    if not tensor.HasField("shape"):
        raise LossError(f'the rank of "{logits.name}" is not known')
    shape = []
    for dim in tensor.shape.dim:
        named = sizes if isinstance(sizes, int) else sizes.get(dim.dim_param, sizes.get("", SIZE))
        shape.append(dim.dim_value if dim.HasField("dim_value") else named)
    axis = loss.settings.get("axis", 1) % len(shape)
    constant: dict[int, int] = {}
    if "class_weights" in given:
        constant[axis] = len(given["class_weights"])
    positions = [at for at in range(len(shape)) if at != axis]
    for port in ("labels", "sample_weights"):
        known = given[port].shape if port in given else ()
        axes = [*range(len(shape))] if len(known) == len(shape) else positions
        # The samples' labels have the true classes of a row behind it.
        constant |= dict(zip(axes[:1] if loss.spec.drawn else axes, known, strict=False))
    for at, size in constant.items():
        if not tensor.shape.dim[at].HasField("dim_value"):
            shape[at] = size
    return tuple(shape)


def _info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    element_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element_type, array.shape)


def _output(port: Port, name: str, feeds: Mapping[str, np.ndarray]) -> onnx.ValueInfoProto:
    """The output, of the type that its variable says and of no known shape."""
    logits = feeds["logits"].dtype
    types = {"T": logits.name, "S": stash_dtype(logits.name), "tensor(int64)": "int64"}
    dtype = {**FLOAT_DTYPES, "int64": np.dtype(np.int64)}[types[port.type]]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), None)
