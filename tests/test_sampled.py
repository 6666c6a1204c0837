# SPDX-License-Identifier: MIT
"""The sampled softmax with given samples: loss and gradient against the formula."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxloss
from tests.cases import DTYPES
from tests.runtime import run_model
from tests.sampled import SPEC, config, inputs_of, run_node, truth
from tests.tolerance import assert_body, assert_kernel, eps

both_ways = pytest.mark.parametrize("library", [False, True], ids=["body", "library"])

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
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "settings",
    [{"z_loss": 0.125}, {"logit_softcap": 4.0}, {"z_loss": 0.125, "logit_softcap": 4.0}],
    ids=["z_loss", "softcap", "both"],
)
@pytest.mark.parametrize("name", ["true classes", "repeated", "many rows"])
def test_z_loss_softcap_and_lse(
    name: str, settings: dict[str, float], dtype: str, library: bool
) -> None:
    arrays = arrays_of(name, dtype)
    wanted = truth(**arrays, **settings)
    nodes = {"library": library, "num_samples": SHAPES[name]["count"], **settings}
    for op in SPEC.ops:
        outputs = run_node(op, arrays, optional=["lse"], **nodes)
        assert ("lse" in outputs) == (op.name != SPEC.grad.name)
        for port, values in outputs.items():
            assert_body(values, wanted[port], 1, f"{op.name}.{port}")


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
