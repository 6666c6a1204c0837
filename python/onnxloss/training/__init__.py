# SPDX-License-Identifier: MIT
"""Training graphs for stock ONNX Runtime: forward, loss, gradient and update in one model."""

from __future__ import annotations

from .loop import TrainingLoop
from .state import initial_state, trained_model
from .step import training_step

__all__ = ["TrainingLoop", "initial_state", "trained_model", "training_step"]
