# SPDX-License-Identifier: MIT
"""Bad input to the library: a clear error each, and the session usable after it."""

from __future__ import annotations

import numpy as np
import pytest

import onnxloss
from onnxloss.onnxscript_defs import NO_IGNORED_LABEL, LossSpec, OpSpec
from tests.models import node_attributes, raw_model
from tests.one_node import (
    HARD,
    assert_usable,
    every_gradient,
    every_hard_operator,
    every_operator,
    good_arrays,
    message_of,
    open_model,
)
from tests.runtime import RUNTIME_ERRORS, make_session


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


@every_hard_operator
@pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
def test_the_mark_of_no_ignored_label_is_no_label(
    spec: LossSpec, op: OpSpec, library: bool
) -> None:
    arrays = good_arrays(spec, op)
    attributes = node_attributes(spec, "float32", {"ignore_index": NO_IGNORED_LABEL})
    model = raw_model(spec, (op,), attributes, {"dloss": np.ones((), np.float32), **arrays}, ())
    session = make_session(model, library=library)
    bad = arrays["labels"].copy()
    bad[1] = NO_IGNORED_LABEL
    message = message_of(lambda: session.run(None, {**arrays, "labels": bad}))
    assert not library or f"labels[1] is {NO_IGNORED_LABEL}; expected [0, 5)." in message
    assert_usable(session, arrays)


@pytest.mark.parametrize("inline", [False, True], ids=["function body", "inlined"])
def test_an_export_without_ignored_label_refuses_their_mark(inline: bool) -> None:
    config = onnxloss.LossConfig(HARD.name, {"ignore_index": NO_IGNORED_LABEL})
    model = onnxloss.export(config, logits=(4, 5), gradient=True, inline=inline)
    session = make_session(model, library=False)
    arrays = good_arrays(HARD, HARD.loss_and_grad, weights=())
    bad = arrays["labels"].copy()
    bad[1] = NO_IGNORED_LABEL
    message_of(lambda: session.run(None, {**arrays, "labels": bad}))
    assert_usable(session, arrays)


WRONG_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "class_weights": [(4,), (6,), (), (5, 1)],
    "dloss": [(4,), (1, 1)],
    # One for each position: the library broadcasts nothing.
    "sample_weights": [(), (1,), (5,), (4, 1)],
}


@every_operator
@pytest.mark.parametrize(
    "weights",
    [("class_weights",), ("sample_weights",), ("class_weights", "sample_weights")],
    ids=" and ".join,
)
def test_wrong_shape(spec: LossSpec, op: OpSpec, weights: tuple[str, ...]) -> None:
    arrays = good_arrays(spec, op, weights=weights)
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


@pytest.mark.parametrize("library", [False, True])
def test_class_weights_fix_the_number_of_classes(library: bool) -> None:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", weight=[1, 2, 3, 4, 5])
    session = make_session(onnxloss.export(config, logits=("N", "C")), library=library)
    feeds = {"logits": np.zeros((2, 3), np.float32), "labels": np.zeros(2, np.int64)}
    with pytest.raises(RUNTIME_ERRORS, match="logits"):
        session.run(None, feeds)
