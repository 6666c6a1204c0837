# SPDX-License-Identifier: MIT
"""Every case three ways: function body, library, inlined; judged by the three-way rule."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest

from onnxloss.onnxscript_defs import DOMAIN
from tests.cases import CASES, Case
from tests.models import export_case, raw_arrays, separate_model
from tests.runtime import run_model
from tests.tolerance import assert_body, assert_kernel

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@cache
def exported_model(case: Case) -> onnx.ModelProto:
    return export_case(case)


@cache
def body_outputs(case: Case) -> dict[str, np.ndarray]:
    return run_model(exported_model(case), case.inputs.feeds)


@cache
def separate_body_outputs(case: Case) -> dict[str, np.ndarray]:
    return run_model(separate_model(case), raw_arrays(case))


@every_case
def test_function_body(case: Case) -> None:
    outputs = body_outputs(case)
    for name, truth in case.truth.items():
        assert outputs[name].dtype.name == case.dtype_of(name)
        assert_body(outputs[name], truth, case.classes, name)


@every_case
def test_inlined(case: Case) -> None:
    model = export_case(case, inline=True)
    assert not model.functions
    assert DOMAIN not in {opset.domain for opset in model.opset_import}
    outputs = run_model(model, case.inputs.feeds)
    for name, truth in case.truth.items():
        assert outputs[name].dtype.name == case.dtype_of(name)
        assert_body(outputs[name], truth, case.classes, name)


@every_case
def test_library(case: Case) -> None:
    outputs = run_model(exported_model(case), case.inputs.feeds, library=True)
    for name, truth in case.truth.items():
        assert_kernel(outputs[name], body_outputs(case)[name], truth, name)


@every_case
def test_separate_operators_function_body(case: Case) -> None:
    outputs = separate_body_outputs(case)
    for name, truth in case.truth.items():
        assert_body(outputs[name], truth, case.classes, name)


@every_case
def test_separate_operators_library(case: Case) -> None:
    outputs = run_model(separate_model(case), raw_arrays(case), library=True)
    for name, truth in case.truth.items():
        assert_kernel(outputs[name], separate_body_outputs(case)[name], truth, name)
