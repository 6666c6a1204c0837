# SPDX-License-Identifier: MIT
"""Paddle's layers as ONNX models, by paddle2onnx in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import paddle

from .errors import LossError, check_type

_CONVERT = """
import sys
import paddle2onnx

# Without a tool there is no optimization; the default one installs itself.
program, parameters, result, opset = sys.argv[1:]
paddle2onnx.export(
    program, parameters, result, opset_version=int(opset), optimize_tool=None, verbose=True
)
"""


def convert(layer: paddle.nn.Layer, input_spec: Sequence[Any], opset: int) -> onnx.ModelProto:
    """The layer's model.

    Raises:
        LossError: `layer` or `input_spec` is something else; paddle2onnx is not installed, or ended
            with an error or abort.
    """
    check_type("paddle.export", "layer", layer, paddle.nn.Layer, "a paddle.nn.Layer")
    allowed = "a list of paddle.static.InputSpec"
    check_type("paddle.export", "input_spec", input_spec, list | tuple, allowed)
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "model"
        result = stem.with_suffix(".onnx")
        paddle.jit.save(layer, str(stem), input_spec=list(input_spec))
        program = next(
            path for path in map(stem.with_suffix, (".json", ".pdmodel")) if path.exists()
        )
        parameters = stem.with_suffix(".pdiparams")
        # paddle2onnx knows a layer without parameters by the empty name.
        given = parameters if parameters.exists() else ""
        run = subprocess.run(
            [sys.executable, "-c", _CONVERT, program, given, result, str(opset)],
            # What this process can import, that one can: a path may have been added here.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if run.returncode != 0 or not result.exists():
            raise _failure(run)
        return onnx.load(result)


def _failure(run: subprocess.CompletedProcess[str]) -> LossError:
    """What paddle2onnx wrote, and the operators: it does not say which one it cannot convert."""
    if "No module named 'paddle2onnx'" in run.stderr:
        return LossError(
            "paddle.export: paddle2onnx is not installed; expected version 2.1: "
            "pip install --no-deps paddle2onnx==2.1.0 (it asks for an older onnx, and works with "
            "this one)."
        )
    lines = [line.strip() for line in (*run.stderr.splitlines(), *run.stdout.splitlines())]
    errors = [line for line in lines if "[ERROR]" in line]
    errors = errors or [line for line in lines if "Error:" in line] or lines[-1:]
    reason = re.sub(r"\x1b\[[\d;]*m", "", " ".join(errors))
    operators = sorted(set(re.findall(r'"pd_op\.(\w+)"', run.stdout)) - {"data", "fetch"})
    return LossError(
        f"paddle.export: paddle2onnx ended with exit code {run.returncode}: {reason} "
        f"The layer's operators: {', '.join(operators)}."
    )
