# SPDX-License-Identifier: MIT
"""Trains a digits classifier in stock onnxruntime: from a forward model and a PyTorch loss."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from sklearn.datasets import load_digits

import onnxloss
from onnxloss.training import schedules

ROOT = Path(__file__).parent.parent
FORWARD = ROOT / "models" / "digits_classifier.onnx"
OUTPUT = ROOT / "build" / "demo"
SMOOTHING = 0.1
EPOCHS, BATCH, LEARNING_RATE = 60, 64, 5e-3
ACCURACY = 0.95

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Makes the training step, trains, and writes the files."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    training, held_out = split()
    forward = onnx.load(FORWARD)
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=SMOOTHING)
    step = onnxloss.training_step(forward, config, optimizer="adamw")
    steps = EPOCHS * -(-len(training["labels"]) // BATCH)
    rate = schedules.cosine(LEARNING_RATE, steps)
    trainer = onnxloss.Trainer(step, forward, learning_rate=rate)

    def batches(epoch: int) -> Iterator[Arrays]:
        order = np.random.default_rng(epoch).permutation(len(training["labels"]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            yield {name: array[rows] for name, array in training.items()}

    paths = {
        "training step": OUTPUT / "digits_training_step.onnx",
        "checkpoint": OUTPUT / "digits.safetensors",
        "trained model": OUTPUT / "digits_trained.onnx",
        "loss curve": OUTPUT / "digits_loss.png",
    }
    trainer.fit(batches, epochs=EPOCHS, held_out=[held_out], checkpoint=paths["checkpoint"])
    onnx.save(step, paths["training step"])
    onnx.save(trainer.trained_model(), paths["trained model"])
    trainer.plot(paths["loss curve"])

    classifier = onnxruntime.InferenceSession(paths["trained model"])
    (logits,) = classifier.run(["logits"], {"pixels": held_out["pixels"]})
    accuracy = float((logits.argmax(1) == held_out["labels"]).mean())
    print(f"{'train loss':<20}{trainer.evaluate([training]):.4f}")
    print(f"{'held-out loss':<20}{trainer.evaluate([held_out]):.4f}")
    print(f"{'held-out accuracy':<20}{accuracy:.4f}")
    for what, path in paths.items():
        print(f"{what:<20}{path}")
    if accuracy < ACCURACY:
        sys.exit(f"digits: held-out accuracy is {accuracy:.4f}; expected at least {ACCURACY}.")


def split() -> tuple[Arrays, Arrays]:
    """The digits in a fixed random order: four fifths to train on, one fifth held out."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    data = {"pixels": pixels[order].astype(np.float32), "labels": labels[order].astype(np.int64)}
    cut = len(order) * 4 // 5
    return {n: a[:cut] for n, a in data.items()}, {n: a[cut:] for n, a in data.items()}


if __name__ == "__main__":
    try:
        main()
    except onnxloss.LossError as error:
        sys.exit(str(error))
