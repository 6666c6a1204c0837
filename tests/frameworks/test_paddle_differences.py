# SPDX-License-Identifier: MIT
"""What docs/differences.md says of Paddle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Paddle's import warns of a compiler cache that is not there.
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")

from tests.differences import ANSWERS
from tests.differences.answers import Answer, Value, assert_same, of_outputs


@pytest.mark.parametrize(
    "answer",
    [answer for answer in ANSWERS if answer.column == "paddle"],
    ids=lambda answer: str(answer.theirs),
)
def test_paddle_answers_so(answer: Answer) -> None:
    assert_same(_value(answer), answer.theirs, answer)


def _value(answer: Answer) -> Value:
    logits = paddle.to_tensor(answer.logits, stop_gradient=False)
    settings = dict(answer.settings)
    if "weight" in settings:
        settings["weight"] = paddle.to_tensor(settings["weight"])
    try:
        target = paddle.to_tensor(answer.labels, stop_gradient=answer.of != "dlabels")
        loss = paddle.nn.functional.cross_entropy(logits, target, **settings)
    except (IndexError, RuntimeError, ValueError) as error:
        return type(error).__name__
    if answer.of in ("loss", "shape"):
        return of_outputs(answer, loss.numpy(), None)
    source = target if answer.of == "dlabels" else logits
    (gradient,) = paddle.grad(loss, source, paddle.ones_like(loss), allow_unused=True)
    return of_outputs(answer, loss.numpy(), None if gradient is None else gradient.numpy())


LOGITS = np.array([[1, 2, 3], [0.5, -1, 0.25]], np.float32)
cross_entropy = paddle.nn.functional.cross_entropy


def test_paddle_truncates_labels() -> None:
    logits, labels = paddle.to_tensor(LOGITS), np.array([2, 0])
    near, far = (
        cross_entropy(logits, paddle.to_tensor(labels + offset)).numpy() for offset in (0, 2**32)
    )
    np.testing.assert_array_equal(near, far)


def test_paddle_has_no_gradient_of_floating_labels() -> None:
    logits = paddle.to_tensor(LOGITS, stop_gradient=False)
    loss = cross_entropy(logits, paddle.to_tensor(np.array([2, 0], np.float32)))
    assert np.isfinite(loss.numpy())
    with pytest.raises(OSError, match="is not implemented for data type"):
        loss.backward()


@pytest.mark.filterwarnings("ignore")  # a deprecation
def test_paddle_takes_flat_labels_of_one_class() -> None:
    loss = paddle.nn.functional.softmax_with_cross_entropy
    assert list(loss(paddle.to_tensor(LOGITS[:, :1]), paddle.to_tensor([0, 0])).shape) == [2, 1]
    with pytest.raises(ValueError, match="capacity"):
        loss(paddle.to_tensor(LOGITS), paddle.to_tensor([2, 0]))


@pytest.mark.filterwarnings("ignore:.*different data type")
def test_paddle_narrows_the_loss() -> None:
    weights = np.array([0.5, 2, 1])
    unbatched = cross_entropy(
        paddle.to_tensor(LOGITS[0]), paddle.to_tensor(np.array(2)), paddle.to_tensor(weights)
    )
    wide = paddle.to_tensor(LOGITS.astype(np.float64))
    soft = cross_entropy(
        wide,
        paddle.nn.functional.softmax(wide),
        paddle.to_tensor(weights.astype(np.float32)),
        soft_label=True,
    )
    assert (unbatched.dtype, soft.dtype) == (paddle.float32, paddle.float32)
