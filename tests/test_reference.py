# SPDX-License-Identifier: MIT
"""The float64 reference against numeric gradients, closed forms and the frameworks' own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests import golden_cases as golden
from tests import reference, test_golden
from tests.cases import CASES, Case

SMALL = [
    case
    for case in CASES
    if case.dtype == "float64"
    and case.inputs.logits.size <= 200
    and all(np.isfinite(values).all() for values in case.truth.values())
    and np.isfinite(case.inputs.logits.astype(np.float64)).all()
    # A loss of inf that its weight takes away has no derivative.
    and case.trait.name != "probabilities_zero_weightless"
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_gradient_is_the_derivative_of_the_loss(case: Case) -> None:
    given = case.inputs
    logits = given.logits
    # At an offset of 1e8 a smaller step would be lost in the logits' own rounding.
    step = 1e-5 if np.abs(logits).max(initial=0.0) < 1e4 else 2.0**-8

    def total(shifted: np.ndarray) -> float:
        loss, _ = getattr(reference, case.loss)(
            shifted,
            given.labels,
            given.dloss,
            given.class_weights,
            given.sample_weights,
            **case.attributes,
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


def test_lse_is_the_log_of_the_sum_of_exponentials() -> None:
    rng = np.random.default_rng(2)
    logits = 5 * rng.standard_normal((3, 7, 2))
    total = np.exp(logits.astype(np.longdouble)).sum(axis=1)
    np.testing.assert_allclose(reference.lse(logits), np.log(total).astype(float), rtol=4e-16)
    capped = 3 * np.tanh(logits.astype(np.longdouble) / 3)
    total = np.exp(capped).sum(axis=1)
    result = reference.lse(logits, logit_softcap=3.0)
    np.testing.assert_allclose(result, np.log(total).astype(float), rtol=4e-16)


def test_options_by_hand() -> None:
    """Two positions of two classes, small enough for paper."""
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5]]))
    labels, ln = np.array([0, 1]), np.log
    settings = {"class_weights": np.array([2.0, 3.0]), "sample_weights": np.array([0.5, 0.0])}

    def mean(**attributes: object) -> float:
        loss, _ = reference.softmax_cross_entropy_loss(logits, labels, **settings, **attributes)
        return float(loss)

    # s_0 w_0 = 1, the other position has no weight.
    assert mean() == pytest.approx(ln(4) / 1)
    assert mean(mean_over="positions") == pytest.approx(ln(4) / 2)
    assert mean(mean_over="valid") == pytest.approx(ln(4) / 2)
    assert mean(mean_over="nonzero") == pytest.approx(ln(4) / 1)
    # Half of the smoothing goes to the other class: t = (0.75, 0.25).
    each = 0.75 * ln(4) + 0.25 * ln(4 / 3)
    u = 0.75 * 2 + 0.25 * 3
    assert mean(class_weighting="position", label_smoothing=0.5, reduction="sum") == pytest.approx(
        0.5 * u * each
    )
    assert mean(class_weighting="position", label_smoothing=0.5) == pytest.approx(each)
    # Both lse are log(1) = 0; a common offset of 2 gives 4 to each square.
    assert mean(z_loss=0.5) == pytest.approx(ln(4))
    logits = logits + 2
    assert mean(z_loss=0.5, reduction="sum") == pytest.approx(ln(4) + 0.5 * 0.5 * 4)
    settings["sample_weights"] = np.zeros(2)
    assert np.isnan(mean())
    assert mean(empty_mean="sum") == mean(empty_mean="zero") == 0


def test_label_out_of_range_is_refused() -> None:
    for label in (3, -1):
        with pytest.raises(ValueError, match="out of range"):
            reference.softmax_cross_entropy_loss(np.zeros((1, 3)), np.array([label]))


@golden.of_kind((*golden.load("torch"), *golden.load("onnx")), "match", test_golden.EXCEPTIONS)
def test_agrees_with_the_framework(case: golden.GoldenCase) -> None:
    loss, dlogits = golden.formula(case)
    golden.assert_close(loss, case.arrays["loss"], case)
    if "dlogits" in case.arrays:
        golden.assert_close(dlogits, case.arrays["dlogits"], case)
