# SPDX-License-Identifier: MIT
"""Small forward models for the tests of training steps, and changes to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxloss

Arrays = dict[str, np.ndarray]
SMOOTHING = 0.1
CONFIG = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=SMOOTHING)


def value(name: str, shape: Sequence[int | str], elem_type: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, shape)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    logits: Sequence[int | str],
    parameters: Arrays,
    *,
    opset: int = 19,
    elem_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A forward model with the output `logits`."""
    graph = helper.make_graph(
        nodes,
        "forward",
        inputs,
        [value("logits", logits, elem_type)],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def mlp(
    dtype: type = np.float32, *, matmul: bool = False, opset: int = 19, batch: int | str = "N"
) -> onnx.ModelProto:
    """Perceptron 8-16-5."""
    random = np.random.default_rng(1)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 5), "b2": (5,)}
    parameters = {
        name: (random.normal(size=shape) / np.sqrt(shape[0])).astype(dtype)
        for name, shape in shapes.items()
    }
    if matmul:
        nodes = [
            helper.make_node("MatMul", ["x", "w1"], ["m1"]),
            helper.make_node("Add", ["m1", "b1"], ["z"]),
            helper.make_node("Relu", ["z"], ["h"]),
            helper.make_node("MatMul", ["h", "w2"], ["m2"]),
            helper.make_node("Add", ["m2", "b2"], ["logits"]),
        ]
    else:
        nodes = [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["z"]),
            helper.make_node("Relu", ["z"], ["h"]),
            helper.make_node("Gemm", ["h", "w2", "b2"], ["logits"]),
        ]
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [value("x", [batch, 8], elem_type)]
    return model_of(nodes, inputs, [batch, 5], parameters, opset=opset, elem_type=elem_type)


def parameters_of(model: onnx.ModelProto) -> Arrays:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def convnet(batch: int | str, pool: str | None) -> onnx.ModelProto:
    """A convolution and a dense layer; between them a pooling, or a stride of the first."""
    random = np.random.default_rng(4)
    shapes = {"kernel": (4, 1, 3, 3), "offset": (4,), "weight": (36, 5), "bias": (5,)}
    parameters = {n: (random.normal(size=s) * 0.3).astype(np.float32) for n, s in shapes.items()}
    node, conv = helper.make_node, ["x", "kernel", "offset"]
    nodes = [
        node("Conv", conv, ["c"], strides=[1, 1] if pool else [2, 2]),
        node("Tanh", ["c"], ["a"]),
        *([node(pool, ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2])] if pool else []),
        node("Flatten", ["p" if pool else "a"], ["f"]),
        node("Gemm", ["f", "weight", "bias"], ["logits"]),
    ]
    inputs = [value("x", [batch, 1, 8, 8], TensorProto.FLOAT)]
    return model_of(nodes, inputs, [batch, 5], parameters)


def add_parameter(graph: onnx.GraphProto, name: str, dtype: type = np.float32) -> None:
    """An initializer of five ones."""
    graph.initializer.append(numpy_helper.from_array(np.ones(5, dtype), name))


def put_before_logits(graph: onnx.GraphProto, *nodes: onnx.NodeProto) -> None:
    """The nodes come after all others and make `logits` of `before`."""
    graph.node[-1].output[0] = "before"
    graph.node.extend(nodes)
