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


def batch_norm_net(opset: int = 19) -> onnx.ModelProto:
    """Convolution, batch normalization in training mode, pooling and a dense layer."""
    random = np.random.default_rng(14)
    shapes = {"kernel": (4, 2, 3, 3), "weight": (4 * 3 * 3, 5), "bias": (5,)}
    parameters = {n: (random.normal(size=s) * 0.3).astype(np.float32) for n, s in shapes.items()}
    parameters |= {"scale": np.ones(4, np.float32), "shift": np.zeros(4, np.float32)}
    parameters |= {"mean": np.zeros(4, np.float32), "variance": np.ones(4, np.float32)}
    node, norm = helper.make_node, ["c", "scale", "shift", "mean", "variance"]
    nodes = [
        node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", norm, ["b"], training_mode=1, momentum=0.9),
        node("Relu", ["b"], ["a"]),
        node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "weight", "bias"], ["logits"]),
    ]
    inputs = [value("x", ["N", 2, 6, 6], TensorProto.FLOAT)]
    return model_of(nodes, inputs, ["N", 5], parameters, opset=opset)


def language_model(
    vocabulary: int, width: int, *, heads: int = 2, layers: int = 1, length: int = 16, seed: int = 3
) -> onnx.ModelProto:
    """A causal transformer with normalization first; any batch, sequences up to `length`.

    Its logits have the shape [N * T, vocabulary]; `mask` is a constant.
    """
    random = np.random.default_rng(seed)
    shapes = {"embedding": (vocabulary, width), "positions": (length, width)}
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width)}
    sizes |= {"up_bias": (4 * width,), "down": (4 * width, width), "down_bias": (width,)}
    for layer in range(layers):
        shapes |= {f"{layer}.{name}": shape for name, shape in sizes.items()}
    shapes |= {"head": (width, vocabulary)}
    scale = 1 / np.sqrt(width)
    parameters = {n: (random.normal(size=s) * scale).astype(np.float32) for n, s in shapes.items()}
    for name in (*(f"{i}.{n}" for i in range(layers) for n in ("norm1", "norm2")), "norm"):
        parameters |= {f"{name}.scale": np.ones(width), f"{name}.shift": np.zeros(width)}
    parameters["mask"] = np.triu(np.full((length, length), -np.inf), 1)
    constants = {"root": (heads / width) ** 0.5, "half": 0.5, "one": 1.0, "root2": 0.5**0.5}

    node = helper.make_node
    split, joined = [0, 0, heads, width // heads], [0, 0, width]
    nodes = [
        *(node("Constant", [], [n], value_float=float(v)) for n, v in constants.items()),
        node("Constant", [], ["split"], value_ints=split),
        node("Constant", [], ["joined"], value_ints=joined),
        node("Constant", [], ["rows"], value_ints=[-1, vocabulary]),
        node("Constant", [], ["zeros"], value_ints=[0, 0]),
        node("Constant", [], ["zero"], value_ints=[0]),
        node("Shape", ["tokens"], ["T"], start=1),
        node("Concat", ["T", "T"], ["TT"], axis=0),
        node("Slice", ["positions", "zero", "T"], ["position"]),
        node("Slice", ["mask", "zeros", "TT"], ["causal"]),
        node("Gather", ["embedding", "tokens"], ["embedded"]),
        node("Add", ["embedded", "position"], ["0.in"]),
    ]
    for i in range(layers):
        nodes += _layer(str(i), f"{i + 1}.in")
    nodes += [
        node("LayerNormalization", [f"{layers}.in", "norm.scale", "norm.shift"], ["last"]),
        node("MatMul", ["last", "head"], ["scores"]),
        node("Reshape", ["scores", "rows"], ["logits"]),
    ]
    parameters = {name: array.astype(np.float32) for name, array in parameters.items()}
    inputs = [value("tokens", ["N", "T"], TensorProto.INT64)]
    return model_of(nodes, inputs, ["M", vocabulary], parameters)


def _layer(i: str, result: str) -> list[onnx.NodeProto]:
    """Attention and a perceptron, each added to what goes in."""

    def node(op_type: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
        names = [[n.replace("@", f"{i}.") for n in text.split()] for text in (inputs, outputs)]
        return helper.make_node(op_type, *names, **attributes)

    heads = [(part, "split", [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]) for part in "qkv"]
    return [
        node("LayerNormalization", "@in @norm1.scale @norm1.shift", "@n1"),
        node("MatMul", "@n1 @qkv", "@projected"),
        node("Split", "@projected", "@q @k @v", axis=-1, num_outputs=3),
        *(node("Reshape", f"@{part} {shape}", f"@{part}s") for part, shape, _ in heads),
        *(node("Transpose", f"@{part}s", f"@{part}h", perm=perm) for part, _, perm in heads),
        node("MatMul", "@qh @kh", "@products"),
        node("Mul", "@products root", "@scaled"),
        node("Add", "@scaled causal", "@masked"),
        node("Softmax", "@masked", "@attention", axis=-1),
        node("MatMul", "@attention @vh", "@mixed"),
        node("Transpose", "@mixed", "@tokens", perm=[0, 2, 1, 3]),
        node("Reshape", "@tokens joined", "@mixed_tokens"),
        node("MatMul", "@mixed_tokens @out", "@attended"),
        node("Add", "@in @attended", "@between"),
        node("LayerNormalization", "@between @norm2.scale @norm2.shift", "@n2"),
        node("MatMul", "@n2 @up", "@wide"),
        node("Add", "@wide @up_bias", "@u"),
        node("Mul", "@u root2", "@u_root"),
        node("Erf", "@u_root", "@erf"),
        node("Add", "@erf one", "@erf1"),
        node("Mul", "@u half", "@u_half"),
        node("Mul", "@u_half @erf1", "@gelu"),
        node("MatMul", "@gelu @down", "@narrow"),
        node("Add", "@narrow @down_bias", "@d"),
        node("Add", "@between @d", result),
    ]


def add_parameter(graph: onnx.GraphProto, name: str, dtype: type = np.float32) -> None:
    """An initializer of five ones."""
    graph.initializer.append(numpy_helper.from_array(np.ones(5, dtype), name))


def put_before_logits(graph: onnx.GraphProto, *nodes: onnx.NodeProto) -> None:
    """The nodes come after all others and make `logits` of `before`."""
    graph.node[-1].output[0] = "before"
    graph.node.extend(nodes)
