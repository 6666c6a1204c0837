# SPDX-License-Identifier: MIT
"""`onnxloss.fuse`: what must not be fused, and that the comparison can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxloss
from onnxloss.fusion import emit, find_and_fuse
from tests.fuse.fused import losses_of, settings_of
from tests.fuse.recording import FOLDER
from tests.runtime import run_model

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def model_of(
    *nodes: onnx.NodeProto,
    labels: tuple[Any, ...] = ("N",),
    constants: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """Nodes from the inputs `x` `[N, 5]` and `y` to the output `loss`."""
    tensors = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in {"one": [1], "zero": [0], **(constants or {})}.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "loss",
        [
            helper.make_tensor_value_info("x", FLOAT, ["N", 5]),
            helper.make_tensor_value_info("y", INT, labels),
        ],
        [helper.make_tensor_value_info("loss", FLOAT, None)],
        tensors,
    )
    # A rank that nobody knows, where the checker wants one.
    graph.output[0].type.tensor_type.shape.SetInParent()
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


GATHERED = (
    node("LogSoftmax", "x", "log_p", axis=1),
    node("GatherElements", "log_p y", "picked", axis=1),
)


@pytest.mark.parametrize(
    ("nodes", "labels", "reason"),
    [
        (
            [*GATHERED, node("ReduceSum", "picked", "loss", keepdims=0)],
            ("N", 2),
            "it picks not one class for each position",
        ),
        (
            [
                node("LogSoftmax", "x", "log_p", axis=0),
                node("GatherElements", "log_p y", "picked", axis=1),
                node("ReduceSum", "picked", "loss", keepdims=0),
            ],
            ("N", 1),
            "GatherElements has another axis than LogSoftmax",
        ),
        (
            [
                node("LogSoftmax", "x", "log_p", axis=0),
                node("NegativeLogLikelihoodLoss", "log_p y", "loss"),
            ],
            ("N",),
            "LogSoftmax has axis 0, NegativeLogLikelihoodLoss has its classes on axis 1",
        ),
        (
            [
                node("LogSoftmax", "x", "log_p"),
                node("Exp", "log_p", "p"),
                node("ReduceSum", "p", "loss", keepdims=0),
            ],
            ("N",),
            'LogSoftmax "log_p": it feeds Exp: no form of a loss that is known',
        ),
    ],
    ids=["two classes a row", "other axis", "nll on another axis", "no loss"],
)
def test_what_is_no_cross_entropy_is_left_alone(
    nodes: list[onnx.NodeProto], labels: tuple[Any, ...], reason: str
) -> None:
    with pytest.raises(onnxloss.LossError, match=reason):
        onnxloss.fuse(model_of(*nodes, labels=labels))


def test_weights_that_broadcast_are_no_probabilities() -> None:
    """A weight for each class is a row that broadcasts: the sum is no cross entropy of ours."""
    nodes = [
        node("LogSoftmax", "x", "log_p"),
        node("Mul", "log_p weights", "weighted"),
        node("ReduceSum", "weighted one", "sums", keepdims=0),
        node("ReduceSum", "sums", "loss", keepdims=0),
    ]
    weights = {"weights": np.ones((1, 5), np.float32)}
    with pytest.raises(onnxloss.LossError, match="multiplied with has not the logits' shape"):
        onnxloss.fuse(model_of(*nodes, constants=weights))


def test_losses_that_are_used_twice_are_not_reduced() -> None:
    nodes = [
        *GATHERED,
        node("Squeeze", "picked one", "flat"),
        node("ReduceSum", "flat", "sum", keepdims=0),
        node("ReduceMax", "flat", "largest", keepdims=0),
        node("Sub", "sum largest", "loss"),
    ]
    fused = onnxloss.fuse(model_of(*nodes, labels=("N", 1)))
    assert losses_of(fused) == [("SoftmaxCrossEntropyLoss", "none")]


def test_a_wrong_replacement_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the original model can fail: here the ignored label is lost."""
    right = emit.hard_config
    monkeypatch.setattr(
        emit, "hard_config", lambda axis, ignored, reduction: right(axis, 3, reduction)
    )
    model = onnx.load(FOLDER / "torch_dynamo-cross_entropy.onnx")
    with pytest.raises(
        onnxloss.LossError, match=r'"cross_entropy_loss" is another value after fusing'
    ):
        onnxloss.fuse(model)


