# SPDX-License-Identifier: MIT
"""Every loss of the operator set."""

from __future__ import annotations

from . import (
    sampled_softmax_cross_entropy_loss,
    soft_label_cross_entropy_loss,
    softmax_cross_entropy_loss,
)
from .spec import LossSpec

CATALOGUE: tuple[LossSpec, ...] = (
    softmax_cross_entropy_loss.SPEC,
    soft_label_cross_entropy_loss.SPEC,
    sampled_softmax_cross_entropy_loss.SPEC,
)


def find(name: str) -> LossSpec:
    """The loss called `name`; KeyError if there is none."""
    for spec in CATALOGUE:
        if spec.name == name:
            return spec
    raise KeyError(name)
