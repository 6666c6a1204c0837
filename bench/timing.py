# SPDX-License-Identifier: MIT
"""What every benchmark shares: bound runs in ONNX Runtime, their times, and the machine's name."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Generic, TypeVar

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from tests.cases import DTYPES
from tests.runtime import RUNTIME_ERRORS, make_session

LOSS, BOTH = "loss", "loss + gradient"
PACKAGES = ("onnxloss", "onnxruntime", "numpy", "torch")
REST = 0.02
"""Seconds without work before each run: a session's idle threads look for some, on its core."""
WARM_UP = 0.02
"""Seconds of runs that are not timed: so long a rested core takes to find its caches and clock."""
TIMED = 0.01
"""Seconds of runs that are timed, one at least: of a short run, one alone says little."""

Run = Callable[[], tuple[np.ndarray, ...]]
"""Computes the loss, or the loss and the gradient, and gives the arrays that hold them."""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Times(Generic[Key]):
    """The seconds of several runs that took turns, one number a turn."""

    turns: Mapping[Key, list[float]]

    def seconds(self, key: Key) -> float:
        """The median of the turns."""
        return median(self.turns[key])

    def ratio(self, key: Key, to: Key) -> float:
        """The median of the turns' ratios: of a machine that is slow for a while, both are."""
        return median(a / b for a, b in zip(self.turns[key], self.turns[to], strict=True))


def take_turns(runs: Mapping[Key, Callable[[], object]], repeats: int) -> Times[Key]:
    """Times each in turn, after a rest and runs that are not timed."""
    turns: dict[Key, list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            _rest()
            _run_for(WARM_UP, run)
            turns[key].append(median(_run_for(TIMED, run)))
    return Times(turns)


def _run_for(seconds: float, run: Callable[[], object]) -> list[float]:
    """The seconds of each of as many runs as it takes."""
    times = []
    while sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _rest() -> None:
    """Sleeps until all threads of this process do, a second at most: machines decide how long."""
    for _ in range(round(1 / REST)):
        start = time.process_time()
        time.sleep(REST)
        if time.process_time() - start < REST / 10:
            return


def bound_run(
    model: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    *,
    library: bool,
    threads: int,
) -> Run | None:
    """A run with inputs and outputs bound to arrays, so that nothing is copied or allocated.

    None where ONNX Runtime refuses the model. Feeds and outputs that it does not have are left out.
    """
    try:
        session = make_session(model, library=library, threads=threads)
    except RUNTIME_ERRORS:
        return None
    results = {entry.name: outputs[entry.name] for entry in session.get_outputs()}
    binding = session.io_binding()
    for entry in session.get_inputs():
        binding.bind_input(entry.name, *_buffer(feeds[entry.name]))
    for name, array in results.items():
        binding.bind_output(name, *_buffer(array))
    # The binding knows addresses only: the run holds the arrays themselves.
    return functools.partial(_run_bound, session, binding, feeds, tuple(results.values()))


def _run_bound(
    session: onnxruntime.InferenceSession,
    binding: onnxruntime.IOBinding,
    feeds: dict[str, np.ndarray],
    results: tuple[np.ndarray, ...],
) -> tuple[np.ndarray, ...]:
    session.run_with_iobinding(binding)
    return results


def _buffer(array: np.ndarray) -> tuple[str, int, int, tuple[int, ...], int]:
    """Device, its number, ONNX type, shape and address: the way that takes bfloat16 too."""
    onnx_type = int(helper.np_dtype_to_tensor_dtype(array.dtype))
    return "cpu", 0, onnx_type, array.shape, array.ctypes.data


@functools.lru_cache(maxsize=1)
def normal_logits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Normal logits, as a network has them; the same for the same shape."""
    random = np.random.default_rng(int(np.prod(shape)))
    return random.standard_normal(shape, np.float32).astype(DTYPES[dtype])


def threads_text(threads: int) -> str:
    """As titles have it."""
    return f"{threads} thread{'s' * (threads > 1)}"


def machine() -> str:
    """What the numbers depend on besides the code."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), cpu)
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    python = platform.python_version()
    return f"{cpu}, {os.cpu_count()} cores; {versions}; Python {python}, {platform.system()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
