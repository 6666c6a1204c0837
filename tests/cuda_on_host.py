# SPDX-License-Identifier: MIT
"""The CUDA kernels run on the host, thread by thread: ops/cuda compiled over tests/cpp/emulator.h.

There is no GPU in this: it shows that the kernels' indices, barriers and numbers are right, and
says nothing of their speed. For `make test-ptx` they are compiled by nvcc as for a GPU, and what
runs is their PTX, instruction by instruction (tests/cpp/ptx.h):

    python -m tests.cuda_on_host libcuda_as_ptx.so
    ONNXLOSS_CUDA_AS_PTX=libcuda_as_ptx.so python -m pytest tests/test_cuda_paths.py
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
OPS, CPP = ROOT / "ops", ROOT / "tests" / "cpp"
AS_PTX = os.environ.get("ONNXLOSS_CUDA_AS_PTX")
"""The library that `make test-ptx` has made."""
GPU_WANTED = os.environ.get("ONNXLOSS_CUDA_MACHINE", "host") == "gpu"
"""`make test-gpu` says so."""

FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=fast", f"-I{OPS}", f"-I{CPP}"]
# What PTX says is rounded is rounded.
EXACT = ["-std=c++20", "-O2", "-ffp-contract=off"]
CHIP = 90  # sm_90, the first with clusters
NVCC = ["-std=c++20", "-O3", f"-I{OPS}", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-w"]
NVCC += ["-no-compress", "-gencode", f"arch=compute_{CHIP},code=compute_{CHIP}"]
# ops/ort but for what runs the kernels of the CPU.
GLUE = (
    "attributes cuda_kernel cuda_sampled_kernel reader register sampled_register sampled_tensors "
    "status tensors"
).split()


def compiler(variable: str = "CXX", name: str = "c++") -> str:
    """Its path; the test that asks for it is skipped where there is none."""
    found = shutil.which(os.environ.get(variable, name))
    if found is None:
        pytest.skip(f"no {name} found")
    return found


def compiled(source: Path, *flags: str) -> list[str]:
    """The command for a source of C++."""
    return [compiler(), *FLAGS, *flags, str(source)]


def plans() -> list[list[str]]:
    """Commands for what decides which kernel runs."""
    return [compiled(OPS / "cuda" / "plan.cc"), compiled(CPP / "cuda_plan.cc")]


def kernels() -> list[Path]:
    """Those of CUDA."""
    return sorted((OPS / "cuda").glob("*.cu"))


def emulated(*flags: str, main: str = "cuda_on_host.cc") -> list[list[str]]:
    """Commands for the kernels, the emulator and `main`."""
    # The emulator stays without instrumentation.
    tsan = ["-DONNXLOSS_EMULATOR_TSAN"] if "-fsanitize=thread" in flags else []
    return [
        *(compiled(source, *flags, "-x", "c++") for source in kernels()),
        compiled(CPP / main, *flags),
        compiled(CPP / "emulator.cc", *tsan),
    ]


def as_ptx() -> list[list[str]]:
    """Commands for the kernels as PTX, and for what runs it in the place of CUDA's runtime."""
    nvcc = [compiler("CUDACXX", "nvcc"), *NVCC]
    runtime = [*nvcc, f"-DONNXLOSS_CHIP={CHIP}", str(CPP / "ptx_runtime.cc")]
    return [*([*nvcc, str(source)] for source in kernels()), runtime, *interpreter()]


def interpreter() -> list[list[str]]:
    """Commands for what runs PTX."""
    return [compiled(CPP / name, *EXACT) for name in ("ptx.cc", "ptx_instructions.cc")]


def glue() -> list[list[str]]:
    """Commands for what registers the kernels, as operators of the CPU's provider."""
    names = ["-DONNXLOSS_WITH_CUDA", "-DRegisterCustomOps=RegisterOnEveryProvider"]
    return [
        *(compiled(OPS / "ort" / f"{stem}.cc", *names) for stem in GLUE),
        compiled(CPP / "cuda_on_cpu_provider.cc"),
        compiled(OPS / "cpu" / "log_uniform.cc"),
    ]


def build(folder: Path, commands: list[list[str]]) -> list[str]:
    """The object files that the commands make."""
    objects = [str(folder / f"{number}.o") for number in range(len(commands))]

    def compiles(command: list[str], target: str) -> bool:
        return subprocess.run([*command, "-c", "-o", target], check=False).returncode == 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert all(list(pool.map(compiles, commands, objects))), "the host build failed"
    return objects


def link(target: Path, commands: list[list[str]]) -> None:
    """Makes a library of what the commands compile."""
    with tempfile.TemporaryDirectory() as folder:
        objects = build(Path(folder), commands)
        command = [compiler(), "-shared", "-Wl,--no-undefined", *objects, "-o", str(target)]
        subprocess.run(command, check=True)


@cache
def library_path() -> str:
    """The kernels as a library of custom operators for the CPU's provider; compiled once.

    Where a GPU runs them, what decides which kernel runs is all that the host is asked for.
    """
    if AS_PTX is not None:
        return AS_PTX
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    built = folder / "libcuda_on_host.so"
    link(built, plans() if GPU_WANTED else [*emulated(), *plans(), *glue()])
    return str(built)


@cache
def library() -> ctypes.CDLL:
    """What the library exports."""
    found = ctypes.CDLL(library_path())
    return found if GPU_WANTED else declared(found)


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the types of what its C functions return."""
    for prefix in ("", "Sampled"):
        getattr(library, f"OnnxLossCudaRun{prefix}").restype = ctypes.c_char_p
        getattr(library, f"OnnxLossCuda{prefix}ScratchBytes").restype = ctypes.c_int64
    library.OnnxLossCudaLargestCluster.restype = ctypes.c_char_p
    return library


def largest_cluster(library: ctypes.CDLL) -> int:
    """The most blocks of a cluster, as the current device answers."""
    blocks = ctypes.c_int()
    failure = library.OnnxLossCudaLargestCluster(ctypes.byref(blocks))
    if failure is not None:
        raise RuntimeError(failure.decode())
    return blocks.value


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

    def run(
        self,
        call: ctypes.Structure,
        scratch: int,
        largest_cluster: int,
        areas: list[tuple[int, int]],
    ) -> str | None:
        """Runs the call; None, or what went wrong.

        Where PTX runs, that is also what it touches beside `areas`, of an address and bytes each.
        """
        library().SetLargestCluster(largest_cluster)
        run = getattr(library(), f"OnnxLossCudaRun{call.prefix}")
        self._let_touch(areas)
        failure = run(ctypes.byref(call), ctypes.c_void_p(scratch), None)
        self._let_touch([])
        return failure

    def _let_touch(self, areas: list[tuple[int, int]]) -> None:
        if AS_PTX is not None:
            numbers = [number for area in areas for number in area]
            library().SetAreas((ctypes.c_uint64 * len(numbers))(*numbers), len(areas))


if __name__ == "__main__":
    link(Path(sys.argv[1]), [*as_ptx(), *plans(), *glue()])
