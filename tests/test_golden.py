# SPDX-License-Identifier: MIT
"""PyTorch's own numbers against the exported models, through from_torch, three ways."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest

import onnxloss
from tests import golden_cases as golden
from tests.cases import SOFT
from tests.runtime import RUNTIME_ERRORS, WAYS, dtype_of, run_model

CASES = golden.load("torch")

ways = pytest.mark.parametrize("way", WAYS)


def of_kind(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case",
        [case for case in CASES if case.kind == kind],
        ids=lambda case: f"{case.id}-{case.name}",
    )


@cache
def exported(case_id: str, *, inline: bool) -> onnx.ModelProto:
    case = next(case for case in CASES if case.id == case_id)
    labels = case.arrays["labels"]
    target = "probabilities" if case.loss == SOFT else "indices"
    settings = dict(case.kwargs)
    if "weight" in case.arrays:
        settings["weight"] = case.arrays["weight"]
    return onnxloss.export(
        onnxloss.from_torch(case.api, target=target, **settings),
        logits=case.arrays["logits"].shape,
        labels=labels.shape,
        dtype=case.arrays["logits"].dtype.name,
        label_dtype=labels.dtype.name,
        gradient=True,
        inline=inline,
    )


def run_case(case: golden.GoldenCase, way: str) -> dict[str, np.ndarray]:
    model = exported(case.id, inline=way == "inlined")
    feeds = {"logits": case.arrays["logits"], "labels": case.arrays["labels"]}
    # An error case stops before there is a loss; its upstream gradient is of no interest.
    feeds["dloss"] = case.arrays.get("dloss", np.ones((), dtype_of(model, "dloss")))
    return run_model(model, feeds, library=way == "library")


@ways
@of_kind("match")
def test_matches(case: golden.GoldenCase, way: str) -> None:
    outputs = run_case(case, way)
    for name in ("loss", "dlogits"):
        assert outputs[name].dtype == case.arrays[name].dtype
        golden.assert_close(outputs[name], case.arrays[name], case)


@ways
@of_kind("named difference")
def test_named_difference(case: golden.GoldenCase, way: str) -> None:
    """The framework's number is an artefact of its kernel; ours is the formula's."""
    outputs = run_case(case, way)
    loss, dlogits = golden.formula(case)
    golden.assert_close(outputs["loss"], loss, case)
    golden.assert_close(outputs["dlogits"], dlogits, case)
    assert np.isfinite(loss).all() and np.isfinite(dlogits).all()
    framework = (case.arrays["loss"], case.arrays["dlogits"])
    assert any(np.isnan(values).any() for values in framework), "torch agrees: no difference"


@ways
@of_kind("error")
def test_error(case: golden.GoldenCase, way: str) -> None:
    """What PyTorch refuses is refused: when exported, or where a label's value is at fault, run."""
    with pytest.raises((onnxloss.LossError, *RUNTIME_ERRORS)):
        run_case(case, way)


def test_every_case_is_asserted_once() -> None:
    counts = Counter(case.kind for case in CASES)
    assert counts == {"match": 52, "named difference": 3, "error": 4}
    assert set(golden.NAMED_DIFFERENCES) <= {case.id for case in CASES}
