# SPDX-License-Identifier: MIT
"""The models that the command line reads and writes."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from .cli_values import one_line
from .errors import LossError, expected


def load(path: Path) -> onnx.ModelProto:
    """Reads a model.

    Raises:
        LossError: The file holds none.
    """
    try:
        model = onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # each of the formats that a name may stand for has its own
        reason = one_line(str(error)).rstrip(".")
        raise expected("onnxloss", "model", str(path), "an ONNX model", reason) from error
    # A file that is empty, or a message of another kind, can be read as a model without anything.
    if not model.ir_version or not model.HasField("graph"):
        raise expected("onnxloss", "model", str(path), "an ONNX model")
    return model


def save(model: onnx.ModelProto, options: argparse.Namespace) -> None:
    """Writes beside the output and renames: nobody ever sees half a file."""
    path: Path = options.output
    if path.is_dir():
        raise expected("onnxloss", "--output", str(path), "a file, not a directory")
    if os.path.lexists(path) and not options.force:
        raise LossError(f"onnxloss: --output is {path}, which exists; give --force to replace it.")
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise LossError(
            f"onnxloss: the model cannot be written to one file: {error}; a protobuf message "
            "holds less than 2 GB."
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise LossError(
            f"onnxloss: --output is {path}, which cannot be written: {error.strerror}."
        ) from error
    print(
        f"{path}: {', '.join(_names(model.graph.input))} -> {', '.join(_names(model.graph.output))}"
    )


def _names(values: Sequence[onnx.ValueInfoProto], most: int = 8) -> list[str]:
    names = [value.name for value in values[:most]]
    return names + [f"{len(values) - most} more"] * (len(values) > most)
