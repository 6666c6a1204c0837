# SPDX-License-Identifier: MIT
"""The error bounds that stand in the contract comments of ops/rows/, in units in the last place."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import onnxloss
from tests.cases import DTYPES
from tests.runtime import make_session, run_model, run_session

# Few classes, short rows, the longest of them, one block of a long row, several blocks, blocks that
# are read again.
SHAPES = ((4096, 10), (2048, 95), (1024, 319), (512, 1000), (64, 5000), (4, 70001))
LOSS_ULP = 8.0
GRADIENT_ULP = {"most": 8.0, "all": 32.0}
NARROW_ULP = 1.0


def run_random_rows(shape: tuple[int, int], dtype: str) -> tuple[dict, dict]:
    """The kernel's loss and gradient of standard normal rows, and the same in long double."""
    rng = np.random.default_rng(shape)
    logits = rng.standard_normal(shape).astype(DTYPES[dtype])
    labels = rng.integers(0, shape[1], shape[0])
    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss", {"reduction": "none"})
    model = onnxloss.export(config, logits=shape, dtype=dtype, gradient=True)
    feeds = {"logits": logits, "labels": labels, "dloss": np.ones(shape[0], logits.dtype)}
    x = logits.astype(np.longdouble)
    e = np.exp(x - x.max(1, keepdims=True))
    others = e.copy()
    rows = np.arange(shape[0])
    others[rows, labels] = 0
    p = e / e.sum(1, keepdims=True)
    p[rows, labels] = -others.sum(1) / e.sum(1)
    loss = np.log1p(others.sum(1) / e[rows, labels])
    return run_model(model, feeds, library=True), {"loss": loss, "dlogits": p}


def ulp_errors(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The errors in units in the last place of the truth, in the result's dtype."""
    info = ml_dtypes.finfo(result.dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(truth), np.longdouble(info.tiny))))
    return np.abs(result.astype(np.longdouble) - truth) / (info.eps * 2.0**exponent)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wide_results_keep_the_contract(shape: tuple[int, int], dtype: str) -> None:
    result, truth = run_random_rows(shape, dtype)
    assert ulp_errors(result["loss"], truth["loss"]).max() <= LOSS_ULP
    errors = ulp_errors(result["dlogits"], truth["dlogits"])
    assert np.quantile(errors, 0.999) <= GRADIENT_ULP["most"]
    assert errors.max() <= GRADIENT_ULP["all"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_narrow_results_keep_the_contract(shape: tuple[int, int], dtype: str) -> None:
    result, truth = run_random_rows(shape, dtype)
    for name, values in truth.items():
        assert ulp_errors(result[name], values).max() <= NARROW_ULP, name


@pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
@pytest.mark.parametrize("shape", [(67, 37), (5, 3000)], ids=str)
def test_an_offset_of_1e8_costs_nothing(shape: tuple[int, int], library: bool) -> None:
    """At 2^27 float32 has steps of 16: the logits move by it and stay exact."""
    rng = np.random.default_rng(8)
    logits = (16 * rng.integers(-3, 2, shape)).astype(np.float32)
    feeds = {"labels": rng.integers(0, shape[1], shape[0]), "dloss": np.ones((), np.float32)}
    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss", {"reduction": "sum"})
    model = onnxloss.export(config, logits=shape, gradient=True)
    session = make_session(model, library=library)
    plain, moved = (
        run_session(session, {**feeds, "logits": logits + np.float32(offset)})
        for offset in (0, 2**27)
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(values, moved[name])


@pytest.mark.parametrize("library", [False, True], ids=["function body", "library"])
@pytest.mark.parametrize("shape", [(4096, 2), (4096, 200)], ids=str)
def test_a_float16_mean_does_not_overflow(shape: tuple[int, int], library: bool) -> None:
    """Of losses whose sum is twice the greatest float16."""
    logits = np.zeros(shape, np.float16)
    logits[:, 0] = 32
    model = onnxloss.export(
        onnxloss.LossConfig("SoftmaxCrossEntropyLoss"), logits=shape, dtype="float16"
    )
    feeds = {"logits": logits, "labels": np.ones(shape[0], np.int64)}
    assert 32 * shape[0] > 2 * float(np.finfo(np.float16).max)
    assert run_model(model, feeds, library=library)["loss"] == 32
