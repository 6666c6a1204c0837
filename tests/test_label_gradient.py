# SPDX-License-Identifier: MIT
"""The gradient by label probabilities: what it is, and which losses have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxloss
from onnxloss.onnxscript_defs import find as find_spec
from tests import reference
from tests.models import node_attributes, raw_model
from tests.one_node import message_of
from tests.runs import both_ways
from tests.runtime import make_session, run_model

SOFT = find_spec("SoftLabelCrossEntropyLoss")
CATEGORICAL = "keras.losses.CategoricalCrossentropy"


def inputs(shape: tuple[int, ...] = (4, 5)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "logits": rng.standard_normal(shape),
        "labels": rng.dirichlet(np.ones(shape[-1]), shape[:-1]),
        "dloss": np.asarray(1.5),
    }


def run(config: onnxloss.LossConfig, arrays: dict[str, np.ndarray], **how: Any) -> dict[str, Any]:
    library = how.pop("library")
    weights = arrays.get("sample_weights")
    model = onnxloss.export(
        config,
        logits=arrays["logits"].shape,
        labels=arrays["labels"].shape,
        sample_weights=None if weights is None else weights.shape,
        dtype=arrays["logits"].dtype.name,
        label_dtype=arrays["labels"].dtype.name,
        gradient=True,
        outputs=("loss", "dlabels"),
    )
    assert [output.name for output in model.graph.output] == ["loss", "dlogits", "dlabels"]
    return run_model(model, arrays, library=library)


@both_ways
@pytest.mark.parametrize(
    "config",
    [
        onnxloss.from_torch(
            "torch.nn.CrossEntropyLoss",
            target="probabilities",
            weight=np.linspace(0.5, 2, 5),
            label_smoothing=0.1,
        ),
        onnxloss.from_tf(CATEGORICAL, from_logits=True, label_smoothing=0.1, dtype="float64"),
        # The factor is beyond the attribute's range: nodes smooth the labels.
        onnxloss.from_tf(CATEGORICAL, from_logits=True, label_smoothing=1.5, dtype="float64"),
        onnxloss.from_tf(CATEGORICAL, dtype="float64"),
        onnxloss.LossConfig(
            SOFT.name, {"z_loss": 0.25, "logit_softcap": 3.0, "mean_over": "weights"}
        ),
    ],
    ids=["torch", "keras", "keras beyond 1", "keras probabilities", "softcap"],
)
def test_it_is_the_losses_derivative(config: onnxloss.LossConfig, library: bool) -> None:
    arrays = inputs()
    if config.attributes["from_logits"] == 0:
        arrays["logits"] = np.random.default_rng(6).dirichlet(np.ones(5), 4)
    gradient = run(config, arrays, library=library)["dlabels"]
    step, differences = 1e-6, np.zeros((4, 5))
    for place in np.ndindex(4, 5):
        losses = []
        for sign in (1, -1):
            labels = arrays["labels"].copy()
            labels[place] += sign * step
            losses.append(run(config, {**arrays, "labels": labels}, library=library)["loss"])
        differences[place] = 1.5 * (losses[0] - losses[1]) / (2 * step)
    np.testing.assert_allclose(gradient, differences, rtol=1e-7, atol=1e-9)


@both_ways
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_labels_of_another_dtype_get_their_gradient_in_it(dtype: str, library: bool) -> None:
    """As in PyTorch, where probabilities promote."""
    arrays = inputs()
    arrays["logits"] = arrays["logits"].astype(np.float32)
    arrays["labels"] = arrays["labels"].astype(dtype)
    arrays["dloss"] = arrays["dloss"].astype("float64" if dtype == "float64" else "float32")
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", target="probabilities")
    outputs = run(config, arrays, library=library)
    truth = reference.label_gradient(arrays["logits"], arrays["dloss"])
    assert outputs["dlabels"].dtype == dtype
    rtol = 2 * np.finfo(dtype).eps if dtype == "float16" else 1e-6
    np.testing.assert_allclose(outputs["dlabels"], truth, rtol=rtol)


@both_ways
def test_append_to_gives_it_behind_a_forward_model(library: bool) -> None:
    arrays = inputs()
    forward = onnxloss.export(
        onnxloss.from_torch("torch.nn.CrossEntropyLoss"),
        logits=(4, 5),
        dtype="float64",
        outputs=("loss", "log_prob"),
    )
    model = onnxloss.append_to(
        forward,
        onnxloss.from_torch("torch.nn.CrossEntropyLoss", target="probabilities"),
        logits="log_prob",
        labels="teacher",
        loss="distilled",
        gradient=True,
        outputs=("loss", "lse", "dlabels"),
    )
    feeds = {"logits": arrays["logits"], "labels": np.arange(4), "teacher": arrays["labels"]}
    outputs = run_model(model, {**feeds, "dloss": arrays["dloss"]}, library=library)
    truth = reference.label_gradient(arrays["logits"], arrays["dloss"])
    np.testing.assert_allclose(outputs["distilled.dlabels"], truth, rtol=1e-12)
    np.testing.assert_allclose(outputs["distilled.lse"], 0, atol=1e-15)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            onnxloss.from_paddle("paddle.nn.CrossEntropyLoss", soft_label=True),
            "no dlabels: Paddle computes no gradient",
        ),
        (
            onnxloss.from_paddle(
                "paddle.nn.functional.softmax_with_cross_entropy", soft_label=True
            ),
            "no dlabels: Paddle computes no gradient",
        ),
        (
            onnxloss.from_tf("tf.compat.v1.losses.softmax_cross_entropy"),
            "no dlabels: tf.compat.v1.losses stops the gradient",
        ),
        (
            onnxloss.LossConfig(SOFT.name, {"class_weighting": "position"}),
            "no dlabels: class weights weigh whole positions",
        ),
        (onnxloss.from_torch("torch.nn.CrossEntropyLoss"), "loss, then lse, log_prob"),
    ],
    ids=["paddle", "paddle's other", "tf v1", "position", "indices"],
)
def test_losses_without_it_refuse(config: onnxloss.LossConfig, reason: str) -> None:
    with pytest.raises(onnxloss.LossError, match=reason):
        onnxloss.export(config, logits=("N", 5), gradient=True, outputs=("loss", "dlabels"))


def test_it_is_refused_without_a_gradient_and_for_integer_labels() -> None:
    config = onnxloss.from_tf("tf.nn.softmax_cross_entropy_with_logits")
    with pytest.raises(onnxloss.LossError, match="expected loss, then lse"):
        onnxloss.export(config, logits=("N", 5), outputs=("loss", "dlabels"))
    with pytest.raises(onnxloss.LossError, match="no dlabels: labels are int32"):
        onnxloss.export(
            config,
            logits=("N", 5),
            label_dtype="int32",
            gradient=True,
            outputs=("loss", "dlabels"),
        )


@pytest.mark.parametrize("op", [SOFT.grad, SOFT.loss_and_grad], ids=lambda op: op.name)
def test_position_weights_are_an_error_of_the_kernel_and_nan_of_the_function(op: Any) -> None:
    arrays = {name: array.astype(np.float32) for name, array in inputs().items()}
    attributes = node_attributes(SOFT, "float32", {"class_weighting": "position"})
    model = raw_model(SOFT, (op,), attributes, arrays, (), ["dlabels"])
    assert np.isnan(run_model(model, arrays)["dlabels"]).all()
    message = message_of(lambda: make_session(model, library=True).run(None, arrays))
    assert f"{op.name}: class_weighting is position; expected class" in message
