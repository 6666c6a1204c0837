# SPDX-License-Identifier: MIT
"""Sessions of one node with the library, to be given what they must refuse."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxloss.onnxscript_defs import DOMAIN, LossSpec, OpSpec
from onnxloss.onnxscript_defs import find as find_spec
from tests.models import input_names, node_attributes, raw_model
from tests.runtime import RUNTIME_ERRORS, make_session

HARD = find_spec("SoftmaxCrossEntropyLoss")
SOFT = find_spec("SoftLabelCrossEntropyLoss")
OPERATORS = [(spec, op) for spec in (HARD, SOFT) for op in spec.ops]
HARD_OPERATORS = [(spec, op) for spec, op in OPERATORS if spec is HARD]

every_operator = pytest.mark.parametrize(
    ("spec", "op"), OPERATORS, ids=[op.name for _, op in OPERATORS]
)
every_gradient = pytest.mark.parametrize(
    ("spec", "op"),
    [(spec, op) for spec, op in OPERATORS if op.inputs[0].name == "dloss"],
    ids=lambda value: value.name if isinstance(value, OpSpec) else "",
)
every_hard_operator = pytest.mark.parametrize(
    ("spec", "op"), HARD_OPERATORS, ids=[op.name for _, op in HARD_OPERATORS]
)


def good_arrays(
    spec: LossSpec,
    op: OpSpec,
    *,
    label_dtype: str = "int64",
    weights: Collection[str] = ("class_weights",),
) -> dict[str, np.ndarray]:
    """Well-formed inputs of an operator: four rows of five classes, with these weights."""
    labels = np.array([0, 1, 2, 4], label_dtype)
    arrays = {
        "dloss": np.ones((), np.float32),
        "logits": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5),
        "labels": labels if spec is HARD else np.full((4, 5), 0.2, np.float32),
        "class_weights": np.ones(5, np.float32),
        "sample_weights": np.ones(4, np.float32),
    }
    names = [port.name for port in op.inputs if not port.optional or port.name in weights]
    return {name: arrays[name] for name in names}


def open_model(spec: LossSpec, op: OpSpec, arrays: dict[str, np.ndarray], **settings: Any) -> Any:
    """A session of one node with the library, whose input shapes are not known beforehand."""
    attributes = node_attributes(spec, "float32", settings)
    model = raw_model(spec, (op,), attributes, {"dloss": np.ones((), np.float32), **arrays}, ())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    return make_session(model, library=True)


def message_of(action: Callable[[], Any]) -> str:
    """What a call that must fail in ONNX Runtime says."""
    with pytest.raises(RUNTIME_ERRORS) as caught:
        action()
    return str(caught.value)


def assert_usable(session: Any, arrays: dict[str, np.ndarray]) -> None:
    """After an error the same session still answers."""
    for values in session.run(None, arrays):
        assert np.isfinite(values).all()


def one_node_model(
    op: OpSpec,
    attributes: dict[str, Any],
    types: dict[str, int] | None = None,
    *,
    optional: Collection[str] = ("class_weights",),
) -> onnx.ModelProto:
    """A node without a function body: what another program might write."""
    inputs = input_names(op, optional)
    outputs = [port.name for port in op.outputs if not port.optional or port.name in optional]
    given = dict.fromkeys([*inputs, *outputs], onnx.TensorProto.FLOAT)
    shapes = {"dloss": (), "loss": (), "class_weights": ("C",), "labels": ("N", "C")}
    shapes |= {"sample_weights": ("N",), "lse": ("N",)}
    if op.name.startswith("Softmax"):
        given["labels"] = onnx.TensorProto.INT64
        shapes["labels"] = ("N",)
    given |= types or {}
    node = helper.make_node(op.name, inputs, outputs, domain=DOMAIN, **attributes)
    values = [
        [
            helper.make_tensor_value_info(name, given[name], shapes.get(name, ("N", "C")))
            for name in names
            if name
        ]
        for names in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph([node], "one", *values),
        opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)],
        ir_version=9,
    )
