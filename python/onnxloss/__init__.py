# SPDX-License-Identifier: MIT
"""ONNX operators, kernels and exporters for the softmax-cross-entropy loss family."""

from __future__ import annotations

from importlib.metadata import version

from .config import LossConfig
from .errors import LossError
from .export import append_to, export
from .from_onnx import from_onnx
from .from_paddle import from_paddle
from .from_tf import from_tf
from .from_torch import from_torch
from .fusion import fuse
from .library import library_path, register
from .schema import register_schemas
from .training import Trainer, initial_state, training_step

__version__ = version("onnxloss")
__all__ = [
    "LossConfig",
    "LossError",
    "Trainer",
    "append_to",
    "export",
    "from_onnx",
    "from_paddle",
    "from_tf",
    "from_torch",
    "fuse",
    "initial_state",
    "library_path",
    "register",
    "training_step",
]

register_schemas()
