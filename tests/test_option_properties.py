# SPDX-License-Identifier: MIT
"""What holds between the options of a loss, whatever the input: identities and neutral values."""

from __future__ import annotations

import numpy as np
import pytest

from onnxloss.onnxscript_defs import find as find_spec
from tests.cases import DTYPES, HARD, OPS, SOFT
from tests.models import node_attributes, raw_model
from tests.runs import assert_same, both_losses, both_ways, make_inputs, run_config
from tests.runtime import run_model

SHAPE = (9, 37)
WEIGHTS = np.linspace(0.25, 2.0, SHAPE[1], dtype=np.float32)
EVERYTHING = {
    "label_smoothing": 0.1,
    "class_weighting": "position",
    "z_loss": 0.125,
    "logit_softcap": 8.0,
}

LSE = ("loss", "lse")

wide_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def with_sample_weights(arrays: dict[str, np.ndarray], *values: float) -> dict[str, np.ndarray]:
    """The weights over and over, in the logits' dtype."""
    logits = arrays["logits"]
    return {**arrays, "sample_weights": np.resize(values, len(logits)).astype(logits.dtype)}


def one_hot(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same labels as probabilities."""
    return {**arrays, "labels": np.eye(SHAPE[1], dtype=np.float32)[arrays["labels"]]}


@both_ways
@both_losses
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sample_weights_of_ones_are_absent(loss: str, reduction: str, library: bool) -> None:
    arrays = make_inputs(loss, SHAPE)
    absent = run_config(loss, arrays, library=library, reduction=reduction)
    ones = run_config(loss, with_sample_weights(arrays, 1.0), library=library, reduction=reduction)
    assert_same(absent, ones, units=4)


@both_ways
@both_losses
def test_a_common_sample_weight_is_a_factor_of_the_sum(loss: str, library: bool) -> None:
    """And none of a mean that divides by the weights; a power of two rounds nothing."""
    arrays = make_inputs(loss, SHAPE)
    for reduction, factor in (("sum", 4.0), ("mean", 1.0)):
        settings = {"reduction": reduction, "mean_over": "weights"}
        ones = run_config(loss, with_sample_weights(arrays, 1.0), library=library, **settings)
        fours = run_config(loss, with_sample_weights(arrays, 4.0), library=library, **settings)
        for name, values in ones.items():
            np.testing.assert_array_equal(factor * values, fours[name])


@both_ways
@both_losses
def test_a_position_without_weight_is_absent_from_the_means_over_others(
    loss: str, library: bool
) -> None:
    arrays = with_sample_weights(make_inputs(loss, SHAPE), 1.0, 0.0, 0.5)
    kept = np.flatnonzero(arrays["sample_weights"])
    fewer = {name: array[kept] if array.ndim else array for name, array in arrays.items()}
    for mean_over in ("weights", "nonzero"):
        whole = run_config(loss, arrays, library=library, mean_over=mean_over)
        part = run_config(loss, fewer, library=library, mean_over=mean_over)
        whole["dlogits"] = whole["dlogits"][kept]
        assert_same(whole, part, units=4)


@both_ways
def test_an_ignored_position_counts_like_one_without_weight(library: bool) -> None:
    arrays = make_inputs(HARD, SHAPE)
    weightless = with_sample_weights(arrays, 0.0, 1.0, 1.0)
    ignored = {**arrays, "labels": np.where(weightless["sample_weights"], arrays["labels"], -100)}
    for over_ignored, over_weightless in (("valid", "nonzero"), ("weights", "weights")):
        left = run_config(HARD, ignored, library=library, mean_over=over_ignored)
        right = run_config(HARD, weightless, library=library, mean_over=over_weightless)
        assert_same(left, right, units=4)


@both_ways
@pytest.mark.parametrize("e", [0.0, 0.1])
def test_one_hot_probabilities_are_indices_with_every_option(e: float, library: bool) -> None:
    arrays = with_sample_weights(make_inputs(HARD, SHAPE), 0.5, 1.0)
    settings = {**EVERYTHING, "label_smoothing": e, "mean_over": "weights"}
    indices = run_config(HARD, arrays, library=library, class_weights=WEIGHTS, **settings)
    probabilities = run_config(
        SOFT, one_hot(arrays), library=library, class_weights=WEIGHTS, **settings
    )
    assert_same(indices, probabilities, units=8)


@both_ways
def test_weighting_of_class_and_position_agree_on_indices(library: bool) -> None:
    """Without smoothing the label's class is all that there is to weigh."""
    arrays = make_inputs(HARD, SHAPE)
    by_class, by_position = (
        run_config(HARD, arrays, library=library, class_weights=WEIGHTS, class_weighting=weighting)
        for weighting in ("class", "position")
    )
    assert_same(by_class, by_position, units=4)


@both_ways
@both_losses
@pytest.mark.parametrize("normalize", ["before_clip", "after_clip"])
def test_normalized_probabilities_need_not_add_up(loss: str, normalize: str, library: bool) -> None:
    """Their scale does not matter, but to the gradient; without clipping neither does the order."""
    arrays = make_inputs(loss, SHAPE)
    arrays["logits"] = np.random.default_rng(3).dirichlet(np.ones(SHAPE[1]), SHAPE[0])
    arrays["logits"] = arrays["logits"].astype(np.float32)
    settings = {"from_logits": 0, "label_smoothing": 0.1}
    plain = run_config(loss, arrays, library=library, **settings, normalize="before_clip")
    halved = {**arrays, "logits": arrays["logits"] / 2}
    scaled = run_config(loss, halved, library=library, **settings, normalize=normalize)
    scaled["dlogits"] /= 2
    assert_same(plain, scaled, units=16)


@both_ways
@both_losses
@wide_dtypes
def test_probabilities_are_the_softmax_of_logits(loss: str, dtype: str, library: bool) -> None:
    """The same loss; its gradient comes through the softmax's Jacobian."""
    arrays = make_inputs(loss, SHAPE, dtype)
    logits = arrays["logits"].astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    of_logits = run_config(loss, arrays, library=library)
    given = {**arrays, "logits": p.astype(DTYPES[dtype])}
    of_probabilities = run_config(loss, given, library=library, from_logits=0)
    dp = of_probabilities["dlogits"].astype(np.float64)
    through = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    led_back = {**of_probabilities, "dlogits": through.astype(DTYPES[dtype])}
    assert_same(of_logits, led_back, units=8)


@both_ways
@both_losses
@wide_dtypes
def test_a_cap_far_above_the_logits_is_absent(loss: str, dtype: str, library: bool) -> None:
    arrays = make_inputs(loss, SHAPE, dtype)
    absent = run_config(loss, arrays, library=library, outputs=LSE)
    # 3 (3 / cap)^2 / 3 is what tanh leaves: less than a unit.
    cap = {"float32": 2.0**16, "float64": 2.0**32}[dtype]
    capped = run_config(loss, arrays, library=library, outputs=LSE, logit_softcap=cap)
    assert_same(absent, capped, units=16)


@both_ways
@both_losses
@wide_dtypes
def test_gradient_rows_add_up_to_the_pull_of_z(loss: str, dtype: str, library: bool) -> None:
    """Cross entropy is blind to a common offset; the square of lse is not."""
    arrays = make_inputs(loss, SHAPE, dtype)
    outputs = run_config(loss, arrays, library=library, outputs=LSE, reduction="sum", z_loss=0.125)
    sums = outputs["dlogits"].astype(np.float64).sum(axis=1)
    pull = 2 * 0.125 * outputs["lse"].astype(np.float64) * float(arrays["dloss"])
    np.testing.assert_allclose(sums, pull, rtol=64 * np.finfo(dtype).eps)


@both_ways
@wide_dtypes
def test_lse_is_loss_and_target_logit(dtype: str, library: bool) -> None:
    arrays = make_inputs(HARD, SHAPE, dtype)
    arrays["dloss"] = np.ones(SHAPE[0], DTYPES[dtype])
    outputs = run_config(HARD, arrays, library=library, outputs=LSE, reduction="none")
    targets = arrays["logits"][np.arange(SHAPE[0]), arrays["labels"]]
    np.testing.assert_allclose(
        outputs["lse"], outputs["loss"] + targets, rtol=4 * np.finfo(dtype).eps
    )


@both_ways
@both_losses
def test_lse_does_not_know_labels_and_weights(loss: str, library: bool) -> None:
    arrays = with_sample_weights(make_inputs(loss, SHAPE), 0.0, 2.0)
    plain = run_config(loss, arrays, library=library, outputs=LSE)
    other = {**arrays, "labels": np.roll(arrays["labels"], 1, axis=0)}
    weighted = run_config(
        loss,
        other,
        library=library,
        outputs=LSE,
        class_weights=WEIGHTS,
        label_smoothing=0.1,
    )
    np.testing.assert_array_equal(plain["lse"], weighted["lse"])


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_kernels_that_give_lse_give_the_same_bits(loss: str, dtype: str) -> None:
    spec = find_spec(OPS[loss])
    arrays = make_inputs(loss, SHAPE, dtype)
    stash = DTYPES["float64" if dtype == "float64" else "float32"]
    arrays["dloss"] = arrays["dloss"].astype(stash)
    attributes = node_attributes(spec, dtype, {"logit_softcap": 8.0})
    results = []
    for op in (spec.forward, spec.loss_and_grad):
        model = raw_model(spec, (op,), attributes, arrays, (), ("lse",))
        used = {value.name for value in model.graph.input}
        feeds = {name: array for name, array in arrays.items() if name in used}
        results.append(run_model(model, feeds, library=True))
    for name in ("loss", "lse"):
        assert results[0][name].tobytes() == results[1][name].tobytes()


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(67, 37), (5, 65537)], ids=["67x37", "5x65537"])
def test_a_row_with_every_option_does_not_depend_on_its_batch(
    loss: str, dtype: str, shape: tuple[int, int]
) -> None:
    arrays = with_sample_weights(make_inputs(loss, shape, dtype), 0.5, 1.0, 0.0)
    arrays["dloss"] = np.full(shape[0], 1.5, DTYPES[dtype])
    settings = {**EVERYTHING, "reduction": "none"}
    weights = np.linspace(0.25, 2.0, shape[1]).astype(DTYPES[dtype])
    whole = run_config(loss, arrays, library=True, outputs=LSE, class_weights=weights, **settings)
    for row in (0, shape[0] // 2, shape[0] - 1):
        one = {name: array[row : row + 1] for name, array in arrays.items()}
        alone = run_config(loss, one, library=True, outputs=LSE, class_weights=weights, **settings)
        for name, values in whole.items():
            assert values[row].tobytes() == alone[name][0].tobytes()


@both_ways
@wide_dtypes
def test_label_gradient_under_a_softcap(dtype: str, library: bool) -> None:
    """It is lse less the capped logit, both of which are rounded in units of the cap."""
    arrays = make_inputs(SOFT, SHAPE, dtype)
    arrays["dloss"] = np.ones(SHAPE[0], DTYPES[dtype])
    outputs = run_config(
        SOFT,
        arrays,
        library=library,
        outputs=("loss", "lse", "dlabels"),
        reduction="none",
        logit_softcap=8.0,
    )
    capped = 8 * np.tanh(arrays["logits"].astype(np.float64) / 8)
    wanted = outputs["lse"][:, None].astype(np.float64) - capped
    units = 8 * 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(outputs["dlabels"], wanted, rtol=0, atol=units)
