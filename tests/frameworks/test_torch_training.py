# SPDX-License-Identifier: MIT
"""Training steps against PyTorch's own training, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import onnxloss  # noqa: E402
from tests import forward_models  # noqa: E402
from tests.forward_models import CONFIG, SMOOTHING, Arrays, parameters_of  # noqa: E402
from tests.frameworks import torch_forward  # noqa: E402

torch.set_num_threads(1)
STEPS = 60
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {"weight_decay": 0.01}),
    "momentum": ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adam": ("adam", {"weight_decay": 0.02}),
    "amsgrad": ("adam", {"amsgrad": True, "betas": (0.8, 0.9), "eps": 1e-6}),
    "adamw": ("adamw", {"weight_decay": 0.1}),
    "adamw, amsgrad": ("adamw", {"amsgrad": True}),
}


@dataclass(frozen=True)
class Model:
    """A forward model as ONNX and in PyTorch, and what it is fed."""

    onnx: onnx.ModelProto
    torch: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
    batches: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    input: str = "x"
    rate: float = 0.02
    constants: tuple[str, ...] = ()


def _images(*shape: int) -> Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]:
    def batch(random: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
        size = 12 if index % 3 else 3 + index % 7
        return random.normal(size=(size, *shape)).astype(np.float32), random.integers(0, 5, size)

    return batch


def _sentences(random: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (2 + index % 3, 5 + index % 7)
    tokens, labels = random.integers(0, 37, (2, *shape))
    return tokens, labels.reshape(-1)


MODELS = {
    "mlp": Model(forward_models.mlp(), torch_forward.mlp, _images(8)),
    "convnet": Model(
        forward_models.convnet("N", "AveragePool"), torch_forward.convnet, _images(1, 8, 8)
    ),
    "batch norm": Model(
        forward_models.batch_norm_net(), torch_forward.batch_norm_net, _images(2, 6, 6)
    ),
    "language model": Model(
        forward_models.language_model(37, 16, layers=2),
        torch_forward.language_model,
        _sentences,
        "tokens",
        0.005,
        ("mask",),
    ),
}


def _data(model: Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(8)
    return (model.batches(random, index) for index in range(STEPS))


def _torch_state(model: Model, step: onnx.ModelProto) -> tuple[dict[str, torch.Tensor], list]:
    """All initializers as tensors, and those among them that have a gradient."""
    state = onnxloss.initial_state(step, model.onnx)
    tensors = {n: torch.tensor(a) for n, a in parameters_of(model.onnx).items()}
    buffers = {"mean", "variance", *model.constants}
    trained = [tensors[n].requires_grad_() for n in state if n in tensors and n not in buffers]
    return tensors, trained


def _loss(model: Model, tensors: dict, x: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    logits = model.torch(tensors, torch.from_numpy(x))
    return torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(labels), label_smoothing=SMOOTHING
    )


def _compare_states(ours: Arrays, theirs: dict[str, torch.Tensor], atol: float) -> None:
    for name, tensor in theirs.items():
        if name in ours:
            wanted = tensor.detach().numpy()
            np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=atol, err_msg=name)


class Run:
    """A training in both, with the same settings of the optimizer."""

    def __init__(self, name: str, setting: str, **extras: Any) -> None:
        self.model, (optimizer, settings) = MODELS[name], SETTINGS[setting]
        step = onnxloss.training_step(
            self.model.onnx,
            CONFIG,
            optimizer=optimizer,
            frozen=self.model.constants,
            **settings,
            **extras,
        )
        self.ours = onnxloss.Trainer(step, self.model.onnx, learning_rate=self.model.rate)
        self.tensors, self.trained = _torch_state(self.model, step)
        self.theirs = OPTIMIZERS[optimizer](self.trained, lr=self.model.rate, **settings)

    def loss(self, x: np.ndarray, labels: np.ndarray) -> torch.Tensor:
        """PyTorch's loss."""
        return _loss(self.model, self.tensors, x, labels)

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        """Our loss, with the update."""
        return self.ours.step({self.model.input: x, "labels": labels})


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(("mlp", setting) for setting in SETTINGS),
        *((name, setting) for name in list(MODELS)[1:] for setting in ("nesterov", "adamw")),
    ],
)
def test_losses_equal_torch(name: str, setting: str) -> None:
    run = Run(name, setting)
    for x, labels in _data(run.model):
        loss = run.loss(x, labels)
        run.theirs.zero_grad()
        loss.backward()
        run.theirs.step()
        assert run.step(x, labels) == pytest.approx(loss.item(), abs=1e-5), run.ours.steps


@pytest.mark.parametrize("name", ["mlp", "language model"])
def test_clipped_gradients_equal_torch(name: str) -> None:
    run, clipped = Run(name, "momentum", max_norm=0.2), 0
    for x, labels in _data(run.model):
        loss = run.loss(x, labels)
        run.theirs.zero_grad()
        loss.backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(run.trained, 0.2)) > 0.2
        run.theirs.step()
        assert run.step(x, labels) == pytest.approx(loss.item(), abs=1e-5), run.ours.steps
    assert clipped > 5


def test_accumulated_gradients_equal_torch() -> None:
    run = Run("mlp", "adamw", max_norm=0.5, accumulation_steps=4)
    for index, (x, labels) in enumerate(_data(run.model), 1):
        loss = run.loss(x, labels)
        (loss / 4).backward()
        if index % 4 == 0:
            torch.nn.utils.clip_grad_norm_(run.trained, 0.5)
            run.theirs.step()
            run.theirs.zero_grad()
        assert run.step(x, labels) == pytest.approx(loss.item(), abs=1e-5), index
    _compare_states(run.ours.state, run.tensors, 1e-5)


def test_loss_scale_equals_gradscaler() -> None:
    """Some batches overflow: those steps are left out, and the scale goes as PyTorch's."""
    run = Run("mlp", "adamw", loss_scale=65536.0, growth_interval=5)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=5)
    for index, (x, labels) in enumerate(_data(run.model)):
        if index % 11 == 3:
            x[0, 0] = 1e38
        loss = run.loss(x, labels)
        run.theirs.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(run.theirs)
        scaler.update()
        ours = run.step(x, labels)
        assert ours == pytest.approx(loss.item(), rel=1e-5, abs=1e-5, nan_ok=True), index
        assert run.ours.state["loss_scale"] == scaler.get_scale(), index
    _compare_states(run.ours.state, run.tensors, 1e-5)


def test_running_statistics_equal_torch_but_for_the_sample_variance() -> None:
    """ONNX takes the variance of the batch, PyTorch n / (n - 1) times that."""
    run = Run("batch norm", "sgd")
    x, labels = next(_data(run.model))
    run.loss(x, labels)
    run.step(x, labels)
    state, n = run.ours.state, x.size // 2
    np.testing.assert_allclose(state["mean"], run.tensors["mean"], atol=1e-6)
    new = (run.tensors["variance"].numpy() - 0.9) * (n - 1) / n + 0.9
    np.testing.assert_allclose(state["variance"], new, atol=1e-6)
