# SPDX-License-Identifier: MIT
"""PyTorch's own numbers against the exported models, through from_torch, in every way."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest

import onnxloss
from tests import golden_cases as golden
from tests.cases import SOFT
from tests.golden_cases import every_way, ways
from tests.runtime import RUNTIME_ERRORS

CASES = golden.load("torch")

NAMED_DIFFERENCES = {
    "torch-058": "torch multiplies the softmax of an ignored row of nan by 0: a nan gradient. "
    "The row does not count: 0.",
    "torch-060": "torch multiplies the weight 0 by the -inf at the target: nan. "
    "A term whose coefficient is 0 contributes nothing: 0.",
    "torch-090": "torch multiplies the probability 0 by the -inf of a masked class: nan. "
    "A term whose coefficient is 0 contributes nothing.",
}
"""Cases where an artefact of the framework's kernel is not reproduced: the id and the reason."""
EXCEPTIONS = {"named difference": NAMED_DIFFERENCES}


def of_kind(kind: str) -> pytest.MarkDecorator:
    return golden.of_kind(CASES, kind, EXCEPTIONS)


@cache
def exported(case_id: str, *, inline: bool) -> onnx.ModelProto:
    case = next(case for case in CASES if case.id == case_id)
    target = "probabilities" if case.loss == SOFT else "indices"
    settings = dict(case.kwargs)
    if "weight" in case.arrays:
        settings["weight"] = case.arrays["weight"]
    config = onnxloss.from_torch(case.api, target=target, **settings)
    return golden.export(case, config, inline=inline)


def run_case(case: golden.GoldenCase, way: str) -> dict[str, np.ndarray]:
    return golden.run(case, exported(case.id, inline=way == "inlined"), way)


@every_way
@of_kind("match")
def test_matches(case: golden.GoldenCase, way: str) -> None:
    golden.assert_matches(run_case(case, way), case)


@every_way
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
    counts = Counter(golden.kind_of(case, EXCEPTIONS) for case in CASES)
    assert counts == {"match": 52, "named difference": 3, "error": 4}
    assert set(NAMED_DIFFERENCES) <= {case.id for case in CASES}
