# SPDX-License-Identifier: MIT
"""from_paddle: what each setting becomes, by Paddle version; Paddle need not be installed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxloss
from onnxloss import LossError, from_paddle
from onnxloss.from_paddle import SETTINGS
from tests.runtime import run_model

FUNCTION = "paddle.nn.functional.cross_entropy"
LAYER = "paddle.nn.CrossEntropyLoss"
WITH_SOFTMAX = "paddle.nn.functional.softmax_with_cross_entropy"

LOGITS = np.array([[1, 2, 3], [0.5, -1, 0.25]], np.float32)
LOSS_OF_ROWS = np.array([0.407606, 0.694112])
"""Of the labels 2 and 0."""
WEIGHT = np.array([0.5, 2, 1], np.float32)


def loss_of(config: onnxloss.LossConfig, labels: Any, logits: np.ndarray = LOGITS) -> np.ndarray:
    labels = np.asarray(labels)
    model = onnxloss.export(
        config, logits=logits.shape, labels=labels.shape, label_dtype=labels.dtype.name
    )
    return run_model(model, {"logits": logits, "labels": labels})["loss"]


class _Loss:
    """Stands for `paddle.nn.CrossEntropyLoss`: from_paddle knows it by its name."""

    def __init__(self, **settings: Any) -> None:
        self.__dict__ |= {**SETTINGS[LAYER], **settings}


_Loss.__module__, _Loss.__qualname__ = "paddle.nn.layer.loss", "CrossEntropyLoss"


class _Tensor:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def numpy(self) -> np.ndarray:
        return self._array


@pytest.mark.parametrize("api", [FUNCTION, LAYER])
def test_the_defaults_are_paddles(api: str) -> None:
    config = from_paddle(api, paddle_version="3.3")
    assert config.source == api
    np.testing.assert_allclose(loss_of(config, [2, 0]), LOSS_OF_ROWS.mean(), rtol=1e-5)


def test_an_instance_is_its_settings() -> None:
    loss = _Loss(weight=_Tensor(WEIGHT), reduction="sum", axis=1)
    config = from_paddle(loss, paddle_version="3.3")
    assert config.attributes["reduction"] == "sum"
    assert config.attributes["axis"] == 1
    np.testing.assert_array_equal(config.class_weights, WEIGHT)
    expected = (WEIGHT[[2, 0]] * LOSS_OF_ROWS).sum()
    np.testing.assert_allclose(loss_of(config, [2, 0]), expected, rtol=1e-5)
    with pytest.raises(LossError, match="reduction is given beside a CrossEntropyLoss instance"):
        from_paddle(loss, reduction="none")


def test_a_bfloat16_tensor_arrives_as_its_bits() -> None:
    weight = np.array([1.5, 2], ml_dtypes.bfloat16)
    config = from_paddle(LAYER, weight=_Tensor(weight.view(np.uint16)))
    np.testing.assert_array_equal(config.class_weights, weight)


@pytest.mark.parametrize(
    ("version", "ignore_index", "expected"),
    [
        ("2.0", -100, 0.203803),
        ("2.4.2", -100, 0.203803),
        ("2.4", -1, 0.407606),
        ("2.4", 0, 0.407606),
        ("2.6", -100, 0.407606),
        ("2.6.2", -1, 0.407606),
        ("2.6-static", -100, 0.203803),
        ("2.6.2-static", 255, 0.407606),
        ("3.0.0", -100, 0.203803),
        ("3.3.1", -1, 0.203803),
        ("3.x", 0, 0.407606),
        ("3.x-static", 255, 0.407606),
    ],
)
def test_the_mean_divides_as_that_version_does(
    version: str, ignore_index: int, expected: float
) -> None:
    config = from_paddle(FUNCTION, ignore_index=ignore_index, paddle_version=version)
    np.testing.assert_allclose(loss_of(config, [2, ignore_index]), expected, rtol=1e-5)
    weighted = from_paddle(
        FUNCTION, ignore_index=ignore_index, weight=WEIGHT, paddle_version=version
    )
    np.testing.assert_allclose(loss_of(weighted, [2, ignore_index]), 0.407606, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_all_ignored_is_0_and_never_nan(reduction: str, weight: np.ndarray | None) -> None:
    config = from_paddle(FUNCTION, reduction=reduction, weight=weight, paddle_version="3.3")
    assert np.all(loss_of(config, [-100, -100]) == 0)


@pytest.mark.parametrize(
    ("settings", "version", "expected"),
    [
        ({}, "3.3", np.nan),
        ({"weight": WEIGHT}, "3.3", np.nan),
        ({"ignore_index": 1}, "3.3", np.nan),
        ({"soft_label": True, "weight": WEIGHT}, "3.3", np.nan),
        ({"label_smoothing": 0.1, "weight": WEIGHT}, "3.3", np.nan),
        ({"weight": WEIGHT}, "3.3-static", 0.0),
        ({"reduction": "sum", "weight": WEIGHT}, "3.3", 0.0),
    ],
)
def test_no_position_is_nan_where_none_that_counts_is_not(
    settings: dict[str, Any], version: str, expected: float
) -> None:
    config = from_paddle(FUNCTION, paddle_version=version, **settings)
    soft = settings.get("soft_label", False)
    empty = np.zeros((0, 3), np.float32), np.zeros((0, 3) if soft else 0, "f4" if soft else "i8")
    full = LOGITS, np.eye(3, dtype=np.float32)[[2, 0]] if soft else np.array([2, 0])
    for logits in (("N", 3), (0, 3)):
        model = onnxloss.export(config, logits=logits)
        result = run_model(model, dict(zip(("logits", "labels"), empty, strict=True)))
        np.testing.assert_equal(result["loss"], np.float32(expected))
    result = run_model(
        onnxloss.export(config, logits=("N", 3)), dict(zip(("logits", "labels"), full, strict=True))
    )
    assert np.isfinite(result["loss"])
    sized = onnxloss.export(config, logits=(2, 3))
    assert not {"Size", "Div"} & {node.op_type for node in sized.graph.node}


@pytest.mark.parametrize(
    ("settings", "labels", "shape"),
    [
        ({}, [2, 0], (2,)),
        ({}, [[2], [0]], (2, 1)),
        ({"soft_label": True}, np.eye(3, dtype=np.float32)[[2, 0]], (2, 1)),
        ({"label_smoothing": 0.25}, [2, 0], (2, 1)),
        ({"label_smoothing": 0.25}, np.eye(3, dtype=np.float32)[[2, 0]], (2, 1)),
    ],
)
def test_an_unreduced_loss_has_paddles_shape(
    settings: dict[str, Any], labels: Any, shape: tuple[int, ...]
) -> None:
    config = from_paddle(FUNCTION, reduction="none", **settings)
    loss = loss_of(config, labels)
    assert loss.shape == shape
    if not config.attributes["label_smoothing"]:
        np.testing.assert_allclose(loss.ravel(), LOSS_OF_ROWS, rtol=1e-5)


@pytest.mark.parametrize("soft_label", [False, True])
def test_smoothed_labels_are_of_either_kind(soft_label: bool) -> None:
    settings = {"label_smoothing": 0.1, "weight": WEIGHT, "soft_label": soft_label}
    config = from_paddle(FUNCTION, **settings)
    one_hot = np.eye(3, dtype=np.float32)[[2, 0]]
    for labels in (np.array([2, 0]), one_hot, one_hot.astype(np.float64)):
        np.testing.assert_allclose(loss_of(config, labels), 0.595233, rtol=1e-5)
    assert config.takes_probabilities == soft_label
    by_rank = onnxloss.export(config, logits=("N", 3), labels=("N",) if soft_label else ("N", 3))
    kind = {True: onnx.TensorProto.INT64, False: onnx.TensorProto.FLOAT}[soft_label]
    assert by_rank.graph.input[1].type.tensor_type.elem_type == kind

    for target, labels in (("indices", [2, 0]), ("probabilities", one_hot)):
        chosen = from_paddle(FUNCTION, target=target, **settings)
        assert chosen.other_labels is None
        np.testing.assert_allclose(loss_of(chosen, labels), 0.595233, rtol=1e-5)
    with pytest.raises(LossError, match="shape of labels"):
        onnxloss.export(config, logits=(2, 3), labels=(2, 1), label_dtype="int64")


def test_smoothed_labels_behind_a_model_are_those_of_its_input() -> None:
    config = from_paddle(FUNCTION, label_smoothing=0.1)
    value_info = onnx.helper.make_tensor_value_info
    floats = onnx.TensorProto.FLOAT
    for labels in ((), (value_info("labels", floats, ("N", 3)),)):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["z"])],
            "forward",
            [value_info("x", floats, ("N", 3)), *labels],
            [value_info("z", floats, ("N", 3))],
        )
        opset = [onnx.helper.make_opsetid("", 19)]
        forward = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
        model = onnxloss.append_to(forward, config)
        given = np.eye(3, dtype=np.float32)[[2, 0]] if labels else np.array([2, 0])
        result = run_model(model, {"x": LOGITS, "labels": given})
        np.testing.assert_allclose(result["loss"], 0.630026, rtol=1e-5)


def test_a_smoothed_label_is_never_ignored() -> None:
    """Paddle's one_hot takes no label out of range, ignore_index included."""
    config = from_paddle(FUNCTION, label_smoothing=0.1)
    with pytest.raises(Exception, match=r"(?i)out of|expected"):
        loss_of(config, [2, -100])


