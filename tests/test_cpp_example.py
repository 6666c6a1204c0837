# SPDX-License-Identifier: MIT
"""The C++ example, compiled against ONNX Runtime's own header, with the package's library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxloss
from tests.runtime import run_model
from tests.test_abi import ROOT, header_directory


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, linked to the ONNX Runtime that the Python package brings."""
    header, compiler = header_directory(), shutil.which(os.environ.get("CXX", "c++"))
    if header is None or compiler is None or not (header / "onnxruntime_cxx_api.h").is_file():
        pytest.skip("no C++ compiler, or onnxruntime_cxx_api.h not in ONNXRUNTIME_INCLUDE_DIR")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("example")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    result = folder / "loss"
    source = ROOT / "examples" / "loss.cc"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{header}"]
    subprocess.run([*command, source, "-o", result, library, f"-Wl,-rpath,{folder}"], check=True)
    return result


def test_it_prints_the_loss(program: Path, tmp_path: Path) -> None:
    config = onnxloss.from_torch("torch.nn.CrossEntropyLoss", label_smoothing=0.1)
    model = onnxloss.export(config, logits=("N", 3))
    onnx.save(model, tmp_path / "loss.onnx")
    command = [program, tmp_path / "loss.onnx", onnxloss.library_path()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    feeds = {"logits": np.array([[2, 1, 0], [0, 3, 1]], np.float32), "labels": np.array([0, 2])}
    assert float(done.stdout) == pytest.approx(run_model(model, feeds, library=True)["loss"])


def test_it_says_when_the_library_is_missing(program: Path, tmp_path: Path) -> None:
    done = subprocess.run([program, "loss.onnx", "none.so"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "none.so" in done.stderr
