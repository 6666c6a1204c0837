# SPDX-License-Identifier: MIT
"""Runs a folder of prepared models in this interpreter's ONNX Runtime; prints what came out wrong.

Usage: python ort_training_smoke.py FOLDER LIBRARY

It needs numpy and onnxruntime alone, so that it runs in the environment of onnxruntime-training
1.19.2. Each `NAME.onnx` has a `NAME.npz` with `in.*`, `out.*` and the allowed error `tolerance.*`.
A model that holds our domain runs without the library and with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def wrong_outputs(model: Path, library: str | None) -> list[str]:
    """What differs from the expectation, in words."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with np.load(model.with_suffix(".npz")) as arrays:
        feeds = {value.name: arrays[f"in.{value.name}"] for value in session.get_inputs()}
        wrong = []
        for output, result in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            if f"out.{output.name}" not in arrays:
                continue
            expected = arrays[f"out.{output.name}"]
            allowed = arrays[f"tolerance.{output.name}"]
            if not is_close(result.astype(np.float64), expected, allowed):
                wrong.append(f"{output.name} is {shown(result)}; expected {shown(expected)}")
    return wrong


def shown(values: np.ndarray) -> str:
    """The first few values."""
    first = values.reshape(-1)[:6].tolist()
    return f"{first} of shape {list(values.shape)}"


def is_close(result: np.ndarray, expected: np.ndarray, allowed: np.ndarray) -> bool:
    """Whether `|result - expected| <= allowed`, and what is not finite is the same."""
    if result.shape != expected.shape:
        return False
    finite = np.isfinite(expected)
    same_kind = np.array_equal(result[~finite], expected[~finite], equal_nan=True)
    return same_kind and bool(np.all(np.abs(result[finite] - expected[finite]) <= allowed[finite]))


def main() -> int:
    folder, library = Path(sys.argv[1]), sys.argv[2]
    models = sorted(folder.glob("*.onnx"))
    checks = failures = 0
    for model in models:
        for registered in (None, library):
            checks += 1
            try:
                wrong = wrong_outputs(model, registered)
            # Any error of the runtime is a finding to print, and no reason to stop.
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
            failures += bool(wrong)
            for line in wrong:
                way = "library" if registered else "function body"
                print(f"{model.stem} ({way}): {line}")
    print(
        f"onnxruntime {onnxruntime.__version__}: {len(models)} models, {checks} runs, "
        f"{failures} wrong"
    )
    return 1 if failures or not models else 0


if __name__ == "__main__":
    sys.exit(main())