def test_class_weights_promote_and_labels_do_not() -> None:
    config = from_paddle(FUNCTION, weight=WEIGHT.astype(np.float64))
    assert loss_of(config, [2, 0]).dtype == np.float64
    soft = from_paddle(FUNCTION, soft_label=True)
    with pytest.raises(LossError, match=r"label_dtype is .float64."):
        onnxloss.export(soft, logits=(2, 3), label_dtype="float64")


def test_softmax_with_cross_entropy_keeps_the_class_axis() -> None:
    config = from_paddle(WITH_SOFTMAX)
    loss = loss_of(config, [[2], [0]])
    assert loss.shape == (2, 1)
    np.testing.assert_allclose(loss.ravel(), LOSS_OF_ROWS, rtol=1e-5)
    with pytest.raises(LossError, match="shape of labels is"):
        onnxloss.export(config, logits=(2, 3), labels=(2,))
    ignoring = from_paddle(WITH_SOFTMAX, ignore_index=0, numeric_stable_mode=False)
    np.testing.assert_allclose(loss_of(ignoring, [[2], [0]]).ravel(), [LOSS_OF_ROWS[0], 0], 1e-5)
    # It is documented to have no meaning beside soft_label.
    soft = from_paddle(WITH_SOFTMAX, soft_label=True, ignore_index=1)
    one_hot = np.eye(3, dtype=np.float32)[[2, 0]]
    np.testing.assert_allclose(loss_of(soft, one_hot).ravel(), LOSS_OF_ROWS, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("gradient", [False, True])
def test_return_softmax_is_an_output(dtype: str, gradient: bool) -> None:
    config = from_paddle(WITH_SOFTMAX, return_softmax=True, axis=0)
    model = onnxloss.export(config, logits=(3, 2), dtype=dtype, gradient=gradient)
    names = ["loss", *(["dlogits"] if gradient else []), "probabilities"]
    assert [output.name for output in model.graph.output] == names
    logits = LOGITS.T.astype(dtype)
    feeds = {"logits": logits, "labels": np.array([[2, 0]])}
    if gradient:
        feeds["dloss"] = np.ones((1, 2), dtype)
    result = run_model(model, feeds)["probabilities"]
    expected = np.exp(logits.astype(np.float64))
    expected /= expected.sum(0)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=1e-3 if dtype == "float16" else 1e-6)


def test_probabilities_can_be_asked_for() -> None:
    config = from_paddle(FUNCTION)
    outputs = ("loss", "probabilities")
    model = onnxloss.export(config, logits=(2, 3), outputs=outputs)
    result = run_model(model, {"logits": LOGITS, "labels": np.array([2, 0])})
    np.testing.assert_allclose(-np.log(result["probabilities"][[0, 1], [2, 0]]), LOSS_OF_ROWS, 1e-5)
    given = from_paddle(FUNCTION, use_softmax=False)
    with pytest.raises(LossError, match="no probabilities"):
        onnxloss.export(given, logits=(2, 3), outputs=outputs)


@pytest.mark.parametrize("factor", [-0.1, float("nan")])
def test_smoothing_below_0_is_none_and_said(factor: float) -> None:
    with pytest.warns(UserWarning, match="Paddle takes it for 0"):
        config = from_paddle(FUNCTION, label_smoothing=factor)
    assert config.attributes["label_smoothing"] == 0


def test_the_name_is_that_of_the_node() -> None:
    model = onnxloss.export(from_paddle(LAYER, name="classes"), logits=(2, 3))
    assert model.graph.node[0].name == "classes"
