# SPDX-License-Identifier: MIT
"""onnxloss.fuse on what paddle2onnx writes today, against Paddle itself."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Paddle's import warns of a compiler cache that is not there.
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")
    pytest.importorskip("paddle2onnx", reason="paddle2onnx is not installed")

from tests.fuse.fused import assert_outcome
from tests.fuse.make_paddle import FORMS, WEIGHT, arrays, make

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # of what Paddle calls deprecated


@pytest.mark.parametrize("name", FORMS)
def test_the_fused_model_gives_paddles_loss(name: str) -> None:
    x, y = arrays(FORMS[name])
    expected = FORMS[name].loss(*map(paddle.to_tensor, (WEIGHT, x, y)))
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert_outcome(f"paddle2onnx-{name}", make(name), x, y, expected.numpy())
