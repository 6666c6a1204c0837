# SPDX-License-Identifier: MIT
"""Paddle's layers as ONNX models, by paddle2onnx in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import paddle

from .errors import LossError, check_type, expected

_SECONDS = 600
_CONVERT = """
import signal
import sys

program, parameters, result, opset, seconds = sys.argv[1:]
# The kernel ends this process then, whatever it is doing and whoever waits for it.
signal.setitimer(signal.ITIMER_REAL, float(seconds))

import paddle
import paddle2onnx

# Paddle's handlers wait forever where it is the heap, which they need, that caused the abort.
paddle.disable_signal_handler()
# Without a tool there is no optimization; the default one installs itself.
paddle2onnx.export(
    program, parameters, result, opset_version=int(opset), optimize_tool=None, verbose=True
)
"""


def convert(
    where: str, layer: paddle.nn.Layer, input_spec: Sequence[Any], opset: int
) -> tuple[onnx.ModelProto, set[str]]:
    """The layer's model, in which each batch normalization uses its running statistics.

    Args:
        where: What needs it, for the errors.
        layer: The layer.
        input_spec: Its inputs.
        opset: Version of ai.onnx.

    Returns:
        The model, and the names of the running means that the layer, in its mode, does not use.

    Raises:
        LossError: `layer` or `input_spec` is something else; the layer has a dropout in training
            mode; paddle2onnx is not installed, or ended with an error or abort.
    """
    check_type(where, "layer", layer, paddle.nn.Layer, "a paddle.nn.Layer")
    allowed = "a list of paddle.static.InputSpec"
    check_type(where, "input_spec", input_spec, list | tuple, allowed)
    if not paddle.framework.use_pir_api():
        raise expected(where, "FLAGS_enable_pir_api", 0, "1, Paddle's default")
    unused_means = _training_mode(where, layer, input_spec)
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "model"
        program, result = stem.with_suffix(".json"), stem.with_suffix(".onnx")
        paddle.jit.save(layer, str(stem), input_spec=list(input_spec))
        parameters = stem.with_suffix(".pdiparams")
        # paddle2onnx knows a layer without parameters by the empty name.
        given = parameters if parameters.exists() else ""
        run = subprocess.run(
            [sys.executable, "-c", _CONVERT, program, given, result, str(opset), str(_SECONDS)],
            # What this process can import, that one can: a path may have been added here.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if run.returncode != 0 or not result.exists():
            raise _failure(where, run)
        return onnx.load(result), unused_means


def _training_mode(where: str, layer: paddle.nn.Layer, input_spec: Sequence[Any]) -> set[str]:
    """The names of the running means of what normalizes with its batch; refuses a dropout.

    jit.save traces the layer in its mode, and puts every operator of that in inference mode.
    """
    inner = layer._layers if isinstance(layer, paddle.DataParallel) else layer
    traced = paddle.jit.to_static(inner.forward, input_spec=list(input_spec), full_graph=True)
    program = traced.concrete_program_specify_input_spec(with_hook=True).main_program
    means = set()
    for operator in _operators(program.global_block()):
        name, attributes = operator.name().removeprefix("pd_op."), operator.attrs()
        testing = attributes.get("is_test", True)
        if name.startswith("batch_norm"):
            if not attributes["use_global_stats"] and (
                not testing or attributes["trainable_statistics"]
            ):
                mean = operator.operands_source()[1].get_defining_op()
                means.add(mean.attrs().get("parameter_name", mean.name()))
        # Without a dropout between its layers, an rnn computes the same in both modes.
        elif not testing and attributes.get("dropout_prob", 1):
            place = attributes.get("struct_name", "").strip("/") or "forward"
            raise LossError(
                f"{where}: the operator {name} in {place} is in training mode, and paddle2onnx "
                "writes it as in inference; expected none: call eval(), of the layer or of the "
                "part with the dropout."
            )
    return means


def _operators(block: Any) -> Iterator[Any]:
    for operator in block.ops:
        yield operator
        for inner in operator.blocks():
            yield from _operators(inner)


def _failure(where: str, run: subprocess.CompletedProcess[str]) -> LossError:
    """What paddle2onnx wrote, and the operators: it does not say which one it cannot convert."""
    if "No module named 'paddle2onnx'" in run.stderr:
        return LossError(
            f"{where}: paddle2onnx is not installed; expected version 2.1: "
            "pip install --no-deps paddle2onnx==2.1.0 (it asks for an older onnx, and works with "
            "this one)."
        )
    lines = [line.strip() for line in (*run.stderr.splitlines(), *run.stdout.splitlines())]
    errors = [line for line in lines if "[ERROR]" in line]
    errors = errors or [line for line in lines if "Error:" in line] or lines[-1:]
    if run.returncode == -signal.SIGALRM:
        errors = [f"it took more than {_SECONDS} seconds."]
    reason = re.sub(r"\x1b\[[\d;]*m", "", " ".join(errors))
    operators = sorted(set(re.findall(r'"pd_op\.(\w+)"', run.stdout)) - {"data", "fetch"})
    return LossError(
        f"{where}: paddle2onnx ended with exit code {run.returncode}: {reason} "
        f"The layer's operators: {', '.join(operators)}."
    )
