# SPDX-License-Identifier: MIT
"""Paddle's and TensorFlow's numbers of the sampled softmax against the exported models."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxloss
from onnxloss.sampled import PADDLE_SAMPLED, SETTINGS, TF_SAMPLED
from tests import golden_cases as golden
from tests.cuda_models import run_way
from tests.golden_cases import every_way, ways
from tests.runtime import run_model

GOLDEN = golden.load("sampled")

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


@every_way
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
    assert_golden(case, run_way(model, feeds, way))


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
    counts = Counter((case.api, golden.kind_of(case, {})) for case in GOLDEN)
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


def test_every_parameter_of_paddle_is_mapped() -> None:
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


def test_the_name_is_the_nodes() -> None:
    loss = onnxloss.from_tf(TF_SAMPLED, num_sampled=3, num_classes=9, name="scores")
    (node,) = onnxloss.export(loss, logits=("N", "K")).graph.node
    assert node.name == "scores"
