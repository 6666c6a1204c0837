# SPDX-License-Identifier: MIT
"""Dtypes by name, bfloat16 included, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import ml_dtypes
import numpy as np
import onnx

FLOAT_DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "float16": np.dtype(np.float16),
        "bfloat16": np.dtype(ml_dtypes.bfloat16),
        "float32": np.dtype(np.float32),
        "float64": np.dtype(np.float64),
    }
)
LABEL_DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {name: np.dtype(name) for name in ("int64", "int32", "uint8")}
)


def onnx_type(dtype: str) -> int:
    """The ONNX element type of a dtype's name."""
    return int(onnx.helper.np_dtype_to_tensor_dtype({**FLOAT_DTYPES, **LABEL_DTYPES}[dtype]))


def name_of(element_type: int) -> str:
    """The name of an ONNX element type, as numpy has it where numpy has it."""
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(element_type).name
    except KeyError:
        return f"element type {element_type}"


def stash_dtype(dtype: str) -> str:
    """The operators' S for logits of this dtype."""
    return "float64" if dtype == "float64" else "float32"


def promoted(left: str, right: str) -> str:
    """The narrowest floating dtype that holds both, as PyTorch promotes."""
    if left == right:
        return left
    wide = max(left, right, key=lambda name: FLOAT_DTYPES[name].itemsize)
    return "float32" if FLOAT_DTYPES[wide].itemsize == 2 else wide
