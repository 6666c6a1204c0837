# SPDX-License-Identifier: MIT
"""Losses through tf2onnx: `python -m tests.fuse.make_tf`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from tests.fuse.recording import record

CLASSES = 5
ROWS = (None, CLASSES)
TOKENS = (None, 3, CLASSES)
v1 = tf.compat.v1.losses


@dataclass(frozen=True)
class Form:
    """A loss of labels and logits, the logits' shape, and the labels' dtype."""

    loss: Callable[[Any, Any], Any]
    shape: tuple[int | None, ...] = ROWS
    labels: str = "float32"


def _keras(name: str, *, from_logits: bool = True, **settings: Any) -> Callable[[Any, Any], Any]:
    return getattr(keras.losses, name)(from_logits=from_logits, **settings)


def _mean_of_dense(y: Any, x: Any) -> Any:
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, x))


def _one_hot(y: Any, x: Any) -> Any:
    return _mean_of_dense(tf.one_hot(y, CLASSES), x)


def _picked(y: Any, x: Any) -> Any:
    return -tf.reduce_mean(tf.gather(tf.nn.log_softmax(x), y, batch_dims=1))


def _multiplied(y: Any, x: Any) -> Any:
    return -tf.reduce_mean(tf.reduce_sum(tf.one_hot(y, CLASSES) * tf.nn.log_softmax(x), -1))


SPARSE = tf.nn.sparse_softmax_cross_entropy_with_logits
FORMS = {
    "dense": Form(tf.nn.softmax_cross_entropy_with_logits),
    "dense_mean": Form(_mean_of_dense),
    "dense_one_hot": Form(_one_hot, labels="int64"),
    "dense_tokens": Form(tf.nn.softmax_cross_entropy_with_logits, TOKENS),
    "sparse": Form(SPARSE, labels="int64"),
    "sparse_mean": Form(lambda y, x: tf.reduce_mean(SPARSE(y, x)), labels="int32"),
    "sparse_tokens": Form(SPARSE, TOKENS, "int64"),
    "v1_dense": Form(v1.softmax_cross_entropy),
    "v1_dense_smoothed": Form(lambda y, x: v1.softmax_cross_entropy(y, x, label_smoothing=0.1)),
    "v1_sparse": Form(v1.sparse_softmax_cross_entropy, labels="int64"),
    "keras_dense": Form(_keras("CategoricalCrossentropy")),
    "keras_dense_smoothed": Form(_keras("CategoricalCrossentropy", label_smoothing=0.1)),
    "keras_sparse": Form(_keras("SparseCategoricalCrossentropy"), labels="int64"),
    "keras_sparse_tokens": Form(_keras("SparseCategoricalCrossentropy"), TOKENS, "int64"),
    "keras_sparse_ignoring": Form(
        _keras("SparseCategoricalCrossentropy", ignore_class=2), labels="int64"
    ),
    "keras_probabilities": Form(_keras("CategoricalCrossentropy", from_logits=False)),
    "keras_probabilities_smoothed": Form(
        _keras("CategoricalCrossentropy", from_logits=False, label_smoothing=0.1)
    ),
    "keras_probabilities_one_hot": Form(
        lambda y, x: keras.losses.categorical_crossentropy(tf.one_hot(y, CLASSES), x),
        labels="int64",
    ),
    "keras_sparse_probabilities": Form(
        _keras("SparseCategoricalCrossentropy", from_logits=False), labels="int64"
    ),
    "keras_sparse_probabilities_tokens": Form(
        _keras("SparseCategoricalCrossentropy", from_logits=False), TOKENS, "int64"
    ),
    "gather": Form(_picked, labels="int64"),
    "one_hot": Form(_multiplied, labels="int64"),
}


def make(name: str) -> onnx.ModelProto:
    """The model of a form."""
    form = FORMS[name]
    dense = form.labels == "float32"
    signature = [
        tf.TensorSpec(form.shape, tf.float32, name="x"),
        tf.TensorSpec(form.shape if dense else form.shape[:-1], form.labels, name="y"),
    ]
    function = tf.function(lambda x, y: form.loss(y, x))
    model, _ = tf2onnx.convert.from_function(function, signature, opset=18)
    return model


def arrays(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Logits, which may be taken for probabilities, and labels."""
    rng = np.random.default_rng(1)
    shape = tuple(size or 4 for size in form.shape)
    logits = rng.uniform(0, 4, shape).astype(np.float32)
    if form.labels != "float32":
        return logits, rng.integers(0, CLASSES, shape[:-1]).astype(form.labels)
    return logits, rng.dirichlet(np.ones(CLASSES), shape[:-1]).astype(np.float32)


if __name__ == "__main__":
    record("tf2onnx", FORMS, make)
