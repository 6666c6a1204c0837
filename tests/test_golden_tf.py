# SPDX-License-Identifier: MIT
"""TensorFlow's, Keras's and ai.onnx's own numbers against the exported models, in every way."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest

import onnxloss
from tests import golden_cases as golden
from tests import reference
from tests.golden_cases import every_way, ways
from tests.runtime import RUNTIME_ERRORS

CASES = (*golden.load("tf"), *golden.load("onnx"))
NAMED_DIFFERENCES = {
    "tf-086": "Keras's smoothing divides by the size of the last axis, so that the labels do not "
    "add up to 1; its gradient is p - t. Ours is the true derivative, p sum(t) - t.",
    "tf-094": "TensorFlow multiplies the label 0 by the -inf of a masked class: nan. "
    "A term whose coefficient is 0 contributes nothing.",
}
"""Cases where an artefact of the framework's kernel is not reproduced: the id and the reason."""

EXCEPTIONS = {"named difference": NAMED_DIFFERENCES}


def of_kind(kind: str) -> pytest.MarkDecorator:
    return golden.of_kind(CASES, kind, EXCEPTIONS)


def config_of(case: golden.GoldenCase) -> onnxloss.LossConfig:
    if case.framework == "tf":
        return onnxloss.from_tf(case.api, **case.kwargs)
    return onnxloss.from_onnx(case.api, **case.kwargs, weights=case.arrays.get("weight"))


@cache
def exported(case_id: str, *, inline: bool) -> onnx.ModelProto:
    case = next(case for case in CASES if case.id == case_id)
    weights = weights_of(case)
    return golden.export(
        case,
        config_of(case),
        inline=inline,
        sample_weights=None if weights is None else weights.shape,
        outputs=("loss", "log_prob") if case.framework == "onnx" else ("loss",),
    )


def weights_of(case: golden.GoldenCase) -> np.ndarray | None:
    return case.arrays.get("weights", case.arrays.get("sample_weight"))


def run_case(case: golden.GoldenCase, way: str) -> dict[str, np.ndarray]:
    weights = weights_of(case)
    more = {} if weights is None else {"sample_weights": weights}
    return golden.run(case, exported(case.id, inline=way == "inlined"), way, **more)


@every_way
@of_kind("match")
def test_matches(case: golden.GoldenCase, way: str) -> None:
    outputs = run_case(case, way)
    # ai.onnx has a log_prob and no gradient.
    names = {"loss", "dlogits", "log_prob"} & set(case.arrays)
    assert len(names) == 2
    golden.assert_matches(outputs, case, names)


@every_way
@of_kind("named difference")
def test_named_difference(case: golden.GoldenCase, way: str) -> None:
    """The framework's number is an artefact; ours is the formula's."""
    outputs = run_case(case, way)
    labels = case.arrays["labels"].astype(np.float64)
    axis, smoothing = case.kwargs.get("axis", -1), case.kwargs.get("label_smoothing", 0)
    loss, dlogits = reference.soft_label_cross_entropy_loss(
        case.arrays["logits"],
        labels * (1 - smoothing) + smoothing / labels.shape[-1],
        case.arrays["dloss"],
        axis=axis,
        reduction=case.kwargs.get("reduction", "mean"),
    )
    golden.assert_close(outputs["loss"], loss, case)
    golden.assert_close(outputs["dlogits"], dlogits, case)
    assert np.isfinite(loss).all() and np.isfinite(dlogits).all()
    framework = (case.arrays["loss"], case.arrays["dlogits"])
    agree = [
        np.allclose(ours, theirs, case.rtol, case.atol)
        for ours, theirs in zip((loss, dlogits), framework, strict=True)
    ]
    assert not all(agree), "the framework agrees: no difference"


@ways
@of_kind("error")
def test_error(case: golden.GoldenCase, way: str) -> None:
    """What is refused there is refused: when exported, or when run for a label's value."""
    with pytest.raises((onnxloss.LossError, *RUNTIME_ERRORS)):
        run_case(case, way)


def test_every_case_is_asserted_once() -> None:
    counts = Counter((case.framework, golden.kind_of(case, EXCEPTIONS)) for case in CASES)
    assert counts == {
        ("tf", "match"): 27,
        ("tf", "named difference"): 2,
        ("tf", "error"): 2,
        ("onnx", "match"): 6,
        ("onnx", "error"): 3,
    }
    assert set(NAMED_DIFFERENCES) <= {case.id for case in CASES}
