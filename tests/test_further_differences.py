# SPDX-License-Identifier: MIT
"""What docs/differences.md says of ours in words; the frameworks' side is in tests/frameworks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import onnxloss
from onnxloss import LossError
from onnxloss.onnxscript_defs import CATALOGUE
from tests.differences.further import FURTHER
from tests.runtime import run_model

PADDLE = "paddle.nn.functional.cross_entropy"
WITH_SOFTMAX = "paddle.nn.functional.softmax_with_cross_entropy"
TF_SAMPLED = "tf.nn.sampled_softmax_loss"
SAMPLED = "paddle.fluid.layers.sampled_softmax_with_cross_entropy"
WEIGHTS = np.array([0.5, 2.0, 1.0])


@pytest.mark.parametrize(
    "name", [name for made in FURTHER.values() for entry in made for name in entry.tests]
)
def test_each_statement_has_its_tests(name: str) -> None:
    tests = Path(__file__).parent.rglob("test_*.py")
    assert any(re.search(rf"^def {name}\(", path.read_text(), re.M) for path in tests)


def test_floating_labels_are_refused() -> None:
    with pytest.raises(LossError, match='label_dtype is "float32"; expected int64'):
        onnxloss.export(onnxloss.from_paddle(PADDLE), logits=("N", 3), label_dtype="float32")


def test_flat_labels_are_refused() -> None:
    config = onnxloss.from_paddle(WITH_SOFTMAX)
    with pytest.raises(LossError, match=r"shape of labels is \[N\]; expected \[N, 1\]"):
        onnxloss.export(config, logits=("N", 3), labels=("N",))


def test_the_widest_dtype_is_the_losses() -> None:
    unbatched = onnxloss.from_paddle(PADDLE, weight=WEIGHTS)
    soft = onnxloss.from_paddle(PADDLE, weight=WEIGHTS.astype(np.float32), soft_label=True)
    for model in (
        onnxloss.export(unbatched, logits=(3,)),
        onnxloss.export(soft, logits=("N", 3), dtype="float64"),
    ):
        assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE


def test_large_labels_stay_integers() -> None:
    label = 2**24 + 1
    config = onnxloss.from_tf("keras.losses.SparseCategoricalCrossentropy", from_logits=True)
    logits = np.zeros((1, label + 1), np.float32)
    logits[0, label] = 25
    feeds = {"logits": logits, "labels": np.array([label])}
    model = onnxloss.export(config, logits=logits.shape)
    assert run_model(model, feeds, library=True)["loss"] < 0.001


def test_weights_that_cancel_give_nan() -> None:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", weight=[1, 2, -1])
    feeds = {"logits": np.float32([[1, 2, 3], [0.5, -1, 0.25]]), "labels": np.array([2, 0])}
    for library in (False, True):
        model = onnxloss.export(config, logits=(2, 3))
        assert np.isnan(run_model(model, feeds, library=library)["loss"])


def test_a_mean_without_weight_keeps_nan() -> None:
    config = onnxloss.from_tf("tf.compat.v1.losses.softmax_cross_entropy")
    model = onnxloss.export(config, logits=(1, 2), sample_weights=(1,))
    feeds = {
        "logits": np.array([[np.nan, 1]], np.float32),
        "labels": np.array([[1, 0]], np.float32),
        "sample_weights": np.zeros(1, np.float32),
    }
    for library in (False, True):
        assert np.isnan(run_model(model, feeds, library=library)["loss"])


def test_labels_of_0_switch_nan_off() -> None:
    config = onnxloss.from_tf("keras.losses.CategoricalCrossentropy")
    model = onnxloss.export(config, logits=(1, 3))
    feeds = {"logits": np.zeros((1, 3), np.float32), "labels": np.zeros((1, 3), np.float32)}
    for library in (False, True):
        assert run_model(model, feeds, library=library)["loss"] == 0


def test_infinite_weights_are_infinite_or_nan() -> None:
    config = onnxloss.from_paddle(PADDLE, weight=np.float32([1, 1, np.inf]), reduction="sum")
    model = onnxloss.export(config, logits=(1, 3))
    feeds = {"logits": np.array([[1, 2, 3]], np.float32), "labels": np.array([2])}
    assert run_model(model, feeds, library=False)["loss"] == np.inf
    assert not np.isfinite(run_model(model, feeds, library=True)["loss"])


def test_infinite_sample_weights_give_infinity_or_nan() -> None:
    config = onnxloss.from_tf("keras.losses.SparseCategoricalCrossentropy", from_logits=True)
    model = onnxloss.export(config, logits=(1, 3), sample_weights=(1,), gradient=True)
    feeds = {
        "logits": np.array([[1, 2, 3]], np.float32),
        "labels": np.array([2]),
        "sample_weights": np.array([np.inf], np.float32),
        "dloss": np.ones((), np.float32),
    }
    for library, at_the_label in ((False, -np.inf), (True, np.nan)):
        gradient = run_model(model, feeds, library=library)["dlogits"]
        np.testing.assert_array_equal(gradient, [[np.inf, np.inf, at_the_label]])


def test_no_classes_are_refused() -> None:
    soft = onnxloss.from_torch("torch.nn.functional.cross_entropy", target="probabilities")
    for config in (soft, onnxloss.from_paddle(PADDLE)):
        with pytest.raises(LossError, match=r"shape of logits is \[N, 0\]; expected \[N, C\]"):
            onnxloss.export(config, logits=("N", 0))


def test_all_copies_of_a_hit_are_removed() -> None:
    settings = {"num_sampled": 3, "num_classes": 4, "sampled_values": "inputs"}
    model = onnxloss.export(onnxloss.from_tf(TF_SAMPLED, **settings), logits=(1, 4))
    feeds = {
        "logits": np.zeros((1, 4), np.float32),
        "labels": np.array([[1]]),
        "samples": np.array([1, 2, 1]),
        "probabilities": np.ones((1, 4), np.float32),
    }
    for library in (False, True):
        loss = run_model(model, feeds, library=library)["loss"]
        np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)


def test_gradients_are_of_logits_and_labels() -> None:
    for spec in CATALOGUE:
        gradients = {port.name for op in spec.ops for port in op.outputs if port.name[0] == "d"}
        assert gradients <= {"dlogits", "dlabels", "drawn_samples", "drawn_probabilities"}


def test_the_body_draws_other_samples() -> None:
    config = onnxloss.from_paddle(SAMPLED, num_samples=20, seed=7)
    model = onnxloss.export(config, logits=(1, 1000), outputs=("loss", "drawn_samples"))
    feeds = {"logits": np.zeros((1, 1000), np.float32), "labels": np.array([[3]])}
    body, kernel = (run_model(model, feeds, library=on)["drawn_samples"] for on in (False, True))
    assert set(body.tolist()) != set(kernel.tolist())


def test_probabilities_of_16_bit_logits_are_float32() -> None:
    config = onnxloss.from_paddle(SAMPLED, num_samples=1, use_customized_samples=True)
    model = onnxloss.export(config, logits=("N", 3), dtype="float16")
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert types["probabilities"] == TensorProto.FLOAT
