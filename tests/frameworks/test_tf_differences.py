# SPDX-License-Identifier: MIT
"""What docs/differences.md says of TensorFlow and Keras."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras  # noqa: E402

from tests.differences import ANSWERS  # noqa: E402
from tests.differences.answers import DENSE, SPARSE, V1, Answer, Value, assert_same, of_outputs  # noqa: E402


@pytest.mark.parametrize(
    "answer",
    [answer for answer in ANSWERS if answer.column == "tf"],
    ids=lambda answer: f"{answer.api}-{answer.theirs}",
)
def test_tensorflow_answers_so(answer: Answer) -> None:
    assert_same(_value(answer), answer.theirs, answer)


def _value(answer: Answer) -> Value:
    logits, labels = tf.constant(answer.logits), tf.constant(answer.labels)
    source = labels if answer.of == "dlabels" else logits
    try:
        with tf.GradientTape() as tape:
            tape.watch(source)
            loss = _loss(answer, logits, labels)
        gradient = tape.gradient(loss, source)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return type(error).__name__
    return of_outputs(answer, loss.numpy(), None if gradient is None else gradient.numpy())


def _loss(answer: Answer, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    weights, settings = answer.sample_weights, answer.settings
    if answer.api == V1:
        given = {} if weights is None else {"weights": weights}
        return tf.compat.v1.losses.softmax_cross_entropy(labels, logits, **given, **settings)
    if answer.api in (DENSE, SPARSE):
        function = getattr(tf.nn, answer.api.rpartition(".")[2])
        return function(labels=labels, logits=logits, **settings)
    loss = getattr(keras.losses, answer.api.rpartition(".")[2])(**settings)
    return loss(labels, logits, sample_weight=weights)


def test_xla_gives_nan_for_a_bad_label() -> None:
    @tf.function(jit_compile=True)
    def loss(labels: tf.Tensor) -> tf.Tensor:
        logits = tf.constant([[1, 2, 3], [0.5, -1, 0.25]])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    first, second = loss(tf.constant([2, 7])).numpy()
    assert np.isfinite(first)
    assert np.isnan(second)


def test_keras_rounds_large_labels() -> None:
    label = 2**24 + 1
    logits = np.zeros((1, label + 1), np.float32)
    logits[0, label] = 25
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert loss(np.array([label]), logits) > 20


def test_tensorflow_divides_no_nan() -> None:
    labels, logits = tf.constant([[1.0, 0.0]]), tf.constant([[np.nan, 1.0]])
    assert tf.compat.v1.losses.softmax_cross_entropy(labels, logits, weights=[0.0]) == 0
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    assert loss(labels, logits, sample_weight=np.zeros(1)) == 0


def test_keras_weighs_the_gradient_with_inf() -> None:
    logits = tf.constant([[1.0, 2.0, 3.0]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(np.array([2]), logits, sample_weight=np.array([np.inf]))
    np.testing.assert_array_equal(tape.gradient(value, logits), [[np.inf, np.inf, -np.inf]])


def test_keras_multiplies_nan_by_0() -> None:
    assert np.isnan(keras.losses.CategoricalCrossentropy()(np.zeros((1, 3)), np.zeros((1, 3))))


def test_tensorflow_removes_one_copy() -> None:
    ones = np.ones(3, np.float32)
    loss = tf.nn.sampled_softmax_loss(
        weights=tf.eye(4),
        biases=tf.zeros(4),
        labels=tf.constant([[1]]),
        inputs=tf.zeros((1, 4)),
        num_sampled=3,
        num_classes=4,
        sampled_values=(tf.constant([1, 2, 1]), tf.ones((1, 1)), ones),
    )
    np.testing.assert_allclose(loss, [np.log(3)], rtol=1e-6)
