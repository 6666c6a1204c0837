# SPDX-License-Identifier: MIT
"""Bad input to the library and the checker: a clear error each, and the session usable after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxloss.onnxscript_defs import CATALOGUE, DOMAIN, LossSpec, OpSpec
from onnxloss.onnxscript_defs import find as find_spec
from tests.models import element_type, node_attributes, raw_model
from tests.runtime import RUNTIME_ERRORS, make_session

HARD = find_spec("SoftmaxCrossEntropyLoss")
SOFT = find_spec("SoftLabelCrossEntropyLoss")
OPERATORS = [(spec, op) for spec in CATALOGUE for op in spec.ops]
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


def good_arrays(spec: LossSpec, op: OpSpec, *, label_dtype: str = "int64") -> dict[str, np.ndarray]:
    """Well-formed inputs of an operator: four rows of five classes, with class weights."""
    labels = np.array([0, 1, 2, 4], label_dtype)
    arrays = {
        "dloss": np.ones((), np.float32),
        "logits": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5),
        "labels": labels if spec is HARD else np.full((4, 5), 0.2, np.float32),
        "class_weights": np.ones(5, np.float32),
    }
    return {port.name: arrays[port.name] for port in op.inputs if port.name in arrays}


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


@every_hard_operator
@pytest.mark.parametrize("label_dtype", ["int32", "int64"])
@pytest.mark.parametrize("label", [5, -1, -5, -101, 2**31 - 1])
def test_label_out_of_range(spec: LossSpec, op: OpSpec, label_dtype: str, label: int) -> None:
    arrays = good_arrays(spec, op, label_dtype=label_dtype)
    session = open_model(spec, op, arrays)
    bad = arrays["labels"].copy()
    bad[2] = label
    message = message_of(lambda: session.run(None, {**arrays, "labels": bad}))
    assert f"{op.name}: labels[2] is {label}; expected [0, 5) or ignore_index -100." in message
    assert_usable(session, arrays)


@every_hard_operator
def test_label_out_of_range_beyond_32_bits(spec: LossSpec, op: OpSpec) -> None:
    arrays = good_arrays(spec, op)
    session = open_model(spec, op, arrays, ignore_index=2)
    bad = arrays["labels"].copy()
    bad[3] = 2**32
    message = message_of(lambda: session.run(None, {**arrays, "labels": bad}))
    assert f"labels[3] is {2**32}; expected [0, 5) or ignore_index 2." in message
    assert_usable(session, arrays)


@every_hard_operator
def test_the_first_label_out_of_range_is_named(spec: LossSpec, op: OpSpec) -> None:
    """Whichever thread meets one first: the message is the same in every run."""
    arrays = good_arrays(spec, op)
    arrays["logits"] = np.zeros((4096, 5), np.float32)
    arrays["labels"] = np.zeros(4096, np.int64)
    session = open_model(spec, op, arrays)
    bad = arrays["labels"].copy()
    bad[[100, 2000, 4095]] = 7, 8, 9
    message = message_of(lambda: session.run(None, {**arrays, "labels": bad}))
    assert "labels[100] is 7;" in message


@every_hard_operator
@pytest.mark.parametrize("label", [5, -1, -5, -101, 2**40])
def test_label_out_of_range_in_the_function_body(spec: LossSpec, op: OpSpec, label: int) -> None:
    """Without the library it is an error too, in the words of a standard operator."""
    arrays = good_arrays(spec, op)
    attributes = node_attributes(spec, "float32", {})
    model = raw_model(spec, (op,), attributes, {"dloss": np.ones((), np.float32), **arrays}, ())
    session = make_session(model, library=False)
    bad = arrays["labels"].copy()
    bad[2] = label
    message_of(lambda: session.run(None, {**arrays, "labels": bad}))
    assert_usable(session, arrays)


WRONG_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "class_weights": [(4,), (6,), (), (5, 1)],
    "dloss": [(4,), (1, 1)],
}


@every_operator
def test_wrong_shape(spec: LossSpec, op: OpSpec) -> None:
    arrays = good_arrays(spec, op)
    session = open_model(spec, op, arrays)
    label_shapes = [(5,), (4, 1), ()] if spec is HARD else [(4,), (5, 4), (4, 6), (4, 5, 1)]
    for name, shapes in {**WRONG_SHAPES, "labels": label_shapes}.items():
        for shape in shapes if name in arrays else ():
            bad = {**arrays, name: np.zeros(shape, arrays[name].dtype)}
            message = message_of(lambda bad=bad: session.run(None, bad))
            found = ", ".join(map(str, shape))
            assert f"{op.name}: shape of {name} is [{found}]; expected " in message
    assert_usable(session, arrays)


@every_gradient
def test_dloss_of_a_position_has_the_labels_shape(spec: LossSpec, op: OpSpec) -> None:
    arrays = good_arrays(spec, op)
    arrays["dloss"] = np.ones(4, np.float32)
    session = open_model(spec, op, arrays, reduction="none")
    for shape in ((), (3,), (4, 1)):
        bad = {**arrays, "dloss": np.ones(shape, np.float32)}
        message = message_of(lambda bad=bad: session.run(None, bad))
        found = ", ".join(map(str, shape))
        assert f"{op.name}: shape of dloss is [{found}]; expected [4]." in message
    assert_usable(session, arrays)


@every_operator
def test_logits_without_an_axis(spec: LossSpec, op: OpSpec) -> None:
    arrays = good_arrays(spec, op)
    session = open_model(spec, op, arrays)
    bad = {**arrays, "logits": np.zeros((), np.float32)}
    message = message_of(lambda: session.run(None, bad))
    assert f"{op.name}: rank of logits is 0; expected at least 1." in message
    assert_usable(session, arrays)


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
    ],
)
def test_attribute_value(spec: LossSpec, op: OpSpec, name: str, value: Any, shown: str) -> None:
    message = message_of(lambda: open_model(spec, op, good_arrays(spec, op), **{name: value}))
    assert f"{op.name}: {name} is {shown}; expected" in message


def one_node_model(
    op: OpSpec, attributes: dict[str, Any], types: dict[str, int] | None = None
) -> onnx.ModelProto:
    """A node without a function body: what another program might write."""
    ports = [
        [port.name for port in group if not port.optional or port.name == "class_weights"]
        for group in (op.inputs, op.outputs)
    ]
    given = dict.fromkeys(ports[0] + ports[1], onnx.TensorProto.FLOAT)
    if op.name.startswith("Softmax"):
        given["labels"] = onnx.TensorProto.INT64
    given |= types or {}
    shapes = {"dloss": (), "loss": (), "class_weights": ("C",), "labels": ("N", "C")}
    if op.name.startswith("Softmax"):
        shapes["labels"] = ("N",)
    node = helper.make_node(op.name, *ports, domain=DOMAIN, **attributes)
    inputs, outputs = (
        [
            helper.make_tensor_value_info(name, given[name], shapes.get(name, ("N", "C")))
            for name in names
        ]
        for names in ports
    )
    return helper.make_model(
        helper.make_graph([node], "one", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)],
        ir_version=9,
    )


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
@pytest.mark.parametrize(("name", "value"), [("axis", 1.0), ("reduction", 1)])
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
    ("port", "dtype"), [("logits", np.int32), ("labels", np.int8), ("class_weights", np.float16)]
)
def test_unsupported_dtype(spec: LossSpec, op: OpSpec, port: str, dtype: Any) -> None:
    model = one_node_model(
        op, node_attributes(spec, "float32", {}), {port: element_type(np.dtype(dtype))}
    )
    message = message_of(lambda: make_session(model, library=True))
    assert op.name in message, message
