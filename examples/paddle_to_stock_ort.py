# SPDX-License-Identifier: MIT
"""Trains a Paddle layer in stock onnxruntime, and puts the result back into the layer.

pip install "onnxloss[cpu,train,paddle]" && pip install --no-deps paddle2onnx==2.1.0
"""

from __future__ import annotations

import sys

import numpy as np
import paddle
from paddle import nn

import onnxloss
import onnxloss.paddle

WIDTH, CLASSES, ROWS, EPOCHS = 16, 4, 512, 15
ACCURACY = 0.95


class Classifier(nn.Layer):
    """A perceptron with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(WIDTH, 32), nn.BatchNorm1D(32)
        self.output = nn.Linear(32, CLASSES)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """The logits."""
        return self.output(nn.functional.relu(self.norm(self.hidden(x))))


def main() -> None:
    """Makes the training step, trains, and measures with Paddle."""
    paddle.seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, ROWS)
    centers = 2 * random.standard_normal((CLASSES, WIDTH))
    x = (centers[labels] + random.standard_normal((ROWS, WIDTH))).astype(np.float32)
    layer = Classifier()

    spec = [paddle.static.InputSpec([None, WIDTH], "float32", "x")]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    step = onnxloss.paddle.training_step(layer, loss, spec, "adamw")
    forward = onnxloss.paddle.forward_model(layer, spec)
    trainer = onnxloss.Trainer(step, forward, learning_rate=3e-3)
    batches = [
        {"x": x[start : start + 64], "labels": labels[start : start + 64]}
        for start in range(0, ROWS, 64)
    ]
    trainer.fit(batches, epochs=EPOCHS)
    print(f"loss {trainer.losses[0]:.4f} -> {trainer.losses[-1]:.4f}")

    onnxloss.paddle.load_state(layer, trainer.state)
    layer.eval()
    accuracy = float((layer(paddle.to_tensor(x)).numpy().argmax(1) == labels).mean())
    print(f"accuracy in Paddle {accuracy:.4f}")
    if accuracy < ACCURACY:
        sys.exit(f"paddle_to_stock_ort: accuracy is {accuracy}; expected at least {ACCURACY}.")


if __name__ == "__main__":
    main()
