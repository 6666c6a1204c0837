# SPDX-License-Identifier: MIT
"""Training steps of many forward models: the gradient against central differences."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxloss
from onnxloss.training import initial_state, training_step
from onnxloss.training.step import METADATA_KEY, metadata
from tests.forward_models import (
    CONFIG,
    Arrays,
    convnet,
    mlp,
    model_of,
    put_before_logits,
    value,
)
from tests.runtime import make_session, run_session


def along_gradient(
    forward: onnx.ModelProto,
    feeds: Arrays,
    config: onnxloss.LossConfig,
    *,
    h: float,
    parameters: list[str] | None = None,
) -> tuple[float, float]:
    """The derivative of the loss along the gradient: by the step, and by central differences."""
    step = training_step(forward, config, parameters=parameters)
    session = make_session(step, library=False)
    state = initial_state(step, forward)
    dtype = next(iter(state.values())).dtype
    feeds = {**feeds, "learning_rate": np.ones((), dtype)}
    results = run_session(session, {**feeds, **state})
    trained = json.loads(metadata(step)[METADATA_KEY])["parameters"]
    gradients = {name: state[name] - results[f"{name}.new"] for name in trained}
    norm = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values())))
    ahead, behind = (
        run_session(
            session,
            {**feeds, **state, **{n: state[n] + s * h / norm * gradients[n] for n in trained}},
        )["loss"]
        for s in (1, -1)
    )
    return norm, float((ahead - behind) / (2 * h))


def test_transformer_block_with_dynamic_batch_and_sequence() -> None:
    random = np.random.default_rng(3)
    width, vocabulary = 8, 11
    shapes = {
        **{name: (width, width) for name in ("wq", "wk", "wv", "wo")},
        **{"embedding": (vocabulary, width), "up": (width, 16), "down": (16, width)},
        **{"gain": (width,), "shift": (width,), "bias": (16,), "head": (width, vocabulary)},
    }
    parameters = {n: random.normal(size=s) * 0.5 for n, s in shapes.items()}
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "tokens"], ["e"]),
        node("LayerNormalization", ["e", "gain", "shift"], ["n"], epsilon=1e-12),
        *(node("MatMul", ["n", f"w{name}"], [name]) for name in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["attention"], axis=-1),
        node("MatMul", ["attention", "v"], ["mixed"]),
        node("MatMul", ["mixed", "wo"], ["projected"]),
        node("Add", ["e", "projected"], ["r"]),
        node("MatMul", ["r", "up"], ["u"]),
        node("Add", ["u", "bias"], ["ub"]),
        node("Tanh", ["ub"], ["a"]),
        node("MatMul", ["a", "down"], ["d"]),
        node("Add", ["r", "d"], ["o"]),
        node("MatMul", ["o", "head"], ["scores_last"]),
        node("Transpose", ["scores_last"], ["logits"], perm=[0, 2, 1]),
    ]
    forward = model_of(
        nodes,
        [value("tokens", ["N", "T"], TensorProto.INT64)],
        ["N", vocabulary, "T"],
        parameters,
        elem_type=TensorProto.DOUBLE,
    )
    for shape in ((3, 5), (1, 4)):
        tokens, labels = random.integers(0, vocabulary, (2, *shape))
        by_step, by_difference = along_gradient(
            forward, {"tokens": tokens, "labels": labels}, CONFIG, h=1e-5
        )
        assert by_step == pytest.approx(by_difference, rel=1e-7)


@pytest.mark.parametrize(("batch", "pool"), [("N", "AveragePool"), ("N", "MaxPool"), ("N", None)])
def test_convolution(batch: int | str, pool: str | None) -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(6, 1, 8, 8)).astype(np.float32)
    feeds = {"x": x, "labels": random.integers(0, 5, 6)}
    by_step, by_difference = along_gradient(convnet(batch, pool), feeds, CONFIG, h=1e-2)
    assert by_step == pytest.approx(by_difference, rel=1e-3)


@pytest.mark.parametrize("sizes", [(4, 3), ("T", "N")], ids=["fixed", "dynamic"])
@pytest.mark.parametrize(("operator", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent(operator: str, gates: int, sizes: tuple[int | str, int | str]) -> None:
    """Both ways through the sequence, with a result of each step and of the last one."""
    random = np.random.default_rng(2)
    shapes = {"W": (2, gates * 6, 5), "R": (2, gates * 6, 6), "B": (2, gates * 12), "P": (12, 5)}
    parameters = {name: random.normal(size=shape) * 0.5 for name, shape in shapes.items()}
    constants = {"row": np.array([-1, 12]), "first": np.array([0])}
    node = helper.make_node
    nodes = [
        node(operator, [*"xWRB"], ["Y", "last"], hidden_size=6, direction="bidirectional"),
        node("ReduceMean", ["Y", "first"], ["mean"], keepdims=0),
        node("Add", ["mean", "last"], ["sum"]),
        node("Transpose", ["sum"], ["turned"], perm=[1, 0, 2]),
        node("Reshape", ["turned", "row"], ["features"]),
        node("MatMul", ["features", "P"], ["logits"]),
    ]
    x, labels = random.normal(size=(4, 3, 5)), np.array([0, 3, 4])

    def forward(dtype: type) -> onnx.ModelProto:
        elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        arrays = {name: array.astype(dtype) for name, array in parameters.items()}
        inputs = [value("x", [*sizes, 5], elem_type)]
        return model_of(nodes, inputs, [sizes[1], 5], {**arrays, **constants}, elem_type=elem_type)

    # Between the step and ONNX Runtime's own kernel, which has float32 only.
    single = forward(np.float32)
    step, feeds = training_step(single, CONFIG), {"x": x.astype(np.float32), "labels": labels}
    ours = run_session(
        make_session(step, library=False),
        {**feeds, **initial_state(step, single), "learning_rate": np.zeros((), np.float32)},
    )
    theirs = run_session(make_session(onnxloss.append_to(single, CONFIG), library=False), feeds)
    for name in ("logits", "loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5)

    double = {"x": x, "labels": labels}
    by_step, by_difference = along_gradient(forward(np.float64), double, CONFIG, h=1e-5)
    assert by_step == pytest.approx(by_difference, rel=1e-7)


def test_an_output_that_repeats_another_stays() -> None:
    forward = mlp()
    put_before_logits(
        forward.graph,
        helper.make_node("Identity", ["before"], ["logits"]),
        helper.make_node("Identity", ["logits"], ["scores"]),
    )
    forward.graph.output.append(value("scores", ["N", 5], TensorProto.FLOAT))
    step = training_step(forward, CONFIG, logits="logits")
    assert [output.name for output in step.graph.output][:3] == ["loss", "logits", "scores"]


def test_probabilities_and_class_weights() -> None:
    weights = np.array([1, 2, 0.5, 1, 3], np.float64)
    config = onnxloss.from_torch(
        "torch.nn.CrossEntropyLoss", target="probabilities", weight=weights, reduction="sum"
    )
    random = np.random.default_rng(5)
    feeds = {"x": random.normal(size=(7, 8)), "labels": random.dirichlet(np.ones(5), 7)}
    by_step, by_difference = along_gradient(mlp(np.float64), feeds, config, h=1e-5)
    assert by_step == pytest.approx(by_difference, rel=1e-7)


def mlp_feeds() -> Arrays:
    random = np.random.default_rng(9)
    return {"x": random.normal(size=(7, 8)), "labels": random.integers(0, 5, 7)}


def test_model_with_local_functions() -> None:
    forward = mlp(np.float64)
    dense = helper.make_function(
        "own",
        "Dense",
        ["x", "w", "b"],
        ["y"],
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        [helper.make_opsetid("", 19)],
    )
    forward.functions.append(dense)
    forward.opset_import.append(helper.make_opsetid("own", 1))
    for node in forward.graph.node:
        if node.op_type == "Gemm":
            node.op_type, node.domain = "Dense", "own"
    by_step, by_difference = along_gradient(forward, mlp_feeds(), CONFIG, h=1e-5)
    assert by_step == pytest.approx(by_difference, rel=1e-7)


def test_initializers_that_are_inputs_too() -> None:
    forward = mlp(np.float64)
    for tensor in forward.graph.initializer:
        forward.graph.input.append(value(tensor.name, tensor.dims, TensorProto.DOUBLE))
    names = [v.name for v in training_step(forward, CONFIG).graph.input]
    assert names == ["x", "labels", "learning_rate", "w1", "b1", "w2", "b2"]
    by_step, by_difference = along_gradient(forward, mlp_feeds(), CONFIG, h=1e-5)
    assert by_step == pytest.approx(by_difference, rel=1e-7)


def test_a_parameter_that_is_used_twice_gets_both_gradients() -> None:
    shared = np.random.default_rng(7).normal(size=(5, 5))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["logits"]),
    ]
    inputs = [value("x", ["N", 5], TensorProto.DOUBLE)]
    forward = model_of(nodes, inputs, ["N", 5], {"w": shared}, elem_type=TensorProto.DOUBLE)
    feeds = {"x": np.random.default_rng(8).normal(size=(4, 5)), "labels": np.arange(4)}
    by_step, by_difference = along_gradient(forward, feeds, CONFIG, h=1e-5)
    assert by_step == pytest.approx(by_difference, rel=1e-7)


def test_small_constants_of_the_forward_model_stay() -> None:
    forward = mlp(np.float64)
    small = np.full(5, 1e-9)
    forward.graph.initializer.append(numpy_helper.from_array(small, "small"))
    add = helper.make_node("Add", ["before", "small"], ["logits"])
    put_before_logits(forward.graph, add)
    step = training_step(forward, CONFIG, parameters=["w1", "b1", "w2", "b2"])
    feeds, state = mlp_feeds(), initial_state(step, forward)
    rate = {"learning_rate": np.zeros(())}
    logits = run_session(make_session(step, library=False), {**feeds, **state, **rate})["logits"]
    hidden = np.maximum(feeds["x"] @ state["w1"] + state["b1"], 0)
    np.testing.assert_allclose(logits - (hidden @ state["w2"] + state["b2"]), 1e-9, rtol=1e-4)
