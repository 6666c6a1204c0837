# SPDX-License-Identifier: MIT
"""One binary, two runtimes: the same models and library in onnxruntime-training 1.19.2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxloss
from tests.cases import CASES, DTYPES, Case
from tests.models import export_case, raw_arrays, separate_model
from tests.ort_training.runs import interpreter_or_skip, run
from tests.tolerance import eps
from tests.two_losses import PAIRS, feeds_of, model_of, truth_of

SMOKE = Path(__file__).parent / "ort_training_smoke.py"

# 1.19.2 takes no bfloat16 from Python. One reduction of float32 and the other dtypes as they come.
SMOKE_CASES = [
    case
    for case in CASES
    if case.dtype != "bfloat16" and (case.dtype != "float32" or case.reduction == "mean")
]


@pytest.fixture(scope="module")
def interpreter() -> str:
    return interpreter_or_skip()


def test_cases_run_in_onnxruntime_training(interpreter: str, tmp_path: Path) -> None:
    for number, case in enumerate(SMOKE_CASES):
        # The file system need not like the ids of all cases; the number keeps them apart.
        write(tmp_path, f"{number:03}-{case.id}", export_case(case), *expectation_of(case))
    assert_smoke(interpreter, tmp_path, runs=2 * len(SMOKE_CASES))


def test_inlined_cases_run_in_onnxruntime_training(interpreter: str, tmp_path: Path) -> None:
    cases = [case for case in SMOKE_CASES if case.dtype == "float32"]
    for number, case in enumerate(cases):
        model = export_case(case, inline=True)
        write(tmp_path, f"{number:03}-{case.id}", model, *expectation_of(case))
    assert_smoke(interpreter, tmp_path, runs=2 * len(cases))


def test_generic_bodies_run_in_onnxruntime_training(interpreter: str, tmp_path: Path) -> None:
    """The bodies that refer to the node's attributes, of the loss's and the gradient's operator."""
    for number, case in enumerate(SMOKE_CASES):
        _, expected, allowed = expectation_of(case)
        model = separate_model(case)
        write(tmp_path, f"{number:03}-{case.id}", model, raw_arrays(case), expected, allowed)
    assert_smoke(interpreter, tmp_path, runs=2 * len(SMOKE_CASES))


def test_two_losses_run_in_onnxruntime_training(interpreter: str, tmp_path: Path) -> None:
    for pair in PAIRS:
        for inline in (False, True):
            truth = truth_of(pair)
            allowed = {name: np.full(values.shape, 4e-6) for name, values in truth.items()}
            name = f"{pair.name}-{'inlined' if inline else 'function'}"
            write(tmp_path, name, model_of(pair, inline=inline), feeds_of(pair), truth, allowed)
    assert_smoke(interpreter, tmp_path, runs=4 * len(PAIRS))


def expectation_of(
    case: Case,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs, expected outputs and allowed errors of a case."""
    allowed = {}
    for name, truth in case.truth.items():
        size = np.where(np.isfinite(truth), np.abs(truth), 0.0)
        # 1.19.2 adds 65 537 float32 terms one by one.
        units = 64 if case.classes > 65536 else 16
        allowed[name] = units * eps(DTYPES[case.dtype]) * np.maximum(1.0, size)
    return case.inputs.feeds, case.truth, allowed


def write(
    folder: Path,
    name: str,
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    allowed: Mapping[str, np.ndarray],
) -> None:
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    groups = {"in": feeds, "out": expected, "tolerance": allowed}
    np.savez(
        folder / f"{name}.npz",
        **{
            f"{group}.{key}": value
            for group, items in groups.items()
            for key, value in items.items()
        },
    )


def assert_smoke(interpreter: str, folder: Path, runs: int) -> None:
    done = run(interpreter, SMOKE, folder, onnxloss.library_path())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("onnxruntime 1.19.2: ") and f", {runs} runs, 0 wrong" in last
