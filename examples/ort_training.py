# SPDX-License-Identifier: MIT
"""Trains a digits classifier in onnxruntime-training 1.19.2 with a PyTorch loss configuration.

pip install onnxruntime-training-cpu==1.19.2 onnxloss scikit-learn
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from sklearn.datasets import load_digits

import onnxloss
from onnxloss.training import ort

# After onnxloss.training.ort, which lets it be imported without PyTorch.
from onnxruntime.training import artifacts  # isort: skip
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # isort: skip

FORWARD = Path(__file__).parent.parent / "models" / "digits_classifier.onnx"
EPOCHS, BATCH, LEARNING_RATE = 20, 64, 3e-3
ACCURACY = 0.95


def main() -> None:
    """Makes the training files, trains, and measures."""
    forward = onnx.load(FORWARD)
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.1)
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            forward,
            requires_grad=[tensor.name for tensor in forward.graph.initializer],
            loss=ort.Loss(config),
            optimizer=artifacts.OptimType.AdamW,
            artifact_directory=folder,
        )
        options = onnxruntime.SessionOptions()
        onnxloss.register(options)
        state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
        module = Module(
            f"{folder}/training_model.onnx",
            state,
            f"{folder}/eval_model.onnx",
            session_options=options,
        )
        optimizer = Optimizer(f"{folder}/optimizer_model.onnx", module)
        optimizer.set_learning_rate(LEARNING_RATE)

        pixels, labels = load_digits(return_X_y=True)
        pixels, labels = pixels.astype(np.float32), labels.astype(np.int64)
        random = np.random.default_rng(0)
        order = random.permutation(len(labels))
        training, held_out = np.split(order, [len(order) * 4 // 5])
        for epoch in range(EPOCHS):
            random.shuffle(training)
            losses = []
            for start in range(0, len(training), BATCH):
                rows = training[start : start + BATCH]
                losses.append(float(module(pixels[rows], labels[rows])))
                optimizer.step()
                module.lazy_reset_grad()
            print(f"epoch {epoch + 1:2}  loss {np.mean(losses):.4f}")

        module.eval()
        module.export_model_for_inferencing(f"{folder}/trained.onnx", ["logits"])
        session = onnxruntime.InferenceSession(f"{folder}/trained.onnx")
    (logits,) = session.run(["logits"], {"pixels": pixels[held_out]})
    accuracy = float((logits.argmax(1) == labels[held_out]).mean())
    print(f"held-out accuracy {accuracy:.4f}")
    if accuracy < ACCURACY:
        sys.exit(f"ort_training: held-out accuracy is {accuracy}; expected at least {ACCURACY}.")


if __name__ == "__main__":
    main()
