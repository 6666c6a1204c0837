# SPDX-License-Identifier: MIT
"""onnxloss.paddle.training_step against Paddle's own training, step by step."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Paddle's import warns of a compiler cache that is not there.
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")
    pytest.importorskip("paddle2onnx", reason="paddle2onnx is not installed")

import onnxloss
import onnxloss.paddle
from tests.runtime import make_session, run_session

# Paddle's remark on every BatchNorm in training mode.
pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")

nn, InputSpec = paddle.nn, paddle.static.InputSpec
STEPS, CLASSES = 60, 5


class Perceptron(nn.Layer):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Any) -> Any:
        """The logits."""
        return self.output(nn.functional.relu(self.hidden(x)))


class ConvNet(nn.Layer):
    """With a BatchNorm, whose running statistics are part of the state."""

    def __init__(self) -> None:
        super().__init__()
        # A bias before a BatchNorm has no gradient but noise, and AdamW makes steps of it.
        self.conv, self.norm = nn.Conv2D(1, 6, 3, bias_attr=False), nn.BatchNorm2D(6)
        self.pool, self.output = nn.MaxPool2D(2), nn.Linear(54, CLASSES)

    def forward(self, x: Any) -> Any:
        """The logits."""
        features = self.pool(nn.functional.relu(self.norm(self.conv(x))))
        return self.output(paddle.flatten(features, 1))


class Shared(nn.Layer):
    """A GRU, whose weights have two names each; so have a tied weight and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.hidden, self.tied = nn.GRU(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.hidden.weight
        self.norm = self.again = nn.BatchNorm1D(8)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, x: Any) -> Any:
        """The logits."""
        features = nn.functional.tanh(self.hidden(self.gru(x)[0].mean(1)))
        return self.output(self.norm(nn.functional.tanh(self.tied(features))))


LAYERS: dict[str, tuple[Callable[[], Any], list[int]]] = {
    "perceptron": (Perceptron, [16]),
    "convnet": (ConvNet, [1, 8, 8]),
    "shared": (Shared, [7, 8]),
}
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "sgd": (
        {"momentum": 0.9},
        lambda p: paddle.optimizer.Momentum(learning_rate=0.05, momentum=0.9, parameters=p),
    ),
    "adamw": (
        {"weight_decay": 0.05},
        lambda p: paddle.optimizer.AdamW(learning_rate=0.01, weight_decay=0.05, parameters=p),
    ),
}
RATES = {"sgd": 0.05, "adamw": 0.01}


