# SPDX-License-Identifier: MIT
"""Training steps against the same maths in float64 numpy, and their state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxloss.training import TrainingLoop, initial_state, trained_model, training_step
from tests.forward_models import CONFIG, SMOOTHING, Arrays, mlp, parameters_of, put_before_logits
from tests.runtime import RUNTIME_ERRORS, make_session, run_session

STEPS = 60
LEARNING_RATE = 0.02
RATE = np.array(LEARNING_RATE, np.float32)
# One optimizer of each form: no state but the parameters; one moment; more and a counter.
OPTIMIZERS = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9, "dampening": 0.4}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}),
    ("adam", {"amsgrad": True, "betas": (0.5, 0.6)}),
    ("adamw", {}),
    ("adamw", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.0}),
]

library = pytest.mark.parametrize("library", [False, True], ids=["body", "library"])


def batches(dtype: type = np.float32) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of different sizes; some labels are ignored."""
    random = np.random.default_rng(2)
    for index in range(STEPS):
        size = 16 if index % 4 else 1 + index % 7
        labels = random.integers(0, 5, size)
        labels[1:][random.random(size - 1) < 0.1] = -100
        yield random.normal(size=(size, 8)).astype(dtype), labels


def loss_and_gradients(p: Arrays, x: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
    """Smoothed cross entropy of the perceptron, and its gradients by hand."""
    z = x @ p["w1"] + p["b1"]
    h = np.maximum(z, 0)
    logits = h @ p["w2"] + p["b2"]
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    valid = labels != -100
    target = (1 - SMOOTHING) * np.eye(5)[np.where(valid, labels, 0)] + SMOOTHING / 5
    loss = -(target * log_p).sum(1)[valid].mean()
    dlogits = (np.exp(log_p) - target) * valid[:, None] / valid.sum()
    dz = dlogits @ p["w2"].T * (z > 0)
    return float(loss), {
        "w1": x.T @ dz,
        "b1": dz.sum(0),
        "w2": h.T @ dlogits,
        "b2": dlogits.sum(0),
    }


def numpy_sgd(
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Callable[[Arrays, Arrays], None]:
    buffers: Arrays = {}

    def update(p: Arrays, gradients: Arrays) -> None:
        for name, gradient in gradients.items():
            g = gradient + weight_decay * p[name]
            if name in buffers:
                buffers[name] = momentum * buffers[name] + (1 - dampening) * g
            else:
                buffers[name] = g
            direction = g + momentum * buffers[name] if nesterov else buffers[name]
            p[name] = p[name] - LEARNING_RATE * direction

    return update


def numpy_adam(
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled: bool = False,
) -> Callable[[Arrays, Arrays], None]:
    state: Arrays = {}
    count = 0

    def update(p: Arrays, gradients: Arrays) -> None:
        nonlocal count
        count += 1
        for name, gradient in gradients.items():
            decay = weight_decay * p[name]
            g = gradient if decoupled else gradient + decay
            m, v, largest = state.get(name, (0, 0, 0))
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g**2
            largest = np.maximum(largest, v)
            state[name] = m, v, largest
            m_hat = m / (1 - betas[0] ** count)
            v_hat = (largest if amsgrad else v) / (1 - betas[1] ** count)
            change = m_hat / (np.sqrt(v_hat) + eps) + (decay if decoupled else 0)
            p[name] = p[name] - LEARNING_RATE * change

    return update


numpy_adamw = functools.partial(numpy_adam, weight_decay=0.01, decoupled=True)
NUMPY = {"sgd": numpy_sgd, "adam": numpy_adam, "adamw": numpy_adamw}


def numpy_training(
    forward: onnx.ModelProto, optimizer: str, settings: dict
) -> tuple[list[float], Arrays]:
    p = {name: array.astype(np.float64) for name, array in parameters_of(forward).items()}
    update = NUMPY[optimizer](**settings)
    losses = []
    for x, labels in batches():
        loss, gradients = loss_and_gradients(p, x.astype(np.float64), labels)
        losses.append(loss)
        update(p, gradients)
    return losses, p


def train(
    step: onnx.ModelProto, state: Arrays, *, library: bool, dtype: type = np.float32
) -> tuple[list[float], Arrays]:
    loop = TrainingLoop(make_session(step, library=library), state)
    rate = np.asarray(LEARNING_RATE, dtype)
    losses = [
        loop.step({"x": x, "labels": labels, "learning_rate": rate}) for x, labels in batches(dtype)
    ]
    return losses, loop.state


@library
@pytest.mark.parametrize(("optimizer", "settings"), OPTIMIZERS)
def test_training_equals_numpy(optimizer: str, settings: dict, library: bool) -> None:
    forward = mlp()
    step = training_step(forward, CONFIG, optimizer=optimizer, **settings)
    losses, state = train(step, initial_state(step, forward), library=library)
    wanted_losses, wanted = numpy_training(forward, optimizer, settings)
    np.testing.assert_allclose(losses, wanted_losses, rtol=0, atol=1e-5)
    assert wanted_losses[-1] < wanted_losses[0]
    for name, array in wanted.items():
        np.testing.assert_allclose(state[name], array, rtol=0, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_matmul_and_add_of_an_older_or_newer_opset_equal_gemm(opset: int) -> None:
    forward = mlp(matmul=True, opset=opset)
    step = training_step(forward, CONFIG, optimizer="adamw")
    losses, _ = train(step, initial_state(step, forward), library=False)
    wanted, _ = numpy_training(forward, "adamw", {})
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-5)


@library
def test_float64_parameters_are_trained_in_float64(library: bool) -> None:
    forward = mlp(np.float64)
    step = training_step(forward, CONFIG, optimizer="adamw")
    losses, state = train(step, initial_state(step, forward), library=library, dtype=np.float64)
    p = parameters_of(forward)
    update = numpy_adamw()
    for (x, labels), loss in zip(batches(np.float64), losses, strict=True):
        wanted, gradients = loss_and_gradients(p, x, labels)
        assert loss == pytest.approx(wanted, rel=1e-12)
        update(p, gradients)
    np.testing.assert_allclose(state["w1"], p["w1"], rtol=1e-10, atol=1e-12)


def test_float16_logits_of_float_parameters_train() -> None:
    forward = mlp()
    cast = helper.make_node("Cast", ["before"], ["logits"], to=TensorProto.FLOAT16)
    put_before_logits(forward.graph, cast)
    forward.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    step = training_step(forward, CONFIG)
    losses, state = train(step, initial_state(step, forward), library=False)
    wanted, _ = numpy_training(forward, "sgd", {})
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=5e-3)
    assert state["w1"].dtype == np.float32


def test_parameters_that_are_not_chosen_stay() -> None:
    forward = mlp()
    step = training_step(forward, CONFIG, parameters=["w2", "b2"])
    state = initial_state(step, forward)
    assert list(state) == ["w2", "b2"]
    _, state = train(step, state, library=False)
    p = {name: array.astype(np.float64) for name, array in parameters_of(forward).items()}
    for x, labels in batches():
        _, gradients = loss_and_gradients(p, x.astype(np.float64), labels)
        for name in ("w2", "b2"):
            p[name] -= LEARNING_RATE * gradients[name]
    np.testing.assert_allclose(state["w2"], p["w2"], rtol=0, atol=1e-5)


def test_inputs_and_outputs_have_the_documented_names_and_order() -> None:
    step = training_step(mlp(), CONFIG, optimizer="adamw", parameters=["w1", "b1"])
    state = [
        *("w1", "b1", "w1.exp_avg", "b1.exp_avg", "w1.exp_avg_sq", "b1.exp_avg_sq", "step"),
    ]
    assert [v.name for v in step.graph.input] == ["x", "labels", "learning_rate", *state]
    assert [v.name for v in step.graph.output] == ["loss", "logits", *(f"{s}.new" for s in state)]
    assert [f.name for f in step.functions] == ["SoftmaxCrossEntropyLossAndGrad"]
    calls = [node for node in step.graph.node if node.domain == "onnxloss"]
    assert [node.op_type for node in calls] == ["SoftmaxCrossEntropyLossAndGrad"]


def test_step_gives_the_logits_of_the_forward_model() -> None:
    forward = mlp()
    step = training_step(forward, CONFIG)
    x, labels = next(batches())
    feeds = {"x": x, "labels": labels, "learning_rate": RATE}
    results = run_session(
        make_session(step, library=False), {**feeds, **initial_state(step, forward)}
    )
    wanted = run_session(make_session(forward, library=False), {"x": x})
    np.testing.assert_allclose(results["logits"], wanted["logits"], rtol=1e-6)


def test_a_state_that_is_not_fed_is_an_error() -> None:
    forward = mlp()
    step = training_step(forward, CONFIG)
    x, labels = next(batches())
    state = initial_state(step, forward)
    del state["w1"]
    feeds = {"x": x, "labels": labels, "learning_rate": RATE, **state}
    with pytest.raises(ValueError, match="w1"):
        make_session(step, library=False).run(None, feeds)


def test_trained_model_holds_the_trained_parameters() -> None:
    forward = mlp()
    before = forward.SerializeToString()
    step = training_step(forward, CONFIG, optimizer="adamw")
    _, state = train(step, initial_state(step, forward), library=False)
    trained = trained_model(forward, state)
    assert forward.SerializeToString() == before
    again = initial_state(step, trained)
    for name in ("w1", "b1", "w2", "b2"):
        np.testing.assert_array_equal(again[name], state[name])
    assert again["step"] == 0 and state["step"] == STEPS
    x, _ = next(batches())
    hidden = np.maximum(x @ state["w1"] + state["b1"], 0)
    logits = run_session(make_session(trained, library=False), {"x": x})["logits"]
    np.testing.assert_allclose(logits, hidden @ state["w2"] + state["b2"], rtol=1e-4, atol=1e-5)


def test_state_taken_out_and_put_back_goes_on_bit_for_bit() -> None:
    forward = mlp()
    step = training_step(forward, CONFIG, optimizer="sgd", momentum=0.9)
    session = make_session(step, library=False)
    feeds = [{"x": x, "labels": labels, "learning_rate": RATE} for x, labels in batches()]
    straight = TrainingLoop(session, initial_state(step, forward))
    for feed in feeds:
        straight.step(feed)
    halves = TrainingLoop(session, initial_state(step, forward))
    for index, feed in enumerate(feeds):
        if index == STEPS // 2 - 1:
            halves = TrainingLoop(session, halves.state)
        halves.step(feed)
    for name, array in straight.state.items():
        np.testing.assert_array_equal(halves.state[name], array)


@library
def test_a_step_that_fails_leaves_the_state(library: bool) -> None:
    forward = mlp()
    step = training_step(forward, CONFIG)
    loop = TrainingLoop(make_session(step, library=library), initial_state(step, forward))
    x, labels = next(batches())
    feeds = {"x": x, "labels": labels, "learning_rate": RATE}
    loop.step(feeds)
    before = loop.state
    with pytest.raises(RUNTIME_ERRORS):
        loop.step({**feeds, "labels": np.full_like(labels, 5)})
    for name, array in loop.state.items():
        np.testing.assert_array_equal(array, before[name])
    assert np.isfinite(loop.step(feeds))
