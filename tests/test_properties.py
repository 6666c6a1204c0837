# SPDX-License-Identifier: MIT
"""What holds for any input: invariances, identities, determinism, and the kernels' digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxloss
from onnxloss.onnxscript_defs import LossSpec, OpSpec
from onnxloss.onnxscript_defs import find as find_spec
from tests import reference
from tests.cases import CASES, DTYPES, HARD, OPS, SOFT, Case
from tests.models import export_case, node_attributes, raw_model, stash_dtype
from tests.runs import (
    assert_same,
    both_losses,
    both_ways,
    make_inputs,
    reference_of,
    run_config,
)
from tests.runtime import make_session, run_model, run_session
from tests.tolerance import eps


@both_ways
@both_losses
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shift_invariance(loss: str, dtype: str, library: bool) -> None:
    arrays = make_inputs(loss, (9, 37), dtype)
    moved = {**arrays, "logits": arrays["logits"] + arrays["logits"].dtype.type(2.0**16)}
    for reduction in ("mean", "sum"):
        plain = run_config(loss, arrays, library=library, reduction=reduction)
        shifted = run_config(loss, moved, library=library, reduction=reduction)
        for name, values in plain.items():
            np.testing.assert_array_equal(values, shifted[name])


@both_ways
@both_losses
def test_smoothing_0_is_absent(loss: str, library: bool) -> None:
    arrays = make_inputs(loss, (9, 37))
    absent = run_config(loss, arrays, library=library)
    zero = run_config(loss, arrays, library=library, label_smoothing=0.0)
    for name, values in absent.items():
        np.testing.assert_array_equal(values, zero[name])


@both_losses
def test_vanishing_smoothing_is_close_to_absent(loss: str) -> None:
    """The branch for e > 0 meets the one for e = 0."""
    arrays = make_inputs(loss, (9, 37))
    absent = run_config(loss, arrays, library=True)
    tiny = run_config(loss, arrays, library=True, label_smoothing=1e-30)
    assert_same(absent, tiny, units=4)


@both_ways
@both_losses
def test_weights_of_ones_are_absent(loss: str, library: bool) -> None:
    arrays = make_inputs(loss, (9, 37))
    for e in (0.0, 0.1):
        absent = run_config(loss, arrays, library=library, label_smoothing=e)
        ones = run_config(
            loss, arrays, library=library, label_smoothing=e, class_weights=[1.0] * 37
        )
        assert_same(absent, ones, units=4)


@both_ways
@both_losses
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_rows_sum_to_0(loss: str, dtype: str, library: bool) -> None:
    arrays = make_inputs(loss, (9, 37), dtype)
    weights = np.linspace(0.1, 3.0, 37, dtype=DTYPES[dtype])
    outputs = run_config(
        loss, arrays, library=library, label_smoothing=0.1, class_weights=weights, reduction="sum"
    )
    sums = outputs["dlogits"].astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(sums, 0.0, atol=37 * eps(DTYPES[dtype]))


@both_ways
@pytest.mark.parametrize("e", [0.0, 0.1])
def test_one_hot_probabilities_are_indices(e: float, library: bool) -> None:
    arrays = make_inputs(HARD, (9, 37))
    one_hot = np.eye(37, dtype=np.float32)[arrays["labels"]]
    indices = run_config(HARD, arrays, library=library, label_smoothing=e)
    probabilities = run_config(
        SOFT, {**arrays, "labels": one_hot}, library=library, label_smoothing=e
    )
    assert_same(indices, probabilities, units=4)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.trait.name
        in (
            *("many_classes", "many_classes_smoothed", "many_rows", "kdim_wide", "odd_classes"),
            *("sample_weights_many_rows", "everything_wide", "everything_many_classes"),
            *("probabilities_wide", "probabilities_many_classes"),
        )
        and case.dtype != "bfloat16"
    ],
    ids=lambda case: case.id,
)
def test_same_bits_for_any_number_of_threads(case: Case) -> None:
    model = export_case(case)
    one, *others = (
        run_model(model, case.inputs.feeds, library=True, threads=threads)
        for threads in (1, 2, 3, 8)
    )
    for outputs in others:
        for name, values in one.items():
            assert values.tobytes() == outputs[name].tobytes()


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(67, 37), (5, 65537)], ids=["67x37", "5x65537"])
def test_a_row_does_not_depend_on_its_batch(loss: str, dtype: str, shape: tuple[int, int]) -> None:
    arrays = make_inputs(loss, shape, dtype)
    arrays["dloss"] = np.full(shape[0], 1.5, DTYPES[dtype])
    whole = run_config(loss, arrays, library=True, reduction="none", label_smoothing=0.1)
    for row in (0, shape[0] // 2, shape[0] - 1):
        alone = run_config(
            loss,
            {name: array[row : row + 1] for name, array in arrays.items()},
            library=True,
            reduction="none",
            label_smoothing=0.1,
        )
        for name, values in whole.items():
            assert values[row].tobytes() == alone[name][0].tobytes()


# What a node may have and leave out; class weights are left out in the middle too.
OPTIONAL = {
    "plain": (),
    "class_weights": ("class_weights",),
    "sample_weights": ("sample_weights",),
    "all": ("class_weights", "sample_weights", "lse"),
}


def operators() -> list[Any]:
    """Every operator with every dtype and label dtype of its SPEC, and its optional ports."""
    return [
        pytest.param(
            spec, op, dtype, label_dtype, ports, id=f"{op.name}-{dtype}-{label_dtype}-{name}"
        )
        for spec in map(find_spec, OPS.values())
        for op in spec.ops
        for dtype in DTYPES
        for label_dtype in (("int32", "int64") if spec.name == OPS[HARD] else (dtype,))
        for name, ports in OPTIONAL.items()
    ]


@pytest.mark.parametrize(("spec", "op", "dtype", "label_dtype", "ports"), operators())
def test_every_operator_runs_in_every_dtype(
    spec: LossSpec, op: OpSpec, dtype: str, label_dtype: str, ports: tuple[str, ...]
) -> None:
    loss, stash = next(stem for stem, name in OPS.items() if name == spec.name), stash_dtype(dtype)
    arrays = make_inputs(loss, (4, 5), dtype)
    arrays["labels"] = arrays["labels"].astype(label_dtype)
    arrays["dloss"] = arrays["dloss"].astype(stash)
    weights = {"class_weights": np.linspace(1, 2, 5), "sample_weights": np.linspace(0.5, 2, 4)}
    arrays |= {name: array.astype(stash) for name, array in weights.items() if name in ports}
    attributes = node_attributes(spec, dtype, {})
    model = raw_model(spec, (op,), attributes, arrays, (), ports)
    session = make_session(model, library=True)
    used = {value.name for value in session.get_inputs()}
    outputs = run_session(session, {name: array for name, array in arrays.items() if name in used})
    truth = {**reference_of(loss, arrays), "lse": reference.lse(arrays["logits"])}
    for name, values in outputs.items():
        units = 4 * eps(values.dtype)
        np.testing.assert_allclose(values.astype(np.float64), truth[name], rtol=units, atol=units)


@both_ways
@both_losses
def test_dynamic_dimensions(loss: str, library: bool) -> None:
    model = onnxloss.export(
        onnxloss.LossConfig(OPS[loss]), logits=("N", "C"), labels=None, gradient=True
    )
    session = make_session(model, library=library)
    for shape in ((4, 5), (7, 3), (0, 5), (1, 1)):
        arrays = make_inputs(loss, shape)
        truth = reference_of(loss, arrays)
        for name, values in run_session(session, arrays).items():
            np.testing.assert_allclose(values, truth[name], rtol=2e-6, atol=1e-6)


@both_ways
def test_uint8_labels(library: bool) -> None:
    arrays = make_inputs(HARD, (9, 37))
    model = onnxloss.export(
        onnxloss.LossConfig(OPS[HARD]), logits=(9, 37), label_dtype="uint8", gradient=True
    )
    narrow = {**arrays, "labels": arrays["labels"].astype(np.uint8)}
    outputs = run_model(model, narrow, library=library)
    for name, values in run_config(HARD, arrays, library=library).items():
        np.testing.assert_array_equal(values, outputs[name])


# Relative to the value itself, however small: a 16-bit gradient is rounded once.
SHARP_BOUNDS = {"float32": 1e-6, "float64": 1e-14, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_keeps_the_digits_of_a_margin_of_20(loss: str, dtype: str) -> None:
    """The loss is 2.06e-9 and not 0, in each operator that gives it; so is the gradient."""
    spec, stash = find_spec(OPS[loss]), stash_dtype(dtype)
    arrays = {
        "logits": np.array([[20.0, 0.0], [0.0, 20.0]]).astype(DTYPES[dtype]),
        "labels": np.array([0, 1]) if loss == HARD else np.eye(2).astype(DTYPES[dtype]),
        # float16 ends at 6e-8: a power of two brings the gradient into its range unchanged.
        "dloss": np.asarray(2.0**20, stash),
    }
    truth = reference_of(loss, arrays, reduction="sum")
    assert truth["loss"] == pytest.approx(2 * 2.0611536203143808e-09, rel=1e-15)
    attributes = node_attributes(spec, dtype, {"reduction": "sum"})
    for op in spec.ops:
        model = raw_model(spec, (op,), attributes, arrays, ())
        used = {value.name for value in model.graph.input}
        feeds = {name: array for name, array in arrays.items() if name in used}
        for name, values in run_model(model, feeds, library=True).items():
            np.testing.assert_allclose(
                values.astype(np.float64), truth[name], SHARP_BOUNDS[values.dtype.name], atol=0
            )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@both_losses
@both_ways
def test_target_gradient_is_formed_before_rounding(loss: str, dtype: str, library: bool) -> None:
    """At p = 0.999, p rounds to 1 in bfloat16: 1 - p must be formed before that."""
    arrays = {
        "logits": np.array([[6.90625, 0.0]]).astype(DTYPES[dtype]),
        "labels": np.array([0]) if loss == HARD else np.array([[1.0, 0.0]]).astype(DTYPES[dtype]),
        "dloss": np.ones((), DTYPES[dtype]),
    }
    outputs = run_config(loss, arrays, library=library)
    truth = reference_of(loss, arrays)["dlogits"]
    assert -1.1e-3 < truth[0, 0] < -0.9e-3
    np.testing.assert_allclose(
        outputs["dlogits"].astype(np.float64), truth, rtol=eps(DTYPES[dtype]) / 2 * 1.01, atol=0
    )
