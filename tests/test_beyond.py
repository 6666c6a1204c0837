# SPDX-License-Identifier: MIT
"""z_loss and logit_softcap, which no framework has, as settings of each door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxloss
from tests import reference
from tests.runs import both_ways
from tests.runtime import run_model

BEYOND = {"z_loss": 0.125, "logit_softcap": 8.0}
SAMPLED = "tf.nn.sampled_softmax_loss"
DOORS = {
    "torch": (onnxloss.from_torch, "torch.nn.CrossEntropyLoss", {"label_smoothing": 0.1}),
    "torch soft": (
        onnxloss.from_torch,
        "torch.nn.functional.cross_entropy",
        {"target": "probabilities"},
    ),
    "paddle": (onnxloss.from_paddle, "paddle.nn.CrossEntropyLoss", {}),
    "paddle soft": (onnxloss.from_paddle, "paddle.nn.CrossEntropyLoss", {"soft_label": True}),
    "tf": (onnxloss.from_tf, "tf.nn.sparse_softmax_cross_entropy_with_logits", {}),
    "tf v1": (onnxloss.from_tf, "tf.compat.v1.losses.softmax_cross_entropy", {}),
    "keras": (onnxloss.from_tf, "keras.losses.CategoricalCrossentropy", {"from_logits": True}),
    "tf sampled": (onnxloss.from_tf, SAMPLED, {"num_sampled": 3, "num_classes": 5}),
    "paddle sampled": (
        onnxloss.from_paddle,
        "paddle.fluid.layers.sampled_softmax_with_cross_entropy",
        {"num_samples": 3},
    ),
    "onnx": (onnxloss.from_onnx, "SoftmaxCrossEntropyLoss", {}),
}
every_door = pytest.mark.parametrize("door", DOORS)


def config_of(door: str, **settings: Any) -> onnxloss.LossConfig:
    function, api, given = DOORS[door]
    return function(api, **given, **settings)


@every_door
def test_they_become_attributes_and_change_nothing_else(door: str) -> None:
    plain, config = config_of(door), config_of(door, **BEYOND)
    assert dict(config.attributes) == {**plain.attributes, **BEYOND}
    for name in vars(plain):
        if name not in ("attributes", "other_labels"):
            assert getattr(plain, name) == getattr(config, name)


@both_ways
@pytest.mark.parametrize("door", ["torch", "paddle", "tf", "onnx"])
def test_the_loss_has_them(door: str, library: bool) -> None:
    rng = np.random.default_rng(2)
    config = config_of(door, **BEYOND)
    feeds = {"logits": 4 * rng.standard_normal((6, 5)), "labels": rng.integers(0, 5, 6)}
    model = onnxloss.export(config, logits=(6, 5), dtype="float64", outputs=("loss", "lse"))
    outputs = run_model(model, feeds, library=library)
    loss, _ = reference.softmax_cross_entropy_loss(*feeds.values(), **config.attributes)
    np.testing.assert_allclose(outputs["loss"], loss, rtol=1e-12)
    lse = reference.lse(feeds["logits"], logit_softcap=8.0)
    np.testing.assert_allclose(outputs["lse"], lse, rtol=1e-12)


def test_labels_of_the_other_kind_have_them_too() -> None:
    """Paddle's smoothing takes indices and probabilities alike."""
    config = onnxloss.from_paddle("paddle.nn.CrossEntropyLoss", label_smoothing=0.1, **BEYOND)
    assert config.other_labels is not None
    for each in (config, config.other_labels):
        assert BEYOND.items() <= each.attributes.items()


@pytest.mark.parametrize(
    "door",
    [
        lambda **beyond: onnxloss.from_paddle(
            "paddle.nn.CrossEntropyLoss", use_softmax=False, **beyond
        ),
        lambda **beyond: onnxloss.from_tf("keras.losses.CategoricalCrossentropy", **beyond),
        lambda **beyond: onnxloss.from_tf("keras.losses.SparseCategoricalCrossentropy", **beyond),
    ],
    ids=["use_softmax", "from_logits", "from_logits sparse"],
)
@pytest.mark.parametrize("name", BEYOND)
def test_probabilities_refuse_them(door: Any, name: str) -> None:
    with pytest.raises(onnxloss.LossError, match=f"{name} is .*; expected 0: its inputs are prob"):
        door(**{name: 0.5})
    assert door(**{name: 0.0}).attributes[name] == 0


@every_door
@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1"], ids=str)
def test_values_out_of_range_are_refused(door: str, name: str, value: Any) -> None:
    with pytest.raises(onnxloss.LossError, match=f"{name} is .*; expected a number in"):
        config_of(door, **{name: value})
