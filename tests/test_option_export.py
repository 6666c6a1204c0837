# SPDX-License-Identifier: MIT
"""Sample weights, lse and the further attributes through LossConfig and export."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxloss
from onnxloss.onnxscript_defs import DOMAIN
from onnxloss.onnxscript_defs import find as find_spec
from tests import reference
from tests.cases import DTYPES, HARD, OPS
from tests.runs import both_losses, both_ways, make_inputs, reference_of
from tests.runtime import make_session, numpy_dtype, run_model, run_session


def weighted_model(loss: str = HARD, **settings: Any) -> onnx.ModelProto:
    """A loss that takes sample weights."""
    config = onnxloss.LossConfig(OPS[loss], settings.pop("attributes", {}), sample_weights=True)
    return onnxloss.export(
        config, **{"logits": ("N", 5), "sample_weights": ("N",), "gradient": True, **settings}
    )


def ports_of(values: Any) -> dict[str, tuple[np.dtype, tuple[int | str, ...]]]:
    return {
        value.name: (
            numpy_dtype(value.type.tensor_type.elem_type),
            tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    }


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "loss and gradient"])
def test_ports(loss: str, dtype: str, gradient: bool) -> None:
    """Weights have the loss's dtype, which is the logits'; lse is S."""
    model = weighted_model(loss, dtype=dtype, gradient=gradient, outputs=("loss", "lse"))
    given, stash = DTYPES[dtype], DTYPES["float64" if dtype == "float64" else "float32"]
    inputs = ports_of(model.graph.input)
    assert list(inputs) == ["logits", "labels", "sample_weights", *["dloss"] * gradient]
    assert inputs["sample_weights"] == (given, ("N",))
    outputs = ports_of(model.graph.output)
    assert outputs.pop("dlogits", None) == ((given, ("N", 5)) if gradient else None)
    assert outputs == {"loss": (given, ()), "lse": (stash, ("N",))}


@both_losses
def test_class_weights_are_left_out_in_the_middle(loss: str) -> None:
    (node,) = (node for node in weighted_model(loss).graph.node if node.domain == DOMAIN)
    assert node.input[-1] == "sample_weights" and node.input[-2] == ""
    spec = find_spec(OPS[loss])
    assert len(node.input) == len(spec.loss_and_grad.inputs)
    assert {entry.name for entry in node.attribute} == {entry.name for entry in spec.attributes}


@both_losses
def test_what_is_not_asked_for_is_not_there(loss: str) -> None:
    model = onnxloss.export(
        onnxloss.LossConfig(OPS[loss], sample_weights=True), logits=("N", 5), gradient=True
    )
    (node,) = (node for node in model.graph.node if node.domain == DOMAIN)
    assert list(node.input) == ["dloss", "logits", "labels"]
    assert list(node.output) == ["loss", "dlogits"]


@both_ways
@pytest.mark.parametrize("shape", [(), (1, 1), (4, 1), (1, 3), (4, 3)], ids=str)
def test_sample_weights_broadcast_to_the_positions(shape: tuple[int, ...], library: bool) -> None:
    rng = np.random.default_rng(3)
    feeds = {
        "logits": rng.standard_normal((4, 5, 3)).astype(np.float32),
        "labels": rng.integers(0, 5, (4, 3)),
        "dloss": np.asarray(1.5, np.float32),
        "sample_weights": np.asarray(rng.uniform(0.5, 2.0, shape), np.float32),
    }
    model = weighted_model(logits=(4, 5, 3), sample_weights=shape)
    outputs = run_model(model, feeds, library=library)
    whole = {**feeds, "sample_weights": np.broadcast_to(feeds["sample_weights"], (4, 3))}
    for name, truth in reference_of(HARD, whole).items():
        np.testing.assert_allclose(outputs[name], truth, rtol=1e-6, atol=1e-6)


@both_ways
@both_losses
def test_dynamic_dimensions_with_every_port(loss: str, library: bool) -> None:
    attributes = {"mean_over": "nonzero", "empty_mean": "zero", "z_loss": 0.125}
    model = weighted_model(loss, logits=("N", "C"), attributes=attributes, outputs=("loss", "lse"))
    session = make_session(model, library=library)
    for shape in ((4, 5), (7, 3), (0, 5), (1, 1)):
        arrays = make_inputs(loss, shape)
        arrays["sample_weights"] = np.resize(np.float32([0.5, 0, 2]), shape[0])
        truth = reference_of(loss, arrays, **attributes)
        truth["lse"] = reference.lse(arrays["logits"])
        for name, values in run_session(session, arrays).items():
            np.testing.assert_allclose(values, truth[name], rtol=2e-6, atol=1e-6)


@both_ways
def test_constant_sample_weights(library: bool) -> None:
    """An array in the configuration is no input."""
    arrays = make_inputs(HARD, (4, 5))
    weights = np.array([0.5, 1.0, 0.0, 2.0])
    config = onnxloss.LossConfig(OPS[HARD], sample_weights=weights)
    model = onnxloss.export(config, logits=(4, 5), gradient=True)
    assert "sample_weights" not in ports_of(model.graph.input)
    truth = reference_of(HARD, {**arrays, "sample_weights": weights})
    for name, values in run_model(model, arrays, library=library).items():
        np.testing.assert_allclose(values, truth[name], rtol=1e-6, atol=1e-6)


@both_losses
@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 5)], ids=str)
def test_sample_weights_of_another_shape(loss: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(onnxloss.LossError) as caught:
        weighted_model(loss, logits=(4, 5), sample_weights=shape)
    assert f"shape of sample_weights is [{', '.join(map(str, shape))}]" in str(caught.value)
    assert "[4]" in str(caught.value)


@both_losses
@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("mean_over", "batch", '"batch"'),
        ("mean_over", None, "None"),
        ("empty_mean", "one", '"one"'),
        ("class_weighting", "Class", '"Class"'),
        ("from_logits", 2, "2"),
        ("from_logits", False, "False"),
        ("normalize", "clip", '"clip"'),
        ("epsilon", 0.75, "0.75"),
        ("epsilon", -0.25, "-0.25"),
        ("epsilon", float("nan"), "nan"),
        ("z_loss", -0.5, "-0.5"),
        ("z_loss", float("nan"), "nan"),
        ("z_loss", float("inf"), "inf"),
        ("z_loss", "0.1", '"0.1"'),
        ("logit_softcap", -2, "-2"),
        ("logit_softcap", float("inf"), "inf"),
    ],
)
def test_attribute_value(loss: str, name: str, value: Any, shown: str) -> None:
    with pytest.raises(onnxloss.LossError) as caught:
        onnxloss.LossConfig(OPS[loss], {name: value})
    attributes = {attribute.name: attribute for attribute in find_spec(OPS[loss]).attributes}
    allowed = attributes[name].allowed
    assert f"{OPS[loss]}: {name} is {shown}" in str(caught.value)
    assert str(caught.value).endswith(f"; expected {allowed}.")


@both_losses
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.25}, 'epsilon is 0.25; expected 0 where normalize is "none".'),
        (
            {"normalize": "before_clip"},
            'normalize is "before_clip"; expected "none" where from_logits is 1.',
        ),
        (
            {"normalize": "after_clip", "from_logits": 0, "logit_softcap": 4.0},
            "logit_softcap is 4.0; expected 0 beside normalize.",
        ),
    ],
)
def test_what_is_made_of_probabilities(loss: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxloss.LossError) as caught:
        onnxloss.LossConfig(OPS[loss], settings)
    assert str(caught.value) == f"{OPS[loss]}: {message}"


def test_probabilities_have_no_valid_labels_to_count() -> None:
    with pytest.raises(onnxloss.LossError, match='mean_over is "valid"; expected "positions" or'):
        onnxloss.LossConfig("SoftLabelCrossEntropyLoss", {"mean_over": "valid"})


@pytest.mark.parametrize(
    "outputs", [("lse",), ("lse", "loss"), ("loss", "lse", "lse"), ("loss", "dlogits"), ()], ids=str
)
def test_outputs_that_there_are_not(outputs: tuple[str, ...]) -> None:
    with pytest.raises(onnxloss.LossError, match=r"outputs is .*; expected"):
        weighted_model(outputs=outputs)
