# SPDX-License-Identifier: MIT
"""Writes the examples in the layout of ONNX's backend tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.examples import EXAMPLES, Example
from onnxloss.calls import called_or_written_out
from onnxloss.functions import build_function
from onnxloss.onnxscript_defs import DOMAIN, OPSET_VERSION
from onnxloss.opset import OPSET

ROOT = Path(__file__).parent


def files() -> Iterator[tuple[str, bytes]]:
    """The path of each file, and what it holds."""
    for example in EXAMPLES:
        model = model_of(example)
        yield f"{example.folder}/model.onnx", model.SerializeToString(deterministic=True)
        for kind, arrays in (("input", example.inputs), ("output", example.outputs)):
            for number, (name, array) in enumerate(arrays.items()):
                tensor = numpy_helper.from_array(array, name)
                path = f"{example.folder}/test_data_set_0/{kind}_{number}.pb"
                yield path, tensor.SerializeToString(deterministic=True)


def model_of(example: Example) -> onnx.ModelProto:
    """One node, with its function; every value has its port's name."""
    optional = {port.name for port in example.op.inputs if port.name in example.inputs}
    names = [port.name if port.name in optional else "" for port in example.op.inputs]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        example.op.name,
        names,
        list(example.outputs),
        example.folder,
        example.op.doc,
        DOMAIN,
        **example.attributes,
    )
    model = helper.make_model(
        helper.make_graph([], example.folder, _infos(example.inputs), _infos(example.outputs)),
        producer_name="onnxloss",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OPSET_VERSION)],
        ir_version=9,
    )
    model.graph.node.extend(called_or_written_out(model, example.spec, node))
    if not example.folded:
        generic = build_function(
            example.spec, example.op, given=[*names, *example.outputs], opset=OPSET
        )
        model.functions[0].CopyFrom(generic)
    onnx.checker.check_model(model, full_check=True)
    return model


def _infos(arrays: Mapping[str, np.ndarray]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in arrays.items()
    ]
