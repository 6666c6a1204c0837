# SPDX-License-Identifier: MIT
"""The kernels of every instruction set that this machine runs, on a part of the cases."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

import onnxloss
from onnxloss.onnxscript_defs import find as find_spec
from tests.cases import CASES, DTYPES, HARD, OPS, Case
from tests.models import node_attributes, raw_arrays, raw_model, separate_model
from tests.runtime import run_model
from tests.tolerance import assert_kernel_alone

PART = [
    case
    for case in CASES
    if case.dtype == "bfloat16" or (case.dtype != "float16" and case.reduction == "sum")
]


@pytest.fixture(scope="module", params=["v2", "v3", "v4"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Makes the library's kernels those of one x86-64 level, and puts the choice back."""
    library = ctypes.CDLL(onnxloss.library_path())
    if library.OnnxLossSetInstructionSet(request.param.encode()):
        pytest.skip(f"this machine does not run x86-64-{request.param}")
    yield request.param
    assert library.OnnxLossSetInstructionSet(b"auto") == 0


@pytest.mark.parametrize("case", PART, ids=lambda case: case.id)
def test_kernels_of_each_instruction_set(case: Case, instruction_set: str) -> None:
    outputs = run_model(separate_model(case), raw_arrays(case), library=True)
    for name, truth in case.truth.items():
        assert_kernel_alone(outputs[name], truth, f"{instruction_set}: {name}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), [((256, 2), 1), ((256, 256), 1), ((4, 2, 64), 1)])
def test_rounding_to_nearest_even(
    dtype: str, shape: tuple[int, ...], axis: int, instruction_set: str
) -> None:
    """Gradients of equal logits are dloss / C, half way between two 16-bit numbers."""
    digits, classes = ml_dtypes.finfo(DTYPES[dtype]).nmant, shape[axis]
    positions = tuple(np.delete(shape, axis).tolist())
    halves = 1 + (2 * np.arange(256) + 1) * 2.0 ** -(digits + 1)
    arrays = {
        "dloss": (halves.reshape(positions) * classes).astype(np.float32),
        "logits": np.full(shape, 0.5, DTYPES[dtype]),
        "labels": np.zeros(positions, np.int64),
    }
    spec = find_spec(OPS[HARD])
    attributes = node_attributes(spec, dtype, {"reduction": "none"})
    model = raw_model(spec, (spec.grad,), attributes, arrays, positions)
    found = np.moveaxis(run_model(model, arrays, library=True)["dlogits"], axis, -1)
    expected = halves.astype(DTYPES[dtype]).reshape(positions)
    assert (expected.astype(np.float64) != halves.reshape(positions)).all()
    for column in range(1, classes):
        np.testing.assert_array_equal(found[..., column], expected)


def test_unknown_instruction_set_is_refused() -> None:
    library = ctypes.CDLL(onnxloss.library_path())
    assert library.OnnxLossSetInstructionSet(b"v5") == 1
