# SPDX-License-Identifier: MIT
"""Paddle's own numbers against the exported models, through from_paddle."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest

import onnxloss
from tests import golden_cases as golden
from tests import reference
from tests.cases import SOFT
from tests.golden_cases import every_way, ways
from tests.runtime import RUNTIME_ERRORS

CASES = golden.load("paddle")

NAMED_DIFFERENCES = {
    "paddle-055": "Paddle's CPU kernel clips logits at 64 below the largest: a loss of 64. "
    "Ours is the gap, beyond float32.",
    "paddle-081": "Paddle's gradient p - t is that of probabilities that add up to 1. "
    "These do not: ours is p sum(t) - t.",
    "paddle-082": "As paddle-081, for a mean.",
    "paddle-084": "As paddle-081, smoothed.",
    "paddle-125": "Paddle has no float16 kernel for the CPU, only for GPUs. Ours computes it.",
}
"""Cases where an artefact of Paddle's kernel is not reproduced: the id and the reason."""

REFUSED = {
    "paddle-015": "label_smoothing with an ignore_index in range: the row is not ignored.",
    "paddle-116": "label_smoothing of indices on an inner axis: one_hot lands on the last one.",
    "paddle-117": "Class weights of probabilities on an inner axis: they weigh the last one.",
    "paddle-128": "soft_label with ignore_index=0: the mean divides by the elements not 0.",
}
"""Cases where Paddle is silently wrong: the id and what is wrong."""


EXCEPTIONS = {"named difference": NAMED_DIFFERENCES, "refused": REFUSED}


def of_kind(kind: str) -> pytest.MarkDecorator:
    return golden.of_kind(CASES, kind, EXCEPTIONS)


negative_smoothing_warns = pytest.mark.filterwarnings("ignore:from_paddle. label_smoothing is -0.1")


@cache
def exported(case_id: str, *, inline: bool) -> onnx.ModelProto:
    case = next(case for case in CASES if case.id == case_id)
    settings = dict(case.kwargs)
    if "weight" in case.arrays:
        settings["weight"] = case.arrays["weight"]
    config = onnxloss.from_paddle(case.api, paddle_version="3.3.1", **settings)
    return golden.export(case, config, inline=inline)


def run_case(case: golden.GoldenCase, way: str) -> dict[str, np.ndarray]:
    return golden.run(case, exported(case.id, inline=way == "inlined"), way)


@every_way
@of_kind("match")
@negative_smoothing_warns
def test_matches(case: golden.GoldenCase, way: str) -> None:
    golden.assert_matches(run_case(case, way), case)


@every_way
@of_kind("named difference")
def test_named_difference(case: golden.GoldenCase, way: str) -> None:
    """Paddle's number is that of its kernel; ours is the formula's."""
    outputs = run_case(case, way)
    arrays, dtype = case.arrays, case.arrays["logits"].dtype
    soft = case.loss == SOFT
    function = (
        reference.soft_label_cross_entropy_loss if soft else reference.softmax_cross_entropy_loss
    )
    settings = {name: case.kwargs[name] for name in case.kwargs if name != "soft_label"}
    with np.errstate(over="ignore"):
        loss, dlogits = (
            values.astype(dtype)
            for values in function(
                arrays["logits"], arrays["labels"], upstream(case), axis=-1, **settings
            )
        )
    rtol = {"float16": 1e-3, "float32": 2e-5}[dtype.name]
    np.testing.assert_allclose(outputs["loss"].ravel(), loss.ravel(), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(outputs["dlogits"], dlogits, rtol=rtol, atol=rtol)

    if soft:
        golden.assert_close(outputs["loss"], arrays["loss"], case)
        golden.assert_close(gradient_for_distributions(case), arrays["dlogits"], case)
    elif case.error is None:
        assert np.all(arrays["loss"] == 64) and np.all(np.isinf(loss))
    else:
        assert "Paddle support following DataTypes: float64, float32" in case.error


def upstream(case: golden.GoldenCase) -> np.ndarray:
    """The upstream gradient without the class axis that Paddle keeps; 1 where there is none."""
    dloss = case.arrays.get("dloss", np.ones(()))
    return dloss[..., 0] if dloss.ndim else dloss


def gradient_for_distributions(case: golden.GoldenCase) -> np.ndarray:
    """The gradient p - t, as Paddle computes it."""
    logits, t = (case.arrays[name].astype(np.float64) for name in ("logits", "labels"))
    e = case.kwargs.get("label_smoothing", 0.0)
    t = t * (1 - e) + e / t.shape[-1]
    dloss = case.arrays["dloss"].astype(np.float64)
    if case.kwargs.get("reduction", "mean") == "mean":
        dloss = dloss / len(logits)
    p = np.exp(-reference.negative_log_softmax(logits))
    return dloss * (p - t)


@of_kind("refused")
def test_refused(case: golden.GoldenCase) -> None:
    """Paddle gives a number for another loss than the one that was asked for."""
    with pytest.raises(onnxloss.LossError, match=r"Paddle|paddle"):
        exported(case.id, inline=False)


@ways
@of_kind("error")
def test_error(case: golden.GoldenCase, way: str) -> None:
    """What Paddle refuses is refused: when exported, or where a label's value is at fault, run."""
    with pytest.raises((onnxloss.LossError, *RUNTIME_ERRORS)):
        run_case(case, way)


def test_every_case_is_asserted_once() -> None:
    counts = Counter(golden.kind_of(case, EXCEPTIONS) for case in CASES)
    assert counts == {"match": 43, "named difference": 5, "refused": 4, "error": 8}
    assert {*NAMED_DIFFERENCES, *REFUSED} <= {case.id for case in CASES}
