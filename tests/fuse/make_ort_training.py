# SPDX-License-Identifier: MIT
"""Training graphs of onnxruntime-training 1.19.2: `python -m tests.fuse.make_ort_training`.

An argument names another folder to write to.
"""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# These two of its modules need PyTorch; onnx's newer IR versions are too new for it.
for module in ("amp", "optim"):
    name = f"onnxruntime.training.{module}"
    sys.modules.setdefault(name, types.ModuleType(name))
onnx.IR_VERSION = 10  # type: ignore[assignment]

from onnxruntime.training import artifacts, onnxblock  # noqa: E402

from tests.fuse.recording import record  # noqa: E402

CLASSES = 5
WEIGHTS = np.array([0.25, 0.5, 1.0, 2.0, 0.75], np.float32)


class WeightedLoss(onnxblock.Block):
    """ai.onnx's loss with class weights and an ignored label, which onnxblock's own cannot take."""

    def build(self, logits: str) -> str:
        """Adds it; the name of its result."""
        graph = self.base.graph
        labels = helper.make_tensor_value_info("labels", TensorProto.INT64, ["N"])
        graph.input.append(labels)
        graph.initializer.append(numpy_helper.from_array(WEIGHTS, "class_weights"))
        node = helper.make_node(
            "SoftmaxCrossEntropyLoss",
            [logits, "labels", "class_weights"],
            ["loss", "log_prob"],
            "loss",
            reduction="sum",
            ignore_index=1,
        )
        graph.node.append(node)
        graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
        return "loss"


LOSSES: dict[str, Any] = {
    "mean": artifacts.LossType.CrossEntropyLoss,
    "weighted_sum": WeightedLoss(),
}
MODELS = [f"{loss}_{kind}" for loss in LOSSES for kind in ("training", "eval")]


def make(name: str) -> onnx.ModelProto:
    """The training or evaluation model of a loss behind a linear layer."""
    loss, _, kind = name.rpartition("_")
    random = np.random.default_rng(3)
    forward = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gemm", ["x", "matrix", "bias"], ["logits"], "linear")],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            [
                numpy_helper.from_array(random.random((4, CLASSES), np.float32), "matrix"),
                numpy_helper.from_array(np.zeros(CLASSES, np.float32), "bias"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            forward,
            requires_grad=["matrix", "bias"],
            loss=LOSSES[loss],
            optimizer=artifacts.OptimType.SGD,
            artifact_directory=folder,
        )
        return onnx.load(Path(folder) / f"{kind}_model.onnx")


if __name__ == "__main__":
    record("ort_training", MODELS, make, *map(Path, sys.argv[1:]))
