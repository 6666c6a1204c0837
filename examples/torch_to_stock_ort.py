# SPDX-License-Identifier: MIT
"""Trains a PyTorch module in stock onnxruntime, and puts the result back into the module.

pip install "onnxloss[cpu,train,torch]"
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import onnxloss
import onnxloss.torch

WIDTH, CLASSES, ROWS, EPOCHS = 16, 4, 512, 15
ACCURACY = 0.95


def main() -> None:
    """Makes the training step, trains, and measures with PyTorch."""
    torch.manual_seed(0)
    centers = 2 * torch.randn(CLASSES, WIDTH)
    labels = torch.randint(0, CLASSES, (ROWS,))
    x = centers[labels] + torch.randn(ROWS, WIDTH)
    module = nn.Sequential(
        nn.Linear(WIDTH, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES)
    )

    example, rows = [x[:8]], [{0: torch.export.Dim("N")}]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    step = onnxloss.torch.training_step(module, loss, example, "adamw", dynamic_shapes=rows)
    forward = onnxloss.torch.forward_model(module, example, dynamic_shapes=rows)
    trainer = onnxloss.Trainer(step, forward, learning_rate=3e-3)
    name = forward.graph.input[0].name
    batches = [
        {name: x[start : start + 64].numpy(), "labels": labels[start : start + 64].numpy()}
        for start in range(0, ROWS, 64)
    ]
    trainer.fit(batches, epochs=EPOCHS)
    print(f"loss {trainer.losses[0]:.4f} -> {trainer.losses[-1]:.4f}")

    onnxloss.torch.load_state(module, trainer.state)
    accuracy = (module.eval()(x).argmax(1) == labels).float().mean().item()
    print(f"accuracy in PyTorch {accuracy:.4f}")
    if accuracy < ACCURACY:
        sys.exit(f"torch_to_stock_ort: accuracy is {accuracy}; expected at least {ACCURACY}.")


if __name__ == "__main__":
    main()
