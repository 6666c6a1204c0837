# SPDX-License-Identifier: MIT
"""Trains a forward model that is written by hand, with onnxscript, to tell two spirals apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnxscript import FLOAT, script
from onnxscript import opset19 as op

import onnxloss

N, HIDDEN = "N", 32


@script()
def forward(
    x: FLOAT[N, 2],
    w1: FLOAT[2, HIDDEN],
    b1: FLOAT[HIDDEN],
    w2: FLOAT[HIDDEN, HIDDEN],
    b2: FLOAT[HIDDEN],
    w3: FLOAT[HIDDEN, 2],
) -> FLOAT[N, 2]:
    """Two hidden layers; what is no data is a parameter."""
    hidden = op.Tanh(op.Gemm(x, w1, b1))
    hidden = op.Tanh(op.Gemm(hidden, w2, b2))
    logits = op.MatMul(hidden, w3)
    return logits


def forward_model(random: np.random.Generator) -> onnx.ModelProto:
    """The model with its parameters as initializers, drawn at random."""
    model = forward.to_model_proto(ir_version=9)
    _, *parameters = model.graph.input
    for value in parameters:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = random.normal(size=shape) / shape[0] ** 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype("f4"), value.name))
    del model.graph.input[1:]
    return model


def spirals(random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Points on two spirals, half a turn apart."""
    labels = random.integers(0, 2, n)
    turn = random.uniform(0.5, 3, n)
    angle = np.pi * (turn + labels)
    x = (turn * np.stack([np.cos(angle), np.sin(angle)])).T + 0.05 * random.normal(size=(n, 2))
    return {"x": x.astype(np.float32), "labels": labels}


def main() -> None:
    """Trains, and classifies new points with the trained model."""
    random = np.random.default_rng(0)
    model = forward_model(random)
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss")
    step = onnxloss.training_step(model, config, optimizer="adam")
    trainer = onnxloss.Trainer(step, model, learning_rate=0.01)
    trainer.fit([spirals(random, 64) for _ in range(50)], epochs=30)

    session = onnxruntime.InferenceSession(trainer.trained_model().SerializeToString())
    new = spirals(random, 1000)
    (logits,) = session.run(None, {"x": new["x"]})
    accuracy = (logits.argmax(1) == new["labels"]).mean()
    print(f"loss {trainer.losses[0]:.3f} -> {trainer.losses[-1]:.3f}, accuracy {accuracy:.3f}")
    assert accuracy > 0.95


if __name__ == "__main__":
    main()
