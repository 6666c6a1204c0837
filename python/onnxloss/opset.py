# SPDX-License-Identifier: MIT
"""The ai.onnx version that the functions need, and models brought there."""

from __future__ import annotations

import onnx
import onnx.version_converter

from .errors import LossError

OPSET = 19
"""The oldest ai.onnx version with all that the functions need: `Equal` on strings."""


def with_opset(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A copy of the model at an ai.onnx version that the functions can share.

    Args:
        model: The model.
        where: What needs it, for the errors.

    Raises:
        LossError: The model is not valid, or cannot be brought to that version.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise LossError(f"{where}: the model is not valid ONNX: {error}") from error
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions and versions[0] >= OPSET:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise LossError(
            f"{where}: the model has ai.onnx version {versions}; expected {OPSET} or newer, and "
            f"onnx.version_converter cannot bring it there: {error} Export it at {OPSET} or newer."
        ) from error
