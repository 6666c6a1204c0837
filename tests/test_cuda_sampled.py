# SPDX-License-Identifier: MIT
"""The sampled softmax's CUDA kernels with given samples, run on the host: against the formula."""

from __future__ import annotations

import numpy as np
import pytest

from tests import cuda_calls
from tests.cases import DTYPES
from tests.sampled import expected_count, inputs_of, truth
from tests.test_sampled import SHAPES, arrays_of
from tests.tolerance import assert_kernel_alone


def run(arrays: dict[str, np.ndarray], *, remove: bool, reduction: str) -> dict[str, np.ndarray]:
    attributes = {"remove_accidental_hits": remove, "reduction": reduction}
    return cuda_calls.run_sampled(attributes, arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("remove", [True, False], ids=["removed", "hits"])
@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_the_formula(name: str, remove: bool, dtype: str) -> None:
    arrays = arrays_of(name, dtype)
    outputs = run(arrays, remove=remove, reduction="none")
    wanted = truth(**{**arrays, "remove_accidental_hits": remove})
    for port in ("loss", "dlogits"):
        assert_kernel_alone(outputs[port], wanted[port], port)


def test_mean() -> None:
    arrays = arrays_of("many rows", "float64")
    wanted = truth(**{**arrays, "dloss": 1 / 700})
    arrays["dloss"] = np.ones(())
    outputs = run(arrays, remove=True, reduction="mean")
    np.testing.assert_allclose(outputs["loss"], wanted["loss"].mean(), rtol=1e-13)
    np.testing.assert_allclose(outputs["dlogits"], wanted["dlogits"], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("repeats", [0, 5])
def test_drawn_samples_and_their_expected_counts(repeats: int, dtype: str) -> None:
    """From the host's memory; more rows than a block of the counts has."""
    arrays = inputs_of(70, 500, 2, 300, dtype)
    samples = arrays["samples"]
    outputs = cuda_calls.run_sampled(
        {"remove_accidental_hits": True, "reduction": "none"},
        arrays,
        outputs=("loss", "dlogits", "drawn_samples", "drawn_probabilities"),
        num_tries=300 + repeats,
    )
    counts = np.array([expected_count(v, 500, 300, 300 + repeats) for v in range(500)])
    columns = np.concatenate([arrays["labels"], np.tile(samples, (70, 1))], axis=1)
    np.testing.assert_array_equal(outputs["drawn_samples"], samples)
    assert_kernel_alone(outputs["drawn_probabilities"], counts[columns], "drawn_probabilities")
    wanted = truth(**{**arrays, "probabilities": outputs["drawn_probabilities"]})
    for port in ("loss", "dlogits"):
        assert_kernel_alone(outputs[port], wanted[port], port)


@pytest.mark.parametrize("port", ["labels", "samples"])
@pytest.mark.parametrize("value", [-1, 12])
def test_a_class_that_there_is_not_makes_its_row_nan(value: int, port: str) -> None:
    arrays = arrays_of("own samples", "float32")
    good = run(arrays, remove=True, reduction="none")
    arrays[port][3, 1] = value
    outputs = run(arrays, remove=True, reduction="none")
    for name in ("loss", "dlogits"):
        assert np.isnan(outputs[name][3]).all()
        outputs[name][3] = good[name][3]
        np.testing.assert_array_equal(outputs[name], good[name])
