# SPDX-License-Identifier: MIT
"""Runs a folder of models in one runtime: `python run_with.py RUNTIME FOLDER [LIBRARY]`.

RUNTIME is onnxruntime, onnx or openvino; LIBRARY is for onnxruntime. Each `NAME.onnx` has a
`NAME.npz` with `in.*`, `out.*` and `unit`, the distance from 1 to the next number. It prints a JSON
object: the runtime's version, and for each model "yes" or what went wrong. Beside the runtime it
needs numpy alone, so that it runs in the runtime's own environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

UNITS = 16
"""How many units an output may be away, times max(1, |value|)."""

Run = Callable[[Path, dict[str, np.ndarray]], Any]


def main(runtime: str, folder: str, *library: str) -> None:
    """Prints what became of each model."""
    version, run = RUNTIMES[runtime](*library)
    paths = sorted(Path(folder).glob("*.onnx"))
    print(json.dumps({"version": version, "results": {p.stem: outcome(p, run) for p in paths}}))


def outcome(path: Path, run: Run) -> str:
    """Yes, or why not."""
    with np.load(path.with_suffix(".npz")) as arrays:
        given = {name: arrays[name] for name in arrays}
    feeds = {name[3:]: array for name, array in given.items() if name.startswith("in.")}
    expected = {name[4:]: array for name, array in given.items() if name.startswith("out.")}
    try:
        results = run(path, feeds)
    except Exception as error:  # whatever a runtime raises is its answer
        return _message(error)
    for (name, truth), result in zip(expected.items(), results, strict=True):
        distance = _distance(np.asarray(result), truth) / float(given["unit"])
        if distance > UNITS:
            return f"{name} is about 1e{np.log10(distance):.0f} units away"
    return "yes"


def _distance(result: np.ndarray, truth: np.ndarray) -> float:
    if result.shape != truth.shape:
        return np.inf
    result, truth = result.astype(np.float64), truth.astype(np.float64)
    error = np.abs(result - truth) / np.maximum(1.0, np.abs(truth))
    return np.inf if np.isnan(error).any() else float(error.max(initial=0.0))


def _message(error: Exception) -> str:
    """The lines that say it; OpenVINO has its reason in the middle of a report."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    telling = [line for line in lines if "No conversion rule" in line]
    if not telling and "Summary:" in lines:
        telling = [lines[lines.index("Summary:") - 1]]
    return " ".join([f"{type(error).__name__}:", *(telling or lines[:2])])[:240]


def _onnxruntime(library: str | None = None) -> tuple[str, Run]:
    import onnxruntime

    def run(path: Path, feeds: dict[str, np.ndarray]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if library:
            options.register_custom_ops_library(library)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds)

    return onnxruntime.__version__, run


def _onnx() -> tuple[str, Run]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    return onnx.__version__, lambda path, feeds: ReferenceEvaluator(str(path)).run(None, feeds)


def _openvino() -> tuple[str, Run]:
    import openvino

    core = openvino.Core()

    def run(path: Path, feeds: dict[str, np.ndarray]) -> Any:
        compiled = core.compile_model(core.read_model(path), "CPU")
        results = compiled(list(feeds.values()))
        return [results[index] for index in range(len(compiled.outputs))]

    return openvino.__version__.partition("-")[0], run


RUNTIMES: dict[str, Callable[..., tuple[str, Run]]] = {
    "onnxruntime": _onnxruntime,
    "onnx": _onnx,
    "openvino": _openvino,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
