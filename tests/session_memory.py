# SPDX-License-Identifier: MIT
"""What sessions cost in resident memory, measured in a process of its own.

`python -m tests.session_memory peak 1024 32000 float32 1` prints by how many bytes a run raised the
peak of the resident memory. Inputs and outputs are bound and their pages touched before, so that
they are resident already, and a run of one row has read in the code from its files. Then Linux's
record of the peak (VmHWM) is set back through /proc/self/clear_refs: the peak after three runs less
the memory before them is what a run takes for itself, in scratch, buffers of the runtime and stacks
of its threads.

`python -m tests.session_memory churn 32 20` opens and closes 32 sessions and registers the library
320 times, twenty times after as many for warming up, and prints by how many bytes the resident
memory grew.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import onnxloss
from tests.cases import DTYPES
from tests.runtime import make_session, ort_value

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def status_bytes(field: str) -> int:
    """A line of /proc/self/status."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def touched(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array whose pages are all resident."""
    return np.full(shape, 0.5, dtype)


def bind(session: Any, rows: int, classes: int, dtype: np.dtype) -> Any:
    """A binding of resident inputs and outputs."""
    rng = np.random.default_rng(0)
    logits = touched((rows, classes), dtype)
    for row in logits:
        row[...] = rng.standard_normal(classes)
    arrays = {
        "logits": logits,
        "labels": rng.integers(0, classes, rows),
        "dloss": touched((), dtype),
        "loss": touched((), dtype),
        "dlogits": touched((rows, classes), dtype),
    }
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_ortvalue_input(value.name, ort_value(arrays[value.name]))
    for value in session.get_outputs():
        binding.bind_ortvalue_output(value.name, ort_value(arrays[value.name]))
    return binding


def peak_growth(rows: int, classes: int, dtype: str, gradient: bool) -> int:
    """Bytes that three runs of the mean loss raise the resident peak by."""
    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss")
    model = onnxloss.export(config, logits=("N", classes), dtype=dtype, gradient=gradient)
    session = make_session(model, library=True, threads=2)
    session.run_with_iobinding(bind(session, 1, classes, DTYPES[dtype]))
    binding = bind(session, rows, classes, DTYPES[dtype])
    gc.collect()
    CLEAR_REFS.write_text("5")
    before = status_bytes("VmRSS")
    for _ in range(3):
        session.run_with_iobinding(binding)
    return status_bytes("VmHWM") - before


def open_and_close(count: int) -> None:
    """`count` sessions at a time, then ten times as many registrations without a session."""
    config = onnxloss.LossConfig("SoftmaxCrossEntropyLoss")
    model = onnxloss.export(config, logits=("N", "C"), gradient=True)
    feeds = {
        "logits": np.zeros((8, 1000), np.float32),
        "labels": np.arange(8),
        "dloss": np.ones((), np.float32),
    }
    sessions = [make_session(model, library=True) for _ in range(count)]
    for session in sessions:
        loss, _ = session.run(None, feeds)
        np.testing.assert_allclose(loss, np.log(1000), rtol=1e-6)
    del session, sessions
    for _ in range(10 * count):
        onnxloss.register(onnxruntime.SessionOptions())


def settled() -> int:
    """The resident memory after all that is free was given back."""
    gc.collect()
    # Otherwise what the C library keeps for the next allocation hides what nobody freed.
    ctypes.CDLL(None).malloc_trim(0)
    return status_bytes("VmRSS")


def churn_growth(count: int, rounds: int) -> int:
    """Bytes that so many rounds leave behind."""
    for _ in range(rounds):
        open_and_close(count)
    before = settled()
    for _ in range(rounds):
        open_and_close(count)
    return settled() - before


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    if what == "peak":
        rows, classes, dtype, gradient = numbers
        print(peak_growth(int(rows), int(classes), dtype, gradient == "1"))
    else:
        print(churn_growth(*map(int, numbers)))
