# SPDX-License-Identifier: MIT
"""onnxloss.training.ort in onnxruntime-training 1.19.2: the programs of tests/ort_training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.ort_training import models
from tests.ort_training.runs import ROOT, interpreter_or_skip, run, run_with_onnxloss

GOLDEN = json.loads((ROOT / "tests" / "golden" / "ort_training.json").read_text())


@pytest.fixture(scope="module")
def interpreter() -> str:
    return interpreter_or_skip()


def test_losses_and_gradients_of_the_table_of_cases(interpreter: str, tmp_path: Path) -> None:
    program = ("-m", "tests.ort_training.cases", "--every", 2)
    printed = run_with_onnxloss(interpreter, tmp_path, *program)
    assert printed.startswith("onnxruntime 1.19.2: ") and "losses, 0 wrong" in printed


def test_blocks(interpreter: str, tmp_path: Path) -> None:
    printed = run_with_onnxloss(interpreter, tmp_path, "-m", "tests.ort_training.blocks")
    lines = printed.splitlines()
    assert len(lines) == 14 and all(line.endswith(": right") for line in lines), printed


@pytest.fixture(scope="module")
def losses(interpreter: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[float]]:
    """The losses of each training."""
    pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")
    folder = tmp_path_factory.mktemp("ort_training")
    arrays = {}
    for model in models.MODELS:
        batches = models.batches(model)
        arrays[f"{model}.x"] = np.stack([x for x, _ in batches])
        arrays[f"{model}.labels"] = np.stack([labels for _, labels in batches])
    np.savez(folder / "batches.npz", **arrays)
    program = ("-m", "tests.ort_training.training", folder / "batches.npz")
    return json.loads(run_with_onnxloss(interpreter, folder, *program))


@pytest.mark.parametrize("way", ["body", "library"])
@pytest.mark.parametrize("optimizer", models.LEARNING_RATES)
@pytest.mark.parametrize("model", models.MODELS)
def test_training_equals_torch(
    losses: Mapping[str, list[float]], model: str, optimizer: str, way: str
) -> None:
    wanted = GOLDEN[f"{model}-{optimizer}"]
    assert len(wanted) == models.STEPS and wanted[-1] < wanted[0] - 0.5
    np.testing.assert_allclose(losses[f"{model}-{optimizer}-{way}"], wanted, rtol=0, atol=1e-5)


def test_the_example_runs(interpreter: str, tmp_path: Path) -> None:
    if run(interpreter, "-c", "import sklearn").returncode != 0:
        pytest.skip(f"{interpreter} has no scikit-learn, which has the digits")
    printed = run_with_onnxloss(interpreter, tmp_path, "examples/ort_training.py")
    assert printed.splitlines()[-1].startswith("held-out accuracy 0.9")


def test_the_benchmark_runs(interpreter: str, tmp_path: Path) -> None:
    program = ("-m", "bench.bench_ort_training", "--shape", "8x50", "--repeats", 1)
    printed = run_with_onnxloss(interpreter, tmp_path, *program)
    assert len(printed.splitlines()) == 7 and printed.count("times as fast") == 6


def test_the_module_says_what_is_missing_and_changes_nothing() -> None:
    """In the environment of stock ONNX Runtime."""
    program = (
        "import sys, onnx, onnxloss; before = onnx.IR_VERSION, set(sys.modules)\n"
        "try: import onnxloss.training.ort\n"
        "except onnxloss.LossError as error: print(error)\n"
        "assert onnx.IR_VERSION == before[0] and 'onnxruntime.training.amp' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "onnxloss.training.ort: onnxruntime.training is not there; expected "
        "onnxruntime-training-cpu 1.19.2 in the place of onnxruntime.\n"
    )