def test_given_arrays_are_what_the_whole_models_run_on() -> None:
    model = onnx.load(FOLDER / "torch_dynamo-cross_entropy.onnx")
    arrays = {"x": np.zeros((3, 5), np.float32), "y": np.array([0, 4, -100])}
    assert losses_of(onnxloss.fuse(model, inputs=arrays))
    with pytest.raises(onnxloss.LossError, match=r"cannot be compared.*Give arrays"):
        onnxloss.fuse(model, inputs=arrays | {"y": np.array([0, 5, 1])})


def test_two_losses_and_one_that_stays() -> None:
    nodes = [
        node("SoftmaxCrossEntropyLoss", "x y", "first"),
        node("SoftmaxCrossEntropyLoss", "x y", "second", reduction="sum"),
        node("LogSoftmax", "x", "log_p"),
        node("Exp", "log_p", "p"),
        node("ReduceMax", "p", "third", keepdims=0),
        node("Sum", "first second third", "loss"),
    ]
    fusion = find_and_fuse(model_of(*nodes))
    assert [(made.name, made.form) for made in fusion.fused] == [
        ("first", "ai.onnx SoftmaxCrossEntropyLoss"),
        ("second", "ai.onnx SoftmaxCrossEntropyLoss"),
    ]
    assert [str(left) for left in fusion.left] == [
        'LogSoftmax "log_p": it feeds Exp: no form of a loss that is known'
    ]


def test_a_loss_in_a_branch_is_left_alone() -> None:
    branches = {
        name: helper.make_graph(
            [node("SoftmaxCrossEntropyLoss", "x y", f"{name}_loss", reduction=reduction)],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_loss", FLOAT, [])],
        )
        for name, reduction in (("then_branch", "sum"), ("else_branch", "mean"))
    }
    nodes = [node("Cast", "one", "condition", to=TensorProto.BOOL)]
    nodes.append(node("If", "condition", "loss", **branches))
    with pytest.raises(
        onnxloss.LossError,
        match=r'"then_branch_loss": it is in a branch, a loop or a function',
    ):
        onnxloss.fuse(model_of(*nodes))


def test_log_probabilities_from_elsewhere_are_left_alone() -> None:
    with pytest.raises(onnxloss.LossError, match="not those of a LogSoftmax that feeds nothing"):
        onnxloss.fuse(model_of(node("NegativeLogLikelihoodLoss", "x y", "loss")))


def test_losses_cast_to_integers_are_not_reduced() -> None:
    """A sum of truncated numbers is not the truncated sum."""
    nodes = [
        *GATHERED,
        node("Squeeze", "picked one", "flat"),
        node("Cast", "flat", "whole", to=INT),
        node("ReduceSum", "whole", "sum", keepdims=0),
        node("Cast", "sum", "loss", to=FLOAT),
    ]
    fused = onnxloss.fuse(model_of(*nodes, labels=("N", 1)))
    assert losses_of(fused) == [("SoftmaxCrossEntropyLoss", "none")]


def test_a_sum_over_some_axes_stays() -> None:
    nodes = [
        node("Unsqueeze", "x zero", "wide"),
        node("Unsqueeze", "y zero", "labels"),
        node("LogSoftmax", "wide", "log_p"),
        node("Unsqueeze", "labels two", "indices"),
        node("GatherElements", "log_p indices", "picked", axis=2),
        node("Squeeze", "picked two", "flat"),
        node("ReduceSum", "flat one", "sums", keepdims=0),
        node("ReduceMax", "sums", "loss", keepdims=0),
    ]
    fused = onnxloss.fuse(model_of(*nodes, constants={"two": [2]}))
    assert losses_of(fused) == [("SoftmaxCrossEntropyLoss", "none")]
    assert [made.op_type for made in fused.graph.node][-3:] == ["ReduceSum", "Neg", "ReduceMax"]


def test_labels_of_an_older_kind_are_cast() -> None:
    model = model_of(
        node("Cast", "y", "small", to=TensorProto.INT8),
        node("Unsqueeze", "small one", "wide"),
        node("Equal", "wide classes", "is_label"),
        node("Cast", "is_label", "one_hot", to=FLOAT),
        node("LogSoftmax", "x", "log_p"),
        node("Mul", "log_p one_hot", "picked"),
        node("ReduceSum", "picked", "loss", keepdims=0),
        constants={"classes": np.arange(5, dtype=np.int8)},
    )
    # ReduceSum over all axes, classes included, is the sum over all positions.
    model.graph.node[-1].input.append("axes")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), "axes"))
    assert losses_of(onnxloss.fuse(model)) == [("SoftmaxCrossEntropyLoss", "sum")]


