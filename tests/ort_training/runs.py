# SPDX-License-Identifier: MIT
"""Runs a program in the environment of onnxruntime-training 1.19.2."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

import onnxloss

ROOT = Path(__file__).parent.parent.parent
DEFAULT = ROOT / ".venv-ort-training" / "bin" / "python"
NEEDS = ("ml_dtypes", "onnx", "onnx_ir", "onnxscript")


def interpreter_or_skip() -> str:
    """The interpreter that ONNXLOSS_ORT_TRAINING_PYTHON names, or the Makefile's."""
    python = os.environ.get("ONNXLOSS_ORT_TRAINING_PYTHON", str(DEFAULT))
    if not Path(python).exists():
        pytest.skip(
            f"no interpreter with onnxruntime-training 1.19.2 at {python}; "
            "name one in ONNXLOSS_ORT_TRAINING_PYTHON"
        )
    return python


def run(
    python: str, *arguments: object, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A program's output, without this process's PYTHONPATH; `path` becomes its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [python, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )


def run_with_onnxloss(python: str, folder: Path, *arguments: object) -> str:
    """What a program prints that finds there the onnxloss that this process has.

    A runtime's environment may have another one installed, or none: a folder with this one comes
    before it.
    """
    metadata = Path(str(distribution("onnxloss").locate_file(""))) / _metadata_folder()
    for source in (Path(onnxloss.__file__).parent, metadata):
        (folder / source.name).symlink_to(source)
    imports = run(python, "-c", f"import {', '.join(NEEDS)}")
    if imports.returncode != 0:
        pytest.skip(f"{python} has not all of {', '.join(NEEDS)}")
    done = run(python, *arguments, path=folder)
    # ONNX Runtime training writes much of its own to stderr.
    errors = [line for line in done.stderr.splitlines() if "[I:onnxruntime" not in line]
    assert done.returncode == 0, done.stdout[-4000:] + "\n".join(errors)[-4000:]
    return done.stdout


def _metadata_folder() -> str:
    return f"onnxloss-{onnxloss.__version__}.dist-info"
