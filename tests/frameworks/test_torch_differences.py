# SPDX-License-Identifier: MIT
"""What docs/differences.md says of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.differences import ANSWERS  # noqa: E402
from tests.differences.answers import Answer, Value, assert_same, of_outputs  # noqa: E402


@pytest.mark.parametrize(
    "answer",
    [answer for answer in ANSWERS if answer.column == "torch"],
    ids=lambda answer: str(answer.theirs),
)
def test_torch_answers_so(answer: Answer) -> None:
    assert_same(_value(answer), answer.theirs, answer)


def _value(answer: Answer) -> Value:
    logits = torch.from_numpy(answer.logits.copy()).requires_grad_()
    settings = dict(answer.settings)
    if "weight" in settings:
        settings["weight"] = torch.from_numpy(settings["weight"])
    try:
        target = torch.from_numpy(np.asarray(answer.labels))
        source = target.requires_grad_() if answer.of == "dlabels" else logits
        loss = torch.nn.functional.cross_entropy(logits, target, **settings)
    except (IndexError, RuntimeError, ValueError) as error:
        return type(error).__name__
    (gradient,) = torch.autograd.grad(loss, source, torch.ones_like(loss))
    return of_outputs(answer, loss.detach().numpy(), gradient.numpy())


def test_torch_gives_nan_without_classes() -> None:
    assert torch.nn.functional.cross_entropy(torch.zeros(2, 0), torch.zeros(2, 0)).isnan()


def test_torch_divides_by_weights_that_cancel() -> None:
    logits = torch.tensor([[1, 2, 3], [0.5, -1, 0.25]])
    weight, target = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([2, 0])
    assert torch.nn.functional.cross_entropy(logits, target, weight).isinf()
