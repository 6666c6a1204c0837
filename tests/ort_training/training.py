# SPDX-License-Identifier: MIT
"""Trains the models in onnxruntime-training 1.19.2; prints the loss of each step as JSON.

Usage: python -m tests.ort_training.training BATCHES.npz
"""

from __future__ import annotations

import json
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

import onnxloss
from onnxloss.training import ort
from tests.ort_training import models

# Not the first import: onnxloss.training.ort lets it be imported without PyTorch.
from onnxruntime.training import artifacts, onnxblock  # isort: skip
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # isort: skip


def make_artifacts(model: str, optimizer: str, folder: str) -> None:
    """The four files of ONNX Runtime training."""
    loss = ort.Loss(onnxloss.from_torch("torch.nn.CrossEntropyLoss", **models.LOSSES[model]))
    update = artifacts.OptimType.SGD
    if optimizer != "sgd":
        update = onnxblock.optim.AdamW(**models.ADAMW)
    artifacts.generate_artifacts(
        models.forward_model(model),
        requires_grad=list(models.parameters(model)),
        loss=loss,
        optimizer=update,
        artifact_directory=folder,
    )
    if optimizer == "adamw_mode_0":
        path = f"{folder}/optimizer_model.onnx"
        made = onnx.load(path)
        mode = next(entry for entry in made.graph.node[0].attribute if entry.name == "adam_mode")
        mode.i = 0
        onnx.save(made, path)


def train(folder: str, rate: float, batches: list, *, library: bool) -> list[float]:
    """The loss of each step, before its update."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library:
        onnxloss.register(options)
    state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
    module = Module(
        f"{folder}/training_model.onnx",
        state,
        f"{folder}/eval_model.onnx",
        session_options=options,
    )
    optimizer = Optimizer(f"{folder}/optimizer_model.onnx", module)
    optimizer.set_learning_rate(rate)
    losses = []
    for x, labels in batches:
        losses.append(float(module(x, labels)))
        optimizer.step()
        module.lazy_reset_grad()
    return losses


def main() -> None:
    """Trains each model with each optimizer, by the function bodies and by the library."""
    arrays = np.load(sys.argv[1])
    runs = {}
    for model in models.MODELS:
        batches = list(zip(arrays[f"{model}.x"], arrays[f"{model}.labels"], strict=True))
        for optimizer, rate in models.LEARNING_RATES.items():
            with tempfile.TemporaryDirectory() as folder:
                make_artifacts(model, optimizer, folder)
                for library in (False, True):
                    way = "library" if library else "body"
                    losses = train(folder, rate, batches, library=library)
                    runs[f"{model}-{optimizer}-{way}"] = losses
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
