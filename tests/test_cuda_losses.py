# SPDX-License-Identifier: MIT
"""The CUDA kernels, run on the host, on every case: against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from tests import cuda_calls
from tests.cases import CASES, Case
from tests.tolerance import assert_kernel_alone, eps

# Weights of both signs: numerator and denominator lose digits, and which ones the order decides.
CANCELLED = "cancelled_weights_sum"

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def assert_right(outputs: dict[str, np.ndarray], case: Case) -> None:
    for name, values in outputs.items():
        if case.trait.name == CANCELLED and name == "loss":
            np.testing.assert_allclose(values, case.truth[name], rtol=64 * eps(values.dtype))
        else:
            assert_kernel_alone(values, case.truth[name], name)


@every_case
def test_loss_and_gradient(case: Case) -> None:
    assert_right(cuda_calls.run_case(case), case)


@every_case
def test_loss_alone(case: Case) -> None:
    outputs = tuple(name for name in case.truth if name != "dlogits")
    assert_right(cuda_calls.run_case(case, outputs=outputs), case)


@every_case
def test_gradient_alone(case: Case) -> None:
    assert_right(cuda_calls.run_case(case, outputs=("dlogits",)), case)
