# SPDX-License-Identifier: MIT
"""Sessions of training steps in ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ..errors import LossError
from ..library import register, runtime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

_LARGE = 1_000_000
"""Numbers in a state from which on more threads than one are worth their start."""


def make_session(model: onnx.ModelProto, options: SessionOptions) -> InferenceSession:
    """A session on the CPU."""
    return runtime().InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def default_options(state: Mapping[str, np.ndarray]) -> SessionOptions:
    """The options of a session that trains a state, where the user gives none."""
    options = runtime().SessionOptions()
    if sum(np.size(array) for array in state.values()) < _LARGE:
        options.intra_op_num_threads = 1
    try:
        register(options)
    except LossError:
        pass  # installed without the library: the function bodies compute the same
    return options