def batches(shape: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of different sizes; some labels are ignored."""
    random = np.random.default_rng(3)
    for step in range(STEPS):
        size = 6 + step % 3
        labels = random.integers(0, CLASSES, size)
        labels[1:][random.random(size - 1) < 0.2] = -100
        yield random.standard_normal((size, *shape)).astype(np.float32), labels


def make_layer(name: str) -> Any:
    paddle.seed(5)
    layer = LAYERS[name][0]()
    layer.train()
    return layer


@pytest.mark.parametrize("library", [False, True], ids=["body", "library"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", LAYERS)
def test_training_equals_paddles(name: str, optimizer: str, library: bool) -> None:
    layer, shape = make_layer(name), LAYERS[name][1]
    settings, make_optimizer = OPTIMIZERS[optimizer]
    # The default of CrossEntropyLoss, which paddle2onnx cannot convert, and more.
    criterion = nn.CrossEntropyLoss(weight=paddle.to_tensor([1.0, 2.0, 0.5, 1.0, 1.5]))
    spec = [InputSpec([None, *shape], "float32", "x")]
    step = onnxloss.paddle.training_step(layer, criterion, spec, optimizer, **settings)
    forward = onnxloss.paddle.forward_model(layer, spec)
    session = make_session(step, library=library)
    loop = onnxloss.training.TrainingLoop(session, onnxloss.initial_state(step, forward))
    rate = np.array(RATES[optimizer], np.float32)

    update = make_optimizer(layer.parameters())
    ours, theirs = [], []
    for x, labels in batches(shape):
        ours.append(loop.step({"x": x, "labels": labels, "learning_rate": rate}))
        loss = criterion(layer(paddle.to_tensor(x)), paddle.to_tensor(labels))
        loss.backward()
        update.step()
        update.clear_grad()
        theirs.append(float(loss))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    state = loop.state
    statistics = {"norm._mean", "norm._variance"} & set(layer.state_dict())
    first_names = {t.name: name for name, t in reversed(layer.state_dict().items())}
    assert set(first_names.values()) <= set(state)
    for entry in (*statistics, "output.weight"):
        np.testing.assert_allclose(
            state[entry], layer.state_dict()[entry].numpy(), rtol=1e-4, atol=2e-5, err_msg=entry
        )

    # The other way round: the state in the layer, and in a model for inference.
    x, _ = next(batches(shape))
    trained = onnxloss.training.trained_model(forward, state)
    logits = run_session(make_session(trained, library=False), {"x": x})["logits"]
    fresh = LAYERS[name][0]()
    onnxloss.paddle.load_state(fresh, state)
    fresh.eval()
    np.testing.assert_allclose(logits, fresh(paddle.to_tensor(x)).numpy(), rtol=1e-4, atol=1e-5)


def test_frozen_parameters_stay() -> None:
    layer = make_layer("perceptron")
    layer.hidden.weight.stop_gradient = True
    spec = [InputSpec([None, 16], "float32", "x")]
    step = onnxloss.paddle.training_step(layer, nn.CrossEntropyLoss(), spec)
    names = {value.name for value in step.graph.input}
    assert "hidden.bias" in names and "hidden.weight" not in names
    assert "hidden.weight" in {tensor.name for tensor in step.graph.initializer}


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ({"regularizer": paddle.regularizer.L2Decay(0.5)}, "regularizer of .* is L2Decay, .*; exp"),
        ({"learning_rate": 0.1}, r"learning_rate of .* is 0\.1; expected 1\.0: a step treats all"),
        ({"need_clip": False}, "need_clip of .* is False; expected True"),
    ],
)
def test_settings_of_one_parameter_are_refused(attribute: dict[str, Any], message: str) -> None:
    layer = nn.Linear(16, CLASSES, weight_attr=paddle.ParamAttr(**attribute))
    spec = [InputSpec([None, 16], "float32", "x")]
    with pytest.raises(onnxloss.LossError, match=message):
        onnxloss.paddle.training_step(layer, nn.CrossEntropyLoss(), spec, max_norm=1.0)


def test_what_the_layer_decides_is_no_setting() -> None:
    layer = make_layer("perceptron")
    with pytest.raises(onnxloss.LossError, match="parameters is given; expected none: stop_grad"):
        onnxloss.paddle.training_step(
            layer, nn.CrossEntropyLoss(), [], parameters=["hidden.weight"]
        )


def test_parameters_that_become_constants_are_refused() -> None:
    layer = nn.Sequential(nn.utils.weight_norm(nn.Linear(16, 8)), nn.Linear(8, CLASSES))
    spec = [InputSpec([None, 16], "float32", "x")]
    with pytest.raises(onnxloss.LossError, match=r"has no 0\.weight_v, 0\.weight_g: forward"):
        onnxloss.paddle.training_step(layer, nn.CrossEntropyLoss(), spec)


class Functional(nn.Layer):
    """Calls a function, in its mode; beside it dropouts that do nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.output, self.function = nn.Linear(16, CLASSES), function
        self.zero, self.unused = nn.Dropout(0.0), nn.Dropout(0.5)
        self.lstm = nn.LSTM(16, 16, num_layers=2, dropout=0.5)
        self.register_buffer("mean", paddle.zeros([16]))
        self.register_buffer("variance", paddle.ones([16]))

    def forward(self, x: Any) -> Any:
        """The logits."""
        return self.output(self.function(self, self.zero(x)))


DROPOUTS: dict[str, Callable[[], Any]] = {
    "dropout in Dropout": lambda: nn.Sequential(nn.Linear(16, 8), nn.Dropout(), nn.Linear(8, 5)),
    "dropout in forward": lambda: Functional(
        lambda self, x: nn.functional.dropout(x, 0.5, training=self.training)
    ),
    "rnn in LSTM": lambda: Functional(lambda self, x: self.lstm(x.unsqueeze(1))[0].squeeze(1)),
}


@pytest.mark.parametrize("place", DROPOUTS)
def test_dropout_is_refused(place: str) -> None:
    layer, spec = DROPOUTS[place](), [InputSpec([None, 16], "float32", "x")]
    with pytest.raises(onnxloss.LossError, match=rf"{place}\S* is in training mode.*eval\(\)"):
        onnxloss.paddle.training_step(layer, nn.CrossEntropyLoss(), spec)
    layer.eval()
    onnxloss.paddle.forward_model(layer, spec)


def test_a_functional_batch_norm_is_in_the_mode_of_the_call() -> None:
    spec = [InputSpec([None, 16], "float32", "x")]

    norm = nn.functional.batch_norm
    layer = Functional(lambda self, x: norm(x, self.mean, self.variance, training=self.training))
    modes = []
    for _ in range(2):
        graph = onnxloss.paddle.forward_model(layer, spec).graph
        (node,) = (node for node in graph.node if node.op_type == "BatchNormalization")
        modes.append([entry.i for entry in node.attribute if entry.name == "training_mode"])
        layer.eval()
    assert modes == [[1], [0]]
    layer = Functional(lambda _, x: norm(x, paddle.zeros([16]), paddle.ones([16]), training=True))
    with pytest.raises(onnxloss.LossError, match=r"in training mode is pd_op.full; expected a buf"):
        onnxloss.paddle.forward_model(layer, spec)


def test_a_model_that_is_not_valid_is_refused() -> None:
    layer = Functional(lambda self, x: self.rnn(x.unsqueeze(1))[0].squeeze(1))
    layer.rnn = nn.SimpleRNN(16, 16)  # paddle2onnx leaves values out that its nodes read
    with pytest.raises(onnxloss.LossError, match=r"training_step: the model is not valid ONNX"):
        onnxloss.paddle.forward_model(layer, [InputSpec([None, 16], "float32", "x")])


def test_a_state_of_other_shapes_is_refused() -> None:
    layer = make_layer("perceptron")
    with pytest.raises(
        onnxloss.LossError, match=r"the state has none of the layer's hidden.weight"
    ):
        onnxloss.paddle.load_state(layer, {"weight": np.zeros(3, np.float32)})
    with pytest.raises(onnxloss.LossError, match=r'"hidden.bias" in the state is \[3\]; expected'):
        onnxloss.paddle.load_state(layer, {"hidden.bias": np.zeros(3, np.float32)})


def test_the_example_runs() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "paddle_to_stock_ort.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy in Paddle " in done.stdout
