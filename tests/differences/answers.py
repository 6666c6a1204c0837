# SPDX-License-Identifier: MIT
"""What a row of the table of differences is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INF, NAN = np.inf, np.nan
LOGITS = np.array([[1, 2, 3], [0.5, -1, 0.25]], np.float32)
INDICES = np.array([2, 0])
PROBABILITIES = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], np.float32)
ONE_HOT = np.array([[0, 0, 1], [1, 0, 0]], np.float32)
WEIGHTS = np.array([0.5, 2, 1], np.float32)
"""The inputs of every row that does not say otherwise."""

DEFAULT_IGNORED = np.array([2, -100])
NONE = {"reduction": "none"}
ZEROS, NANS = (0.0, 0.0, 0.0), (NAN, NAN, NAN)

COLUMNS = {
    "torch": "PyTorch 2.13",
    "paddle": "Paddle 3.3",
    "tf": "TensorFlow 2.21, Keras 3.15",
    "onnx": "ai.onnx, ONNX Runtime 1.31",
}
TORCH = "torch.nn.functional.cross_entropy"
PADDLE = "paddle.nn.functional.cross_entropy"
V1 = "tf.compat.v1.losses.softmax_cross_entropy"
DENSE = "tf.nn.softmax_cross_entropy_with_logits"
SPARSE = "tf.nn.sparse_softmax_cross_entropy_with_logits"
CATEGORICAL = "keras.losses.CategoricalCrossentropy"
SPARSE_CATEGORICAL = "keras.losses.SparseCategoricalCrossentropy"
ONNX = "ai.onnx.SoftmaxCrossEntropyLoss"

_TOLERANCES = {"float16": 1e-3, "float32": 5e-6, "float64": 1e-12}
"""By the logits' dtype: the table has six digits of a float32."""

Value = float | tuple[float, ...] | str
"""A number, several, or what is raised: "refused" is ours when exporting, "error" when running;
"none" is a gradient that is not there."""


@dataclass(frozen=True)
class Answer:
    """What one API gives, and what the model exported from it gives.

    Attributes:
        api: The API.
        labels: Its labels.
        theirs: What it gives: of a loss all, of `dlogits` the first row.
        ours: What the exported model gives; None for the same.
        logits: Its logits.
        settings: Its settings; class weights are `weight` or `weights`, as the API has it.
        sample_weights: One for each position.
        of: What is compared: "loss", "shape", which is the loss's, or the gradient "dlogits" or
            "dlabels", which may be "none".
        note: What the page says before it, where one column has several answers.
    """

    api: str
    labels: np.ndarray
    theirs: Value
    ours: Value | None = None
    logits: np.ndarray = field(default_factory=lambda: LOGITS)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample_weights: np.ndarray | None = None
    of: str = "loss"
    note: str = ""

    @property
    def column(self) -> str:
        """The column of the table."""
        first = self.api.partition(".")[0]
        return {"keras": "tf", "ai": "onnx"}.get(first, first)

    @property
    def expected(self) -> Value:
        """What the exported model must give."""
        return self.theirs if self.ours is None else self.ours


@dataclass(frozen=True)
class Row:
    """A question: what it is about, the answers, and what follows for a user."""

    about: str
    answers: tuple[Answer, ...]
    advice: str


@dataclass(frozen=True)
class Recorded:
    """Where a case of tests/golden shows an artefact, and our number there.

    Attributes:
        id: The case's.
        of: The output, "loss" or "dlogits".
        at: The position in it.
        ours: Our number.
    """

    id: str
    of: str
    at: tuple[int, ...]
    ours: float


def of_outputs(answer: Answer, loss: np.ndarray, gradient: np.ndarray | None) -> Value:
    """The part of the outputs that the table has; `gradient` is the one that it asks for."""
    if answer.of == "shape":
        return tuple(map(float, loss.shape))
    if answer.of != "loss" and gradient is None:
        return "none"
    values = loss if answer.of == "loss" else np.asarray(gradient)[0]
    return float(values) if values.ndim == 0 else tuple(values.astype(np.float64).ravel().tolist())


def assert_same(value: Value, expected: Value, answer: Answer) -> None:
    """Asserts as many digits as the table has."""
    if isinstance(value, str) or isinstance(expected, str):
        assert value == expected
        return
    assert np.shape(value) == np.shape(expected)
    tolerance = _TOLERANCES[answer.logits.dtype.name]
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * 1e-3)
