# SPDX-License-Identifier: MIT
"""The kernels of every instruction set that this machine runs, on a part of the cases."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

import onnxloss
from tests.cases import CASES, Case
from tests.models import raw_arrays, separate_model
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


def test_unknown_instruction_set_is_refused() -> None:
    library = ctypes.CDLL(onnxloss.library_path())
    assert library.OnnxLossSetInstructionSet(b"v5") == 1
