# SPDX-License-Identifier: MIT
"""onnxloss.paddle.export: Paddle's layers and losses, run by Paddle and by ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Paddle's import warns of a compiler cache that is not there.
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")
    pytest.importorskip("paddle2onnx", reason="paddle2onnx is not installed")

import onnxloss
import onnxloss.paddle
from tests.runtime import run_model

CrossEntropyLoss = paddle.nn.CrossEntropyLoss
InputSpec = paddle.static.InputSpec
SPEC = [InputSpec([None, 4], "float32", "x")]


def _classifier() -> Any:
    paddle.seed(1)
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.ReLU(), paddle.nn.Linear(8, 3))
    layer.eval()
    return layer


def _inputs(classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    x = paddle.to_tensor(rng.standard_normal((5, 4)).astype(np.float32))
    return x, paddle.to_tensor(rng.integers(0, classes, 5))


# paddle2onnx aborts for the first three, and gives a wrong number in silence for the fourth.
LOSSES = {
    "mean": lambda: CrossEntropyLoss(),
    "smoothed": lambda: CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
    "soft with weights": lambda: CrossEntropyLoss(
        weight=paddle.to_tensor([1.0, 2.0, 0.5]), soft_label=True
    ),
    "no softmax": lambda: CrossEntropyLoss(use_softmax=False),
    "ignoring": lambda: CrossEntropyLoss(ignore_index=1, reduction="sum"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_model_gives_paddles_loss_and_gradient(name: str) -> None:
    layer, loss = _classifier(), LOSSES[name]()
    x, labels = _inputs()
    if loss.soft_label:
        labels = paddle.nn.functional.softmax(paddle.randn((5, 3)))
    if not loss.use_softmax:
        layer = paddle.nn.Sequential(layer, paddle.nn.Softmax())
        layer.eval()
    logits = layer(x).detach()
    logits.stop_gradient = False
    expected = loss(logits, labels)
    expected.sum().backward()

    model = onnxloss.paddle.export(layer, loss, SPEC, gradient=True, inline=True)
    feeds = {
        "x": x.numpy(),
        "labels": labels.numpy(),
        "dloss": np.ones(expected.shape, np.float32),
    }
    result = run_model(model, feeds)
    assert result["loss"].shape == tuple(expected.shape)
    np.testing.assert_allclose(result["loss"], expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result["dlogits"], logits.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_label_spec_says_name_shape_and_dtype_of_the_labels(tmp_path: Path) -> None:
    layer, loss = _classifier(), CrossEntropyLoss(reduction="none")
    x, labels = _inputs()
    spec = InputSpec([None, 1], "int32", "category")
    path = tmp_path / "model.onnx"
    model = onnxloss.paddle.export(layer, loss, SPEC, path, label_spec=spec)
    assert onnx.load(path) == model
    labels = labels.unsqueeze(1).astype("int32")
    result = run_model(model, {"x": x.numpy(), "category": labels.numpy()})
    expected = loss(layer(x), labels).numpy()
    assert expected.shape == (5, 1)
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_paddle2onnx_cannot_convert_is_an_error() -> None:
    """paddle2onnx aborts the process; this one goes on, and says what the layer has."""

    class LogGamma(paddle.nn.Linear):
        def forward(self, x: Any) -> Any:
            return paddle.lgamma(super().forward(x))

    with pytest.raises(onnxloss.LossError, match=r"paddle2onnx ended .*unsupported.*lgamma"):
        onnxloss.paddle.export(LogGamma(4, 3), CrossEntropyLoss(), SPEC)


def test_a_broken_heap_of_paddle2onnx_is_an_error() -> None:
    """It writes beside its memory here; Paddle's handler of the abort then waits forever."""

    class ByVector(paddle.nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x * paddle.matmul(x, self.weight[:, 0], transpose_y=True))

    with pytest.raises(onnxloss.LossError, match=r"paddle2onnx ended with .*-\d+: .*matmul"):
        onnxloss.paddle.export(ByVector(4, 3), CrossEntropyLoss(), SPEC)


def test_a_conversion_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxloss.paddle_conversion._SECONDS", 0.1)  # less than an import takes
    with pytest.raises(onnxloss.LossError, match=r"it took more than 0.1 seconds"):
        onnxloss.paddle.export(_classifier(), CrossEntropyLoss(), SPEC)


@pytest.mark.parametrize("part", [paddle.nn.Dropout, lambda: paddle.nn.BatchNorm1D(4)])
@pytest.mark.filterwarnings("ignore:When training, we now always track")
def test_a_layer_in_training_mode_is_refused(part: Callable[[], Any]) -> None:
    layer = paddle.nn.Sequential(part(), paddle.nn.Linear(4, 3))
    with pytest.raises(onnxloss.LossError, match=r"in training mode.* call (layer.)?eval\(\)"):
        onnxloss.paddle.export(layer, CrossEntropyLoss(), SPEC)
    layer.eval()
    onnxloss.paddle.export(layer, CrossEntropyLoss(), SPEC)


def test_settings_are_refused_where_they_would_have_no_effect() -> None:
    layer = _classifier()
    config = onnxloss.from_paddle("paddle.nn.CrossEntropyLoss")
    with pytest.raises(onnxloss.LossError, match="reduction is given beside a LossConfig"):
        onnxloss.paddle.export(layer, config, SPEC, reduction="sum")
    with pytest.raises(onnxloss.LossError, match="opset_version is 11; expected 19 or newer"):
        onnxloss.paddle.export(layer, config, SPEC, opset_version=11)
    with pytest.raises(onnxloss.LossError, match=r"dtype of label_spec is .bool.; expected one of"):
        onnxloss.paddle.export(layer, config, SPEC, label_spec=InputSpec([None], "bool", "y"))
    with pytest.raises(onnxloss.LossError, match=r"name of label_spec is .x.; expected a name"):
        onnxloss.paddle.export(layer, config, SPEC, label_spec=InputSpec([None], "int64", "x"))
    with pytest.raises(onnxloss.LossError, match=r"layer is .type.; expected a paddle.nn.Layer"):
        onnxloss.paddle.export(paddle.nn.Linear, config, SPEC)
    with pytest.raises(onnxloss.LossError, match=r"input_spec is .InputSpec.; expected a list of"):
        onnxloss.paddle.export(layer, config, SPEC[0])
