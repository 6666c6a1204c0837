# SPDX-License-Identifier: MIT
"""What docs/differences.md says of the exported models is what they answer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxloss
from docs import differences as page
from tests import test_golden, test_golden_paddle, test_golden_tf
from tests.differences import ANSWERS, RECORDED
from tests.differences.answers import COLUMNS, Answer, Recorded, Value, assert_same, of_outputs
from tests.runtime import RUNTIME_ERRORS, WAYS, dtype_of, run_model

GOLDEN = {"torch": test_golden, "paddle": test_golden_paddle, "tf": test_golden_tf}

ways = pytest.mark.parametrize("way", WAYS)
every_answer = pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.api)


def exported(answer: Answer, *, inline: bool) -> onnx.ModelProto:
    weights = answer.sample_weights
    return onnxloss.export(
        config_of(answer),
        logits=answer.logits.shape,
        labels=np.shape(answer.labels),
        sample_weights=None if weights is None else weights.shape,
        dtype=answer.logits.dtype.name,
        label_dtype=answer.labels.dtype.name,
        gradient=True,
        outputs=("loss", "dlabels") if answer.of == "dlabels" else ("loss",),
        inline=inline,
    )


def config_of(answer: Answer) -> onnxloss.LossConfig:
    if answer.column == "torch":
        target = "indices" if answer.labels.dtype.kind == "i" else "probabilities"
        return onnxloss.from_torch(answer.api, target=target, **answer.settings)
    if answer.column == "paddle":
        return onnxloss.from_paddle(answer.api, paddle_version="3.3", **answer.settings)
    door = onnxloss.from_tf if answer.column == "tf" else onnxloss.from_onnx
    return door(answer.api, **answer.settings)


def run_exported(answer: Answer, way: str) -> Value:
    """What the exported model gives, as the table has it."""
    try:
        model = exported(answer, inline=way == "inlined")
    except onnxloss.LossError:
        return "refused"
    (shape,) = [output.type.tensor_type.shape for output in model.graph.output[:1]]
    dloss = np.ones([dim.dim_value for dim in shape.dim], dtype_of(model, "dloss"))
    feeds = {"logits": answer.logits, "labels": answer.labels, "dloss": dloss}
    if answer.sample_weights is not None:
        feeds["sample_weights"] = answer.sample_weights
    try:
        outputs = run_model(model, feeds, library=way == "library")
    except RUNTIME_ERRORS:
        return "error"
    gradient = "dlabels" if answer.of == "dlabels" else "dlogits"
    return of_outputs(answer, outputs["loss"], outputs[gradient])


@pytest.mark.filterwarnings("ignore:.*label_smoothing is -0.1")
@ways
@every_answer
def test_the_exported_model_answers_so(answer: Answer, way: str) -> None:
    assert_same(run_exported(answer, way), answer.expected, answer)


@pytest.mark.parametrize(
    "answer",
    [answer for answer in ANSWERS if answer.column == "onnx"],
    ids=lambda answer: str(answer.theirs),
)
def test_onnxruntime_answers_so(answer: Answer) -> None:
    """The others are asked in tests/frameworks."""
    settings = dict(answer.settings)
    weights = settings.pop("weights", None)
    inputs = {"logits": answer.logits, "labels": answer.labels}
    inputs |= {} if weights is None else {"weights": weights}
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("SoftmaxCrossEntropyLoss", [*inputs], ["loss"], **settings)],
            "asked",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in inputs.items()
            ],
            [
                helper.make_tensor_value_info(
                    "loss", helper.np_dtype_to_tensor_dtype(answer.logits.dtype), None
                )
            ],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    try:
        value = of_outputs(answer, run_model(model, inputs)["loss"], None)
    except RUNTIME_ERRORS as error:
        value = type(error).__name__
    assert_same(value, answer.theirs, answer)


@ways
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.id)
def test_the_recorded_differences_are_so(recorded: Recorded, way: str) -> None:
    module = GOLDEN[recorded.id.partition("-")[0]]
    (case,) = [case for case in module.CASES if case.id == recorded.id]
    ours = float(module.run_case(case, way)[recorded.of][recorded.at])
    rtol = 1e-3 if case.arrays["logits"].dtype == np.float16 else 1e-5
    np.testing.assert_allclose(ours, recorded.ours, rtol=rtol)
    if case.error is None:
        theirs = case.arrays[recorded.of][recorded.at]
        assert not np.isclose(theirs, ours, rtol=rtol), "the framework agrees: no difference"


def test_the_page_has_every_difference_once() -> None:
    named = page.named_differences()
    assert Counter(recorded.id for recorded in RECORDED) == Counter(named.keys())
    assert set(COLUMNS) == {answer.column for answer in ANSWERS}


def test_the_page_is_what_the_tables_say() -> None:
    assert page.TARGET.read_text() == page.differences(), "run `make docs`"
