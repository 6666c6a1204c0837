# SPDX-License-Identifier: MIT
"""The meaning of the operator set: one file per loss with its SPEC and its onnxscript function."""

from __future__ import annotations

from .catalogue import CATALOGUE, find
from .spec import (
    DOMAIN,
    NO_IGNORED_LABEL,
    OPSET_VERSION,
    TYPES,
    Attribute,
    LossSpec,
    OpSpec,
    Port,
)

__all__ = [
    "CATALOGUE",
    "DOMAIN",
    "NO_IGNORED_LABEL",
    "OPSET_VERSION",
    "TYPES",
    "Attribute",
    "LossSpec",
    "OpSpec",
    "Port",
    "find",
]
