# SPDX-License-Identifier: MIT
"""The float64 reference against numeric gradients, closed forms and the frameworks' own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests import golden_cases as golden
from tests import reference
from tests.cases import CASES, Case

SMALL = [
    case
    for case in CASES
    if case.dtype == "float64"
    and case.inputs.logits.size <= 200
    and all(np.isfinite(values).all() for values in case.truth.values())
    and np.isfinite(case.inputs.logits.astype(np.float64)).all()
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_gradient_is_the_derivative_of_the_loss(case: Case) -> None:
    given = case.inputs
    logits = given.logits
    # At an offset of 1e8 a smaller step would be lost in the logits' own rounding.
    step = 1e-5 if np.abs(logits).max(initial=0.0) < 1e4 else 2.0**-8

    def total(shifted: np.ndarray) -> float:
        loss, _ = getattr(reference, case.loss)(
            shifted, given.labels, given.dloss, given.class_weights, **case.attributes
        )
        return float(np.sum(given.dloss * loss))

    numeric = np.zeros(logits.shape)
    for index in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        numeric[index] = (total(up) - total(down)) / (2 * step)
    tolerance = 1e-7 * max(1.0, np.abs(numeric).max(initial=0.0)) + step**2
    np.testing.assert_allclose(case.truth["dlogits"], numeric, rtol=1e-6, atol=tolerance)


def test_confident_row_keeps_its_digits() -> None:
    loss, dlogits = reference.softmax_cross_entropy_loss(
        np.array([[20.0, 0.0]]), np.array([0]), reduction="sum"
    )
    # log(1 + exp(-20)) and 1 / (1 + exp(20)), computed with 50 decimal digits.
    assert loss == pytest.approx(2.0611536203143808e-09, rel=1e-15)
    np.testing.assert_allclose(dlogits, [[-2.0611536181902036e-09, 2.0611536181902036e-09]], 1e-15)


def test_common_offset_costs_nothing() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]])
    labels = np.array([2, 0])
    plain = reference.softmax_cross_entropy_loss(logits, labels, reduction="none")
    moved = reference.softmax_cross_entropy_loss(logits + 2.0**27, labels, reduction="none")
    for left, right in zip(plain, moved, strict=True):
        np.testing.assert_array_equal(left, right)


def test_label_out_of_range_is_refused() -> None:
    for label in (3, -1):
        with pytest.raises(ValueError, match="out of range"):
            reference.softmax_cross_entropy_loss(np.zeros((1, 3)), np.array([label]))


@pytest.mark.parametrize(
    "case",
    [case for case in (*golden.load("torch"), *golden.load("onnx")) if case.kind == "match"],
    ids=lambda case: f"{case.id}-{case.name}",
)
def test_agrees_with_the_framework(case: golden.GoldenCase) -> None:
    loss, dlogits = golden.formula(case)
    golden.assert_close(loss, case.arrays["loss"], case)
    if "dlogits" in case.arrays:
        golden.assert_close(dlogits, case.arrays["dlogits"], case)
