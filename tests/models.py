# SPDX-License-Identifier: MIT
"""Models around the operators: exported for a case, and written node by node."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

import onnxloss
from onnxloss.functions import build_function
from onnxloss.onnxscript_defs import DOMAIN, OPSET_VERSION, LossSpec, OpSpec
from onnxloss.onnxscript_defs import find as find_spec
from tests.cases import DTYPES, Case

OPSET = 19


def config_of(case: Case) -> onnxloss.LossConfig:
    """The case's configuration."""
    return onnxloss.LossConfig(
        case.op,
        case.attributes,
        class_weights=case.inputs.class_weights,
        sample_weights=case.trait.sampled,
    )


def export_case(case: Case, *, inline: bool = False) -> onnx.ModelProto:
    """The exported model of a case: loss and gradient from the operator that gives both."""
    given = case.inputs
    return onnxloss.export(
        config_of(case),
        logits=given.logits.shape,
        labels=given.labels.shape,
        sample_weights=None if given.sample_weights is None else given.sample_weights.shape,
        outputs=("loss", *case.optional_outputs),
        dtype=case.dtype,
        label_dtype=case.label_dtype,
        gradient=True,
        inline=inline,
    )


def stash_dtype(dtype: str) -> np.dtype:
    """The operators' S for logits of `dtype`."""
    return DTYPES["float64" if dtype == "float64" else "float32"]


def node_attributes(spec: LossSpec, dtype: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every attribute of a node: `settings`, the SPEC's defaults, and what follows from them."""
    attributes = {attribute.name: attribute.default for attribute in spec.attributes}
    attributes |= settings
    if dtype == "float64":
        attributes["stash_type"] = onnx.TensorProto.DOUBLE
    for name in {"label_smoothing", "epsilon"} & set(attributes):
        value = attributes[name]
        attributes[name] = float(np.float32(value))
        if dtype == "float64" or name == "epsilon":
            attributes[f"{name}_low"] += float(np.float32(value - attributes[name]))
    return attributes


def element_type(dtype: np.dtype) -> int:
    """The ONNX element type of a numpy dtype."""
    return helper.np_dtype_to_tensor_dtype(dtype)


def raw_model(
    spec: LossSpec,
    ops: Sequence[OpSpec],
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    loss_shape: Sequence[int],
    optional: Collection[str] = (),
) -> onnx.ModelProto:
    """One node of each of `ops` over graph inputs like `arrays`, with the generic function bodies.

    Every port's name is the name of the graph's value: operators that give the same value are not
    for one model. Of the `optional` outputs each operator has those that it can give, and those
    that come before them.
    """
    stash, shape = arrays["dloss"].dtype, arrays["logits"].shape
    axis = attributes["axis"] % len(shape)
    types = {
        "loss": (stash, tuple(loss_shape)),
        "dlogits": (arrays["logits"].dtype, shape),
        "lse": (stash, shape[:axis] + shape[axis + 1 :]),
        "dlabels": (arrays["labels"].dtype, arrays["labels"].shape),
    }
    nodes, outputs, functions, used = [], [], [], {}
    for op in ops:
        names = input_names(op, arrays)
        used |= dict.fromkeys(filter(None, names))
        results = [port.name for port in op.outputs_with(optional)]
        nodes.append(helper.make_node(op.name, names, results, domain=DOMAIN, **attributes))
        functions.append(build_function(spec, op, given=[*names, *results], opset=OPSET))
        outputs += [
            helper.make_tensor_value_info(name, element_type(types[name][0]), types[name][1])
            for name in results
        ]
    inputs = [
        helper.make_tensor_value_info(name, element_type(arrays[name].dtype), arrays[name].shape)
        for name in used
    ]
    return helper.make_model(
        helper.make_graph(nodes, spec.name, inputs, outputs),
        functions=functions,
        opset_imports=[
            helper.make_opsetid("", OPSET),
            helper.make_opsetid(DOMAIN, OPSET_VERSION),
        ],
        ir_version=9,
    )


def input_names(op: OpSpec, given: Container[str]) -> list[str]:
    """The node's inputs: an optional one that is not given is empty, or left out at the end."""
    names = [port.name if not port.optional or port.name in given else "" for port in op.inputs]
    while not names[-1]:
        names.pop()
    return names


def raw_arrays(case: Case) -> dict[str, np.ndarray]:
    """What the operators themselves take in a case: S instead of the logits' 16-bit dtype."""
    given, stash = case.inputs, stash_dtype(case.dtype)
    arrays = {**given.feeds, "dloss": given.dloss.astype(stash)}
    for name in ("class_weights", "sample_weights"):
        weights = getattr(given, name)
        if weights is not None:
            arrays[name] = weights.astype(stash)
    return arrays


def separate_model(case: Case) -> onnx.ModelProto:
    """The loss from its own operator and the gradient from its own."""
    spec = find_spec(case.op)
    attributes = node_attributes(spec, case.dtype, case.attributes)
    return raw_model(
        spec,
        (spec.forward, spec.grad),
        attributes,
        raw_arrays(case),
        case.truth["loss"].shape,
        optional=case.optional_outputs,
    )
