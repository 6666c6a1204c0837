# SPDX-License-Identifier: MIT
"""Attributes and dtypes that the library or the checker refuses, with a clear error each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxloss.onnxscript_defs import LossSpec, OpSpec
from tests.models import element_type, node_attributes
from tests.one_node import SOFT, every_operator, good_arrays, message_of, one_node_model, open_model
from tests.runtime import make_session


@every_operator
@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range(spec: LossSpec, op: OpSpec, axis: int) -> None:
    arrays = good_arrays(spec, op)
    session = open_model(spec, op, arrays, axis=axis)
    message = message_of(lambda: session.run(None, arrays))
    assert f"{op.name}: axis is {axis}; expected" in message


@every_operator
@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("reduction", "avg", '"avg"'),
        ("reduction", "MEAN", '"MEAN"'),
        ("label_smoothing", 1.5, "1.5"),
        ("label_smoothing", -0.25, "-0.25"),
        ("label_smoothing", float("nan"), "nan"),
        ("stash_type", 11, "11"),
        ("stash_type", 10, "10"),
        ("mean_over", "batch", '"batch"'),
        ("mean_over", "", '""'),
        ("empty_mean", "one", '"one"'),
        ("class_weighting", "Class", '"Class"'),
        ("from_logits", 2, "2"),
        ("from_logits", -1, "-1"),
        ("normalize", "clip", '"clip"'),
        ("normalize", "", '""'),
        ("z_loss", -0.5, "-0.5"),
        ("z_loss", float("nan"), "nan"),
        ("z_loss", float("inf"), "inf"),
        ("logit_softcap", -2.0, "-2"),
        ("logit_softcap", float("nan"), "nan"),
        ("logit_softcap", float("inf"), "inf"),
    ],
)
def test_attribute_value(spec: LossSpec, op: OpSpec, name: str, value: Any, shown: str) -> None:
    message = message_of(lambda: open_model(spec, op, good_arrays(spec, op), **{name: value}))
    assert f"{op.name}: {name} is {shown}; expected" in message
    attribute = next(attribute for attribute in op.attributes if attribute.name == name)
    if not attribute.derived:
        assert f"expected {attribute.allowed}." in message


@every_operator
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.25}, 'epsilon is 0.25; expected 0 where normalize is "none".'),
        (
            {"from_logits": 0, "epsilon_low": 0.25},
            'epsilon is 0.25; expected 0 where normalize is "none".',
        ),
        (
            {"normalize": "after_clip", "from_logits": 0, "epsilon": 0.75},
            "epsilon is 0.75; expected a number in [0, 0.5].",
        ),
        (
            {"normalize": "before_clip", "from_logits": 0, "epsilon": -0.25},
            "epsilon is -0.25; expected a number in [0, 0.5].",
        ),
        (
            {"normalize": "after_clip", "from_logits": 0, "epsilon": float("nan")},
            "epsilon is nan; expected a number in [0, 0.5].",
        ),
        (
            {"normalize": "after_clip", "from_logits": 0, "epsilon": 0.5, "epsilon_low": 0.25},
            "epsilon is 0.75; expected a number in [0, 0.5].",
        ),
        (
            {"normalize": "before_clip"},
            'normalize is "before_clip"; expected "none" where from_logits is 1.',
        ),
        (
            {"normalize": "after_clip", "from_logits": 0, "logit_softcap": 4.0},
            "logit_softcap is 4; expected 0 beside normalize.",
        ),
    ],
)
def test_what_is_made_of_probabilities(
    spec: LossSpec, op: OpSpec, settings: dict[str, Any], message: str
) -> None:
    shown = message_of(lambda: open_model(spec, op, good_arrays(spec, op), **settings))
    assert f"{op.name}: {message}" in shown


@pytest.mark.parametrize("op", SOFT.ops, ids=lambda op: op.name)
def test_probabilities_have_no_valid_labels_to_count(op: OpSpec) -> None:
    """A choice of the other loss."""
    message = message_of(lambda: open_model(SOFT, op, good_arrays(SOFT, op), mean_over="valid"))
    allowed = '"positions" or "weights" or "nonzero"'
    assert f'{op.name}: mean_over is "valid"; expected {allowed}.' in message


@every_operator
def test_missing_attribute(spec: LossSpec, op: OpSpec) -> None:
    """ONNX Runtime applies no defaults to custom operators: each must be written."""
    whole = node_attributes(spec, "float32", {})
    make_session(one_node_model(op, whole), library=True)
    for missing in whole:
        rest = {name: value for name, value in whole.items() if name != missing}
        model = one_node_model(op, rest)
        message = message_of(lambda model=model: make_session(model, library=True))
        assert op.name in message and missing in message, message


@every_operator
@pytest.mark.parametrize(
    ("name", "value"),
    [("axis", 1.0), ("reduction", 1), ("mean_over", 1.5), ("from_logits", "1"), ("z_loss", 1)],
)
def test_attribute_of_the_wrong_type(spec: LossSpec, op: OpSpec, name: str, value: Any) -> None:
    model = one_node_model(op, {**node_attributes(spec, "float32", {}), name: value})
    message = message_of(lambda: make_session(model, library=True))
    assert op.name in message and name in message, message
    with pytest.raises(onnx.checker.ValidationError, match=name):
        onnx.checker.check_model(model)


@every_operator
def test_misspelt_attribute_is_rejected_by_the_checker(spec: LossSpec, op: OpSpec) -> None:
    attributes = node_attributes(spec, "float32", {})
    onnx.checker.check_model(one_node_model(op, attributes))
    model = one_node_model(op, {**attributes, "label_smoothin": 0.1})
    with pytest.raises(onnx.checker.ValidationError, match="label_smoothin"):
        onnx.checker.check_model(model)


@every_operator
@pytest.mark.parametrize(
    ("port", "dtype"),
    [
        ("logits", np.int32),
        ("labels", np.int8),
        ("class_weights", np.float16),
        ("sample_weights", np.float64),
    ],
)
def test_unsupported_dtype(spec: LossSpec, op: OpSpec, port: str, dtype: Any) -> None:
    attributes = node_attributes(spec, "float32", {})
    optional = {"class_weights", "sample_weights"}
    make_session(one_node_model(op, attributes, optional=optional), library=True)
    model = one_node_model(op, attributes, {port: element_type(np.dtype(dtype))}, optional=optional)
    message = message_of(lambda: make_session(model, library=True))
    assert op.name in message, message
