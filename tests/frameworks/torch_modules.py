# SPDX-License-Identifier: MIT
"""The PyTorch modules that the tests of training steps train, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

STEPS, CLASSES, VOCABULARY, TOKENS, WIDTH = 60, 5, 23, 9, 16


class ConvNet(nn.Module):
    """Strides, padding, dilation, groups, and a pooling whose windows overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, stride=2, padding=2, dilation=2, groups=2)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        x = F.max_pool2d(torch.relu(self.first(x)), 3, 2, 1)
        return self.output(F.avg_pool2d(torch.relu(self.second(x)), 2).flatten(1))


class BatchNormNet(nn.Module):
    """A bias before a BatchNorm has no gradient but noise, and AdamW makes steps of it: none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.output = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return self.output(F.silu(self.norm(self.conv(x))).mean((2, 3)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        # A key's bias has no gradient but noise, as softmax does not see it.
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A block between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Linear(4, WIDTH), Block(causal=False)
        self.output = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return self.output(self.block(self.embed(x)).mean(1))


class LanguageModel(nn.Module):
    """The head is the embedding's weight; the class axis of the logits is the second."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.block, self.norm = Block(causal=True), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("positions", torch.randn(TOKENS, WIDTH))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits."""
        x = self.block(self.tokens(tokens) + self.positions)
        return self.head(self.norm(x)).transpose(1, 2)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))


@dataclass(frozen=True)
class Task:
    """A module, what it is trained on, and by which loss."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    criterion: nn.CrossEntropyLoss
    tokens: bool = False

    def module(self) -> nn.Module:
        """The module at its start."""
        torch.manual_seed(4)
        return self.make().train()

    def inputs(self, size: int = 3) -> torch.Tensor:
        """A random batch."""
        if self.tokens:
            return torch.randint(0, VOCABULARY, (size, *self.shape))
        return torch.randn(size, *self.shape)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of different sizes; some labels are ignored."""
        torch.manual_seed(5)
        for index in range(STEPS):
            x = self.inputs(6 + index % 3)
            labels = torch.randint(0, CLASSES, (len(x), *(self.shape if self.tokens else ())))
            labels.view(-1)[1:][torch.rand(labels.numel() - 1) < 0.2] = -100
            yield x, labels


TASKS = {
    "perceptron": Task(
        perceptron, (8,), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 1.0, 1.5]))
    ),
    "convnet": Task(ConvNet, (2, 9, 9), nn.CrossEntropyLoss(reduction="sum")),
    "batch norm": Task(BatchNormNet, (2, 8, 8), nn.CrossEntropyLoss()),
    "transformer": Task(Transformer, (7, 4), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "language model": Task(LanguageModel, (TOKENS,), nn.CrossEntropyLoss(), tokens=True),
}
