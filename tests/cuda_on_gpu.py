# SPDX-License-Identifier: MIT
"""The CUDA kernels of the installed library on a GPU, whose memory torch holds."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest

import onnxloss
from tests.cuda_on_host import GPU_WANTED, declared


class Gpu:
    """Memory of the GPU, and the kernels over it."""

    device = "cuda"

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.functions = ctypes.CDLL(onnxloss.library_path())
        if not hasattr(self.functions, "OnnxLossCudaRun"):
            pytest.fail("the library was built without CUDA; make test-gpu builds it")
        declared(self.functions)

    def upload(self, image: np.ndarray) -> tuple[Any, int]:
        """A copy of the bytes on a boundary of 256, and its address."""
        memory = self.torch.from_numpy(image.copy()).cuda()
        assert memory.data_ptr() % 256 == 0
        return memory, memory.data_ptr()

    def download(self, memory: Any) -> np.ndarray:
        """The bytes as they are now."""
        return memory.cpu().numpy()

    def stream(self) -> ctypes.c_void_p:
        """The stream of torch's kernels."""
        return ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)

    def scratch_bytes(self, call: ctypes.Structure) -> int:
        """What `run` needs."""
        return getattr(self.functions, f"OnnxLossCuda{call.prefix}ScratchBytes")(ctypes.byref(call))

    def run(self, call: ctypes.Structure, scratch: int, *_: object) -> str | None:
        """Runs the call on torch's stream and waits; None, or what went wrong."""
        run = getattr(self.functions, f"OnnxLossCudaRun{call.prefix}")
        failure = run(ctypes.byref(call), ctypes.c_void_p(scratch), self.stream())
        self.torch.cuda.synchronize()
        return None if failure is None else failure.decode()


@cache
def gpu() -> Gpu:
    """The GPU; a test that asks for it is skipped where there is none."""
    torch = pytest.importorskip("torch", reason="no CUDA device") if GPU_WANTED else None
    if torch is None or not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return Gpu(torch)
