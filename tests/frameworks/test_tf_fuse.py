# SPDX-License-Identifier: MIT
"""onnxloss.fuse on what tf2onnx writes today, against TensorFlow and Keras themselves."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")

from tests.fuse.fused import assert_outcome
from tests.fuse.make_tf import FORMS, arrays, make


@pytest.mark.parametrize("name", FORMS)
def test_the_fused_model_gives_tensorflows_loss(name: str) -> None:
    x, y = arrays(FORMS[name])
    assert_outcome(f"tf2onnx-{name}", make(name), x, y, FORMS[name].loss(y, x))
