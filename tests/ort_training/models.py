# SPDX-License-Identifier: MIT
"""The two models that ONNX Runtime training and PyTorch train alike: parameters, data, graphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

Arrays = dict[str, np.ndarray]
STEPS, BATCH = 60, 32
MODELS = ("digits", "transformer")
# onnxruntime.training's AdamW decays after the update and scales eps with the bias correction, as
# Hugging Face's did; its kernel has torch.optim.AdamW's formula too, in "mode 0".
LEARNING_RATES = {"sgd": 0.1, "adamw": 0.01, "adamw_mode_0": 0.01}
ADAMW = {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.05}
LOSSES = {
    "digits": {"weight": np.linspace(0.5, 2.0, 10, dtype=np.float32), "label_smoothing": 0.1},
    # Labels of two axes; the background, which is most of a picture, does not count.
    "transformer": {"ignore_index": 0, "label_smoothing": 0.1},
}
LEVELS, TOKENS, WIDTH, HEADS = 17, 16, 16, 2


def parameters(model: str) -> Arrays:
    """The first parameters."""
    random = np.random.default_rng(7)
    if model == "digits":
        shapes = {"w1": (64, 32), "b1": (32,), "w2": (32, 10), "b2": (10,)}
    else:
        shapes = {
            "tokens": (LEVELS, WIDTH),
            "positions": (TOKENS, WIDTH),
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "qkv": (WIDTH, 3 * WIDTH),
            "out": (WIDTH, WIDTH),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "up": (WIDTH, 4 * WIDTH),
            "down": (4 * WIDTH, WIDTH),
            "head": (WIDTH, LEVELS),
        }
    made = {}
    for name, shape in shapes.items():
        scale = 0.5 if name in ("tokens", "positions") else shape[0] ** -0.5
        made[name] = (scale * random.standard_normal(shape)).astype(np.float32)
        if name.startswith("norm"):
            made[name] = np.full(shape, float(name.endswith("weight")), np.float32)
    return made


def batches(model: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's digits: pixels and label, or 16 pixels and the ones that follow them."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    made = []
    for index in range(STEPS):
        rows = np.arange(index * BATCH, (index + 1) * BATCH) % len(pixels)
        if model == "digits":
            made.append(((pixels[rows] / 16).astype(np.float32), labels[rows].astype(np.int64)))
        else:
            levels = pixels[rows, 16 : 17 + TOKENS].astype(np.int64)
            made.append((levels[:, :-1].copy(), levels[:, 1:].copy()))
    return made


def forward_model(model: str) -> onnx.ModelProto:
    """The forward model; its parameters are initializers."""
    nodes, inputs, logits = _digits() if model == "digits" else _transformer()
    graph = helper.make_graph(
        nodes,
        model,
        [inputs],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, logits)],
        [numpy_helper.from_array(array, name) for name, array in parameters(model).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _digits() -> tuple[list[onnx.NodeProto], onnx.ValueInfoProto, list[int | str]]:
    nodes = [
        helper.make_node("Gemm", ["pixels", "w1", "b1"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "w2", "b2"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["N", 64])
    return nodes, pixels, ["N", 10]


def _transformer() -> tuple[list[onnx.NodeProto], onnx.ValueInfoProto, list[int | str]]:
    """A pre-norm block between an embedding and a head; the logits' class axis is the second."""
    nodes: list[onnx.NodeProto] = []

    def node(op_type: str, *inputs: str, to: str, outputs: int = 1, **attributes: object) -> str:
        names = [to, *(f"{to}.{index}" for index in range(1, outputs))]
        nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return to

    def constant(array: object, to: str) -> str:
        value = numpy_helper.from_array(np.asarray(array))
        return node("Constant", to=to, value=value)

    def norm(x: str, name: str) -> str:
        # Its gradient needs the two optional outputs.
        scale, bias = f"{name}.weight", f"{name}.bias"
        return node("LayerNormalization", x, scale, bias, to=name, outputs=3, axis=-1)

    size = WIDTH // HEADS
    heads = constant(np.array([0, 0, 3, HEADS, size]), "heads")
    flat = constant(np.array([0, 0, WIDTH]), "flat")
    mask = constant(np.triu(np.full((TOKENS, TOKENS), -1e9, np.float32), 1), "mask")
    embedded = node("Gather", "tokens", "levels", to="embedded")
    x = node("Add", embedded, "positions", to="x")
    qkv = node("MatMul", norm(x, "norm1"), "qkv", to="qkv_flat")
    qkv = node("Reshape", qkv, heads, to="qkv_heads")
    qkv = node("Transpose", qkv, to="qkv_parts", perm=[2, 0, 3, 1, 4])
    q, k, v = (
        node("Gather", qkv, constant(np.array(part), f"part{part}"), to=name, axis=0)
        for part, name in enumerate("qkv")
    )
    k = node("Transpose", k, to="k_t", perm=[0, 1, 3, 2])
    scores = node("MatMul", q, k, to="scores")
    scores = node("Mul", scores, constant(np.float32(size**-0.5), "scale"), to="scaled")
    attention = node("Softmax", node("Add", scores, mask, to="masked"), to="attention", axis=-1)
    mixed = node("MatMul", attention, v, to="mixed")
    mixed = node("Transpose", mixed, to="mixed_t", perm=[0, 2, 1, 3])
    mixed = node("Reshape", mixed, flat, to="mixed_flat")
    x = node("Add", x, node("MatMul", mixed, "out", to="attended"), to="x1")
    hidden = node("Tanh", node("MatMul", norm(x, "norm2"), "up", to="up_z"), to="hidden")
    x = node("Add", x, node("MatMul", hidden, "down", to="down_z"), to="x2")
    node("Transpose", node("MatMul", x, "head", to="scores_of_levels"), to="logits", perm=[0, 2, 1])
    levels = helper.make_tensor_value_info("levels", onnx.TensorProto.INT64, [BATCH, TOKENS])
    return nodes, levels, [BATCH, LEVELS, TOKENS]
