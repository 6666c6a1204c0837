# SPDX-License-Identifier: MIT
"""Writes the models beside this file: `python -m models.make_models`; every run the same bytes."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.backend_tests import ROOT, files

HIDDEN = 64
CLASSES = 10
PIXELS = 64


def digits_classifier() -> onnx.ModelProto:
    """An untrained perceptron 64-64-10 for 8x8 pixels in [0, 16], as scikit-learn's digits are."""
    random = np.random.default_rng(2026)

    def layer(name: str, inputs: int, outputs: int) -> list[onnx.TensorProto]:
        bound = np.sqrt(3 / inputs)
        weight = (2 * random.random((outputs, inputs)) - 1) * bound
        return [
            numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), f"{name}.bias"),
        ]

    gemm = {"transB": 1}
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["scale"], "scale", value_float=1 / 16),
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"], "scaled"),
            helper.make_node(
                "Gemm", ["scaled", "hidden.weight", "hidden.bias"], ["hidden"], "hidden", **gemm
            ),
            helper.make_node("Relu", ["hidden"], ["activation"], "activation"),
            helper.make_node(
                "Gemm", ["activation", "output.weight", "output.bias"], ["logits"], "output", **gemm
            ),
        ],
        "digits_classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", PIXELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [*layer("hidden", PIXELS, HIDDEN), *layer("output", HIDDEN, CLASSES)],
        doc_string=digits_classifier.__doc__,
    )
    return helper.make_model(
        graph,
        producer_name="onnxloss",
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )


def main() -> None:
    """Writes every model, in the place of those that were there."""
    for folder in {path.parent for path in ROOT.glob("*/model.onnx")}:
        shutil.rmtree(folder)
    model = digits_classifier()
    onnx.checker.check_model(model, full_check=True)
    written = [("digits_classifier.onnx", model.SerializeToString(deterministic=True)), *files()]
    for name, data in written:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(written)} files, {sum(len(data) for _, data in written)} bytes")


if __name__ == "__main__":
    main()
