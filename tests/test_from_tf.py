# SPDX-License-Identifier: MIT
"""from_tf without TensorFlow: every setting, the shapes of weights, and dtypes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxloss
from onnxloss.dtypes import FLOAT_DTYPES
from onnxloss.from_tf import SETTINGS
from tests.runtime import RUNTIME_ERRORS, WAYS, run_model

V1 = "tf.compat.v1.losses.softmax_cross_entropy"
DENSE = "tf.nn.softmax_cross_entropy_with_logits"
SPARSE = "tf.nn.sparse_softmax_cross_entropy_with_logits"
CC = "keras.losses.CategoricalCrossentropy"
SCC = "keras.losses.SparseCategoricalCrossentropy"

RNG = np.random.default_rng(5)
LOGITS = RNG.standard_normal((2, 4, 3)).astype(np.float32)
ONE_HOT = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, (2, 4))]
# The examples of Keras's documentation.
Y_TRUE = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
Y_PRED = np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]], np.float32)
WEIGHTS = np.array([0.3, 0.7], np.float32)


def losses_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return -(labels * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def loss_of(
    config: onnxloss.LossConfig,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    model = onnxloss.export(
        config,
        logits=logits.shape,
        labels=labels.shape,
        sample_weights=None if weights is None else weights.shape,
        dtype=logits.dtype.name,
        label_dtype=labels.dtype.name,
    )
    feeds = {"logits": logits, "labels": labels}
    return run_model(model, feeds | ({} if weights is None else {"sample_weights": weights}))[
        "loss"
    ]


def test_the_documentation_s_example() -> None:
    for given in ({"weights": WEIGHTS}, {}):
        config = onnxloss.from_tf(V1, label_smoothing=0.2, **given)
        loss = loss_of(config, Y_PRED, Y_TRUE, None if given else WEIGHTS)
        np.testing.assert_allclose(loss, 0.57618, atol=5e-6)


@pytest.mark.parametrize("name", (CC, SCC, f"tf.{CC}", f"tensorflow.{SCC}"))
def test_the_examples_of_keras(name: str) -> None:
    labels = Y_TRUE if "Sparse" not in name else np.array([1, 2])
    examples = (
        ({}, None, 1.177),
        ({}, WEIGHTS, 0.814),
        ({"reduction": "sum"}, None, 2.354),
        ({"reduction": None}, None, [0.0513, 2.303]),
    )
    for settings, weights, expected in examples:
        loss = loss_of(onnxloss.from_tf(name, **settings), Y_PRED, labels, weights)
        if "Sparse" not in name:
            np.testing.assert_allclose(loss, expected, atol=5e-4)
        # The sparse loss normalises the clipped log anew: the same, these rows add up to 1.
        np.testing.assert_allclose(loss, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("factor", "taken"), ((0.3, 0.3), (1.5, 1.5), (-0.2, 0.0), (float("nan"), 0.0))
)
def test_smoothing_of_v1(factor: float, taken: float) -> None:
    """Applied where it is above 0, as it is."""
    loss = loss_of(onnxloss.from_tf(V1, label_smoothing=factor, reduction="none"), LOGITS, ONE_HOT)
    expected = losses_of(LOGITS, ONE_HOT * (1 - taken) + taken / 3)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", (0.3, 1.5, -0.2))
@pytest.mark.parametrize("axis", (-1, 2, 1))
def test_smoothing_of_keras_divides_by_the_last_axis(factor: float, axis: int) -> None:
    config = onnxloss.from_tf(
        CC, from_logits=True, label_smoothing=factor, reduction="none", axis=axis
    )
    labels = ONE_HOT * (1 - factor) + factor / 3
    moved = np.moveaxis(LOGITS, axis, -1), np.moveaxis(labels, axis, -1)
    np.testing.assert_allclose(loss_of(config, LOGITS, ONE_HOT), losses_of(*moved), rtol=1e-5)


V1_MEANS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": lambda losses, w: losses * w,
    "weighted_sum": lambda losses, w: (losses * w).sum(),
    "weighted_mean": lambda losses, w: (losses * w).sum() / w.sum(),
    "weighted_sum_over_batch_size": lambda losses, w: (losses * w).sum() / w.size,
    "weighted_sum_by_nonzero_weights": lambda losses, w: (losses * w).sum() / (w != 0).sum(),
}


@pytest.mark.parametrize("reduction", V1_MEANS)
@pytest.mark.parametrize("shape", ((), (2, 4), (2, 1), (1, 4), (1, 1)))
@pytest.mark.parametrize("constant", (False, True))
def test_weights_of_v1(reduction: str, shape: tuple[int, ...], constant: bool) -> None:
    weights = np.asarray(np.random.default_rng(3).integers(0, 3, shape), np.float32)
    weights.flat[0] = 2
    settings = {"weights": weights} if constant else {}
    config = onnxloss.from_tf(V1, reduction=reduction, **settings)
    loss = loss_of(config, LOGITS, ONE_HOT, None if constant else weights)
    whole = np.broadcast_to(weights, (2, 4))
    expected = V1_MEANS[reduction](losses_of(LOGITS, ONE_HOT), whole)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("weights", (0, 0.5, 3))
def test_a_number_for_weights(weights: float) -> None:
    expected = losses_of(LOGITS, ONE_HOT).mean() * weights
    loss = loss_of(onnxloss.from_tf(V1, weights=weights), LOGITS, ONE_HOT)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "total"),
    (((), 2.0), ((2, 4), 16.0), ((2, 1), 4.0), ((4,), 8.0), ((1,), 2.0), ((2, 4, 1), 16.0)),
)
def test_a_mean_with_sample_weight_divides_by_the_weights_as_given(
    shape: tuple[int, ...], total: float
) -> None:
    config = onnxloss.from_tf(CC, from_logits=True, reduction="mean_with_sample_weight")
    loss = loss_of(config, LOGITS, ONE_HOT, np.full(shape, 2, np.float32))
    np.testing.assert_allclose(loss, 2 * losses_of(LOGITS, ONE_HOT).sum() / total, rtol=1e-5)


def test_a_mean_with_sample_weight_and_an_ignored_class() -> None:
    """Divides by the weights of the positions that count, broadcast."""
    config = onnxloss.from_tf(
        SCC, from_logits=True, reduction="mean_with_sample_weight", ignore_class=0
    )
    labels = ONE_HOT.argmax(-1)
    weights = np.array([[0.5], [2]], np.float32)
    counted = weights * (labels != 0)
    expected = (losses_of(LOGITS, ONE_HOT) * counted).sum() / counted.sum()
    np.testing.assert_allclose(loss_of(config, LOGITS, labels, weights), expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ("none", "sum", "mean", "mean_with_sample_weight"))
def test_no_position_of_keras_is_not_reduced(reduction: str) -> None:
    config = onnxloss.from_tf(CC, from_logits=True, reduction=reduction)
    empty = np.zeros((0, 3), np.float32)
    assert loss_of(config, empty, empty).shape == (0,)
    whole = np.zeros((0, 4, 3), np.float32)
    assert loss_of(config, whole, whole).shape == ((0, 4) if reduction == "none" else ())


@pytest.mark.parametrize(
    ("api", "settings", "reduced"),
    (
        (V1, {}, losses_of(LOGITS[0], ONE_HOT[0]).mean()),
        (CC, {"from_logits": True}, losses_of(LOGITS[0], ONE_HOT[0]).mean()),
    ),
)
def test_any_number_of_positions(api: str, settings: dict[str, Any], reduced: float) -> None:
    model = onnxloss.export(
        onnxloss.from_tf(api, **settings),
        logits=("N", 3),
        sample_weights=("N",),
        gradient=True,
    )
    for count, expected in ((4, reduced), (0, 0.0)):
        logits, labels = LOGITS[0][:count], ONE_HOT[0][:count]
        weights, dloss = np.ones(count, np.float32), np.ones((), np.float32)
        feeds = {"logits": logits, "labels": labels, "sample_weights": weights, "dloss": dloss}
        outputs = run_model(model, feeds)
        np.testing.assert_allclose(outputs["loss"], expected, rtol=1e-5)
        assert outputs["dlogits"].shape == (count, 3)


def test_weights_with_an_axis_more_give_losses_with_it() -> None:
    config = onnxloss.from_tf(CC, from_logits=True, reduction=None)
    loss = loss_of(config, LOGITS[0], ONE_HOT[0], np.full((4, 1), 2, np.float32))
    np.testing.assert_allclose(loss[:, 0], 2 * losses_of(LOGITS[0], ONE_HOT[0]), rtol=1e-5)
    assert loss.shape == (4, 1)


def test_labels_of_any_dtype() -> None:
    sparse = onnxloss.from_tf(SCC, from_logits=True, reduction=None)
    index = ONE_HOT.argmax(-1)
    expected = losses_of(LOGITS, ONE_HOT)
    # A float label loses its fraction.
    for labels in (index, index.astype(np.uint8), index + np.float32(0.7), index[..., None]):
        np.testing.assert_allclose(loss_of(sparse, LOGITS, labels), expected, rtol=1e-5)
    for api in (V1, DENSE, CC):
        settings = {} if api == DENSE else {"reduction": "none"}
        settings |= {"from_logits": True} if api == CC else {}
        for dtype in (np.int32, np.int64, np.float64, np.float16):
            loss = loss_of(onnxloss.from_tf(api, **settings), LOGITS, ONE_HOT.astype(dtype))
            np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
@pytest.mark.parametrize("way", WAYS)
def test_an_ignored_class_is_compared_before_a_label_loses_its_fraction(
    dtype: str, way: str
) -> None:
    config = onnxloss.from_tf(SCC, from_logits=True, ignore_class=1, reduction="none")
    given = np.array([1.75, 1, 0, 2.5, -0.5]).astype(FLOAT_DTYPES[dtype])
    model = onnxloss.export(
        config, logits=(5, 3), label_dtype=dtype, gradient=True, inline=way == "inlined"
    )
    logits = LOGITS.reshape(-1, 3)[:5]
    feeds = {"logits": logits, "labels": given, "dloss": np.ones(5, np.float32)}
    outputs = run_model(model, feeds, library=way == "library")
    expected = losses_of(logits, np.eye(3)[[1, 1, 0, 2, 0]])
    expected[1] = 0
    np.testing.assert_allclose(outputs["loss"], expected, rtol=1e-5)
    assert list(np.abs(outputs["dlogits"]).sum(-1) == 0) == [False, True, False, False, False]


@pytest.mark.parametrize("ignored", (-1, 255, 2**63 - 1))
def test_a_float_label_that_only_becomes_what_is_ignored_is_refused(ignored: int) -> None:
    config = onnxloss.from_tf(SCC, from_logits=True, ignore_class=ignored, reduction="none")
    whole = np.array([ignored], np.float32)
    assert loss_of(config, LOGITS[0, :1], whole) == 0
    with pytest.raises(RUNTIME_ERRORS):
        loss_of(config, LOGITS[0, :1], np.nextafter(whole, np.float32(-np.inf)))


DTYPES = (
    (V1, {}, "float16", TensorProto.FLOAT16),
    (DENSE, {}, "bfloat16", TensorProto.BFLOAT16),
    (SPARSE, {}, "float64", TensorProto.DOUBLE),
    (CC, {"from_logits": True}, "float16", TensorProto.FLOAT),
    (SCC, {"from_logits": True}, "bfloat16", TensorProto.FLOAT),
    (CC, {}, "float64", TensorProto.DOUBLE),
    (CC, {"from_logits": True, "dtype": "float64"}, "float32", TensorProto.DOUBLE),
    (CC, {"from_logits": True, "dtype": "float16"}, "float16", TensorProto.FLOAT16),
    (CC, {"dtype": "mixed_float16"}, "float16", TensorProto.FLOAT16),
    ("keras.losses.categorical_crossentropy", {"from_logits": True}, "float16", 10),
    ("keras.losses.sparse_categorical_crossentropy", {}, "float16", TensorProto.FLOAT16),
)


@pytest.mark.parametrize(("api", "settings", "dtype", "expected"), DTYPES)
def test_the_dtype_of_the_loss(
    api: str, settings: dict[str, Any], dtype: str, expected: int
) -> None:
    """The logits', or Keras's own where that is wider."""
    model = onnxloss.export(
        onnxloss.from_tf(api, **settings), logits=(2, 3), dtype=dtype, gradient=True
    )
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert types["loss"] == expected
    given = next(value for value in model.graph.input if value.name == "logits")
    assert types["dlogits"] == given.type.tensor_type.elem_type


def test_probabilities_that_add_up_to_0_have_no_loss() -> None:
    zeros = np.zeros((1, 3), np.float32)
    assert np.isnan(loss_of(onnxloss.from_tf(CC), zeros, Y_TRUE[:1]))
    # The sparse loss clips first: every class is as likely.
    np.testing.assert_allclose(
        loss_of(onnxloss.from_tf(SCC), zeros, np.array([1])), np.log(3), rtol=1e-6
    )


def test_scope_and_collection_are_recorded() -> None:
    model = onnxloss.export(
        onnxloss.from_tf(V1, scope="auxiliary", loss_collection="mine"), logits=(2, 3)
    )
    assert [node.name for node in model.graph.node if node.domain == "onnxloss"] == ["auxiliary"]
    described = json.loads({p.key: p.value for p in model.metadata_props}["onnxloss.loss"])
    assert described["source"] == V1
    assert described["loss_collection"] == "mine"
    assert onnxloss.from_tf(V1).notes == {"loss_collection": "losses"}


def test_a_keras_name_is_the_node_s() -> None:
    model = onnxloss.export(onnxloss.from_tf(SCC, name="segmentation"), logits=(2, 3))
    assert "segmentation" in {node.name for node in model.graph.node}


def test_sample_weights_behind_a_model() -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["scores"])],
            "forward",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3))],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("N", 3))],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    config = onnxloss.from_tf(CC, from_logits=True, reduction="mean_with_sample_weight")
    trained = onnxloss.append_to(model, config, sample_weights="weights")
    weights = np.array([1, 2, 0, 1], np.float32)
    feeds = {"x": LOGITS[0], "labels": ONE_HOT[0], "weights": weights}
    expected = (losses_of(LOGITS[0], ONE_HOT[0]) * weights).sum() / weights.sum()
    np.testing.assert_allclose(run_model(trained, feeds)["loss"], expected, rtol=1e-5)
    with pytest.raises(onnxloss.LossError, match="sample_weights"):
        onnxloss.append_to(model, config, sample_weights="scores")
    with pytest.raises(onnxloss.LossError, match="sample_weights"):
        onnxloss.append_to(model, onnxloss.from_tf(SPARSE), sample_weights="weights")


def test_every_setting_has_an_effect_or_a_record() -> None:
    """No setting is dropped: another value than the default makes another configuration."""
    others: dict[str, Any] = {
        "weights": 2.0,
        "label_smoothing": 0.3,
        "scope": "a",
        "loss_collection": "mine",
        "reduction": "none",
        "axis": 1,
        "name": "a",
        "from_logits": True,
        "dtype": "float64",
        "ignore_class": 1,
    }
    for api, settings in SETTINGS.items():
        plain = vars(onnxloss.from_tf(api))
        for name in settings:
            changed = vars(onnxloss.from_tf(api, **{name: others[name]}))
            different = [key for key in plain if not np.array_equal(plain[key], changed[key])]
            assert different, f"{api} {name}"
