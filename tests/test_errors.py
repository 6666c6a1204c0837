# SPDX-License-Identifier: MIT
"""Bad input to the Python API: a clear error each, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import onnxloss
from onnxloss import library


def config(**attributes: Any) -> onnxloss.LossConfig:
    return onnxloss.LossConfig("SoftmaxCrossEntropyLoss", attributes)


def export_with(**settings: Any) -> onnx.ModelProto:
    return onnxloss.export(**{"config": config(), "logits": ("N", 5), **settings})


def torch(**settings: Any) -> onnxloss.LossConfig:
    return onnxloss.from_torch("torch.nn.functional.cross_entropy", **settings)


PYTHON_ERRORS: list[tuple[str, Callable[[], Any], tuple[str, ...]]] = [
    (
        "unknown operator",
        lambda: onnxloss.LossConfig("CrossEntropy"),
        ('"CrossEntropy"', "SoftmaxCrossEntropyLoss", "SoftLabelCrossEntropyLoss"),
    ),
    (
        "unknown attribute",
        lambda: config(label_smoothin=0.1),
        ("SoftmaxCrossEntropyLoss: label_smoothin", "label_smoothing"),
    ),
    (
        "ignore_index with probabilities",
        lambda: onnxloss.LossConfig("SoftLabelCrossEntropyLoss", {"ignore_index": -100}),
        ("SoftLabelCrossEntropyLoss: ignore_index",),
    ),
    (
        "ignore_index with probabilities in torch",
        lambda: torch(target="probabilities", ignore_index=2),
        ("ignore_index is 2", "probabilities"),
    ),
    ("unknown reduction", lambda: config(reduction="avg"), ('reduction is "avg"', "none", "sum")),
    ("reduction of torch", lambda: torch(reduction="MEAN"), ('reduction is "MEAN"',)),
    (
        "smoothing above 1",
        lambda: config(label_smoothing=1.5),
        ("label_smoothing is 1.5; expected a number in [0, 1].",),
    ),
    ("smoothing below 0", lambda: config(label_smoothing=-0.1), ("label_smoothing is -0.1",)),
    ("smoothing nan", lambda: config(label_smoothing=float("nan")), ("label_smoothing is nan",)),
    ("smoothing as text", lambda: config(label_smoothing="0.1"), ('label_smoothing is "0.1"',)),
    ("smoothing in torch", lambda: torch(label_smoothing=1.1), ("label_smoothing is 1.1",)),
    ("axis as number", lambda: config(axis=1.0), ("axis is 1.0",)),
    ("ignore_index too large", lambda: config(ignore_index=2**63), (f"ignore_index is {2**63}",)),
    (
        "weights of the wrong length",
        lambda: onnxloss.export(
            onnxloss.LossConfig("SoftmaxCrossEntropyLoss", class_weights=[1.0, 2.0]),
            logits=("N", 5),
        ),
        ("shape of class_weights is [2]; expected [5].",),
    ),
    (
        "weights of rank 2",
        lambda: onnxloss.LossConfig("SoftmaxCrossEntropyLoss", class_weights=np.ones((5, 1))),
        ("shape of class_weights is [5, 1]; expected [C].",),
    ),
    (
        "integer weights",
        lambda: onnxloss.LossConfig("SoftmaxCrossEntropyLoss", class_weights=np.ones(5, int)),
        ("class_weights", "int64", "float32"),
    ),
    (
        "weights of another dtype than the logits",
        lambda: onnxloss.export(torch(weight=np.ones(5)), logits=("N", 5)),
        ("class_weights", "float64", "float32"),
    ),
    ("unsupported dtype", lambda: export_with(dtype="int8"), ('dtype is "int8"', "bfloat16")),
    ("unsupported label dtype", lambda: export_with(label_dtype="int8"), ('"int8"', "int32")),
    (
        "labels of the wrong rank",
        lambda: export_with(labels=("N", 1)),
        ("shape of labels is [N, 1]; expected [N].",),
    ),
    (
        "labels of the wrong size",
        lambda: export_with(logits=(4, 5), labels=(3,)),
        ("shape of labels is [3]; expected [4].",),
    ),
    ("scalar logits", lambda: export_with(logits=()), ("logits", "class axis")),
    ("negative size", lambda: export_with(logits=(-1, 5)), ("logits", "(-1, 5)")),
    (
        "axis out of range",
        lambda: onnxloss.export(config(axis=2), logits=("N", 5)),
        ("axis is 2; expected a number in [-2, 1].",),
    ),
    ("unknown output", lambda: export_with(outputs=("loss", "entropy")), ("outputs", "entropy")),
    ("sample weights", lambda: export_with(sample_weights=("N",)), ("sample_weights",)),
    ("a size in place of a shape", lambda: export_with(logits=5), ("logits is 5; expected a seq",)),
    ("text in place of a shape", lambda: export_with(logits="N,5"), ('logits is "N,5"; expected',)),
    ("text in place of names", lambda: export_with(outputs="loss"), ('outputs is "loss"; expec',)),
    ("a size between numbers", lambda: export_with(labels=(2.5,)), ("labels is (2.5,)",)),
    (
        "a size between numbers of samples",
        lambda: onnxloss.export(
            onnxloss.LossConfig("SampledSoftmaxCrossEntropyLoss"), logits=(2.5, 10)
        ),
        ("SampledSoftmaxCrossEntropyLoss: logits is (2.5, 10); expected a shape of numbers",),
    ),
    (
        "a name in place of a configuration",
        lambda: export_with(config="torch.nn.CrossEntropyLoss"),
        ('export: config is "torch.nn.CrossEntropyLoss"; expected a LossConfig',),
    ),
    (
        "ignore_index that is no number in torch",
        lambda: torch(target="probabilities", ignore_index=None),
        ("ignore_index is None; expected an integer.",),
    ),
    (
        "a path in place of a model",
        lambda: onnxloss.append_to("forward.onnx", config()),
        ('append_to: model is "forward.onnx"; expected an onnx.ModelProto',),
    ),
    (
        "a path in place of a model to fuse",
        lambda: onnxloss.fuse("forward.onnx"),
        ('fuse: model is "forward.onnx"; expected an onnx.ModelProto',),
    ),
    (
        "a session in place of its options",
        lambda: onnxloss.register(None),
        ('register: session_options is "NoneType"; expected an onnxruntime.SessionOptions.',),
    ),
]


@pytest.mark.parametrize(
    ("action", "parts"),
    [pytest.param(action, parts, id=name) for name, action, parts in PYTHON_ERRORS],
)
def test_python_error(action: Callable[[], Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(onnxloss.LossError) as caught:
        action()
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert message.endswith(".") and "\n" not in message


def forward_model() -> onnx.ModelProto:
    """Scores are features @ matrix; there is a second output, and an input that is not read."""
    nodes = [
        helper.make_node("MatMul", ["features", "matrix"], ["scores"]),
        helper.make_node("Abs", ["scores"], ["sizes"]),
    ]
    floats = onnx.TensorProto.FLOAT
    return helper.make_model(
        helper.make_graph(
            nodes,
            "forward",
            [
                helper.make_tensor_value_info("features", floats, ("N", 3)),
                helper.make_tensor_value_info("mask", floats, ("N",)),
            ],
            [helper.make_tensor_value_info(name, floats, ("N", 5)) for name in ("scores", "sizes")],
            [onnx.numpy_helper.from_array(np.ones((3, 5), np.float32), "matrix")],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"logits": "logits"}, ('"logits"', "scores", "sizes")),
        ({}, ("scores", "sizes")),
        ({"logits": "scores", "labels": "scores"}, ("scores",)),
        ({"logits": "scores", "labels": "mask"}, ('"mask"', "float32", "int64")),
        ({"logits": "scores", "labels": "features"}, ("shape of labels is [N, 3]; expected [N].",)),
        ({"logits": "scores", "loss": "sizes"}, ("sizes",)),
        ({"logits": "scores", "loss": ""}, ('the new name is ""',)),
        ({"logits": "scores", "labels": ""}, ('labels is "";',)),
        ({"logits": "scores", "labels": None}, ('labels is "NoneType"; expected a name.',)),
    ],
    ids=[
        "no such output",
        "which output",
        "labels name an output",
        "label dtype",
        "label shape",
        "taken name",
        "empty name",
        "empty name of labels",
        "no name of labels",
    ],
)
def test_append_to_a_model_that_does_not_fit(settings: Any, parts: tuple[str, ...]) -> None:
    model = forward_model()
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(onnxloss.LossError) as caught:
        onnxloss.append_to(model, config(), **settings)
    for part in parts:
        assert part in str(caught.value)
    assert model.SerializeToString(deterministic=True) == before
    onnxloss.append_to(model, config(), logits="scores")


def test_sizes_may_be_numpys() -> None:
    sizes = export_with(logits=np.array([4, 5])).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_value for size in sizes] == [4, 5]


def test_options_that_are_registered_twice_make_a_session() -> None:
    options = onnxruntime.SessionOptions()
    onnxloss.register(options)
    onnxloss.register(options)
    onnxruntime.InferenceSession(export_with().SerializeToString(), options)


def test_weights_in_files_of_their_own_stay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way for models of 2 GB and more, which a message cannot hold."""
    monkeypatch.chdir(tmp_path)
    onnx.save(
        forward_model(), "forward.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    forward = onnx.load("forward.onnx", load_external_data=False)
    onnx.save(onnxloss.append_to(forward, config(), logits="scores"), "loss.onnx")
    (weights,) = onnx.load("loss.onnx", load_external_data=False).graph.initializer
    assert weights.data_location == onnx.TensorProto.EXTERNAL
    session = onnxruntime.InferenceSession("loss.onnx")
    feeds = {"features": np.ones((2, 3), np.float32), "mask": np.ones(2, np.float32)}
    (loss,) = session.run(["loss"], {**feeds, "labels": np.array([0, 1])})
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)


def test_missing_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(onnxloss.LossError, match=r"not installed; install onnxloss\[cpu\]"):
        onnxloss.register(None)


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_LIBRARY", "libonnxloss-missing.so")
    with pytest.raises(onnxloss.LossError) as caught:
        onnxloss.library_path()
    for part in ("library_path", "libonnxloss-missing.so", "install"):
        assert part in str(caught.value)
