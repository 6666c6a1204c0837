# SPDX-License-Identifier: MIT
"""The C++ example and the call in C, compiled against ONNX Runtime's own headers."""

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

IN_C = """
#include <onnxruntime_c_api.h>

int main(int argc, char** argv) {
  const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  OrtEnv* env;
  OrtSessionOptions* options;
  OrtSession* session;
  return argc != 3 || api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "loss", &env) ||
         api->CreateSessionOptions(&options) ||
         api->RegisterCustomOpsLibrary_V2(options, argv[2]) ||
         api->CreateSession(env, argv[1], options, &session);
}
"""
"""The call of docs/library.md, between what it needs: 0 if there is a session."""


def compiled(compiler: list[str], source: Path, header: str, folder: Path) -> Path:
    """The program, linked to the ONNX Runtime that the Python package brings."""
    include, found = header_directory(), shutil.which(compiler[0])
    if include is None or found is None or not (include / header).is_file():
        pytest.skip(f"no {compiler[0]}, or {header} not in ONNXRUNTIME_INCLUDE_DIR")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    result = folder / "loss"
    command = [*compiler, "-Wall", "-Wextra", "-Werror", f"-isystem{include}", source]
    subprocess.run([*command, "-o", result, library, f"-Wl,-rpath,{folder}"], check=True)
    return result


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example."""
    source, folder = ROOT / "examples" / "loss.cc", tmp_path_factory.mktemp("example")
    compiler = [os.environ.get("CXX", "c++"), "-std=c++17"]
    return compiled(compiler, source, "onnxruntime_cxx_api.h", folder)


@pytest.mark.parametrize("body", [True, False], ids=["with body", "without body"])
def test_the_call_in_c(body: bool, tmp_path: Path) -> None:
    (tmp_path / "loss.c").write_text(IN_C)
    compiler = [os.environ.get("CC", "cc"), "-std=c11"]
    program = compiled(compiler, tmp_path / "loss.c", "onnxruntime_c_api.h", tmp_path)
    model = onnxloss.export(onnxloss.LossConfig("SoftmaxCrossEntropyLoss"), logits=("N", 3))
    if not body:
        del model.functions[:]
    onnx.save(model, tmp_path / "loss.onnx")
    done = subprocess.run([program, tmp_path / "loss.onnx", onnxloss.library_path()])
    assert done.returncode == 0


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
