# SPDX-License-Identifier: MIT
"""from_onnx: against onnxruntime's own run of ai.onnx's operator, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxloss
from onnxloss.from_onnx import SETTINGS
from tests.runtime import RUNTIME_ERRORS, run_model

NAME = "SoftmaxCrossEntropyLoss"
RNG = np.random.default_rng(11)
WEIGHTS = RNG.uniform(0.5, 2, 3).astype(np.float32)


def node_of(weighted: bool, **attributes: Any) -> onnx.NodeProto:
    inputs = ["logits", "labels", "weights"] if weighted else ["logits", "labels"]
    return helper.make_node(NAME, inputs, ["loss", "log_prob"], **attributes)


def their_model(node: onnx.NodeProto, logits: np.ndarray, labels: np.ndarray) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("logits", TensorProto.FLOAT, logits.shape),
            ("labels", TensorProto.INT64, labels.shape),
        )
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    weights = onnx.numpy_helper.from_array(WEIGHTS, "weights")
    graph = helper.make_graph([node], "loss", values, outputs, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)


@pytest.mark.parametrize("shape", ((5, 3), (2, 3, 4), (2, 3, 2, 2)))
@pytest.mark.parametrize("ignore_index", (None, -1, 1, -100))
@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("reduction", (None, "mean", "sum", "none"))
def test_equals_onnxruntime(
    shape: tuple[int, ...], ignore_index: int | None, weighted: bool, reduction: str | None
) -> None:
    logits = RNG.standard_normal(shape).astype(np.float32)
    labels = RNG.integers(0, 3, (shape[0], *shape[2:]))
    if ignore_index is not None:
        labels[0] = ignore_index
    settings = {"ignore_index": ignore_index, "reduction": reduction}
    settings = {name: value for name, value in settings.items() if value is not None}
    node = node_of(weighted, **settings)
    feeds = {"logits": logits, "labels": labels}
    theirs = run_model(their_model(node, logits, labels), feeds)
    weights = {"weights": WEIGHTS} if weighted else {}
    for config in (
        onnxloss.from_onnx(NAME, **settings, **weights),
        onnxloss.from_onnx(node, **weights),
    ):
        model = onnxloss.export(config, logits=shape, outputs=("loss", "log_prob"))
        for name, values in run_model(model, feeds).items():
            np.testing.assert_allclose(values, theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float64"))
def test_log_prob_has_the_logits_dtype(dtype: str) -> None:
    model = onnxloss.export(
        onnxloss.from_onnx(NAME), logits=(2, 3), dtype=dtype, outputs=("loss", "log_prob")
    )
    types = [value.type.tensor_type.elem_type for value in model.graph.output]
    assert types == [model.graph.input[0].type.tensor_type.elem_type] * 2


@pytest.mark.parametrize("label", (-1, -3, -100, 3, -(2**62)))
@pytest.mark.parametrize("ignore_index", (None, 255))
def test_a_label_is_never_counted_from_the_end(label: int, ignore_index: int | None) -> None:
    model = onnxloss.export(onnxloss.from_onnx(NAME, ignore_index=ignore_index), logits=(2, 3))
    feeds = {"logits": np.zeros((2, 3), np.float32), "labels": np.array([0, label])}
    with pytest.raises(RUNTIME_ERRORS):
        run_model(model, feeds)


@pytest.mark.parametrize(
    "name", (NAME, f"ai.onnx.{NAME}", f"ai.onnx::{NAME}", f"ai.onnx.{NAME}-13", f"{NAME}-12")
)
def test_spellings(name: str) -> None:
    assert onnxloss.from_onnx(name).source == f"ai.onnx.{NAME}"


def test_every_attribute_and_input_is_a_setting() -> None:
    schema = onnx.defs.get_schema(NAME, max_inclusive_version=onnx.defs.onnx_opset_version())
    inputs = {port.name for port in schema.inputs} - {"scores", "labels"}
    assert set(SETTINGS) == set(schema.attributes) | inputs
    assert {port.name for port in schema.outputs} == {"output", "log_prob"}
    assert helper.get_attribute_value(schema.attributes["reduction"].default_value) == b"mean"
    assert SETTINGS["reduction"] == "mean"
    assert not schema.attributes["ignore_index"].default_value.name


FUNCTION_S = node_of(False)
FUNCTION_S.attribute.add(name="ignore_index", ref_attr_name="of_caller", type="INT")
REFUSED = (
    ("a function's node", {"loss": FUNCTION_S}, {}, "ignore_index is that of the function in"),
    ("another operator", {"loss": "NegativeLogLikelihoodLoss"}, {}, 'loss is "Negative'),
    ("another domain", {"loss": f"com.microsoft.{NAME}"}, {}, "loss is"),
    ("an attribute", {"loss": NAME, "label_smoothing": 0.1}, {}, "label_smoothing is not"),
    ("reduction", {"loss": NAME, "reduction": "avg"}, {}, 'reduction is "avg"'),
    ("reduction MEAN", {"loss": NAME, "reduction": "MEAN"}, {}, 'reduction is "MEAN"'),
    ("ignore_index", {"loss": NAME, "ignore_index": 1.5}, {}, "ignore_index is 1.5"),
    ("unbatched", {"loss": NAME}, {"logits": (3,)}, "shape of logits is [3]"),
    ("empty", {"loss": NAME}, {"logits": (0, 3)}, "logits is (0, 3)"),
    ("labels", {"loss": NAME}, {"label_dtype": "uint8"}, 'label_dtype is "uint8"'),
    ("weights", {"loss": NAME, "weights": WEIGHTS[:2]}, {}, "shape of class_weights is [2]"),
    (
        "dtype of weights",
        {"loss": NAME, "weights": WEIGHTS},
        {"dtype": "float64"},
        "dtype of class_weights",
    ),
    ("weights of no input", {"loss": node_of(False), "weights": WEIGHTS}, {}, "weights is"),
    ("an input without weights", {"loss": node_of(True)}, {}, 'expected the values of "weights"'),
    ("beside a node", {"loss": node_of(False), "reduction": "sum"}, {}, "reduction is given"),
)


@pytest.mark.parametrize(
    ("settings", "shapes", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused_by_name(settings: dict[str, Any], shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxloss.LossError) as caught:
        onnxloss.export(onnxloss.from_onnx(**settings), **{"logits": (2, 3), **shapes})
    assert message in str(caught.value)
