# SPDX-License-Identifier: MIT
"""The sampled softmax's CUDA kernels with given samples, run on the host: against the formula."""

from __future__ import annotations

import numpy as np
import pytest

from tests import cuda_calls
from tests.cases import DTYPES
from tests.models import element_type
from tests.sampled import truth
from tests.test_sampled import SHAPES, arrays_of
from tests.tolerance import assert_kernel_alone


def run(arrays: dict[str, np.ndarray], *, remove: bool, reduction: str) -> dict[str, np.ndarray]:
    logits, labels, samples = arrays["logits"], arrays["labels"], arrays["samples"]
    call = cuda_calls.SampledCall(
        type=element_type(logits.dtype),
        label_kind=cuda_calls.LABEL_KINDS[labels.dtype.name],
        rows=logits.shape[0],
        classes=logits.shape[1],
        num_true=labels.shape[1],
        num_samples=samples.shape[-1],
        own_samples=samples.ndim == 2,
        remove_accidental_hits=remove,
        reduced=reduction != "none",
        mean=reduction == "mean",
    )
    stash = arrays["probabilities"].dtype
    rows = logits.shape[:1]
    forms = {
        "loss": np.empty(() if call.reduced else rows, stash),
        "lse": np.empty(rows, stash),
        "dlogits": np.empty(logits.shape, logits.dtype),
    }
    return cuda_calls.run_call(call, arrays, forms)


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
