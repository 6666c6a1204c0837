# SPDX-License-Identifier: MIT
"""The CUDA kernels run on the host, thread by thread: ops/cuda compiled over tests/cpp/emulator.h.

There is no GPU in this: it shows that the kernels' indices, barriers and numbers are right, and
says nothing of their speed or of the GPU's own exponential.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
# ops/ort but for what runs the kernels of the CPU.
GLUE = (
    "attributes cuda_kernel cuda_sampled_kernel reader register sampled_register sampled_tensors "
    "status tensors"
).split()
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=fast"]


def build(folder: Path, *flags: str, main: str = "cuda_on_host.cc", glue: bool = True) -> list[str]:
    """Compiles the kernels, the emulator, `main` and the glue; returns the object files."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler found")
    ops, own = ROOT / "ops", ROOT / "tests" / "cpp"
    jobs = [["-x", "c++", str(source)] for source in sorted((ops / "cuda").glob("*.cu"))]
    jobs += [[str(ops / "cuda" / "plan.cc")], [str(own / main)]]
    tsan = ["-DONNXLOSS_EMULATOR_TSAN"] if "-fsanitize=thread" in flags else []
    jobs.append([*tsan, str(own / "emulator.cc")])
    if glue:
        names = ["-DONNXLOSS_WITH_CUDA", "-DRegisterCustomOps=RegisterOnEveryProvider"]
        jobs += [[*names, str(ops / "ort" / f"{stem}.cc")] for stem in GLUE]
        jobs.append([str(own / "cuda_on_cpu_provider.cc")])
        jobs.append([str(ops / "cpu" / "log_uniform.cc")])
    command = [compiler, f"-I{ops}", f"-I{own}", *FLAGS]
    objects = [str(folder / f"{number}.o") for number in range(len(jobs))]

    def compiles(job: list[str], target: str) -> bool:
        # The emulator stays without instrumentation.
        own_flags = () if tsan and job[-1].endswith("emulator.cc") else flags
        arguments = [*command, *own_flags, "-c", *job, "-o", target]
        return subprocess.run(arguments, check=False).returncode == 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert all(list(pool.map(compiles, jobs, objects))), "the host build failed"
    return objects


@cache
def library_path() -> str:
    """The kernels as a library of custom operators for the CPU's provider; compiled once."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    built = str(folder / "libcuda_on_host.so")
    compiler = os.environ.get("CXX", "c++")
    subprocess.run(
        [compiler, "-shared", "-Wl,--no-undefined", *build(folder), "-o", built], check=True
    )
    return built


@cache
def library() -> ctypes.CDLL:
    """What the library exports."""
    return declared(ctypes.CDLL(library_path()))


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the types of what its C functions return."""
    for prefix in ("", "Sampled"):
        getattr(library, f"OnnxLossCudaRun{prefix}").restype = ctypes.c_char_p
        getattr(library, f"OnnxLossCuda{prefix}ScratchBytes").restype = ctypes.c_int64
    return library


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
        return getattr(library(), f"OnnxLossCuda{call.prefix}ScratchBytes")(ctypes.byref(call))

    def run(self, call: ctypes.Structure, scratch: int, largest_cluster: int) -> str | None:
        """Runs the call; None, or what went wrong."""
        library().SetLargestCluster(largest_cluster)
        run = getattr(library(), f"OnnxLossCudaRun{call.prefix}")
        return run(ctypes.byref(call), ctypes.c_void_p(scratch), None)
