# SPDX-License-Identifier: MIT
"""What onnx knows of the operators by their schemas."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import onnxloss
from onnxloss.onnxscript_defs import CATALOGUE

TORCH = "torch.nn.CrossEntropyLoss"
SAMPLED = onnxloss.from_tf("tf.nn.sampled_softmax_loss", num_sampled=4, num_classes=9)


def types_of(model: onnx.ModelProto) -> dict[str, tuple[int, list[Any] | None]]:
    """Element type and shape of each value, as onnx infers them behind nodes on all outputs."""
    graph = model.graph
    for output in list(graph.output):
        graph.node.append(helper.make_node("Identity", [output.name], [f"{output.name}.behind"]))
        graph.output.append(onnx.ValueInfoProto(name=f"{output.name}.behind"))
    graph.ClearField("value_info")
    del graph.output[: len(graph.output) // 2]
    found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    return {
        value.name.removesuffix(".behind"): (
            value.type.tensor_type.elem_type,
            [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim],
        )
        for value in found.output
    }


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("target", ["indices", "probabilities"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_behind_a_loss(dtype: str, target: str, reduction: str) -> None:
    config = onnxloss.from_torch(TORCH, reduction=reduction, target=target)
    model = onnxloss.export(config, logits=("N", 3, 5), dtype=dtype, gradient=True)
    kind = TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT
    assert types_of(model) == {
        "loss": (kind, [] if reduction == "mean" else ["N", 5]),
        "dlogits": (kind, ["N", 3, 5]),
    }


def test_types_behind_a_sampled_loss() -> None:
    model = onnxloss.export(SAMPLED, logits=("N", 9))
    assert types_of(model)["loss"] == (TensorProto.FLOAT, ["N"])


def test_a_model_with_more_behind_the_loss_is_valid() -> None:
    model = onnxloss.export(onnxloss.from_torch(TORCH, reduction="none"), logits=("N", 3))
    model.graph.node.append(helper.make_node("Neg", ["loss"], ["z"]))
    model.graph.output[0].name = "z"
    onnx.checker.check_model(model, full_check=True)


def test_every_operator_infers() -> None:
    for spec in CATALOGUE:
        for op in spec.ops:
            assert onnx.defs.get_schema(
                op.name, domain="onnxloss"
            ).has_type_and_shape_inference_function
