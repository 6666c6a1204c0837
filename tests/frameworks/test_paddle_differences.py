# SPDX-License-Identifier: MIT
"""What docs/differences.md says of Paddle."""

from __future__ import annotations

import warnings

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
