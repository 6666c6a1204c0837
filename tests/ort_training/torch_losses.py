# SPDX-License-Identifier: MIT
"""Trains the models in PyTorch; writes the loss of each step to tests/golden/ort_training.json.

Usage: python -m tests.ort_training.torch_losses    (PyTorch 2.13.0 and scikit-learn)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from tests.ort_training import models

GOLDEN = Path(__file__).parent.parent / "golden" / "ort_training.json"
Tensors = dict[str, torch.Tensor]


def digits(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    """A perceptron."""
    return torch.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def transformer(p: Tensors, levels: torch.Tensor) -> torch.Tensor:
    """A pre-norm block between an embedding and a head."""
    x = p["tokens"][levels] + p["positions"]
    normed = F.layer_norm(x, (models.WIDTH,), p["norm1.weight"], p["norm1.bias"])
    size = models.WIDTH // models.HEADS
    qkv = (normed @ p["qkv"]).reshape(-1, models.TOKENS, 3, models.HEADS, size)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mask = torch.full((models.TOKENS, models.TOKENS), -1e9).triu(1)
    attention = torch.softmax(q @ k.transpose(-1, -2) * size**-0.5 + mask, -1)
    mixed = (attention @ v).transpose(1, 2).reshape(-1, models.TOKENS, models.WIDTH)
    x = x + mixed @ p["out"]
    normed = F.layer_norm(x, (models.WIDTH,), p["norm2.weight"], p["norm2.bias"])
    x = x + torch.tanh(normed @ p["up"]) @ p["down"]
    return (x @ p["head"]).transpose(1, 2)


class HuggingFaceAdamW(torch.optim.Optimizer):
    """transformers.AdamW: weight decay comes last, and eps before the bias correction."""

    def __init__(self, params: Iterable[torch.Tensor], **settings: Any) -> None:
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        group = self.param_groups[0]
        (beta1, beta2), rate = group["betas"], group["lr"]
        for p in group["params"]:
            state = self.state[p]
            t = state["t"] = state.get("t", 0) + 1
            m = state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * p.grad
            v = state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * p.grad * p.grad
            size = rate * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
            p -= size * m / (v.sqrt() + group["eps"])
            p -= rate * group["weight_decay"] * p


def losses(model: str, optimizer: str) -> list[float]:
    """The loss of each step, before its update."""
    p = {name: torch.tensor(a, requires_grad=True) for name, a in models.parameters(model).items()}
    rate = models.LEARNING_RATES[optimizer]
    makers = {"sgd": torch.optim.SGD, "adamw": HuggingFaceAdamW, "adamw_mode_0": torch.optim.AdamW}
    update = makers[optimizer](p.values(), lr=rate, **({} if optimizer == "sgd" else models.ADAMW))
    settings = dict(models.LOSSES[model])
    if "weight" in settings:
        settings["weight"] = torch.from_numpy(settings["weight"])
    criterion = torch.nn.CrossEntropyLoss(**settings)
    found = []
    for x, labels in models.batches(model):
        forward = digits if model == "digits" else transformer
        loss = criterion(forward(p, torch.from_numpy(x)), torch.from_numpy(labels))
        update.zero_grad()
        loss.backward()
        update.step()
        found.append(loss.item())
    return found


def main() -> None:
    """Writes the file."""
    runs = {
        f"{model}-{optimizer}": losses(model, optimizer)
        for model in models.MODELS
        for optimizer in models.LEARNING_RATES
    }
    GOLDEN.write_text(json.dumps({"torch": torch.__version__, **runs}, indent=0) + "\n")


if __name__ == "__main__":
    main()
