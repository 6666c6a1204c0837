# SPDX-License-Identifier: MIT
"""numpy arrays as ONNX Runtime's values and back, bfloat16 included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from ..errors import LossError, check_type, expected, expected_shape

if TYPE_CHECKING:
    from onnxruntime import IOBinding, NodeArg, OrtValue

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NUMPY_TYPES = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": BFLOAT16,
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}
"""The dtypes of losses, states and most inputs by ONNX Runtime's names."""


@dataclass(frozen=True)
class Input:
    """What a session takes for an input: ONNX Runtime's own errors do not name it.

    Attributes:
        dtype: Its dtype; None for one that is left to ONNX Runtime.
        shape: Its shape, with names or None for dynamic sizes; empty where the rank is not known.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]

    def check(self, where: str, name: str, array: np.ndarray) -> None:
        """Refuses an array that does not fit.

        Raises:
            LossError: It is of another dtype or shape.
        """
        if self.dtype is not None and array.dtype != self.dtype:
            raise expected(where, f'dtype of "{name}"', array.dtype.name, self.dtype.name)
        if not self.shape:
            return
        sizes = zip(array.shape, self.shape, strict=False)
        clash = any(isinstance(wanted, int) and size != wanted for size, wanted in sizes)
        if clash or array.ndim != len(self.shape):
            raise expected_shape(where, f'"{name}"', array.shape, self.shape)


def inputs_of(ports: list[NodeArg]) -> dict[str, Input]:
    """What a session takes for each of its inputs."""
    return {port.name: Input(NUMPY_TYPES.get(port.type), tuple(port.shape)) for port in ports}


def check_batch(where: str, batch: Any) -> None:
    """Refuses a batch that does not name its arrays, as the pair of a PyTorch DataLoader.

    Raises:
        LossError: It is no mapping.
    """
    check_type(where, "a batch", batch, Mapping, "a dictionary: an array for each input")


class Value:
    """An array in memory that ONNX Runtime reads and writes.

    ONNX Runtime's Python takes and gives bfloat16 as the 16-bit integers of the same bits only.
    """

    def __init__(self, array: np.ndarray) -> None:
        # The value may share the array's memory, and a step writes into it.
        self._array = np.array(array, order="C")
        self.ort = ort_value(self._array)

    def numpy(self) -> np.ndarray:
        """The array as it is now; it may change with the next step."""
        return self._array if self._array.dtype == BFLOAT16 else self.ort.numpy()


def ort_value(array: np.ndarray) -> OrtValue:
    """The array as ONNX Runtime's value, in the same memory where it can be.

    Raises:
        LossError: A bfloat16 array, and an ONNX Runtime that takes none from Python.
    """
    from onnxruntime import OrtValue

    if array.dtype != BFLOAT16:
        return OrtValue.ortvalue_from_numpy(array)
    if not hasattr(OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        raise LossError(
            "Trainer: this ONNX Runtime takes no bfloat16 arrays from Python; expected a newer one."
        )
    return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)


def bind_array(binding: IOBinding, name: str, array: np.ndarray) -> None:
    """Binds an array as an input; the caller keeps it until the run is over."""
    if array.dtype == BFLOAT16:
        binding.bind_ortvalue_input(name, ort_value(array))
    else:
        binding.bind_cpu_input(name, array)
