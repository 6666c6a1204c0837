# SPDX-License-Identifier: MIT
"""The CUDA kernels run on the host, thread by thread: ops/cuda compiled over tests/cpp/emulator.h.

There is no GPU in this: it shows that the kernels' indices, barriers and numbers are right, and
says nothing of their speed or of the GPU's own exponential.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=fast"]


def build(folder: Path, *flags: str, main: str = "cuda_on_host.cc") -> list[str]:
    """Compiles the kernels, the emulator and `main`; returns the object files."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler found")
    includes = [f"-I{ROOT / 'ops'}", f"-I{ROOT / 'tests' / 'cpp'}"]
    kernels = sorted((ROOT / "ops" / "cuda").glob("*.cu"))
    jobs = [[*FLAGS, *flags, "-x", "c++", "-c", str(source)] for source in kernels]
    jobs.append([*FLAGS, *flags, "-c", str(ROOT / "ops" / "cuda" / "plan.cc")])
    jobs.append([*FLAGS, *flags, "-c", str(ROOT / "tests" / "cpp" / main)])
    tsan = ["-DONNXLOSS_EMULATOR_TSAN"] if "-fsanitize=thread" in flags else []
    jobs.append([*FLAGS, *tsan, "-c", str(ROOT / "tests" / "cpp" / "emulator.cc")])
    objects = [str(folder / f"{number}.o") for number in range(len(jobs))]
    running = [
        subprocess.Popen([compiler, *includes, *job, "-o", target])
        for job, target in zip(jobs, objects, strict=True)
    ]
    assert all(process.wait() == 0 for process in [*running]), "the host build failed"
    return objects


@cache
def library() -> ctypes.CDLL:
    """The kernels as a library, compiled once in this process."""
    with tempfile.TemporaryDirectory() as folder:
        built = str(Path(folder) / "libcuda_on_host.so")
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, "-shared", *build(Path(folder)), "-o", built], check=True)
        loaded = ctypes.CDLL(built)
    for prefix, name in (("", "Loss"), ("Sampled", "Sampled")):
        getattr(loaded, f"Run{name}").restype = ctypes.c_char_p
        getattr(loaded, f"{prefix}ScratchBytes").restype = ctypes.c_int64
    return loaded


class Host:
    """Memory of the host, and the kernels over it."""

    def upload(self, image: np.ndarray) -> tuple[np.ndarray, int]:
        """A copy of the bytes on a boundary of 256, and its address."""
        room = np.empty(image.size + 256, np.uint8)
        begin = -room.ctypes.data % 256
        room[begin : begin + image.size] = image
        return room[begin : begin + image.size], room.ctypes.data + begin

    def download(self, memory: np.ndarray) -> np.ndarray:
        """The bytes as they are now."""
        return memory

    def scratch_bytes(self, call: ctypes.Structure) -> int:
        """What `run` needs."""
        return getattr(library(), f"{call.prefix}ScratchBytes")(ctypes.byref(call))

    def run(self, call: ctypes.Structure, scratch: int, architecture: int) -> str | None:
        """Runs the call; None, or what went wrong."""
        library().SetArchitecture(architecture)
        run = getattr(library(), f"Run{call.prefix or 'Loss'}")
        return run(ctypes.byref(call), ctypes.c_void_p(scratch))
