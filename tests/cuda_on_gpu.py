# SPDX-License-Identifier: MIT
"""The CUDA kernels of the installed library on a GPU, whose memory torch holds."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import onnxloss


class Gpu:
    """Memory of the GPU, and the kernels over it."""

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch", reason="torch holds the GPU's memory")
        if not self.torch.cuda.is_available():
            pytest.skip("no CUDA device")
        self.library = ctypes.CDLL(onnxloss.library_path())
        if not hasattr(self.library, "OnnxLossCudaRun"):
            pytest.fail("the library was built without CUDA: ONNXLOSS_CUDA=ON make test-gpu")
        for prefix in ("", "Sampled"):
            getattr(self.library, f"OnnxLossCudaRun{prefix}").restype = ctypes.c_char_p
            getattr(self.library, f"OnnxLossCuda{prefix}ScratchBytes").restype = ctypes.c_int64

    def upload(self, image: np.ndarray) -> tuple[Any, int]:
        """A copy of the bytes on a boundary of 256, and its address."""
        memory = self.torch.from_numpy(image.copy()).cuda()
        assert memory.data_ptr() % 256 == 0
        return memory, memory.data_ptr()

    def download(self, memory: Any) -> np.ndarray:
        """The bytes as they are now."""
        return memory.cpu().numpy()

    def scratch_bytes(self, call: ctypes.Structure) -> int:
        """What `run` needs."""
        return getattr(self.library, f"OnnxLossCuda{call.prefix}ScratchBytes")(ctypes.byref(call))

    def run(self, call: ctypes.Structure, scratch: int, _architecture: int = 0) -> str | None:
        """Runs the call on torch's stream and waits; None, or what went wrong."""
        stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
        run = getattr(self.library, f"OnnxLossCudaRun{call.prefix}")
        failure = run(ctypes.byref(call), ctypes.c_void_p(scratch), stream)
        self.torch.cuda.synchronize()
        return None if failure is None else failure.decode()
