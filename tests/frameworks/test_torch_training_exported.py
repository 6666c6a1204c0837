# SPDX-License-Identifier: MIT
"""Forward models from torch.onnx.export trained as ONNX, against the modules trained by PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

import onnxloss  # noqa: E402

# PyTorch's exporter calls what PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
torch.set_num_threads(1)
STEPS = 60
CLASSES = 5


class Attention(nn.Module):
    """A causal language model with normalization first and scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of shape [N, classes, T]."""
        x = self.embedding(tokens)
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(width, -1)
        q, k, v = (part.view(n, t, 2, -1).transpose(1, 2) for part in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        x = x + self.mlp(self.norm2(x))
        return self.head(x).transpose(1, 2)


def _pixels(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = random.normal(size=(8, 2, 8, 8)).astype(np.float32)
    return x, random.integers(0, CLASSES, 8)


def _tokens(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    tokens, labels = random.integers(0, CLASSES, (2, 3, 7))
    return tokens, labels


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable]] = {
    "perceptron": (
        lambda: nn.Sequential(
            *(nn.Flatten(), nn.Linear(128, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 5))
        ),
        _pixels,
    ),
    "convnet": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(8, CLASSES)),
        ),
        _pixels,
    ),
    "attention": (Attention, _tokens),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODULES)
def test_an_exported_module_trains_as_the_module(name: str, dynamic: bool) -> None:
    make, data = MODULES[name]
    torch.manual_seed(0)
    module = make().eval()  # there is no dropout: the modes differ in the exporter's warning only
    x, _ = data(np.random.default_rng(0))
    axes = {0: torch.export.Dim("N"), **({1: torch.export.Dim("T")} if x.ndim == 2 else {})}
    program = torch.onnx.export(
        module,
        (torch.from_numpy(x),),
        dynamo=True,
        optimize=False,  # else it merges equal parameters
        dynamic_shapes=(axes,) if dynamic else None,
        verbose=False,
    )
    forward: onnx.ModelProto = program.model_proto
    names = [name for name, _ in module.named_parameters()]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    step = onnxloss.training_step(
        forward, onnxloss.from_torch(loss), optimizer="adamw", parameters=names
    )
    trainer = onnxloss.Trainer(step, forward, learning_rate=0.005)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.005)
    random = np.random.default_rng(1)
    for index in range(STEPS):
        x, labels = data(random)
        if dynamic:
            x, labels = x[: 2 + index % 4], labels[: 2 + index % 4]
        optimizer.zero_grad()
        theirs = loss(module(torch.from_numpy(x)), torch.from_numpy(labels))
        theirs.backward()
        optimizer.step()
        ours = trainer.step({forward.graph.input[0].name: x, "labels": labels})
        assert ours == pytest.approx(theirs.item(), abs=1e-5), index
