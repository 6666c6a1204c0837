# SPDX-License-Identifier: MIT
"""The sampled softmax with given samples: the frameworks' numbers, the formula, the doors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxloss
from onnxloss.sampled import PADDLE_SAMPLED, SETTINGS, TF_SAMPLED
from tests import golden_cases as golden
from tests.cases import DTYPES
from tests.runtime import run_model
from tests.sampled import SPEC, config, inputs_of, node_model, run_node, truth
from tests.tolerance import assert_body, assert_kernel, eps

GOLDEN = golden.load("sampled")
WAYS = ("function body", "library", "inlined")

ways = pytest.mark.parametrize("way", WAYS)
both_ways = pytest.mark.parametrize("library", [False, True], ids=["body", "library"])
every_case = pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case.id}-{case.name}")


def config_of(case: golden.GoldenCase, *, given: bool = True) -> onnxloss.LossConfig:
    settings = {name: value for name, value in case.kwargs.items() if name != "num_tries"}
    if case.api == TF_SAMPLED:
        return onnxloss.from_tf(case.api, **settings, sampled_values="inputs")
    return onnxloss.from_paddle(case.api, **settings, use_customized_samples=given)


def given_samples(case: golden.GoldenCase) -> dict[str, np.ndarray]:
    """The case's samples as the graph takes them: Paddle's stand behind the labels."""
    labels, samples = case.arrays["labels"], case.arrays["sampled"]
    spread = (len(labels), len(samples))
    q_sampled = np.broadcast_to(case.arrays["q_sampled"], spread)
    if case.api == PADDLE_SAMPLED:
        samples = np.concatenate([labels, np.broadcast_to(samples, spread)], axis=1)
    q = np.concatenate([case.arrays["q_true"], q_sampled], axis=1)
    return {"samples": samples, "probabilities": q}


def feeds_of(case: golden.GoldenCase) -> dict[str, np.ndarray]:
    arrays = {name: case.arrays[name] for name in ("logits", "labels", "dloss")}
    if case.api == PADDLE_SAMPLED:
        arrays["dloss"] = arrays["dloss"][:, None]
    return arrays


def assert_golden(case: golden.GoldenCase, outputs: dict[str, np.ndarray]) -> None:
    loss = case.arrays["loss"]
    loss = loss[:, None] if case.api == PADDLE_SAMPLED else loss
    assert outputs["loss"].shape == loss.shape
    assert outputs["loss"].dtype == loss.dtype
    golden.assert_close(outputs["loss"], loss, case)
    if case.api == PADDLE_SAMPLED:
        golden.assert_close(outputs["dlogits"], case.arrays["dlogits"], case)
    else:
        by_inputs = outputs["dlogits"] @ case.arrays["weights"]
        golden.assert_close(by_inputs, case.arrays["dinputs"], case)


@ways
@every_case
def test_matches_the_framework(case: golden.GoldenCase, way: str) -> None:
    model = onnxloss.export(
        config_of(case),
        logits=case.arrays["logits"].shape,
        dtype=case.arrays["logits"].dtype.name,
        gradient=True,
        inline=way == "inlined",
    )
    names = [value.name for value in model.graph.input]
    assert names == ["logits", "labels", "dloss", "samples", "probabilities"]
    feeds = {**feeds_of(case), **given_samples(case)}
    assert_golden(case, run_model(model, feeds, library=way == "library"))


@pytest.mark.parametrize(
    "case", [case for case in GOLDEN if case.api == PADDLE_SAMPLED], ids=lambda case: case.id
)
def test_the_kernel_draws_what_paddle_drew(case: golden.GoldenCase) -> None:
    """From the seed alone: samples, their expected counts, loss and gradient."""
    model = onnxloss.export(
        config_of(case, given=False),
        logits=case.arrays["logits"].shape,
        dtype="float64",
        gradient=True,
        outputs=("loss", "drawn_samples", "drawn_probabilities"),
    )
    outputs = run_model(model, feeds_of(case), library=True)
    assert_golden(case, outputs)
    np.testing.assert_array_equal(outputs["drawn_samples"], case.arrays["sampled"])
    q = given_samples(case)["probabilities"]
    np.testing.assert_allclose(outputs["drawn_probabilities"], q, rtol=1e-14)


def test_every_golden_case_is_asserted() -> None:
    counts = Counter((case.api, case.kind) for case in GOLDEN)
    assert counts == {(PADDLE_SAMPLED, "match"): 5, (TF_SAMPLED, "match"): 3}


@ways
def test_tensorflow_behind_the_forward_model(way: str) -> None:
    """TensorFlow's weights, biases and inputs are the forward model's."""
    case = next(case for case in GOLDEN if case.api == TF_SAMPLED)
    forward = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gemm", ["inputs", "weights", "biases"], ["scores"], transB=1)],
            "forward",
            [helper.make_tensor_value_info("inputs", 1, ("N", 6))],
            [helper.make_tensor_value_info("scores", 1, ("N", 30))],
            [onnx.numpy_helper.from_array(case.arrays[n], n) for n in ("weights", "biases")],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    model = onnxloss.append_to(forward, config_of(case), gradient=True, inline=way == "inlined")
    feeds = {name: case.arrays[name] for name in ("inputs", "labels", "dloss")}
    outputs = run_model(model, {**feeds, **given_samples(case)}, library=way == "library")
    golden.assert_close(outputs["scores"], case.arrays["logits"], case)
    assert_golden(case, outputs)


# Rows of several tasks; one class; T > 1 with repeated labels; samples that repeat, or of each row.
SHAPES = {
    "plain": {"rows": 5, "classes": 50, "num_true": 1, "count": 7},
    "true classes": {"rows": 4, "classes": 9, "num_true": 3, "count": 6},
    "no row": {"rows": 0, "classes": 9, "num_true": 2, "count": 3},
    "one class": {"rows": 3, "classes": 1, "num_true": 1, "count": 1},
    "many rows": {"rows": 700, "classes": 40, "num_true": 2, "count": 33},
    "repeated": {"rows": 6, "classes": 8, "num_true": 3, "count": 8},
    "own samples": {"rows": 6, "classes": 12, "num_true": 2, "count": 8},
}


def arrays_of(name: str, dtype: str) -> dict[str, np.ndarray]:
    arrays = inputs_of(**SHAPES[name], dtype=dtype, seed=len(name))
    if name == "repeated":
        arrays["samples"] = arrays["samples"] // 2
        arrays["labels"][:, 2] = arrays["labels"][:, 0]
    if name == "own samples":
        rng = np.random.default_rng(1)
        arrays["samples"] = rng.integers(0, 12, (6, 8))
    return arrays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_dtype", ["int32", "int64"])
@pytest.mark.parametrize("remove", [True, False], ids=["removed", "hits"])
@pytest.mark.parametrize("name", SHAPES)
def test_three_ways_agree(name: str, remove: bool, label_dtype: str, dtype: str) -> None:
    """Each operator, body and kernel, against the formula in float64."""
    arrays = arrays_of(name, dtype)
    arrays["labels"] = arrays["labels"].astype(label_dtype)
    settings = {"num_samples": SHAPES[name]["count"], "remove_accidental_hits": int(remove)}
    wanted = truth(**{**arrays, "remove_accidental_hits": remove})
    for op in SPEC.ops:
        body = run_node(op, arrays, library=False, **settings)
        kernel = run_node(op, arrays, library=True, **settings)
        for port, values in body.items():
            assert_body(values, wanted[port], 1, f"body {op.name}.{port}")
            assert_kernel(kernel[port], values, wanted[port], f"kernel {op.name}.{port}")


@both_ways
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions(reduction: str, library: bool) -> None:
    arrays = arrays_of("many rows", "float64")
    wanted = truth(**{**arrays, "dloss": 1.0 if reduction == "sum" else 1 / 700})
    loss = wanted["loss"].sum() if reduction == "sum" else wanted["loss"].mean()
    arrays["dloss"] = np.ones(())
    for op in SPEC.ops:
        outputs = run_node(op, arrays, library=library, num_samples=33, reduction=reduction)
        for port, values in outputs.items():
            value = loss if port == "loss" else wanted[port]
            np.testing.assert_allclose(values, value, rtol=1e-13, atol=1e-15)


@both_ways
@pytest.mark.parametrize(("reduction", "loss"), [("mean", np.nan), ("sum", 0.0)])
def test_reductions_of_no_row(reduction: str, loss: float, library: bool) -> None:
    arrays = {**arrays_of("no row", "float32"), "dloss": np.ones((), np.float32)}
    for op in SPEC.ops:
        outputs = run_node(op, arrays, library=library, num_samples=3, reduction=reduction)
        assert outputs.get("dlogits", np.empty((0, 9))).shape == (0, 9)
        np.testing.assert_equal(outputs.get("loss", loss), np.float32(loss))


def test_the_gradient_is_the_losses_derivative() -> None:
    """By differences in float64, also where a class is in several columns."""
    arrays = arrays_of("repeated", "float64")
    settings = {"num_samples": 8, "remove_accidental_hits": 0, "library": True}
    step, by_differences = 1e-5, np.zeros((6, 8))
    for v in range(8):
        moved = []
        for sign in (1, -1):
            logits = arrays["logits"].copy()
            logits[:, v] += sign * step
            moved.append(run_node(SPEC.forward, {**arrays, "logits": logits}, **settings)["loss"])
        by_differences[:, v] = arrays["dloss"] * (moved[0] - moved[1]) / (2 * step)
    dlogits = run_node(SPEC.grad, arrays, **settings)["dlogits"]
    np.testing.assert_allclose(dlogits, by_differences, atol=1e-9)
    np.testing.assert_allclose(dlogits.sum(axis=1), 0, atol=1e-14)


@both_ways
def test_an_accidental_hit_counts_only_where_it_is_a_label(library: bool) -> None:
    arrays = inputs_of(2, 10, 1, 2)
    arrays |= {"labels": np.array([[3], [4]]), "samples": np.array([3, 5])}
    arrays["probabilities"] = np.full((2, 3), 0.5, np.float32)
    x = arrays["logits"].astype(np.float64)
    kept = run_node(SPEC.forward, arrays, library=library, num_samples=2)["loss"]
    assert kept[0] == pytest.approx(np.logaddexp(0, x[0, 5] - x[0, 3]), rel=1e-6)
    three = np.exp(x[1, [4, 3, 5]])
    assert kept[1] == pytest.approx(np.log(three.sum() / three[0]), rel=1e-6)


@both_ways
@pytest.mark.parametrize(
    ("name", "place", "value", "loss"),
    [
        ("logits", (0, 2), -np.inf, np.inf),
        ("logits", (0, 5), -np.inf, 0.0),
        ("logits", (0, 2), np.inf, np.nan),
        ("logits", (0, 5), np.nan, np.nan),
        ("probabilities", (0, 1), 0.0, np.nan),
        ("probabilities", (0, 1), np.nan, np.nan),
        ("logits", (0, 7), np.nan, 1.0),
    ],
    ids=["masked", "others masked", "inf", "nan", "Q = 0", "Q nan", "not a column"],
)
def test_values_that_are_not_finite(
    name: str, place: tuple[int, int], value: float, loss: float, library: bool
) -> None:
    """Of one true class, 2, and one sample, 5; the other row is as it was."""
    arrays = inputs_of(2, 8, 1, 1)
    arrays |= {"labels": np.array([[2], [2]]), "samples": np.array([5])}
    before = run_node(SPEC.loss_and_grad, arrays, library=library)
    arrays[name][place] = value
    after = run_node(SPEC.loss_and_grad, arrays, library=library)
    for port in ("loss", "dlogits"):
        np.testing.assert_array_equal(after[port][1], before[port][1])
    np.testing.assert_equal(after["loss"][0], before["loss"][0] if loss == 1.0 else loss)
    assert np.isnan(after["dlogits"][0, [2, 5]]).all() == np.isnan(loss)
    assert (after["dlogits"][0, [0, 1, 3, 4, 6, 7]] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_keeps_the_digits_of_a_margin_of_20(dtype: str) -> None:
    arrays = inputs_of(1, 2, 1, 1, dtype)
    arrays |= {"labels": np.array([[0]]), "samples": np.array([1])}
    arrays["logits"] = np.array([[20.0, 0.0]]).astype(DTYPES[dtype])
    arrays["probabilities"] = np.ones_like(arrays["probabilities"])
    # float16 ends at 6e-8: a power of two brings the gradient into its range unchanged.
    arrays["dloss"] = np.full_like(arrays["dloss"], 2.0**20)
    outputs = run_node(SPEC.loss_and_grad, arrays, library=True)
    wanted = truth(**arrays)
    assert wanted["loss"][0] == pytest.approx(2.0611536203143808e-09, rel=1e-15)
    for port, values in outputs.items():
        rtol = 4 * eps(values.dtype)
        np.testing.assert_allclose(values.astype(np.float64), wanted[port], rtol=rtol)


@both_ways
def test_two_configurations_in_one_model(library: bool) -> None:
    """Their nodes share one function, the generic one."""
    forward = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["logits"])],
            "forward",
            [helper.make_tensor_value_info("x", 1, (5, 50))],
            [helper.make_tensor_value_info("logits", 1, (5, 50))],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    arrays = arrays_of("plain", "float32")
    feeds = {"x": arrays["logits"], "labels": arrays["labels"]}
    wanted = {}
    for name, count, reduction in (("first", 7, "none"), ("second", 4, "sum")):
        settings = {"num_samples": count, "reduction": reduction}
        loss = onnxloss.LossConfig(SPEC.name, settings, samples="shared")
        forward = onnxloss.append_to(forward, loss, logits="logits", loss=name)
        given = {**arrays, "samples": arrays["samples"][:count]}
        given["probabilities"] = arrays["probabilities"][:, : 1 + count]
        feeds |= {f"{name}.{port}": given[port] for port in ("samples", "probabilities")}
        each = truth(**given)["loss"]
        wanted[name] = each.sum() if reduction == "sum" else each
    outputs = run_model(forward, feeds, library=library)
    for name, values in wanted.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5)


def test_a_training_step_with_drawn_samples() -> None:
    """The loss falls where logits of 1000 classes are learned from their samples."""
    rng = np.random.default_rng(0)
    matrix = onnx.numpy_helper.from_array(np.zeros((8, 1000), np.float32), "matrix")
    forward = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "matrix"], ["logits"])],
            "forward",
            [helper.make_tensor_value_info("x", 1, ("N", 8))],
            [helper.make_tensor_value_info("logits", 1, ("N", 1000))],
            [matrix],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    loss = config(num_samples=20, reduction="mean", seed=3)
    step = onnxloss.training_step(forward, loss, optimizer="sgd")
    feeds = {
        "x": rng.standard_normal((32, 8)).astype(np.float32),
        "labels": rng.integers(0, 1000, (32, 1)),
        "learning_rate": np.asarray(1.0, np.float32),
        "matrix": np.zeros((8, 1000), np.float32),
    }
    losses = []
    for _ in range(5):
        outputs = run_model(step, feeds, library=True)
        feeds["matrix"] = outputs["matrix.new"]
        losses.append(float(outputs["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.75 * losses[0]


@both_ways
def test_arrays_are_default_values(library: bool) -> None:
    case = GOLDEN[0]
    of_tensorflow = tuple(case.arrays[name] for name in ("sampled", "q_true", "q_sampled"))
    loss = onnxloss.from_tf(case.api, **case.kwargs, sampled_values=of_tensorflow)
    model = onnxloss.export(loss, logits=("N", 30), gradient=True)
    assert_golden(case, run_model(model, feeds_of(case), library=library))

    paddle = next(case for case in GOLDEN if case.api == PADDLE_SAMPLED)
    given = given_samples(paddle)
    settings = {name: paddle.kwargs[name] for name in ("num_samples", "num_true")}
    loss = onnxloss.from_paddle(
        PADDLE_SAMPLED,
        **settings,
        use_customized_samples=True,
        customized_samples=given["samples"],
        customized_probabilities=given["probabilities"],
    )
    model = onnxloss.export(loss, logits=("N", 20), dtype="float64", gradient=True)
    assert_golden(paddle, run_model(model, feeds_of(paddle), library=library))


def test_every_parameter_is_mapped() -> None:
    """Paddle's signature is of 1.8, and its package of today has not the API."""
    assert set(SETTINGS[PADDLE_SAMPLED]) == {
        "num_samples",
        "num_true",
        "remove_accidental_hits",
        "use_customized_samples",
        "customized_samples",
        "customized_probabilities",
        "seed",
    }


def test_every_parameter_of_tensorflow_is_mapped() -> None:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    import inspect

    parameters: dict[str, Any] = dict(inspect.signature(tf.nn.sampled_softmax_loss).parameters)
    tensors = {"weights", "biases", "labels", "inputs"}
    assert set(parameters) - tensors == set(SETTINGS[TF_SAMPLED])
    for name, default in SETTINGS[TF_SAMPLED].items():
        if parameters[name].default is not inspect.Parameter.empty:
            assert parameters[name].default == default


def test_sampled_values_say_what_the_node_is_called() -> None:
    loss = onnxloss.from_tf(TF_SAMPLED, num_sampled=3, num_classes=9, name="scores")
    (node,) = onnxloss.export(loss, logits=("N", "K")).graph.node
    assert node.name == "scores"
    assert node_model(SPEC.forward, inputs_of(2, 9, 1, 3), num_samples=3).graph.node[0].op_type
