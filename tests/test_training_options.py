# SPDX-License-Identifier: MIT
"""What a training step does between gradient and optimizer, and with buffers and 16 bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxloss
from onnxloss.training import TrainingLoop, initial_state, trained_model, training_step
from tests.forward_models import (
    CONFIG,
    Arrays,
    add_parameter,
    batch_norm_net,
    mlp,
    parameters_of,
    put_before_logits,
)
from tests.runtime import make_session, run_session

RATE = np.array(0.1, np.float32)
SUM = onnxloss.from_torch("torch.nn.CrossEntropyLoss", reduction="sum")


def batch(size: int, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 8)).astype(np.float32)
    return {"x": x, "labels": random.integers(0, 5, size), "learning_rate": RATE}


def loop_of(forward: onnx.ModelProto, step: onnx.ModelProto) -> TrainingLoop:
    return TrainingLoop(make_session(step, library=False), initial_state(step, forward))


def gradients(forward: onnx.ModelProto, feeds: Arrays, **settings: object) -> Arrays:
    """What one step of plain SGD takes off each parameter, divided by the rate."""
    step = training_step(forward, CONFIG, **settings)
    loop = loop_of(forward, step)
    before = loop.state
    loop.step(feeds)
    return {name: (before[name] - array) / RATE for name, array in loop.state.items()}


def norm_of(arrays: Arrays) -> float:
    return float(np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays.values())))


def test_gradients_are_clipped_to_the_global_norm() -> None:
    feeds = batch(16)
    free = gradients(mlp(), feeds)
    norm = norm_of(free)
    clipped = gradients(mlp(), feeds, max_norm=norm / 3)
    for name, gradient in free.items():
        np.testing.assert_allclose(clipped[name], gradient / 3, rtol=1e-4, atol=1e-6)
    untouched = gradients(mlp(), feeds, max_norm=norm * 3)
    for name, gradient in free.items():
        np.testing.assert_allclose(untouched[name], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", [CONFIG, SUM], ids=["mean", "sum"])
def test_accumulated_micro_batches_equal_the_large_batch(config: onnxloss.LossConfig) -> None:
    forward, parts = mlp(), 4
    settings = {"optimizer": "adamw", "max_norm": 0.5}
    large = loop_of(forward, training_step(forward, config, **settings))
    step = training_step(forward, config, accumulation_steps=parts, **settings)
    small = loop_of(forward, step)
    for seed in range(3):
        feeds, before = batch(8 * parts, seed), small.state
        large.step(feeds)
        for part in range(parts):
            for name in ("w1", "w2.exp_avg", "step"):
                np.testing.assert_array_equal(small.state[name], before[name])
            assert small.state["micro_step"] == part
            rows = slice(8 * part, 8 * part + 8)
            small.step({n: a[rows] if a.ndim else a for n, a in feeds.items()})
        for name, array in large.state.items():
            np.testing.assert_allclose(small.state[name], array, rtol=0, atol=2e-6, err_msg=name)
        assert not small.state["w1.gradient_sum"].any() and small.state["micro_step"] == 0


def test_loss_scale_changes_no_number_and_doubles() -> None:
    forward = mlp()
    plain = loop_of(forward, training_step(forward, CONFIG, optimizer="adamw"))
    step = training_step(forward, CONFIG, optimizer="adamw", loss_scale=1024.0, growth_interval=2)
    scaled = loop_of(forward, step)
    for seed, scale in enumerate((1024, 2048, 2048, 4096)):
        assert scaled.step(batch(16, seed)) == pytest.approx(plain.step(batch(16, seed)), rel=1e-6)
        assert scaled.state["loss_scale"] == scale
    for name, array in plain.state.items():
        np.testing.assert_allclose(scaled.state[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_changes_the_scale_only(
    bad: float, accumulation_steps: int
) -> None:
    forward = mlp()
    settings = {"loss_scale": 1024.0, "growth_interval": 2, "max_norm": 1.0}
    step = training_step(
        forward, CONFIG, optimizer="adamw", accumulation_steps=accumulation_steps, **settings
    )
    loop = loop_of(forward, step)

    def update(bad: float | None) -> None:
        for seed in range(accumulation_steps):
            feeds = batch(16, seed)
            if bad is not None and seed == 0:
                feeds["x"][0, 0] = bad
            loop.step(feeds)

    update(None)
    before = loop.state
    update(bad)
    after = loop.state
    assert (before["growth_tracker"], after["growth_tracker"]) == (1, 0)
    assert (before["loss_scale"], after["loss_scale"]) == (1024, 512)
    for name in set(before) - {"growth_tracker", "loss_scale"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    update(None)
    assert loop.state["step"] == 2


def half_mlp(dtype: type) -> onnx.ModelProto:
    """The perceptron with all its parameters and values in 16 bits."""
    forward = mlp()
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in forward.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for port in (*forward.graph.input, *forward.graph.output):
        port.type.tensor_type.elem_type = elem_type
    return forward


def test_float16_parameters_are_trained_in_float32() -> None:
    forward = half_mlp(np.float16)
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    step = training_step(forward, config, optimizer="adamw", loss_scale=65536.0)
    loop, wide = loop_of(forward, step), mlp()
    reference = loop_of(wide, training_step(wide, config, optimizer="adamw"))
    skipped = 0
    for seed in range(30):
        feeds = batch(16, seed)
        before = loop.state["step"]
        loss = loop.step({**feeds, "x": feeds["x"].astype(np.float16)})
        if loop.state["step"] > before:
            assert loss == pytest.approx(reference.step(feeds), rel=0.02, abs=0.02)
        else:
            skipped += 1
    assert 1 <= skipped <= 4  # a float16 loss cannot be scaled by 65536
    assert loop.state["w1"].dtype == np.float32
    trained = parameters_of(trained_model(forward, loop.state))
    assert trained["w1"].dtype == np.float16
    np.testing.assert_array_equal(trained["w1"], loop.state["w1"].astype(np.float16))


def test_bfloat16_parameters_are_cast_where_they_are_read() -> None:
    """ONNX Runtime has no bfloat16 products on a CPU: the graph is all that can be looked at."""
    forward = half_mlp(ml_dtypes.bfloat16)
    step = training_step(forward, CONFIG, loss_scale=1024.0)
    assert initial_state(step, forward)["w1"].dtype == np.float32
    casts = {n.input[0]: n.attribute[0].i for n in step.graph.node if n.op_type == "Cast"}
    assert casts["w1"] == TensorProto.BFLOAT16
    assert "w1.bfloat16" in {name for node in step.graph.node for name in node.input}


def test_frozen_parameters_stay() -> None:
    forward = mlp()
    step = training_step(forward, CONFIG, frozen=["w1", "b1"])
    assert list(initial_state(step, forward)) == ["w2", "b2"]
    named = training_step(forward, CONFIG, parameters=["w2", "b2"])
    assert [n.op_type for n in step.graph.node] == [n.op_type for n in named.graph.node]


def test_running_statistics_are_state() -> None:
    forward = batch_norm_net()
    step = training_step(forward, CONFIG)
    state = initial_state(step, forward)
    assert list(state)[-2:] == ["mean", "variance"]
    random = np.random.default_rng(3)
    x = random.normal(1, 2, (7, 2, 6, 6)).astype(np.float32)
    feeds = {"x": x, "labels": random.integers(0, 5, 7), "learning_rate": RATE}
    loop = loop_of(forward, step)
    loop.step(feeds)
    c = conv(x, state["kernel"])
    for name, old, new in (("mean", 0, c.mean((0, 2, 3))), ("variance", 1, c.var((0, 2, 3)))):
        np.testing.assert_allclose(loop.state[name], 0.9 * old + 0.1 * new, atol=1e-5)
    trained = trained_model(forward, loop.state)
    norm = next(n for n in trained.graph.node if n.op_type == "BatchNormalization")
    assert len(norm.output) == 1 and not onnxloss.training.parameters.is_training_batch_norm(norm)
    (row,) = run_session(make_session(trained, library=False), {"x": x[:1]})["logits"]
    whole = run_session(make_session(trained, library=False), {"x": x})["logits"]
    np.testing.assert_allclose(row, whole[0], rtol=1e-5, atol=1e-5)


def conv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


def test_any_value_can_be_a_buffers_next() -> None:
    forward = mlp()
    add_parameter(forward.graph, "seen")
    put_before_logits(
        forward.graph,
        helper.make_node("Identity", ["before"], ["logits"]),
        helper.make_node("Constant", [], ["rows"], value_ints=[0]),
        helper.make_node("ReduceSum", ["before", "rows"], ["total"], keepdims=0),
        helper.make_node("Add", ["seen", "total"], ["seen_next"]),
    )
    step = training_step(forward, CONFIG, buffers={"seen": "seen_next"})
    loop = loop_of(forward, step)
    logits = run_session(make_session(forward, library=False), {"x": batch(4)["x"]})["logits"]
    loop.step(batch(4))
    np.testing.assert_allclose(loop.state["seen"], 1 + logits.sum(0), rtol=1e-5)


def test_refuses_a_running_statistic_of_two_nodes() -> None:
    forward = batch_norm_net()
    norm = next(n for n in forward.graph.node if n.op_type == "BatchNormalization")
    second = onnx.NodeProto()
    second.CopyFrom(norm)
    second.input[0], second.output[0] = "b", "b2"
    forward.graph.node.insert(2, second)
    with pytest.raises(onnxloss.LossError, match='"mean" is the running statistic of two nodes'):
        training_step(forward, CONFIG)


def test_numpys_numbers_are_settings_too() -> None:
    settings = {"max_norm": 2.0, "accumulation_steps": 2, "loss_scale": 4.0, "growth_interval": 3}
    kinds = (np.float32, np.int64, np.float16, np.int32)
    given = {name: kind(settings[name]) for kind, name in zip(kinds, settings, strict=True)}
    assert training_step(mlp(), CONFIG, **given) == training_step(mlp(), CONFIG, **settings)
