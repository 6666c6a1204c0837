# SPDX-License-Identifier: MIT
"""The error bounds that stand in the contract comments of ops/rows/, in units in the last place."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import onnxloss
from tests.cases import DTYPES, HARD, SOFT
from tests.runs import both_losses, reference_of, run_config
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 95, 319, 1000, 5000, 70001])
def test_equal_logits_that_smoothing_wants_have_no_gradient(classes: int, dtype: str) -> None:
    """The softmax is exactly what 1 is divided into."""
    arrays = {
        "logits": np.full((3, classes), 3, DTYPES[dtype]),
        "labels": np.array([0, 7, classes - 1]),
        "dloss": np.ones(3, DTYPES[dtype]),
    }
    settings = {"reduction": "none", "label_smoothing": 1.0}
    assert not run_config(HARD, arrays, library=True, **settings)["dlogits"].any()


@both_losses
@pytest.mark.parametrize("normalize", ["none", "before_clip", "after_clip"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_of_probabilities_keep_the_contract(
    shape: tuple[int, int], dtype: str, normalize: str, loss: str
) -> None:
    """Of softmaxes of standard normal rows."""
    rng = np.random.default_rng(shape)
    exponentials = np.exp(rng.standard_normal(shape))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    indices, shares = (
        rng.integers(0, shape[1], shape[0]),
        rng.dirichlet(np.ones(shape[1]), shape[0]),
    )
    arrays = {
        "logits": probabilities.astype(DTYPES[dtype]),
        "labels": {HARD: indices, SOFT: shares.astype(DTYPES[dtype])}[loss],
        "dloss": np.ones(shape[0], DTYPES[dtype]),
    }
    settings = {"from_logits": 0, "normalize": normalize, "reduction": "none"}
    if normalize != "none":
        settings["epsilon"] = 2.0**-24
    result = run_config(loss, arrays, library=True, **settings)
    truth = reference_of(loss, arrays, **settings)
    assert ulp_errors(result["loss"], truth["loss"]).max() <= LOSS_ULP
    units = np.abs(truth["dlogits"])
    if loss == SOFT:
        # Both signs meet: that of the labels, and that of the sum.
        units = units + shares / probabilities
    allowed = np.finfo(dtype).eps * np.maximum(units, np.finfo(dtype).tiny)
    errors = np.abs(result["dlogits"] - truth["dlogits"]) / allowed
    assert np.quantile(errors, 0.999) <= GRADIENT_ULP["most"]
    assert errors.max() <= GRADIENT_ULP["all"]


# A difference of 20 is rounded, which is half an ulp of 20 in its exponential.
WIDE_RTOL = {"float32": 2e-6, "float64": 1e-14}


@both_losses
@pytest.mark.parametrize("dtype", WIDE_RTOL)
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("classes", [10, 95, 319, 1000, 5000])
def test_a_lone_peak_keeps_its_digits(classes: int, inner: int, dtype: str, loss: str) -> None:
    """Wherever in its row it stands: the loss is that of a margin of 19 to 21."""
    peaks = np.linspace(0, classes - 1, 24 * inner).astype(np.int64).reshape(24, inner)
    one_hot = np.moveaxis(np.arange(classes) == peaks[..., None], 2, 1)
    noise = np.random.default_rng(9).uniform(-1, 1, one_hot.shape)
    labels = {HARD: peaks, SOFT: one_hot.astype(DTYPES[dtype])}
    arrays = {
        "logits": np.where(one_hot, 20.123, noise).astype(DTYPES[dtype]),
        "labels": labels[loss],
        "dloss": np.ones((24, inner), DTYPES[dtype]),
    }
    truth = reference_of(loss, arrays, reduction="none")
    assert truth["loss"].max() < 2e-4
    result = run_config(loss, arrays, library=True, reduction="none")
    for name, values in truth.items():
        np.testing.assert_allclose(result[name], values, WIDE_RTOL[dtype], atol=0)


@pytest.mark.parametrize("margin", [5, 10, 20])
@pytest.mark.parametrize("classes", [10, 95, 320, 5000])
def test_smoothing_keeps_the_digits_of_the_only_class_that_counts(
    classes: int, margin: int
) -> None:
    """The greatest, as far from where the kernel looks first as can be."""
    peak = classes // 3
    weights = 1.7 * (np.arange(classes) == peak).astype(np.float32)
    logits = np.random.default_rng(10).uniform(0, 1, (64, classes)).astype(np.float32)
    logits[:, peak] = margin
    arrays = {"logits": logits, "labels": np.full(64, peak), "dloss": np.ones(64, np.float32)}
    settings = {"reduction": "none", "label_smoothing": 1.0}
    result = run_config(HARD, arrays, library=True, class_weights=weights, **settings)
    truth = reference_of(HARD, arrays | {"class_weights": weights}, **settings)["loss"]
    np.testing.assert_allclose(result["loss"], truth, WIDE_RTOL["float32"], atol=0)


@pytest.mark.parametrize("inner", [1, 3])
def test_terms_too_small_for_one_sum_count(inner: int) -> None:
    """Each is lost beside 32; all together they are 966 ulp of the loss.

    Within one block some are lost, the more the fewer lanes add them up.
    """
    logits = np.full((2, 65536, inner), -16, np.float32)
    logits[:, :32] = 0
    arrays = {
        "logits": logits,
        "labels": np.zeros((2, inner), np.int64),
        "dloss": np.ones((2, inner), np.float32),
    }
    truth = reference_of(HARD, arrays, reduction="none")["loss"]
    result = run_config(HARD, arrays, library=True, reduction="none")["loss"]
    assert ulp_errors(result, truth).max() <= 32


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
