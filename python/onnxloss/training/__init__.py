# SPDX-License-Identifier: MIT
"""Training graphs for stock ONNX Runtime: forward, loss, gradient and update in one model."""

from __future__ import annotations

from . import schedules
from .loop import TrainingLoop
from .state import initial_state, trained_model
from .step import training_step
from .trainer import Trainer

__all__ = [
    "Trainer",
    "TrainingLoop",
    "initial_state",
    "schedules",
    "trained_model",
    "training_step",
]
