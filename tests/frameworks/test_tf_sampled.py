# SPDX-License-Identifier: MIT
"""TensorFlow's sampled softmax and its gradient against the exported model, given its samples."""

from __future__ import annotations

import inspect
import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import strategies as st  # noqa: E402

import onnxloss  # noqa: E402
from onnxloss.sampled import SETTINGS, TF_SAMPLED  # noqa: E402
from tests.frameworks.examples import EXAMPLES, drawn  # noqa: E402
from tests.runtime import run_model  # noqa: E402

CONFIGURATIONS = st.fixed_dictionaries(
    {
        "rows": st.sampled_from((1, 3, 20)),
        "classes": st.sampled_from((1, 2, 30, 500)),
        "num_true": st.sampled_from((1, 1, 2, 5)),
        "num_sampled": st.sampled_from((1, 2, 5, 40)),
        "remove_accidental_hits": st.booleans(),
        "label_dtype": st.sampled_from(("int64", "int32")),
        "given_as": st.sampled_from(("object", "name")),
        "way": st.sampled_from(("body", "library", "inlined")),
        "seed": st.integers(0, 2**32 - 1),
    }
)


@drawn(EXAMPLES // 10)
@hypothesis.given(CONFIGURATIONS)
def test_loss_and_gradient_equal_tensorflow(case: dict) -> None:
    rng = np.random.default_rng(case["seed"])
    rows, classes, num_true = case["rows"], case["classes"], case["num_true"]
    count = min(case["num_sampled"], classes)
    weights = rng.standard_normal((classes, 6)).astype(np.float32)
    biases = rng.standard_normal(classes).astype(np.float32)
    given = tf.constant(rng.standard_normal((rows, 6)).astype(np.float32))
    labels = rng.integers(0, classes, (rows, num_true))
    drawn = tf.random.log_uniform_candidate_sampler(
        labels, num_true, count, True, classes, seed=int(rng.integers(1, 2**31))
    )
    settings = {
        "num_sampled": count,
        "num_classes": classes,
        "num_true": num_true,
        "remove_accidental_hits": case["remove_accidental_hits"],
    }
    dloss = rng.uniform(-2, 2, rows).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        theirs = tf.nn.sampled_softmax_loss(
            weights, biases, labels, given, sampled_values=drawn, **settings
        )
    by_inputs = tape.gradient(theirs, given, output_gradients=dloss)

    source = TF_SAMPLED if case["given_as"] == "name" else tf.nn.sampled_softmax_loss
    model = onnxloss.export(
        onnxloss.from_tf(source, **settings, sampled_values="inputs"),
        logits=(rows, classes),
        label_dtype=case["label_dtype"],
        gradient=True,
        inline=case["way"] == "inlined",
    )
    samples, of_labels, of_samples = (values.numpy() for values in drawn)
    feeds = {
        "logits": given.numpy() @ weights.T + biases,
        "labels": labels.astype(case["label_dtype"]),
        "dloss": dloss,
        "samples": samples,
        "probabilities": np.concatenate(
            [of_labels, np.broadcast_to(of_samples, (rows, count))], axis=1
        ),
    }
    ours = run_model(model, feeds, library=case["way"] == "library")
    np.testing.assert_allclose(ours["loss"], theirs.numpy(), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(ours["dlogits"] @ weights, by_inputs.numpy(), rtol=1e-4, atol=5e-5)


def test_the_expected_counts_are_those_of_the_kernel() -> None:
    """Given a number of tries, which TensorFlow does not tell: it is the whole one nearest."""
    labels = np.arange(20)[:, None]
    for seed in range(1, 20):
        samples, of_labels, _ = tf.random.log_uniform_candidate_sampler(
            labels, 1, 12, True, 100, seed=seed
        )
        assert len(set(samples.numpy())) == 12
        q = of_labels.numpy()[:, 0].astype(np.float64)
        v = np.arange(20)
        p = np.log((v + 2) / (v + 1)) / np.log(101)
        tries = round(float(np.log1p(-q[10]) / np.log1p(-p[10])))
        wanted = 12 * p if np.allclose(q, 12 * p) else 1 - (1 - p) ** tries
        np.testing.assert_allclose(q, wanted, rtol=1e-5)


def test_every_parameter_is_mapped() -> None:
    parameters = inspect.signature(tf.nn.sampled_softmax_loss).parameters
    assert set(parameters) - {"weights", "biases", "labels", "inputs"} == set(SETTINGS[TF_SAMPLED])
    for name, default in SETTINGS[TF_SAMPLED].items():
        if parameters[name].default is not inspect.Parameter.empty:
            assert parameters[name].default == default
