# SPDX-License-Identifier: MIT
"""Models that can be worked on: valid, of one message, and of an ai.onnx version that will do."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import EncodeError

from .errors import LossError, check_type, expected

OPSET = 19
"""The oldest ai.onnx version with all that the functions need: `Equal` on strings."""


def check_version(where: str, version: Any) -> None:
    """Refuses an `opset_version` that the functions cannot share.

    Raises:
        LossError: It is too old, or no number.
    """
    if not isinstance(version, int) or version < OPSET:
        raise expected(where, "opset_version", version, f"{OPSET} or newer")


def check_model(where: str, model: Any, name: str = "model") -> None:
    """Refuses what is no model, as its path, or its graph.

    Raises:
        LossError: It is none.
    """
    check_type(where, name, model, onnx.ModelProto, "an onnx.ModelProto, as onnx.load gives it")


def check_valid(where: str, model: onnx.ModelProto) -> None:
    """`onnx.checker.check_model` with this package's error.

    Raises:
        LossError: The model is not valid, or too large for a protobuf message.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise LossError(f"{where}: the model is not valid ONNX: {error}") from error
    except (EncodeError, ValueError) as error:
        raise LossError(
            f"{where}: the model holds 2 GB or more ({error}); expected less: "
            "onnx.load(path, load_external_data=False) leaves the weights in files of their own."
        ) from error


def check_is_kept(where: str, model: onnx.ModelProto, by: str) -> None:
    """Refuses a model of which something would get lost.

    Raises:
        LossError: It has `training_info` or sparse initializers.
    """
    for name, there in (
        ("training_info", model.training_info),
        ("sparse_initializer", model.graph.sparse_initializer),
    ):
        if there:
            raise LossError(f"{where}: the model has {name}; expected none: {by} drops it.")


def with_opset(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A copy of the model at an ai.onnx version that the functions can share.

    Args:
        model: The model.
        where: What needs it, for the errors.

    Raises:
        LossError: The model is none, is not valid, or cannot be brought to that version.
    """
    check_model(where, model)
    check_valid(where, model)
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions and versions[0] >= OPSET:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    check_is_kept(where, model, "onnx.version_converter")
    try:
        # It drops functions, and these entries of the graph.
        plain = onnx.inliner.inline_local_functions(model, convert_version=True)
        result = onnx.version_converter.convert_version(plain, OPSET)
        result.graph.quantization_annotation.extend(model.graph.quantization_annotation)
        result.graph.metadata_props.extend(model.graph.metadata_props)
        return result
    except Exception as error:
        raise LossError(
            f"{where}: the model has ai.onnx version {versions}; expected {OPSET} or newer, and "
            f"onnx.version_converter cannot bring it there: {error} Export it at {OPSET} or newer."
        ) from error