def keras_model(least: float, most: float, summed: str = "one") -> onnx.ModelProto:
    """Keras's categorical loss of probabilities and a one-hot, with the operator Clip."""
    return model_of(
        node("ReduceSum", f"x {summed}", "total"),
        node("Div", "x total", "shares"),
        node("Clip", "shares least most", "clipped"),
        node("Log", "clipped", "logarithms"),
        node("Unsqueeze", "y one", "wide"),
        node("Equal", "wide classes", "is_label"),
        node("Cast", "is_label", "one_hot", to=FLOAT),
        node("Mul", "logarithms one_hot", "picked"),
        node("ReduceSum", "picked one", "sums", keepdims=0),
        node("Neg", "sums", "losses"),
        node("ReduceMean", "losses", "loss", keepdims=0),
        constants={
            "classes": np.arange(5),
            "least": np.float32(least),
            "most": np.float32(most),
        },
    )


def test_bounds_say_what_epsilon_is() -> None:
    fused = onnxloss.fuse(keras_model(1e-3, 1 - 1e-3))
    assert losses_of(fused) == [("SoftmaxCrossEntropyLoss", "mean")]
    settings = settings_of(fused.graph.node[0])
    assert (settings["from_logits"], settings["normalize"]) == (0, b"before_clip")
    assert settings["epsilon"] == np.float32(1e-3)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (keras_model(1e-3, 1), r'Log "logarithms": .* clipped to \[0.001, 1\], not to \[epsilon'),
        (keras_model(0, 1), r"clipped to \[0, 1\]"),
        (keras_model(1e-7, 1 - 1e-7, summed="zero"), "other axes than that of Log of clipped"),
    ],
    ids=["other bounds", "no epsilon", "sum of another axis"],
)
def test_what_is_no_loss_of_keras_stays(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(onnxloss.LossError, match=reason):
        onnxloss.fuse(model)


def test_a_model_that_has_a_loss_of_ours_gets_another() -> None:
    model = onnxloss.export(
        onnxloss.LossConfig("SoftmaxCrossEntropyLoss", {"label_smoothing": 0.1}), logits=("N", 5)
    )
    model.graph.node.append(node("SoftmaxCrossEntropyLoss", "logits labels", "plain"))
    model.graph.output.append(helper.make_tensor_value_info("plain", FLOAT, []))
    fused = onnxloss.fuse(model)
    assert losses_of(fused) == [("SoftmaxCrossEntropyLoss", "mean")] * 2
    logits = np.linspace(-2, 2, 15, dtype=np.float32).reshape(3, 5)
    arrays = {"logits": logits, "labels": np.array([0, 4, 2])}
    expected = run_model(model, arrays)
    for library in (False, True):
        results = run_model(fused, arrays, library=library)
        for name, values in expected.items():
            np.testing.assert_allclose(results[name], values, rtol=1e-6)
    with pytest.raises(onnxloss.LossError, match=r"no LogSoftmax and no loss of ai\.onnx"):
        onnxloss.fuse(fused)


@pytest.mark.parametrize(
    ("divisor", "reduction"), [("positions", "mean"), ("others", "sum"), ("tokens", "sum")]
)
def test_a_sum_over_the_number_of_positions_is_a_mean(divisor: str, reduction: str) -> None:
    """TensorFlow's mean; a sum over another number stays a sum."""
    nodes = [
        node("SoftmaxCrossEntropyLoss", "x y", "losses", reduction="none"),
        node("ReduceSum", "losses", "sum", keepdims=0),
        node("Shape", "losses", "positions"),
        node("Shape", "x", "others"),
        node("Slice", "others zero one", "tokens"),
        node("ReduceProd", divisor, "product", keepdims=0),
        node("Cast", "product", "count", to=FLOAT),
        node("Equal", "count nothing", "empty"),
        node("Div", "sum count", "mean"),
        node("Where", "empty nothing mean", "loss"),
    ]
    fused = onnxloss.fuse(model_of(*nodes, constants={"nothing": np.float32(0)}))
    assert losses_of(fused) == [("SoftmaxCrossEntropyLoss", reduction)]
