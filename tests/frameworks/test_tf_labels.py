# SPDX-License-Identifier: MIT
"""The gradients by label probabilities that TensorFlow and Keras have, and Keras's globals."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras  # noqa: E402

import onnxloss  # noqa: E402
from tests.runtime import WAYS, run_model  # noqa: E402

DENSE = "tf.nn.softmax_cross_entropy_with_logits"
CATEGORICAL = "keras.losses.CategoricalCrossentropy"
KERAS_SETTINGS = [
    {"from_logits": from_logits, "label_smoothing": factor, "axis": axis, "reduction": reduction}
    for from_logits, factor, axis, reduction in itertools.product(
        (True, False), (0.0, 0.1, 1.5), (-1, 1), ("sum", "sum_over_batch_size", "none")
    )
]

every_way = pytest.mark.parametrize("way", WAYS)


def inputs(dtype: str, *, probabilities: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    logits = rng.dirichlet(np.ones(5), (2, 5)) if probabilities else rng.standard_normal((2, 5, 5))
    return logits.astype(dtype), rng.dirichlet(np.ones(5), (2, 5)).astype(dtype)


def their_gradient(
    loss: Callable[..., tf.Tensor], logits: np.ndarray, labels: np.ndarray
) -> tuple[tf.Tensor | None, np.ndarray]:
    """By the labels, and the upstream gradient that it is for."""
    given = tf.constant(labels)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = loss(labels=given, logits=tf.constant(logits))
    dloss = np.random.default_rng(8).uniform(0.5, 2, value.shape)
    upstream = tf.cast(dloss, value.dtype)
    return tape.gradient(value, given, output_gradients=upstream), np.asarray(upstream)


def our_gradient(
    config: onnxloss.LossConfig, logits: np.ndarray, labels: np.ndarray, dloss: np.ndarray, way: str
) -> np.ndarray:
    model = onnxloss.export(
        config,
        logits=logits.shape,
        dtype=logits.dtype.name,
        label_dtype=labels.dtype.name,
        gradient=True,
        outputs=("loss", "dlabels"),
        inline=way == "inlined",
    )
    feeds = {"logits": logits, "labels": labels, "dloss": dloss}
    return run_model(model, feeds, library=way == "library")["dlabels"]


@every_way
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_tf_nn(axis: int, dtype: str, way: str) -> None:
    logits, labels = inputs(dtype, probabilities=False)
    loss = tf.nn.softmax_cross_entropy_with_logits
    wanted, dloss = their_gradient(lambda **given: loss(**given, axis=axis), logits, labels)
    result = our_gradient(onnxloss.from_tf(DENSE, axis=axis), logits, labels, dloss, way)
    tolerance = {"float32": 1e-5, "float64": 1e-12, "float16": 4e-3}[dtype]
    np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)


@every_way
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", KERAS_SETTINGS, ids=str)
def test_keras(settings: dict[str, Any], dtype: str, way: str) -> None:
    loss = keras.losses.CategoricalCrossentropy(**settings, dtype=dtype)
    logits, labels = inputs(dtype, probabilities=not settings["from_logits"])
    wanted, dloss = their_gradient(lambda labels, logits: loss(labels, logits), logits, labels)
    result = our_gradient(onnxloss.from_tf(loss), logits, labels, dloss, way)
    # Of a sum of probabilities, which TensorFlow forms in another order.
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)


def test_tf_v1_has_none() -> None:
    logits, labels = inputs("float32", probabilities=False)

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        flat = (tf.reshape(given, (10, 5)) for given in (labels, logits))
        return tf.compat.v1.losses.softmax_cross_entropy(*flat)

    assert their_gradient(loss, logits, labels)[0] is None
    with pytest.raises(onnxloss.LossError, match="stops the gradient"):
        our_gradient(
            onnxloss.from_tf("tf.compat.v1.losses.softmax_cross_entropy"),
            logits,
            labels,
            np.ones((), np.float32),
            "library",
        )


@pytest.fixture
def changed_keras() -> Iterator[None]:
    """Keras with another epsilon and another dtype."""
    before = keras.config.epsilon(), keras.config.floatx()
    keras.config.set_epsilon(0.05)
    keras.config.set_floatx("float64")
    yield
    keras.config.set_epsilon(before[0])
    keras.config.set_floatx(before[1])


@pytest.mark.usefixtures("changed_keras")
@pytest.mark.parametrize("sparse", [False, True], ids=["categorical", "sparse"])
@pytest.mark.parametrize("by_name", [False, True], ids=["instance", "name"])
def test_kerass_globals_are_read(sparse: bool, by_name: bool) -> None:
    """Its epsilon clips, and its floatx is the dtype, as they are when the loss is converted."""
    name = "keras.losses.SparseCategoricalCrossentropy" if sparse else CATEGORICAL
    loss = getattr(keras.losses, name.rpartition(".")[2])()
    p = np.array([[0.98, 0.01, 0.01], [0.2, 0.78, 0.02]], np.float32)
    labels = np.array([0, 2]) if sparse else np.eye(3, dtype=np.float32)[[0, 2]]
    wanted = loss(labels, p)
    model = onnxloss.export(
        onnxloss.from_tf(name if by_name else loss), logits=(2, 3), label_dtype=labels.dtype.name
    )
    result = run_model(model, {"logits": p, "labels": labels}, library=True)["loss"]
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, wanted, rtol=1e-6)
